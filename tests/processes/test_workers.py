"""Worker processes reach the local backend of their program, wherever it keeps its data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2]
FAILSAFE = 120
NEEDS = {"loky": "loky", "dask": "distributed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "where"),
    [
        ("spawn", "ephemeral"),
        ("spawn", "own folder"),
        ("forkserver", "ephemeral"),
        ("loky", "own folder"),
        ("dask", "ephemeral"),
    ],
)
def test_workers_use_the_backend_of_their_program(how: str, where: str, tmp_path: Path) -> None:
    if how in NEEDS:
        pytest.importorskip(NEEDS[how])
    if how == "forkserver" and not hasattr(os, "fork"):
        pytest.skip("no forkserver here")
    (tmp_path / "tmp").mkdir()
    environment = {name: text for name, text in os.environ.items() if not name.startswith("TELLURIO_")}
    environment |= {"TELLURIO_DATA_DIR": str(tmp_path / "default"), "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.processes.workers_program", how, where, str(tmp_path)],
        env=environment,
        cwd=SRC,
        capture_output=True,
        text=True,
        timeout=FAILSAFE,
    )
    assert done.returncode == 0, done.stderr
    own, *workers, logged = done.stdout.splitlines()
    assert workers == [own] * 3
    assert logged == "[0, 1, 2, 3]"
    assert not (tmp_path / "default").exists()
    assert not [left for left in (tmp_path / "tmp").glob("tellurio*/**/*") if left.is_file()], "a file is left behind"
