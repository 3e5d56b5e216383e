"""Calls over a real socket: what users see of them, against a server written for each test."""

from __future__ import annotations

import concurrent.futures
import threading
from typing import Any

import pytest

from tellurio_sync import run_context
from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.client.client import LONG_RUNNING_METHODS
from tellurio_sync.errors import (
    CallTimeout,
    ConnectionLost,
    LocalProtocolError,
    NotConnected,
    RemoteProtocolError,
    WouldDeadlock,
)
from tellurio_sync.peer.lifecycle import Lifecycle

from ..conftest import FAILSAFE
from ..fake_clock import FakeClock
from ..faults.scripted import ScriptedServer, ServerConnection
from .conftest import Connect, echo


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
            with pytest.raises(ValueError, match=r"^No active run is set\. Call tellurio_sync\.init"):
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

    def test_heartbeats_keep_a_long_call_alive(self, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = FakeClock()
        monkeypatch.setitem(Lifecycle.__init__.__kwdefaults__, "clock", clock)

        def script(connection: ServerConnection) -> None:
            request = connection.receive()
            for _ in range(6):
                clock.advance(25)
                connection.send({"jsonrpc": "2.0", "method": "heartbeat", "params": {"id": request["id"]}})
                connection.send({"jsonrpc": "2.0", "method": "no such method", "id": 1})
                assert connection.receive()["id"] == 1, "it has read what came before"
            connection.reply(request, "done")
            connection.wait_for_end()

        with ScriptedServer(script) as server:
            # Without its heartbeats the call would end after a fifth of the time that the server takes.
            assert connect(server, ping_interval=None).call("run_step", {}, timeout=30)["result"] == "done"

    def test_a_cancelled_future_gives_up_its_call(self, connect: Connect) -> None:
        with ScriptedServer() as server:
            client = connect(server)
            future = client.submit("m")
            assert list(client.pending.values()) == ["m"]
            assert future.cancel()
            assert client.pending == {}

    def test_long_running_methods(self) -> None:
        assert {"run_function", "run_backward", "run_step", "run_optimizer_tgd"} == LONG_RUNNING_METHODS


class Acting:
    """Notes each request as done, and then does not answer it as it should."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, connection: ServerConnection) -> None:
        for message in connection.requests():
            self.done.append(message["method"])
            if message["method"] == "drop":
                connection.reset()
                return
            if message["method"] == "garble":
                connection.send({"jsonrpc": "2.0", "id": message["id"]})


@pytest.mark.parametrize(
    ("method", "params", "error", "has_acted"),
    [
        ("drop", {}, ConnectionLost, True),
        ("garble", {}, RemoteProtocolError, True),
        ("keep", {}, CallTimeout, True),
        ("unfit", {"set": {1, 2}}, LocalProtocolError, False),
    ],
)
def test_a_failed_call_tells_whether_the_server_may_have_acted(
    method: str, params: dict[str, Any], error: type[Exception], has_acted: bool, connect: Connect
) -> None:
    """``ConnectionLost`` alone does not say that nothing has happened: it does so of a session's operations."""
    acting = Acting()
    with ScriptedServer(acting) as server:
        client = connect(server, reconnect=False)
        with pytest.raises(error) as caught:
            client.call(method, params, timeout=0.05 if method == "keep" else FAILSAFE)
        client.close()
    assert caught.value.was_sent is has_acted  # type: ignore[attr-defined]
    assert acting.done == ([method] if has_acted else [])


def test_a_call_without_a_connection_tells_that_the_server_has_not_acted(connect: Connect) -> None:
    with ScriptedServer(echo) as server:
        client = connect(server)
        client.close()
        with pytest.raises(NotConnected) as caught:
            client.call("m")
    assert caught.value.was_sent is False
