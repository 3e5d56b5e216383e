"""A user whom the machine does not know, without a home, where nothing but the temporary files can be written.

So a container runs that is started with ``--user 12345``, as OpenShift does it for all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..backend_process import KEY, BackendProcess
from ..conftest import FAILSAFE

UID = 61_234
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become another user"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv (util-linux)"),
]

As = Callable[..., "subprocess.CompletedProcess[str]"]

LOCAL = """
import tellurio_sync as te
te.login(mode="local")
run = te.init(project_display_name="P", name="a")
for step in range(100):
    run.log("loss", step / 3)
run.finish()
print(len(run.metrics("loss")))
"""
OFFLINE = """
import tellurio_sync as te
te.login(mode="offline")
run = te.init(None, "P", name="b")
for step in range(100):
    run.log("loss", step / 3)
run.finish()
"""
ONLINE = """
import sys
import tellurio_sync as te
print(te.login(sys.argv[1], base_url=sys.argv[2])["username"])
"""


HOMES = {"a home that is not there": "/nonexistent", "no home": None}
both = pytest.mark.parametrize("as_stranger", HOMES.values(), ids=[*HOMES], indirect=True)


@pytest.fixture(params=["/nonexistent"])
def as_stranger(request: pytest.FixtureRequest) -> Iterator[As]:
    """Runs Python with these arguments as that user, in the root folder."""
    folder = tempfile.mkdtemp(prefix="stranger-", dir="/tmp")
    os.chown(folder, UID, UID)
    become = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    # An interpreter below /root cannot be reached by others: the right to read it, and nothing else, is kept.
    read_all = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    env = {"PATH": os.environ["PATH"], "TMPDIR": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    if request.param is not None:
        env["HOME"] = request.param

    def run(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [*become, sys.executable, *args]
        return subprocess.run(
            command, cwd="/", env={**env, **more}, capture_output=True, text=True, timeout=2 * FAILSAFE, stdin=-3
        )

    try:
        if run("-c", "import tellurio_sync").returncode:
            become += read_all
            if run("-c", "import tellurio_sync").returncode:
                pytest.skip("another user cannot read this interpreter here")
        yield run
    finally:
        shutil.rmtree(folder)


def cli(as_stranger: As, *args: str) -> tuple[int, str]:
    done = as_stranger("-m", "tellurio_sync", *args)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def test_a_local_run_works_and_says_that_it_is_not_kept(as_stranger: As) -> None:
    done = as_stranger("-c", LOCAL)
    assert (done.returncode, done.stdout) == (0, "100\n"), done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("Runs are not kept: ")
    assert "TELLURIO_DATA_DIR names another folder" in said


@both
def test_what_is_kept_offline_is_found_by_the_command_line(as_stranger: As) -> None:
    done = as_stranger("-c", OFFLINE)
    assert (done.returncode, done.stderr) == (0, "")
    status, said = cli(as_stranger, "runs", "--kept")
    assert (status, len(said.splitlines())) == (0, 2), said
    assert cli(as_stranger, "metrics", "b", "--kept")[0] == 0
    assert cli(as_stranger, "sync", "--dry-run")[1].startswith("to send ")
    status, said = cli(as_stranger, "doctor")
    assert said.startswith("ok      configuration "), said
    assert f"tellurio-{UID}/journals" in said


def test_a_login_works_and_complains_of_nothing(as_stranger: As, tmp_path: Path) -> None:
    with BackendProcess(tmp_path) as backend:
        done = as_stranger("-c", ONLINE, KEY, f"http://127.0.0.1:{backend.port}")
    assert (done.returncode, done.stdout) == (0, "local\n"), done.stderr
    assert done.stderr == ""


@both
def test_without_a_key_the_command_line_says_so_and_nothing_else(as_stranger: As) -> None:
    status, said = cli(as_stranger, "whoami")
    assert status == 4
    (line,) = said.splitlines()
    assert "set TELLURIO_API_KEY" in line
