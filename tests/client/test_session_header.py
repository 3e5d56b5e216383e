"""Going on with one's session on the server at the next connection (protocol §C.3; the extension ``session``)."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import pytest

from tellurio_sync.client import TellurioWebSocketClient

from ..conftest import FAILSAFE
from ..faults.scripted import ScriptedServer, ServerConnection

HEADER = "x-tellurio-session"


class Greeter:
    """Greets each connection with a session id of its own."""

    def __init__(self, extensions: list[str]) -> None:
        self._extensions = extensions
        self._numbers = itertools.count(1)

    def __call__(self, connection: ServerConnection) -> None:
        result = {"session_id": f"session-{next(self._numbers)}", "extensions": self._extensions}
        connection.send({"jsonrpc": "2.0", "id": None, "result": result})
        for message in connection.requests():
            if message["method"] == "end":
                connection.reset()
                return
            connection.reply(message, message["params"])


def sessions_asked_for(server: ScriptedServer) -> list[str]:
    return [connection.headers[HEADER] for connection in server.connections]


@pytest.mark.parametrize(
    ("extensions", "asked_for"),
    [(["session"], ["new", "session-1"]), ([], ["new", "new"]), (["other"], ["new", "new"])],
)
def test_a_reconnect(extensions: list[str], asked_for: list[str], active_run: Any) -> None:
    """Only of a server that knows sessions one asks for the former."""
    with ScriptedServer(Greeter(extensions), greet=False) as server:
        with TellurioWebSocketClient(base_url=server.base_url, port=server.port, api_key="key-1") as client:
            client.notify("end")
            client.wait_for_connection(FAILSAFE)
            while len(server.connections) < 2:
                client.wait_for_connection(FAILSAFE)
            assert client.call("m")["result"]
        assert sessions_asked_for(server) == asked_for


def test_connecting_again_after_closing(active_run: Any) -> None:
    with ScriptedServer(Greeter(["session"]), greet=False) as server:
        client = TellurioWebSocketClient(base_url=server.base_url, port=server.port, api_key="key-1")
        for _ in range(3):
            client.connect()
            client.close()
        # The server is free to begin a new session, and then that one counts.
        assert sessions_asked_for(server) == ["new", "session-1", "session-2"]


def test_a_new_client_of_the_same_session(active_run: Any) -> None:
    with ScriptedServer(Greeter(["session"]), greet=False) as server, ScriptedServer() as other:
        first, second, elsewhere = (
            TellurioWebSocketClient(base_url=to.base_url, port=to.port, api_key="key-1")
            for to in (server, server, other)
        )
        first.connect()
        second.go_on_with(first)
        elsewhere.go_on_with(first)
        for client in (second, elsewhere):
            client.connect()
        for client in (first, second, elsewhere):
            client.close()
        assert sessions_asked_for(server) == ["new", "session-1"]
        assert sessions_asked_for(other) == ["new"]


def test_a_pickle_does_not_carry_it(active_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unpickled elsewhere is another client: the two must not use one session's models."""
    monkeypatch.setenv("TELLURIO_API_KEY", "key-1")
    with ScriptedServer(Greeter(["session"]), greet=False) as server:
        client = TellurioWebSocketClient(base_url=server.base_url, port=server.port)
        with client, pickle.loads(pickle.dumps(client)) as copy:
            copy.call("m")
        assert sessions_asked_for(server) == ["new", "new"]
