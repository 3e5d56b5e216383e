"""Programs whose first log does not wait for the local backend that they start: how they end, fork, and share it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.backend.metrics import all_values
from tellurio_sync.backend.snapshot import records_of
from tellurio_sync.journal.folder import RunFolder

from ..conftest import FAILSAFE

pytestmark = pytest.mark.slow

LOGS = """
import os, sys
import tellurio_sync as te
te.login(mode="local")
run = te.init("me", "Project")
te.log("x", 1.0)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folders = {"TELLURIO_DATA_DIR": tmp_path / "data", "TELLURIO_JOURNAL_DIR": tmp_path / "journals"}
    return {**os.environ, **{name: str(folder) for name, folder in folders.items()}}


def begun(script: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, text=True, **pipes)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    output, errors = process.communicate(timeout=FAILSAFE)
    return process.returncode, output, errors


def stored(environment: dict[str, str]) -> list[tuple[str, list[float]]]:
    """The status and the values of each run that the backend has kept."""
    with records_of(Path(environment["TELLURIO_DATA_DIR"])) as records:
        runs = records.read("SELECT uuid, status FROM runs ORDER BY number")
        return [(run["status"], [value for _, value, _ in all_values(records, run["uuid"])]) for run in runs]


@pytest.mark.parametrize(
    ("ending", "code", "status"),
    [("", 0, "COMPLETED"), ("sys.exit(3)", 3, "CRASHED"), ("raise ValueError('wrong')", 1, "CRASHED")],
)
def test_an_end_right_after_the_first_log_loses_nothing(
    ending: str, code: int, status: str, environment: dict[str, str]
) -> None:
    returned, _, errors = ended(begun(LOGS + ending, environment))
    assert returned == code, errors
    assert stored(environment) == [(status, [1.0])]
    assert RunFolder.all(Path(environment["TELLURIO_JOURNAL_DIR"])) == []


def test_a_kill_right_after_the_first_log_leaves_it_in_the_journal(environment: dict[str, str]) -> None:
    script = LOGS + "os.kill(os.getpid(), 9)"
    returned, _, errors = ended(begun(script, environment))
    assert returned == -signal.SIGKILL, errors
    (folder,) = RunFolder.all(Path(environment["TELLURIO_JOURNAL_DIR"]))
    assert folder.about()["project"] == "Project"
    (writer,) = folder.writers()
    assert folder.size(writer) > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
def test_a_fork_before_the_first_call_has_a_session_of_its_own(environment: dict[str, str]) -> None:
    script = f"""{LOGS}
pid = os.fork()
te.log("x", 2.0)
te.Variable("text", role="role")
assert run.flush(60)
print(te.default_session().client.greeting.session_id, flush=True)
if pid == 0:
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert len(run.metrics()) == 3
"""
    returned, output, errors = ended(begun(script, environment))
    assert returned == 0, errors
    assert len(set(output.split())) == 2
    ((status, values),) = stored(environment)
    assert (status, sorted(values)) == ("COMPLETED", [1.0, 2.0, 2.0])


def test_programs_that_begin_together_share_one_backend(environment: dict[str, str]) -> None:
    script = f"""{LOGS}
run.flush(60)
print(te.local.default_local_backend().pid, flush=True)
sys.stdin.readline()
"""
    processes = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        processes.append(process)
    pids = []
    for process in processes:
        assert process.stdout is not None
        pids.append(process.stdout.readline().strip())
    for process in processes:
        returned, _, errors = ended(process)
        assert returned == 0, errors
    assert pids[0]
    assert len(set(pids)) == 1
    assert stored(environment) == [("COMPLETED", [1.0])] * 3


def test_a_backend_that_ends_while_it_loads(environment: dict[str, str], tmp_path: Path) -> None:
    """Its data and its port were open, so the login has returned: what waits first has the reason."""
    broken = tmp_path / "broken" / "aiohttp"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('a broken framework')\n")
    environment["PYTHONPATH"] = os.pathsep.join([str(broken.parent), environment.get("PYTHONPATH", "")])
    script = f"""{LOGS}
try:
    te.Variable("text", role="role")
except te.BackendError as exc:
    print(exc)
te.log("x", 2.0)
"""
    returned, output, errors = ended(begun(script, environment))
    assert returned == 0, errors
    assert "ended while it started (exit code 1)" in output
    assert "a broken framework" in output
    assert "tellurio-sync sync" in errors
    (folder,) = RunFolder.all(Path(environment["TELLURIO_JOURNAL_DIR"]))
    assert str(folder.path) in errors
    assert folder.end()["status"] == "COMPLETED"
