"""The clients that are compared, each behind the same few methods. What a client cannot do, its class does not have.

Imported by ``worker.py`` inside the interpreter where the client is installed: the standard library, and the client
itself, are all that is imported here.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import socket
import ssl
import sys
import threading
import time
from typing import Any

METHOD = "update_variable"
PARAMS = {
    "variable_id": "9f1c2d3e-0000-4000-8000-0123456789ab",
    "field": "data",
    "value": "Classify the urgency of this mail: the air conditioning in office 12 has stopped.",
}
PUSHED = {
    "obj_type": "__variable__",
    "data": "The air conditioning in office 12 has stopped.",
    "role": "input of the classifier",
    "requires_grad": False,
    "_retain_grad": False,
    "_grad": [],
    "_output_nr": 0,
    "_grad_fn": None,
    "is_leaf": True,
}
"""A Variable as the server pushes it (protocol §D), without its id."""
HOLD = "bench_hold"
BIG = "bench_big"
LONG_TIMEOUT = 60.0


class Run:
    """Stands for the active run: its uuid is part of every request."""

    uuid = "0b5f7a52-7f0e-4a53-9d53-2f6f8f0a1234"


def url(port: int, is_tls: bool) -> str:
    return f"{'wss://localhost' if is_tls else 'ws://127.0.0.1'}:{port}/ws/v0/rpc/"


class TellurioSync:
    """This package, by its public client, with the standard library's json."""

    def __init__(self) -> None:
        sys.modules.setdefault("orjson", None)  # type: ignore[arg-type]  # as if it were not installed
        import tellurio_sync
        from tellurio_sync.client import TellurioWebSocketClient

        tellurio_sync.run_context.set_active_run(Run())
        self._class = TellurioWebSocketClient

    def connect(self, port: int, is_tls: bool) -> None:
        self.client = self._class("wss://localhost" if is_tls else "ws://127.0.0.1", port)
        self.client.connect(api_key="key", retries=1)

    def call(self) -> None:
        assert "result" in self.client.call(METHOD, PARAMS)

    def submit_all(self, count: int) -> None:
        futures = [self.client.submit(METHOD, PARAMS) for _ in range(count)]
        for future in futures:
            assert "result" in future.result(LONG_TIMEOUT)

    def call_many(self, count: int) -> None:
        replies = self.client.call_many([(METHOD, PARAMS)] * count)
        assert len(replies) == count
        assert all("result" in reply for reply in replies)

    def hold_submitted(self, count: int) -> Any:
        """Let ``count`` submitted calls wait for their replies; when this returns, they have been sent."""
        futures = [self.client.submit(HOLD, PARAMS) for _ in range(count)]
        self.call()
        return futures

    def hold_waiting(self, count: int) -> Any:
        """The same of one batch that another thread waits for."""
        # The last one is answered: then all of them have been sent.
        calls = itertools.chain(itertools.repeat((HOLD, PARAMS), count), [(METHOD, PARAMS)])
        thread = threading.Thread(target=self.client.call_many, args=(calls,), kwargs={"return_exceptions": True})
        thread.start()
        while len(self.client.pending) != count:
            time.sleep(0.01)
        return thread

    def expire_submitted(self, count: int, timeout: float) -> None:
        for future in [self.client.submit(HOLD, PARAMS, timeout) for _ in range(count)]:
            assert isinstance(future.exception(LONG_TIMEOUT), TimeoutError)

    def expire_waiting(self, count: int, timeout: float) -> None:
        outcomes = self.client.call_many(itertools.repeat((HOLD, PARAMS), count), timeout, return_exceptions=True)
        assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)

    def release(self, held: Any) -> None:
        self.client.close()
        if isinstance(held, threading.Thread):
            held.join(LONG_TIMEOUT)
            assert not held.is_alive()
        else:
            for future in held:
                assert future.exception(LONG_TIMEOUT) is not None

    def big(self, method: str, text: str) -> None:
        assert "result" in self.client.call(method, {"data": text}, LONG_TIMEOUT)

    def login(self, http_port: int, ws_port: int) -> None:
        """Be a whole session instead of a client."""
        import tellurio_sync

        self._te = tellurio_sync
        address = {"http_base_url": "http://127.0.0.1", "http_port": http_port, "ws_base_url": "ws://127.0.0.1"}
        self._session = tellurio_sync.Session(**address, ws_port=ws_port)
        self._session.__enter__()  # the current one, until the process ends
        self._session.login("key")
        self.make_variables(1)  # not measured
        self._pair = [tellurio_sync.Variable("x", "r") for _ in range(2)]

    def make_variables(self, count: int) -> float:
        """Make a data set; how many times it is as large as what was made."""
        made = self._te.variables([f"mail {number}" for number in range(count)], "mail")
        assert all(variable.variable_id for variable in made)
        return 1.0

    def variable(self) -> None:
        assert self._te.Variable("x", "r").variable_id

    def function(self) -> None:
        assert self._te.functional.add(*self._pair).variable_id

    def make_batch(self, count: int) -> float:
        with self._te.batch():
            made = [self._te.Parameter(f"mail {number}", "mail") for number in range(count)]
        assert all(parameter.variable_id for parameter in made)
        return 1.0

    def close(self) -> None:
        self.client.close()


