"""A file system that is really full: a small one in memory, which only root can mount."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tellurio_sync as te
from tellurio_sync.errors import HttpStatusError, UsageError
from tellurio_sync.studio import StudioRest, start_run
from tellurio_sync.studio.rows import rows_of_folder

from ..backend_process import KEY, BackendProcess
from ..conftest import FAILSAFE

# With room for the log of the database beside it, which takes 4 MiB and more before it is written back.
SIZE_BYTES = 32 << 20
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can mount a file system"),
    pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount"),
]


class Disk:
    """A small file system, which a file of no use can fill."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        with open(self._ballast, "wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096):
                    pass
            except OSError:
                pass  # it is full

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"root may not mount a file system here: {mounted.stderr.decode().strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


TRAINING = """
import os, sys
import tellurio_sync as te
te.login(mode="offline")
run = te.init(None, "P", name="a")
def log(begin, end):
    for step in range(begin, end):
        run.log("loss", step / 3, step=step)
log(0, 1000)
ballast = os.environ["TELLURIO_JOURNAL_DIR"] + "/../ballast"
with open(ballast, "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)): pass
    except OSError: pass
log(1000, 20_000)
run.log({"a": 1, "b": 2.0}, step=0)
os.unlink(ballast)
log(20_000, 21_000)
run.finish()
print(run.uuid)
"""


def test_a_loop_goes_on_counts_what_is_lost_and_its_journal_is_whole(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(disk.path / "journals"))
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, timeout=2 * FAILSAFE)
    assert done.returncode == 0, done.stderr
    began, ended = done.stderr.splitlines()
    assert "cannot be kept and are lost, from now on until it works again: [Errno 28] No space left" in began
    folder = disk.path / "journals" / done.stdout.strip()
    steps = [row["step"] for row in rows_of_folder(folder) if row["name"] == "loss"]
    kept = len(steps) - 2000
    assert steps == [*range(1000 + kept), *range(20_000, 21_000)]
    # What the last page of the journal still had room for; a value takes some 11 bytes.
    assert 0 <= kept < os.sysconf("SC_PAGE_SIZE")
    assert ended == f"Values of metrics are kept again; {19_000 - kept + 2} were lost."
    assert json.loads((folder / "end.json").read_text())["status"] == "COMPLETED"


def test_a_backend_takes_the_rest_when_its_disk_has_room_again(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with BackendProcess(tmp_path, **{"data-dir": disk.path / "data"}) as backend:
        rest = StudioRest("http://127.0.0.1", backend.port, KEY, timeout=FAILSAFE)
        run = start_run(rest, "local", "P")
        try:
            run.log("loss", 0.0, 0)
            assert run.flush(FAILSAFE)
            disk.fill()
            for step in range(1, 50_000):
                run.log("loss", step / 3, step)
            assert not run.flush(1)
            with pytest.raises(HttpStatusError, match=r"status 507: The disk of the backend's data directory is full"):
                start_run(rest, "local", "Another")
            backend.kill()  # what it had acknowledged is on the disk
            disk.free()
            backend.start()
            assert run.flush(FAILSAFE)
            assert [row["step"] for row in run.metrics("loss")] == [*range(50_000)]
        finally:
            run.finish()
            rest.close()
    away, again = [record.getMessage() for record in caplog.records if record.name == "tellurio_sync.studio.runs"]
    assert "failed with status 507: The disk of the backend's data directory is full" in away
    assert again == "The server takes metrics again, and has all that were kept."


def test_where_the_disk_is_full_from_the_begin_an_offline_run_is_refused(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the training: nothing of it could be kept."""
    disk.fill()
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(disk.path / "journals"))
    with te.Session() as session:
        session.login(mode="offline")
        with pytest.raises(UsageError, match=r"cannot be kept on this machine: .*No space left.*TELLURIO_JOURNAL_DIR"):
            session.init("me", "P")
    assert [*(disk.path / "journals").iterdir()] == []
