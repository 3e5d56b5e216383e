"""A client that was unpickled, or forked, connects at its first use: by the same rules as ``connect``."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.errors import ConnectFailed

from ..faults.scripted import ScriptedServer
from .conftest import echo

KEY = "te-0123456789-secret"


@pytest.fixture
def dialled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the client would dial: nothing of it leaves this machine."""
    made: list[Any] = []

    def make(self: Any) -> Any:
        made.append(self)
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(TellurioWebSocketClient, "_make_peer", make)
    monkeypatch.setenv("TELLURIO_API_KEY", KEY)
    return made


def test_the_first_use_of_an_unpickled_client_sends_no_key_in_clear_text(dialled: list[Any], active_run: Any) -> None:
    copy = pickle.loads(pickle.dumps(TellurioWebSocketClient("ws://backend.example", 80)))
    with pytest.raises(ConnectFailed, match="allow_insecure") as caught:
        copy.call("m")
    assert dialled == []
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options"),
    [("wss://backend.example", {}), ("ws://127.0.0.1", {}), ("ws://backend.example", {"allow_insecure": True})],
)
def test_where_the_key_may_be_sent_it_connects(
    url: str, options: dict[str, Any], dialled: list[Any], active_run: Any
) -> None:
    copy = pickle.loads(pickle.dumps(TellurioWebSocketClient(url, 80, **options)))
    with pytest.raises(AssertionError, match="a connection was opened"):
        copy.call("m")
    assert dialled == [copy]


def test_the_first_use_connects_with_the_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, active_run: Any
) -> None:
    monkeypatch.setenv("TELLURIO_API_KEY", KEY)
    with ScriptedServer(echo) as server:
        copy = pickle.loads(pickle.dumps(TellurioWebSocketClient(server.base_url, server.port)))
        with copy:
            assert copy.call("m", {"n": 1})["result"]["n"] == 1
        (connection,) = server.connections
    assert KEY in connection.headers["authorization"]
