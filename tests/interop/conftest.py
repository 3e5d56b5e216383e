"""afnio 0.3.7, unchanged, as a client of the local backend: a black box in an environment of its own.

Everything runs twice: over afnio's own WebSocket client, and over ours (``tellurio_sync.afnio``).

The clean room: afnio's licence differs from ours, so nothing of it is read here.  Drivers (``drivers/``) are ours; they
use what the protocol names, run in afnio's environment, and print what they observed as JSON.  What afnio itself writes
is thrown away.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.testing import ScriptedBackend

from .moving import DRIVERS, PACKAGE_ROOT

PEER = "afnio==0.3.7"
CONSTRAINTS = PACKAGE_ROOT / ".ci" / "afnio.txt"
FAILSAFE = 300.0
"""Seconds: a driver that is not done by then hangs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("interop")


@pytest.fixture(scope="session")
def peer_bin(request: pytest.FixtureRequest) -> Path:
    """The directory of the programs in afnio's environment, which is made once.

    It is where ``TELLURIO_INTEROP_ENV`` says, else in pytest's cache.  Made only by ``-m interop``: a plain run of all
    tests downloads nothing.
    """
    version = "{}.{}".format(*sys.version_info)
    named = os.environ.get("TELLURIO_INTEROP_ENV")
    home = Path(named) if named else request.config.cache.mkdir(f"{PEER.replace('==', '-')}-py{version}")
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    done = home / "installed"
    if not done.exists():
        if "interop" not in request.config.option.markexpr:
            pytest.skip(f"{PEER} is not installed: pytest -m interop installs it")
        venv.create(home, with_pip=True, clear=True)
        install = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if CONSTRAINTS.exists():
            install += ["--constraint", str(CONSTRAINTS)]
        # And what this package needs, for the runs over its client; the package itself is the one that is tested.
        subprocess.run([*install, PEER, *_core_requirements()], check=True, timeout=FAILSAFE, stdout=subprocess.DEVNULL)
        done.touch()
    return programs


@pytest.fixture(scope="module", params=["afnio's client", "our client"])
def way(request: pytest.FixtureRequest) -> str:
    """The client that works under afnio: whichever it is, everything that is observed has to be the same."""
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def backend(way: str) -> Iterator[ScriptedBackend]:
    with ScriptedBackend(username="alice", email="alice@example.org", namespaces=["alice", "team"]) as backend:
        yield backend


@pytest.fixture(scope="module")
def peer_environment(backend: ScriptedBackend, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a program of the peer's gets to see: the backend without the proxy before it, and nothing of the user's."""
    passed_on = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LANG", "TMPDIR") if name in os.environ}
    return {
        **passed_on,
        **backend.environment(),
        "TELLURIO_BACKEND_HTTP_PORT": str(backend.direct_port),
        "TELLURIO_BACKEND_WS_PORT": str(backend.direct_port),
        "HOME": str(tmp_path_factory.mktemp("home")),
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def _core_requirements() -> list[str]:
    return [each for each in metadata.requires("tellurio_sync") or [] if "extra ==" not in each]


Drive = Callable[..., Any]


@pytest.fixture(scope="module")
def drive(peer_bin: Path, peer_environment: dict[str, str], way: str) -> Drive:
    """A function that runs a driver with these arguments and returns what it observed."""

    def drive(name: str, environment: dict[str, str] | None = None, **arguments: Any) -> Any:
        done = subprocess.run(
            [
                *(str(peer_bin / "python"), *(["-m", "tellurio_sync.afnio"] if way == "our client" else [])),
                *(str(DRIVERS / f"{name}.py"), json.dumps(arguments)),
            ],
            env={**peer_environment, "PYTHONPATH": str(PACKAGE_ROOT), **(environment or {})},
            # Its trainer writes checkpoints into the working directory.
            cwd=peer_environment["HOME"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # The clean room: a traceback would show lines of the peer.
            stderr=subprocess.DEVNULL,
            timeout=FAILSAFE,
        )
        assert done.stdout, f"the driver {name} ended without any output (exit code {done.returncode})"
        outcome = json.loads(done.stdout)
        assert "failed" not in outcome, f"the driver {name} failed: {outcome['failed']}"
        return outcome["observed"]

    return drive
