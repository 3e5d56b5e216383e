"""Connecting, logging in, losing the connection."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tellurio_sync.testing import ScriptedBackend

from .conftest import Drive
from .turns import turns

COUNT = 200


def test_no_connection_has_a_dead_listener(drive: Drive, backend: ScriptedBackend) -> None:
    """Protocol §A.2: the greeting must come in one segment with the handshake's answer.

    Nor has one through the plugin's proxy, which passes on segments as they come.
    """
    ports = {"straight": str(backend.direct_port), "through the proxy": str(backend.port)}
    seen = drive("connections", key=backend.api_key, namespace=backend.namespace, count=COUNT, ports=ports)
    assert seen == {name: {"connected": COUNT, "sessions": COUNT, "lost": []} for name in ports}


def test_logging_in(drive: Drive, backend: ScriptedBackend) -> None:
    seen = drive("logins", key=backend.api_key, namespace=backend.namespace)
    sessions = {answer.pop("session_id") for answer in seen["logins"]}
    assert seen["logins"] == [{"email": "alice@example.org", "username": "alice"}] * 3
    assert len(sessions) == 3
    # Protocol §A.6.
    error = {name: (outcome["error"]["type"], outcome["error"]["text"]) for name, outcome in seen["refused"].items()}
    assert error == {
        "no key, relogin": ("ValueError", "API key is required for re-login."),
        "wrong key": ("InvalidAPIKeyError", "Login failed due to invalid API key."),
        "wrong key, relogin": ("InvalidAPIKeyError", "Re-login failed due to invalid API key."),
    }
    assert seen["closed after a failure"]
    assert seen["wrong key at the WebSocket"] == "Failed to connect to WebSocket after multiple attempts."
    assert seen["data after another login"] == "after"


def test_every_long_running_request_shows_that_it_lives(drive: Drive, backend: ScriptedBackend) -> None:
    seen = drive("heartbeats", key=backend.api_key, namespace=backend.namespace)
    short = {name: seen.pop(name) for name in ("create_variable", "create_optimizer")}
    assert all(count == 0 for count, _ in short.values())
    assert sorted(seen) == ["run_backward", "run_function", "run_optimizer_tgd", "run_step"]
    for method, (count, all_name_it) in seen.items():
        assert count >= 1, method
        assert all_name_it, method


def test_a_notebook_goes_from_one_client_to_the_other(drive: Drive, backend: ScriptedBackend) -> None:
    """Its objects stay, and it stays connected: ``uninstall`` gives afnio a connection of its own again."""
    seen = drive("notebook", namespace=backend.namespace)
    assert seen == {"seen": ["aa", "aa", "aa", "bb", "bb", 2], "failed": {}}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are how test and driver take turns")
def test_objects_outlive_a_lost_connection(drive: Drive, backend: ScriptedBackend, tmp_path: Path, way: str) -> None:
    """Protocol §C.3. afnio does not come back by itself (§A.5): a login brings it back. Our client does."""
    dropped: list[int] = []
    address = {"TELLURIO_BACKEND_WS_PORT": str(backend.port)}
    with turns(tmp_path / "turn", [lambda: dropped.append(backend.drop_connections())]) as pipe:
        seen = drive("lost", address, key=backend.api_key, namespace=backend.namespace, pipe=pipe)
    assert dropped == [1]
    assert seen["lost"] == (way == "afnio's client")
    assert seen["login"] == ["email", "session_id", "username"]
    assert seen["after"] == ["after", 2, True]
