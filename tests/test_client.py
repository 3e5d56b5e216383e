"""The client over a real socket: what users see of it, against a server written for each test."""

from __future__ import annotations

import concurrent.futures
import json
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync import run_context
from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.client_calls import LONG_RUNNING_METHODS
from tellurio_sync.errors import (
    CallTimeout,
    ClosedByUser,
    ConnectFailed,
    ConnectionLost,
    InvalidAPIKeyError,
    LocalProtocolError,
    NotConnected,
    RemoteProtocolError,
    WouldDeadlock,
)

from .conftest import FAILSAFE, in_thread
from .faults.scripted import ScriptedServer, ServerConnection

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


class Asking:
    """A script that first sends something, then echoes; what the client answers is put into a queue."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._answers: queue.Queue[Any] = queue.Queue()

    def __call__(self, connection: ServerConnection) -> None:
        connection.send_text(self._text)
        for message in connection.requests():
            if "method" in message:
                connection.reply(message, message["params"])
            else:
                self._answers.put(message)

    def answer(self) -> Any:
        return self._answers.get(timeout=FAILSAFE)


class TestCalls:
    def test_a_call_returns_the_whole_envelope(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            reply = client.call("create_variable", {"data": "hi"})
            assert reply["jsonrpc"] == "2.0"
            assert isinstance(reply["id"], str)
            assert reply["result"] == {"data": "hi", "run_uuid": "run-1"}
            assert client.pending == {}

    def test_params_are_never_changed(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            params = {"data": "hi"}
            connect(server).call("create_variable", params)
            assert params == {"data": "hi"}

    def test_a_given_run_uuid_is_kept(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            assert connect(server).call("m", {"run_uuid": "mine"})["result"] == {"run_uuid": "mine"}

    def test_an_error_reply_is_returned_not_raised(self, connect: Connect) -> None:
        error = {"code": -32601, "message": "Method 'm' not found.", "data": {"method": "m"}}

        def script(connection: ServerConnection) -> None:
            request = connection.receive()
            connection.send({"jsonrpc": "2.0", "id": request["id"], "error": error})
            connection.wait_for_end()

        with ScriptedServer(script) as server:
            assert connect(server).call("m")["error"] == error

    def test_replies_may_come_in_any_order(self, connect: Connect) -> None:
        def script(connection: ServerConnection) -> None:
            requests = [connection.receive() for _ in range(8)]
            for request in reversed(requests):
                connection.reply(request, request["params"]["n"])
            connection.wait_for_end()

        with ScriptedServer(script) as server:
            client = connect(server)
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                results = list(pool.map(lambda n: client.call("m", {"n": n})["result"], range(8)))
            assert results == list(range(8))

    def test_many_threads_get_their_own_replies(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)

            def work(worker: int) -> None:
                for number in range(50):
                    text = f"{worker}-{number}-é" * (number + 1)
                    assert client.call("m", {"text": text})["result"]["text"] == text

            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                list(pool.map(work, range(16)))
            assert client.pending == {}

    def test_submit_returns_a_future_of_the_envelope(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            futures = [client.submit("m", {"n": n}) for n in range(100)]
            assert [future.result(FAILSAFE)["result"]["n"] for future in futures] == list(range(100))

    def test_call_many_keeps_the_order(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            replies = connect(server).call_many([("m", {"n": n}) for n in range(300)])
            assert [reply["result"]["n"] for reply in replies] == list(range(300))

    def test_call_many_of_nothing(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            assert connect(server).call_many([]) == []

    def test_call_many_gives_each_call_its_outcome(self, connect: Connect) -> None:
        def script(connection: ServerConnection) -> None:
            first, second = connection.receive(), connection.receive()
            connection.send({"jsonrpc": "2.0", "id": first["id"]})
            connection.reply(second, "fine")
            connection.wait_for_end()

        with ScriptedServer(script) as server:
            bad, good = connect(server).call_many([("a", {}), ("b", {})], return_exceptions=True)
            assert isinstance(bad, RemoteProtocolError)
            assert good["result"] == "fine"

    def test_call_many_raises_the_first_error(self, connect: Connect) -> None:
        def script(connection: ServerConnection) -> None:
            connection.reply(connection.receive(), "fine")
            connection.send({"jsonrpc": "2.0", "id": connection.receive()["id"]})
            connection.wait_for_end()

        with ScriptedServer(script) as server, pytest.raises(RemoteProtocolError, match="Unexpected response format"):
            connect(server).call_many([("a", {}), ("b", {})])

    def test_notify_sends_without_an_id(self, connect: Connect) -> None:
        seen: list[Any] = []

        def script(connection: ServerConnection) -> None:
            seen.append(connection.receive())
            echo(connection)

        with ScriptedServer(script) as server:
            client = connect(server)
            client.notify("log", {"a": 1})
            client.call("m")  # the notification has been read by now: order is kept
            assert seen == [{"jsonrpc": "2.0", "method": "log", "params": {"a": 1, "run_uuid": "run-1"}}]

    def test_eight_mebibytes_both_ways(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            text = "päper " * (8 * 1024 * 1024 // 7)
            assert connect(server).call("m", {"text": text})["result"]["text"] == text


class TestBadUse:
    def test_call_before_connect(self) -> None:
        with pytest.raises(RuntimeError, match=r"^WebSocket is not connected$"):
            TellurioWebSocketClient(base_url="ws://127.0.0.1", port=9).call("m")

    def test_call_after_close(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            client.close()
            assert client.connection is None
            with pytest.raises(NotConnected, match="WebSocket is not connected"):
                client.call("m")

    def test_call_without_a_run(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            run_context.set_active_run(None)
            with pytest.raises(ValueError, match=r"^No active run is set\.$"):
                client.call("m")

    @pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "3"])
    def test_a_timeout_must_be_positive_and_finite(self, connect: Connect, timeout: Any) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            for call in (client.call, client.submit):
                with pytest.raises(ValueError, match="timeout"):
                    call("m", {}, timeout=timeout)
            with pytest.raises(ValueError, match="timeout"):
                client.call_many([("m", {})], timeout=timeout)
            with pytest.raises(ValueError, match="default_timeout"):
                TellurioWebSocketClient(default_timeout=timeout)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes"])
    def test_what_is_not_json_is_refused_before_it_is_sent(self, connect: Connect, value: Any) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            with pytest.raises(LocalProtocolError, match="cannot be sent as JSON"):
                client.call("m", {"value": value})
            assert client.pending == {}
            assert client.call("m", {"value": 1})["result"]["value"] == 1

    def test_the_receive_thread_refuses_to_wait_for_itself(self, connect: Connect) -> None:
        caught: list[BaseException] = []

        class Client(TellurioWebSocketClient):
            def rpc_create_node(self, params: dict[str, Any]) -> Any:
                try:
                    self.call("m")
                except WouldDeadlock as exc:
                    caught.append(exc)
                return {"message": "Ok"}

        def script(connection: ServerConnection) -> None:
            connection.send({"jsonrpc": "2.0", "method": "create_node", "params": {}, "id": 1})
            echo(connection)

        with ScriptedServer(script) as server:
            connect(server, Client).call("m")
            assert "would wait for itself" in str(caught[0])

    @pytest.mark.parametrize("key", ["", "two\r\nlines", "clé"])
    def test_a_key_that_no_header_can_hold(self, key: str) -> None:
        with pytest.raises(ValueError, match="API key"):
            TellurioWebSocketClient(base_url="ws://127.0.0.1", port=9).connect(key)


class TestConnecting:
    def test_the_key_goes_into_the_handshake(self, connect: Connect) -> None:
        with ScriptedServer(echo) as server:
            client = connect(server)
            client.call("m")
            assert server.connections[0].headers["authorization"] == "Api-Key key-1"
            assert "key-1" not in repr(client)
            assert server.connections[0].headers["x-tellurio-max-message-size"] == str(64 * 1024 * 1024)

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


class TestDeadlines:
    def test_a_silent_server(self, connect: Connect) -> None:
        with ScriptedServer() as server:
            client = connect(server)
            with pytest.raises(CallTimeout) as caught:
                client.call("m", {}, timeout=0.05)
            error = caught.value
            assert isinstance(error, TimeoutError)
            assert error.method == "m"
            assert error.was_sent
            assert error.waited_s >= 0.05
            assert error.last_heartbeat_age_s is None
            assert client.pending == {}

    def test_a_submitted_call_ends_by_itself(self, connect: Connect) -> None:
        with ScriptedServer() as server:
            client = connect(server)
            future = client.submit("m", {}, timeout=0.05)
            with pytest.raises(CallTimeout):
                future.result(FAILSAFE)
            assert client.pending == {}

    def test_a_call_that_waits_behind_a_server_that_does_not_read_may_still_reach_it(self, connect: Connect) -> None:
        reads = threading.Event()
        seen: list[str] = []

        def script(connection: ServerConnection) -> None:
            assert reads.wait(FAILSAFE)
            for message in connection.requests():
                if "id" in message:
                    seen.append(message["method"])
                    connection.reply(message, None)

        with ScriptedServer(script) as server:
            client = connect(server)
            transport = client.connection.transport
            while transport._queued - transport._written < 700_000:  # the system's own buffers take much before that
                client.notify("filler", {"x": "x" * 200_000})
            for attempt in (client.call, lambda *args: client.submit(*args).result(FAILSAFE)):
                with pytest.raises(CallTimeout) as caught:
                    attempt("queued", {}, 0.05)
                assert caught.value.was_sent
            client.notify("filler", {"x": "x" * 2_000_000})  # and now there is no room
            for attempt in (client.call, client.submit):
                with pytest.raises(CallTimeout) as caught:
                    attempt("not queued", {}, 0.05)
                assert not caught.value.was_sent
            reads.set()
            client.call("last")
        assert seen == ["queued", "queued", "last"]

    def test_heartbeats_keep_a_long_call_alive(self, connect: Connect) -> None:
        beats = 6
        stop = threading.Event()

        def script(connection: ServerConnection) -> None:
            request = connection.receive()
            for _ in range(beats):
                connection.send({"jsonrpc": "2.0", "method": "heartbeat", "params": {"id": request["id"]}})
                stop.wait(0.1)
            connection.reply(request, "done")
            connection.wait_for_end()

        with ScriptedServer(script) as server:
            # Without its heartbeats the call would end after a third of the time that the server takes.
            assert connect(server).call("run_step", {}, timeout=0.2 * beats / 4)["result"] == "done"

    def test_a_cancelled_future_gives_up_its_call(self, connect: Connect) -> None:
        with ScriptedServer() as server:
            client = connect(server)
            future = client.submit("m")
            assert list(client.pending.values()) == ["m"]
            assert future.cancel()
            assert client.pending == {}

    def test_long_running_methods(self) -> None:
        assert {"run_function", "run_backward", "run_step", "run_optimizer_tgd"} == LONG_RUNNING_METHODS


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


class TestServerRequests:
    """What the client answers (PROTOCOL.md §B.1, and JSON-RPC 2.0 where the peer strays from it)."""

    @pytest.mark.parametrize(
        ("message", "reply"),
        [
            ({"jsonrpc": "1.0", "method": "heartbeat", "id": 5}, (5, -32600)),
            ({"jsonrpc": "2.0", "method": "no_such", "params": {}, "id": 0}, (0, -32601)),
            ({"jsonrpc": "2.0", "method": "create_node", "params": {}, "id": "a"}, ("a", -32602)),
            ({"jsonrpc": "2.0", "method": "create_node", "params": [1], "id": "a"}, ("a", -32602)),
            ({"jsonrpc": "2.0", "method": "create_node", "params": 3, "id": "a"}, ("a", -32602)),
            ({"jsonrpc": "2.0", "method": 7, "id": "a"}, ("a", -32600)),
            ({"jsonrpc": "2.0", "method": "heartbeat", "id": [1]}, (None, -32600)),
            ({"jsonrpc": "2.0"}, (None, -32600)),
            ([], (None, -32600)),
            (17, (None, -32600)),
            ("text", (None, -32600)),
        ],
    )
    def test_what_is_wrong_is_answered_and_survived(
        self, connect: Connect, message: Any, reply: tuple[Any, int]
    ) -> None:
        asking = Asking(json.dumps(message))
        with ScriptedServer(asking) as server:
            client = connect(server)
            answer = asking.answer()
            assert (answer["id"], answer["error"]["code"]) == reply
            assert client.call("m", {"n": 1})["result"]["n"] == 1

    def test_broken_json_is_answered_with_id_null(self, connect: Connect) -> None:
        asking = Asking("{broken")
        with ScriptedServer(asking) as server:
            client = connect(server)
            answer = asking.answer()
            assert answer["id"] is None
            assert answer["error"]["code"] == -32700
            assert answer["error"]["message"] == "Parse error"
            assert client.call("m", {"n": 1})["result"]["n"] == 1

    def test_a_handler_is_overridden_by_subclassing(self, connect: Connect) -> None:
        class Client(TellurioWebSocketClient):
            def rpc_create_node(self, params: dict[str, Any]) -> Any:
                return {"mine": params["name"]}

        asking = Asking('{"jsonrpc": "2.0", "method": "create_node", "params": {"name": "n"}, "id": 1}')
        with ScriptedServer(asking) as server:
            connect(server, Client)
            assert asking.answer()["result"] == {"mine": "n"}

    def test_a_callable_may_call_the_server(self, connect: Connect) -> None:
        class Client(TellurioWebSocketClient):
            def rpc_run_callable(self, params: dict[str, Any]) -> Any:
                return {"message": "Ok", "data": self.call("inner", {"n": 7})["result"]["n"]}

        def script(connection: ServerConnection) -> None:
            outer = connection.receive()
            connection.send({"jsonrpc": "2.0", "method": "run_callable", "params": {}, "id": 1})
            inner = connection.receive()
            connection.reply(inner, inner["params"])
            answer = connection.receive()
            connection.reply(outer, answer["result"]["data"])
            connection.wait_for_end()

        with ScriptedServer(script) as server:
            assert connect(server, Client).call("run_function")["result"] == 7

    def test_a_reply_never_overtakes_the_pushes_before_it(self, connect: Connect) -> None:
        seen: list[int] = []

        class Client(TellurioWebSocketClient):
            def rpc_update_variable(self, params: dict[str, Any]) -> Any:
                seen.append(params["n"])
                return {"message": "Ok"}

        def script(connection: ServerConnection) -> None:
            request = connection.receive()
            for n in range(500):
                connection.send({"jsonrpc": "2.0", "method": "update_variable", "params": {"n": n}, "id": n})
            connection.reply(request, None)
            for _ in range(500):
                assert connection.receive()["result"] == {"message": "Ok"}
            connection.wait_for_end()

        with ScriptedServer(script) as server:
            connect(server, Client).call("m")
            assert seen == list(range(500))