class TellurioSyncSpeed(TellurioSync):
    """The same with orjson, where it is installed and the package uses it."""

    def __init__(self) -> None:
        if importlib.util.find_spec("orjson") is None:
            raise ImportError("orjson is not installed")
        import tellurio_sync.client

        if "orjson" not in sys.modules:
            raise ImportError(f"{os.path.dirname(tellurio_sync.__file__)} does not use orjson")
        super().__init__()


class Afnio:
    """afnio 0.3.7 as a black box, used as its own synchronous code uses it (protocol §A.4)."""

    def __init__(self) -> None:
        import asyncio

        from afnio.tellurio._eventloop import run_in_background_loop
        from afnio.tellurio.run_context import set_active_run
        from afnio.tellurio.websocket_client import TellurioWebSocketClient

        set_active_run(Run())
        self._class = TellurioWebSocketClient
        self._run = run_in_background_loop
        self._asyncio = asyncio

    def connect(self, port: int, is_tls: bool) -> None:
        self._client = self._class("wss://localhost" if is_tls else "ws://127.0.0.1", port)
        self._run(self._client.connect(api_key="key", retries=1))
        assert self._client.connection is not None

    def call(self) -> None:
        assert "result" in self._run(self._client.call(METHOD, dict(PARAMS)))

    def submit_all(self, count: int) -> None:
        async def gather() -> Any:
            calls = [self._client.call(METHOD, dict(PARAMS)) for _ in range(count)]
            return await self._asyncio.gather(*calls)

        assert all("result" in reply for reply in self._run(gather()))

    call_many = submit_all  # it has nothing for many calls but the same

    def hold_submitted(self, count: int) -> Any:
        async def start() -> Any:
            tasks = [self._asyncio.ensure_future(self._client.call(HOLD, dict(PARAMS))) for _ in range(count)]
            while len(self._client.pending) < count:
                await self._asyncio.sleep(0.01)
            return tasks

        held = self._run(start())
        self.call()
        return held

    hold_waiting = hold_submitted  # each call of it is a task, whoever waits

    def release(self, held: Any) -> None:
        async def end() -> None:
            for task in held:
                task.cancel()
            await self._asyncio.gather(*held, return_exceptions=True)

        self._run(end())
        self.close()

    def big(self, method: str, text: str) -> None:
        assert "result" in self._run(self._client.call(method, {"data": text}, LONG_TIMEOUT))

    def login(self, http_port: int, ws_port: int) -> None:
        os.environ["TELLURIO_BACKEND_HTTP_BASE_URL"] = "http://127.0.0.1"
        os.environ["TELLURIO_BACKEND_HTTP_PORT"] = str(http_port)
        os.environ["TELLURIO_BACKEND_WS_BASE_URL"] = "ws://127.0.0.1"
        os.environ["TELLURIO_BACKEND_WS_PORT"] = str(ws_port)
        from afnio import Variable
        from afnio.autodiff.basic_ops import Add
        from afnio.tellurio import login

        login(api_key="key", relogin=True)
        self._variable, self._add = Variable, Add.apply
        self.make_variables(1)
        self._pair = [Variable("x", role="r") for _ in range(2)]

    def variable(self) -> None:
        assert self._variable("x", role="r").variable_id

    def function(self) -> None:
        assert self._add(*self._pair).variable_id

    def make_variables(self, count: int) -> float:
        """One by one, for it knows no other way; ten of them, which tell what the others cost."""
        some = min(10, count)
        for number in range(some):
            assert self._variable(f"mail {number}", role="mail").variable_id
        return count / some

    make_batch = make_variables

    def close(self) -> None:
        self._run(self._client.close())


