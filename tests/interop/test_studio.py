"""Projects, runs and metrics of afnio's, and its command line."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.studio import StudioRest
from tellurio_sync.testing import ScriptedBackend

from .conftest import FAILSAFE, Drive

DRIVERS = Path(__file__).parent / "drivers"


@pytest.fixture(scope="module")
def seen(drive: Drive, backend: ScriptedBackend) -> Any:
    return drive("studio", namespace=backend.namespace)


@pytest.fixture
def rest(backend: ScriptedBackend) -> Any:
    rest = StudioRest(backend.http_base_url, backend.direct_port, api_key=backend.api_key)
    yield rest
    rest.close()


def project(name: str, slug: str, visibility: str, **more: Any) -> dict[str, Any]:
    fields = {"display_name": name, "slug": slug, "visibility": visibility}
    return {**fields, "role": None, "org_slug": None, "last_run_date": None, **more}


def test_projects(seen: Any) -> None:
    # Protocol §J.
    mine = {"role": "OWNER", "org_slug": "alice"}
    assert seen["created"] == project("Test Project", "test-project", "PUBLIC", **mine)
    assert seen["got"] == project("Test Project", "test-project", "PUBLIC")
    assert seen["default visibility"] == project("Another-Project", "another-project", "TEAM", **mine)
    assert (seen["missing"], seen["missing namespace"], seen["deleted"]) == (None, None, None)
    assert seen["fresh no more"]
    assert seen["made by init"]["visibility"] == "RESTRICTED"


def test_errors(seen: Any) -> None:
    assert {outcome["error"]["type"] for outcome in seen["errors"].values()} == {"HTTPStatusError"}


def test_runs(seen: Any) -> None:
    assert seen["run"] == {
        "name": "first",
        "description": "words",
        "status": "RUNNING",
        "project": "test-project",
        "user": "alice",
        "ordered": True,
    }
    assert seen["is active"]
    assert seen["finished"] == "COMPLETED"
    assert seen["no active run"]["error"] == {"type": "ValueError", "text": "No active run is set."}
    assert seen["taken"] == ["first_1", "first_2"]
    assert len(set(seen["made up"])) == 2


def test_how_runs_ended(seen: Any, rest: StudioRest, backend: ScriptedBackend) -> None:
    runs = {run["name"]: run["status"] for run in rest.list_runs(backend.namespace, "test-project")}
    made_up = dict.fromkeys(seen["made up"], "FAILED")
    # A new run marks an unfinished one FAILED; what is left open at the exit of the process is COMPLETED.
    assert runs == {
        "first": "COMPLETED",
        "first_1": "FAILED",
        "first_2": "FAILED",
        **made_up,
        "as a block": "COMPLETED",
        "crashing": "CRASHED",
        "left open": "COMPLETED",
    }


def test_metrics(seen: Any, rest: StudioRest, backend: ScriptedBackend) -> None:
    first = rest.list_runs(backend.namespace, "test-project")[0]
    metrics = rest.list_metrics(backend.namespace, "test-project", first["uuid"])
    assert [(metric["name"], metric["value"], metric["step"]) for metric in metrics] == [
        ("accuracy", 0.5, 0),
        ("accuracy", 0.75, 1),
        ("accuracy", 1, 10),
        ("accuracy", 2, 11),
        ("note", {"any": ["json", None]}, 3),
    ]


# --- the command line (protocol §J.3) -----------------------------------------------------------


@pytest.fixture
def run_cli(peer_bin: Path, peer_environment: dict[str, str], tmp_path: Path) -> Any:
    """A function that runs ``afnio`` with a keyring in a file, and returns what it printed."""
    environment = {
        **peer_environment,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(DRIVERS),
        "PYTHON_KEYRING_BACKEND": "file_keyring.FileKeyring",
        "FILE_KEYRING": str(tmp_path / "keyring.json"),
    }
    del environment["TELLURIO_API_KEY"]

    def run_cli(*arguments: str, **variables: str) -> str:
        done = subprocess.run(
            [str(peer_bin / "afnio"), *arguments],
            env={**environment, **variables},
            input="",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=FAILSAFE,
        )
        # The clean room: were there a traceback, it must not be shown.
        assert "Traceback" not in done.stdout, "afnio's command line crashed"
        assert done.returncode == 0
        return done.stdout

    return run_cli


def test_login_with_a_key_that_is_then_stored(run_cli: Any, backend: ScriptedBackend) -> None:
    printed = run_cli("login", "--api-key", backend.api_key)
    assert "API key provided and stored securely in local keyring." in printed
    assert "Currently logged in as 'alice'" in printed

    printed = run_cli("login")
    assert "Using stored API key from local keyring." in printed
    assert "Currently logged in as 'alice'" in printed


def test_login_with_a_wrong_key(run_cli: Any) -> None:
    assert "Login failed: Invalid API key. Please try again." in run_cli("login", "--api-key", "wrong", "--relogin")


def test_login_without_a_backend(run_cli: Any, backend: ScriptedBackend) -> None:
    # A port that is taken, but where nobody answers.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        printed = run_cli("login", "--api-key", backend.api_key, TELLURIO_BACKEND_HTTP_PORT=port)
    assert "Login failed" in printed
