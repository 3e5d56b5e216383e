"""What the server asks of the client, over a real socket: the answers, and the order of everything."""

from __future__ import annotations

import json
import queue
import threading
from typing import Any

import pytest

from tellurio_sync.client import TellurioWebSocketClient

from ..conftest import FAILSAFE
from ..faults.scripted import ScriptedServer, ServerConnection
from .conftest import Connect


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


class TestServerRequests:
    """What the client answers (protocol §B.1, JSON-RPC 2.0)."""

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

    RECEIVE_THREAD, WORKER = "tellurio-sync receive", "tellurio-sync worker"
    THREADS = {  # noqa: RUF012
        "append_grad": RECEIVE_THREAD,
        "clear_backward": RECEIVE_THREAD,
        "clear_step": RECEIVE_THREAD,
        "create_edge": RECEIVE_THREAD,
        "create_node": RECEIVE_THREAD,
        "create_variable": RECEIVE_THREAD,
        "heartbeat": RECEIVE_THREAD,
        "run_callable": WORKER,
        "update_model": RECEIVE_THREAD,
        "update_variable": RECEIVE_THREAD,
    }

    def test_each_method_runs_on_its_thread(self, connect: Connect) -> None:
        """On a worker a push would be overtaken by the reply behind it; a function must not hold up the pushes."""
        seen: dict[str, str] = {}

        class Client(TellurioWebSocketClient):
            pass

        def noting(name: str) -> Any:
            def method(self: Client, params: dict[str, Any]) -> Any:
                seen[name] = threading.current_thread().name
                return {"message": "Ok"}

            return method

        methods = [name.removeprefix("rpc_") for name in dir(TellurioWebSocketClient) if name.startswith("rpc_")]
        for name in methods:
            setattr(Client, f"rpc_{name}", noting(name))

        def script(connection: ServerConnection) -> None:
            request = connection.receive()
            for name in methods:
                connection.send({"jsonrpc": "2.0", "method": name, "params": {}, "id": name})
            for _ in methods:
                connection.receive()
            connection.reply(request, None)
            connection.wait_for_end()

        with ScriptedServer(script) as server:
            connect(server, Client).call("m")
        assert {name: thread.rstrip("-0123456789 ") for name, thread in seen.items()} == self.THREADS
