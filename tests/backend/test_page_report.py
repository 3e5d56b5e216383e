"""A run in one file."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest

from tellurio_sync.backend.page.report import write_report
from tellurio_sync.cli import main
from tellurio_sync.errors import BackendError

from .conftest import RunningBackend
from .test_page_story import Trained, plain
from .watched_run import Browser, WatchedRun


@pytest.fixture
def data_dir(backend: RunningBackend, tmp_path: Path) -> Path:
    """What a backend keeps of a run."""
    run = Trained(backend)
    run.close()
    return tmp_path / "data"


def test_a_report_holds_the_whole_story(backend: RunningBackend, data_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    assert write_report(data_dir, "calm_river_1", path) == "calm_river_1"
    page = path.read_text(encoding="utf-8")
    text = plain(page)
    for part in ("calm_river_1", "accuracy", "11 questions", "system prompt", "Do better."):
        assert part in text
    assert "Version 3, by step 2: score 1 → 0.66667, broke 1" in text
    assert "Shout: yes <del>no </del>maybe" in page
    # It may do nothing with a network, and has no need of one.
    (policy,) = re.findall('http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert policy.startswith("default-src &#39;none&#39;")
    assert "connect-src" not in policy
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]', page)
    # A running backend is no hindrance, and neither is one that has ended.
    backend.stop()
    again = tmp_path / "again.html"
    write_report(data_dir, "latest", again)
    assert plain(again.read_text(encoding="utf-8"))[:500] == text[:500]


def test_a_report_of_data_from_before_steps_were_counted(
    backend: RunningBackend, data_dir: Path, tmp_path: Path
) -> None:
    backend.stop()
    with contextlib.closing(sqlite3.connect(data_dir / "tellurio.sqlite3")) as db:
        db.executescript("DROP TABLE usage_by_step; DROP TABLE version_steps")
    path = tmp_path / "report.html"
    write_report(data_dir, "latest", path)
    text = plain(path.read_text(encoding="utf-8"))
    assert "11 questions" in text
    assert "By step" not in text
    assert "Version 3: score" in text, "of which step is not known"


def test_the_page_offers_it(backend: RunningBackend) -> None:
    run = WatchedRun(backend, name="</script><b>x")
    run.log("</script>", 0.5)
    run.parameter("</script><script>alert(1)", "</title>")
    with Browser(backend) as browser:
        answer = browser.look(f"{run.path}report.html")
    run.close()
    assert answer.headers["Content-Disposition"] == 'attachment; filename="script_b_x.html"'
    assert "<b>x" not in answer.text
    assert "<script>alert" not in answer.text


def test_the_command_writes_it(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    assert main(["report", "calm_river_1", "-o", str(path), "--data-dir", str(data_dir)]) == 0
    assert "Wrote the run 'calm_river_1'" in capsys.readouterr().out
    assert path.exists()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("TELLURIO_DATA_DIR", str(tmp_path / "empty"))
    assert main(["report", "calm_river_1", "-o", str(path)]) == 1
    assert "--data-dir" in capsys.readouterr().err
    monkeypatch.setenv("TELLURIO_DATA_DIR", str(data_dir))  # where login(mode="local") keeps its runs
    assert main(["report", "calm_river_1", "-o", str(path)]) == 0
    monkeypatch.setenv("TELLURIO_DATA_DIR", str(tmp_path / "empty"))
    monkeypatch.chdir(data_dir)
    assert main(["report", "calm_river_1", "-o", str(path)]) == 0


def test_what_it_cannot_do_it_says(backend: RunningBackend, data_dir: Path, tmp_path: Path) -> None:
    twin = WatchedRun(backend, "Other project", name="calm_river_1")
    twin.close()
    for run, why in (("none", "no run 'none'"), ("calm_river_1", f"several runs.*{twin.uuid}"), ("", "no run ''")):
        with pytest.raises(BackendError, match=why):
            write_report(data_dir, run, tmp_path / "x.html")
    assert write_report(data_dir, twin.uuid, tmp_path / "x.html") == "calm_river_1"
    assert write_report(data_dir, twin.uuid[:13], tmp_path / "x.html") == "calm_river_1"
    with pytest.raises(BackendError, match="cannot be written"):
        write_report(data_dir, "latest", tmp_path / "missing" / "x.html")
    (tmp_path / "tellurio.sqlite3").write_bytes(b"no database, but long enough to look at" * 100)
    with pytest.raises(BackendError, match="cannot be read"):
        write_report(tmp_path, "latest", tmp_path / "x.html")
