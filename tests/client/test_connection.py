"""Connecting, losing the connection and closing it, over a real socket and against a server of the test's own."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest

from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.client.greeting import Greeting
from tellurio_sync.errors import (
    ClosedByUser,
    ConnectFailed,
    ConnectionLost,
    InvalidAPIKeyError,
    NotConnected,
)

from ..conftest import FAILSAFE, in_thread
from ..faults.scripted import ScriptedServer, ServerConnection
from .conftest import Connect, echo


class TestConnecting:
    def test_the_key_goes_into_the_handshake(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            client.call("m")
            assert server.connections[0].headers["authorization"] == "Api-Key key-1"
            assert "key-1" not in repr(client)
            assert server.connections[0].headers["x-tellurio-max-message-size"] == str(64 * 1024 * 1024)

    def test_what_the_server_said_of_itself(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = TellurioWebSocketClient(base_url=server.base_url, port=server.port)
            assert client.greeting is None
            client.connect("key-1")
            assert client.greeting == Greeting("session-1")
            client.close()

    def test_the_constructors_key_and_the_environments(self, active_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TELLURIO_API_KEY", "key-env")
        with ScriptedServer(echo) as server:
            for options in ({"api_key": "key-own"}, {}):
                with TellurioWebSocketClient(base_url=server.base_url, port=server.port, **options) as client:
                    client.call("m")
            keys = [connection.headers["authorization"] for connection in server.connections]
            assert keys == ["Api-Key key-own", "Api-Key key-env"]

    def test_nobody_listens(self) -> None:
        with ScriptedServer() as server:
            pass
        client = TellurioWebSocketClient(base_url=server.base_url, port=server.port)
        with pytest.raises(ConnectFailed) as caught:
            client.connect("key-1", retries=2, delay=0)
        error = caught.value
        assert (error.stage, error.attempts, error.status) == ("TCP", 2, None)
        assert str(error).startswith("Failed to connect to WebSocket after multiple attempts.")
        assert f"127.0.0.1:{server.port}" in str(error)
        assert "tellurio-sync backend" in str(error)
        assert isinstance(error, RuntimeError)
        assert isinstance(error, ConnectionError)

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refused_key_is_not_retried(self, status: int) -> None:
        with ScriptedServer(status=status) as server:
            client = TellurioWebSocketClient(base_url=server.base_url, port=server.port)
            with pytest.raises(InvalidAPIKeyError, match="refused the API key") as caught:
                client.connect("secret-key")
            assert caught.value.status == status
            assert server.accepted == 1
            assert "secret-key" not in str(caught.value)

    def test_an_overloaded_server_is_retried(self, active_run: Any) -> None:
        with ScriptedServer(echo, status=[503, 503, 101]) as server:
            client = TellurioWebSocketClient(base_url=server.base_url, port=server.port)
            assert client.connect("key-1", retries=3, delay=0) == {"session_id": "session-1"}
            client.close()

    def test_connecting_twice_leaves_one_connection(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            client.connect()
            assert client.call("m", {"n": 1})["result"]["n"] == 1
            assert server.connections[0].close_code == 1000
            assert server.connections[1].headers["authorization"] == "Api-Key key-1"

    def test_connecting_again_after_close(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            client.close()
            client.close()
            client.connect()
            assert client.call("m", {"n": 1})["result"]["n"] == 1

    def test_context_manager(self, active_run: Any) -> None:
        with ScriptedServer(echo) as server:
            client = TellurioWebSocketClient(base_url=server.base_url, port=server.port)
            client.connect("key-1")
            with client as entered:
                assert entered is client
                assert client.connection
                client.call("m")
            assert client.connection is None
            with client:
                client.call("m")

    def test_entering_without_a_key(self) -> None:
        client = TellurioWebSocketClient(base_url="ws://127.0.0.1", port=9)
        with pytest.raises(ConnectFailed, match="no API key"), client:
            pass

    @pytest.mark.parametrize(
        "greeting",
        [
            '{"jsonrpc":"2.0","error":{"code":1,"message":"no","data":{}},"id":null}',
            '{"jsonrpc":"2.0","result":{},"id":null}',
            '{"jsonrpc":"2.0","result":null,"id":null}',
            "null",
            "[]",
            "{broken",
            '"hello"',
        ],
    )
    def test_a_wrong_greeting(self, greeting: str) -> None:
        def script(connection: ServerConnection) -> None:
            connection.send_text(greeting)
            connection.wait_for_end()

        with ScriptedServer(script, greet=False) as server:
            client = TellurioWebSocketClient(base_url=server.base_url, port=server.port)
            with pytest.raises(ConnectFailed) as caught:
                client.connect("key-1", retries=1)
            assert caught.value.stage == "greeting"
            assert client.connection is None

    def test_no_greeting(self) -> None:
        with ScriptedServer(greet=False) as server:
            client = TellurioWebSocketClient(base_url=server.base_url, port=server.port, connect_timeout=0.2)
            with pytest.raises(ConnectFailed, match="no greeting"):
                client.connect("key-1", retries=1)

    def test_a_late_greeting_after_a_notification(self, connect: Connect) -> None:
        def script(connection: ServerConnection) -> None:
            connection.send({"jsonrpc": "2.0", "method": "heartbeat", "params": {"id": "x"}})
            connection.greet()
            echo(connection)

        with ScriptedServer(script, greet=False) as server:
            assert connect(server).call("m", {"n": 1})["result"]["n"] == 1

    def test_a_key_is_not_sent_in_clear_to_another_host(self) -> None:
        client = TellurioWebSocketClient(base_url="ws://tellurio.example", port=80)
        with pytest.raises(ConnectFailed, match="allow_insecure"):
            client.connect("key-1")


class TestLoss:
    def test_losing_the_connection_ends_every_waiting_call_at_once(self, connect: Connect) -> None:
        def script(connection: ServerConnection) -> None:
            for _ in range(4):
                connection.receive()
            connection.reset()

        with ScriptedServer(script) as server:
            client = connect(server, reconnect=False)
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                futures = [pool.submit(client.call, "m", {}, 3600) for _ in range(4)]
                errors = [future.exception(FAILSAFE) for future in futures]
            assert all(isinstance(error, ConnectionLost) and error.was_sent for error in errors)
            assert len({id(error) for error in errors}) == 4
            with pytest.raises(NotConnected):
                client.call("m")

    @pytest.mark.parametrize("code", [1000, 1001, 1011])
    def test_the_server_closes(self, connect: Connect, code: int) -> None:
        def script(connection: ServerConnection) -> None:
            connection.receive()
            connection.close(code, "maintenance")

        with ScriptedServer(script) as server:
            client = connect(server, reconnect=False)
            with pytest.raises(ConnectionLost, match=f"{code}: maintenance") as caught:
                client.call("m")
            assert (caught.value.who, caught.value.code) == ("server", code)

    def test_the_client_comes_back_with_the_same_key(self, connect: Connect) -> None:
        lost: list[ConnectionLost] = []
        restored = threading.Event()

        def script(connection: ServerConnection) -> None:
            for message in connection.requests():
                if message["method"] == "cut":
                    connection.reset()
                    return
                connection.reply(message, message["params"])

        with ScriptedServer(script) as server:
            client = connect(server, on_lost=lost.append, on_restored=lambda _: restored.set())
            with pytest.raises(ConnectionLost):
                client.call("cut")
            assert client.call("m", {"n": 1})["result"]["n"] == 1
            assert restored.wait(FAILSAFE)
            assert len(lost) == 1
            assert lost[0].was_sent is None
            assert "request" not in str(lost[0]), "it is about none"
            assert [connection.headers["authorization"] for connection in server.connections] == ["Api-Key key-1"] * 2

    def test_close_ends_every_waiting_call_at_once(self, connect: Connect) -> None:
        received = threading.Event()

        def script(connection: ServerConnection) -> None:
            connection.receive()
            received.set()
            connection.wait_for_end()

        with ScriptedServer(script) as server:
            client = connect(server)
            future = client.submit("m", {}, timeout=3600)
            assert received.wait(FAILSAFE)
            in_thread(client.close)
            with pytest.raises(ClosedByUser):
                future.result(FAILSAFE)
            assert server.connections[0].close_code == 1000
