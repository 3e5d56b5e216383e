"""Where runs are kept: the usual folder, another one where that cannot be written, and both are looked at."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

import tellurio_sync as te
from tellurio_sync.journal.folder import RunFolder, kept_runs, usable_base
from tellurio_sync.studio import StudioRest
from tellurio_sync.studio.sync import sync

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the rights of POSIX")


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory for temporary files; there is no home, and no variable."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delenv("TELLURIO_JOURNAL_DIR")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    return folder / f"tellurio-{os.getuid()}"


def keep(name: str) -> None:
    with te.Session() as session:
        session.login(mode="offline")
        run = session.init("me", "P", name=name)
        run.log("loss", 0.5)
        run.finish()


def names() -> list[str]:
    return [folder.about()["name"] for folder in kept_runs()]


def test_what_is_kept_where_there_is_no_home_is_found_again(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep("first")
    assert [folder.path.parent for folder in kept_runs()] == [shared / "journals"]
    assert shared.stat().st_mode & 0o777 == 0o700
    assert [result.outcome for result in sync(StudioRest("http://127.0.0.1", 1), dry_run=True)] == ["to send"]
    # Later there is one, which may be written: both are looked at, and the new one is written.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    keep("second")
    assert names() == ["first", "second"]
    assert usable_base().is_relative_to(tmp_path / "home")
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "named"))
    assert names() == [], "one that is named is the only one"


@pytest.mark.parametrize("kind", ["others may write", "link"])
def test_a_folder_that_others_may_have_filled_is_neither_read_nor_written(
    kind: str, shared: Path, tmp_path: Path
) -> None:
    """It has a name that everybody knows; what lies in it would be sent with this user's key."""
    theirs = tmp_path / "theirs"
    RunFolder(theirs / "journals" / "run").create({"uuid": "run", "name": "planted", "project": "P"})
    if kind == "link":
        shared.symlink_to(theirs)
    else:
        theirs.rename(shared)
        shared.chmod(0o777)
    assert names() == []
    with pytest.raises(PermissionError, match=rf"{shared.name} is not of this user alone"):
        usable_base()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_not_read(shared: Path) -> None:
    RunFolder(shared / "journals" / "run").create({"uuid": "run", "name": "planted", "project": "P"})
    shared.chmod(0o700)
    os.chown(shared, 12345, 12345)
    assert names() == []
