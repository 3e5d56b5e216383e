"""Connected clients, and a server's script that echoes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync.client import TellurioWebSocketClient

from ..faults.scripted import ScriptedServer, ServerConnection

Connect = Callable[..., TellurioWebSocketClient]


@pytest.fixture
def connect(active_run: Any) -> Iterator[Connect]:
    """Makes connected clients and closes them after the test."""
    clients = []

    def connect(
        server: ScriptedServer, cls: type[TellurioWebSocketClient] = TellurioWebSocketClient, **options: Any
    ) -> Any:
        client = cls(base_url=server.base_url, port=server.port, **options)
        clients.append(client)
        assert client.connect(api_key="key-1") == {"session_id": "session-1"}
        return client

    yield connect
    for client in clients:
        client.close()


def echo(connection: ServerConnection) -> None:
    """Answer every request with its parameters."""
    for message in connection.requests():
        if "id" in message and "method" in message:
            connection.reply(message, message["params"])