class AfnioOverOurs(Afnio):
    """The same with the client of this package under it (``tellurio_sync.afnio``), with the standard library's json."""

    def __init__(self) -> None:
        sys.modules.setdefault("orjson", None)  # type: ignore[arg-type]
        import tellurio_sync.afnio

        tellurio_sync.afnio.install()
        super().__init__()


class AfnioWithoutCalls(AfnioOverOurs):
    """The same with a client that answers by itself: what is left is afnio's own work, which no client can lessen."""

    def login(self, http_port: int, ws_port: int) -> None:
        super().login(http_port, ws_port)
        from afnio.tellurio._client_manager import get_default_clients

        client = get_default_clients()[1].client
        numbers = itertools.count(1000)  # the server of this process has made a few

        def call(method: str, params: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
            id_ = str(next(numbers))
            made = {"variable_id": id_} if method == "create_variable" else {"data": {**PUSHED, "variable_id": id_}}
            return {"jsonrpc": "2.0", "result": {"message": "Ok", **made}, "id": id_}

        client.call = call


class _Blocking:
    """A blocking WebSocket library in one thread: the JSON-RPC around it is the least that there can be."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    def _greet(self, connection: Any) -> None:
        self._send, self._receive = connection.send, connection.recv
        self._receive()

    def call(self) -> None:
        self._request(METHOD, PARAMS)

    def big(self, method: str, text: str) -> None:
        self._request(method, {"data": text})

    def _request(self, method: str, params: dict[str, Any]) -> None:
        id_ = str(next(self._ids))
        params = {**params, "run_uuid": Run.uuid}
        self._send(json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": id_}))
        reply = json.loads(self._receive())
        assert reply["id"] == id_
        assert "result" in reply


class WebsocketClient(_Blocking):
    """websocket-client, blocking, without its check of UTF-8 in Python."""

    def __init__(self) -> None:
        super().__init__()
        import websocket

        self._websocket = websocket

    def connect(self, port: int, is_tls: bool) -> None:
        options = {"context": ssl.create_default_context()} if is_tls else {}
        self._connection = self._websocket.create_connection(
            url(port, is_tls), skip_utf8_validation=True, sslopt=options, timeout=LONG_TIMEOUT
        )
        self._greet(self._connection)

    def close(self) -> None:
        self._connection.close()


class WebsocketsSync(_Blocking):
    """``websockets.sync``, without compression and without a limit of size."""

    def __init__(self) -> None:
        super().__init__()
        from websockets.sync.client import connect

        self._connect = connect

    def connect(self, port: int, is_tls: bool) -> None:
        context = ssl.create_default_context() if is_tls else None
        self._connection = self._connect(url(port, is_tls), compression=None, max_size=None, ssl=context)
        self._greet(self._connection)

    def close(self) -> None:
        self._connection.close()


class RawTcp:
    """Ready-made frames over a socket, nothing encoded, nothing decoded: what the network and the server cost."""

    def connect(self, port: int, is_tls: bool) -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if is_tls:
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")
        self._sock = sock
        sock.sendall(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        greeting = b""
        while b'"id":null}' not in greeting:
            greeting += sock.recv(65536)
        params = {**PARAMS, "run_uuid": Run.uuid}
        text = json.dumps({"jsonrpc": "2.0", "method": METHOD, "params": params, "id": "1"}).encode()
        self._request = bytes((0x81, 0x80 | 126)) + len(text).to_bytes(2, "big") + bytes(4) + text
        sock.sendall(self._request)
        self._reply_size = len(sock.recv(65536))

    def login(self, http_port: int, ws_port: int) -> None:
        self.connect(ws_port, False)

    def call(self) -> None:
        self._sock.sendall(self._request)
        self._read(self._reply_size)

    def submit_all(self, count: int) -> None:
        self._sock.sendall(self._request * count)
        self._read(self._reply_size * count)

    call_many = submit_all

    def close(self) -> None:
        self._sock.close()

    def _read(self, size: int) -> None:
        while size > 0:
            size -= len(self._sock.recv(1 << 16))


PEERS: dict[str, Any] = {
    "tellurio_sync": TellurioSync,
    "tellurio_sync + speed": TellurioSyncSpeed,
    "other tree": TellurioSync,
    "afnio 0.3.7": Afnio,
    "afnio over tellurio_sync": AfnioOverOurs,
    "afnio without calls": AfnioWithoutCalls,
    "websocket-client": WebsocketClient,
    "websockets.sync": WebsocketsSync,
    "raw TCP": RawTcp,
}


def make(name: str) -> Any:
    """The peer, its library imported.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("no_proxy", "127.0.0.1,localhost")
    return PEERS[name]()
