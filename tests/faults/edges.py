"""What ``fuzz`` feeds to the edges of the client and of the backend: greetings, REST answers, TLS, requests."""

from __future__ import annotations

import json
import random
import socket
import ssl
import tempfile
import threading
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import trustme

from tellurio_sync import jsonrpc
from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.client.greeting import Greeting, read_greeting
from tellurio_sync.errors import TellurioError
from tellurio_sync.studio.rest import StudioRest
from tellurio_sync.transport.base import Ending
from tellurio_sync.transport.memory import MemoryTransport
from tellurio_sync.transport.tls import TlsStream
from tellurio_sync.transport.websocket import WebSocketTransport

from ..backend.conftest import KEY, RunningBackend
from ..backend.rpc_client import RpcClient
from .conversation import server_frame
from .drawn import draw_envelope, draw_pieces, draw_text, draw_value, mutated
from .live import FAILSAFE, Live

# --- the greeting -------------------------------------------------------------------------------------


def draw_greeting(dice: random.Random) -> Any:
    if dice.random() < 0.4:
        return draw_envelope(dice)
    members = {"session_id": "s", "extensions": ["cancel", 7], "max_message_size": 1000, "x": 1}
    result = {name: value if dice.random() < 0.8 else draw_value(dice) for name, value in members.items()}
    envelope: dict[str, Any] = {"jsonrpc": "2.0", "id": None, "result": result}
    if dice.random() < 0.2:
        envelope[dice.choice(("error", "result", "id", "jsonrpc", "method"))] = draw_value(dice)
    return envelope


def fuzz_greeting(dice: random.Random, outcomes: Counter[str]) -> int:
    """It opens with what the greeting says, or fails with a text; pushes and heartbeats may come before it."""
    text = json.dumps(draw_greeting(dice)) if dice.random() < 0.9 else draw_text(dice)
    transport = MemoryTransport()
    live = Live(transport, read_greeting)
    transport.server_send(text, json.dumps({"jsonrpc": "2.0", "id": None, "result": {"session_id": "second"}}))
    transport.server_end(Ending("over", "server"))
    live.join()
    failure = live.connection.opening_failure
    assert (failure is None) == bool(live.greetings), "it neither opened nor failed"
    if failure is not None:
        assert str(failure)
        outcomes["greetings refused with a text"] += 1
        return 1
    (greeting,) = live.greetings
    assert isinstance(greeting, Greeting)
    assert type(greeting.session_id) is str
    assert greeting.session_id
    assert all(type(name) is str for name in greeting.extensions)
    assert greeting.max_message_size is None or greeting.max_message_size > 0
    is_first = greeting.session_id != "second"
    outcomes["connections opened by it" if is_first else "connections opened by the next message"] += 1
    return 1


# --- REST ---------------------------------------------------------------------------------------------


class Answers:
    """A server that gives each connection the next answer, byte for byte, and ends it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.next = b""
        self._thread = threading.Thread(target=self._serve, name="answers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(FAILSAFE)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(FAILSAFE)
                try:
                    received = b""
                    while b"\r\n\r\n" not in received and (piece := sock.recv(65536)):
                        received += piece
                    sock.sendall(self.next)
                except OSError:
                    pass  # the client has seen enough


@cache
def answers() -> Answers:
    return Answers()


@cache
def client_of_answers() -> StudioRest:
    """One for all, because what its first request needs takes longer than an answer may take here."""
    rest = StudioRest("http://127.0.0.1", answers().port, api_key="k", timeout=FAILSAFE)
    answers().next = b"HTTP/1.1 200 x\r\nContent-Length: 2\r\n\r\n[]"
    rest.list_runs("n", "p")
    rest.close()
    return StudioRest("http://127.0.0.1", answers().port, api_key="k", timeout=0.3)


_HEADERS = (
    "Content-Type: application/json",
    "Content-Encoding: gzip",
    "Transfer-Encoding: chunked",
    "Content-Length: 3",
    "Content-Length: -1",
    "Content-Length: 99999999999999999999",
    "Location: http://127.0.0.1:1/",
    "Location: //",
    "Set-Cookie: a=\xff",
    "Connection: close",
    "Retry-After: x",
    ": ",
    "X" * 300,
)
_RECORDS = (
    {"email": "e", "username": "u"},
    [{"uuid": "r", "slug": "s", "name": "n"}],
    {"slug": "p", "display_name": "P", "uuid": "u"},
    {"count": 1, "results": [{"key": "k", "value": 1.0, "step": 1}]},
)


def draw_answer(dice: random.Random) -> bytes:
    """An HTTP answer, more or less."""
    value = dice.choice(_RECORDS) if dice.random() < 0.5 else draw_value(dice)
    body = (json.dumps(value) if dice.random() < 0.8 else draw_text(dice)).encode("utf-8", "replace")
    status = dice.choice((200, 200, 200, 201, 204, 301, 400, 401, 403, 404, 429, 500, 503, 99, 1000))
    lines = [f"HTTP/1.1 {status} x"]
    lines += [dice.choice(_HEADERS) for _ in range(dice.randrange(3))]
    if dice.random() < 0.6:
        lines.append(f"Content-Length: {len(body)}")
    answer = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    return mutated(dice, answer) if dice.random() < 0.4 else answer


def fuzz_rest(dice: random.Random, outcomes: Counter[str]) -> int:
    """A value of the form that the method promises, or one of our errors."""
    server, rest = answers(), client_of_answers()
    ways: tuple[tuple[str, Any, Any], ...] = (
        ("account", rest.verify_api_key, (dict, type(None))),
        ("project", lambda: rest.get_project("n", "p"), (dict, type(None))),
        ("new project", lambda: rest.create_project("n", "P"), dict),
        ("runs", lambda: rest.list_runs("n", "p"), list),
        ("metrics", lambda: rest.list_metrics("n", "p", "r"), list),
        ("questions", lambda: rest.list_questions("n", "p", "r"), (dict, type(None))),
    )
    name, ask, kinds = dice.choice(ways)
    server.next = draw_answer(dice)
    try:
        value = ask()
    except TellurioError as exc:
        outcomes[f"answers that end in {type(exc).__name__}"] += 1
    else:
        assert isinstance(value, kinds), f"{name}: {value!r:.200}"
        outcomes["answers taken"] += 1
    return 1


# --- TLS ----------------------------------------------------------------------------------------------


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of the server and of the client."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class FarEnd(threading.Thread):
    """The server's side of one TLS connection: the handshake, then records, in which the dice change bytes."""

    def __init__(self, sock: socket.socket, dice: random.Random) -> None:
        super().__init__(name="far end", daemon=True)
        self._sock = sock
        self._dice = dice
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = contexts()[0].wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._breaks_handshake = dice.random() < 0.3
        self.start()

    def run(self) -> None:
        with self._sock:
            self._sock.settimeout(FAILSAFE)
            try:
                self._handshake()
                frames = b"".join(server_frame(0x1, draw_text(self._dice).encode()) for _ in range(5))
                self._tls.write(frames)
                records = self._outgoing.read()
                if self._dice.random() < 0.8:
                    records = mutated(self._dice, records)
                for piece in draw_pieces(self._dice, records) if len(records) < 500 else [records]:
                    self._sock.sendall(piece)
            except (OSError, EOFError):
                pass  # the other end has had enough

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_out()
            else:
                self._send_out()
                return
            piece = self._sock.recv(65536)
            if not piece:
                raise EOFError
            self._incoming.write(piece)

    def _send_out(self) -> None:
        data = self._outgoing.read()
        if data:
            self._sock.sendall(mutated(self._dice, data) if self._breaks_handshake else data)


def fuzz_tls(dice: random.Random, outcomes: Counter[str]) -> int:
    """The handshake succeeds or fails; after it the connection ends as it must, whatever was changed on the way."""
    ours, theirs = socket.socketpair()
    ours.settimeout(2.0)  # a record that was made longer never ends
    far = FarEnd(theirs, dice)
    try:
        stream = TlsStream(ours, contexts()[1], "localhost")
        try:
            stream.do_handshake()
        except OSError as exc:
            outcomes[f"handshakes that failed with {type(exc).__name__}"] += 1
            return 1
        live = Live(WebSocketTransport(stream), opening=lambda message: message)
        try:
            live.connection.wait(live.start("pending"))
        except TellurioError as exc:
            live.connection.pending.pop("pending", None)  # as a peer does, where it could not be sent
            outcomes[f"calls that ended in {type(exc).__name__}"] += 1
        else:
            outcomes["calls answered"] += 1
        live.connection.close()
        live.join()
    finally:
        ours.close()
        far.join(FAILSAFE)
        assert not far.is_alive(), "the far end hangs"
    return 5


# --- the backend --------------------------------------------------------------------------------------


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


@cache
def backend() -> RunningBackend:
    return RunningBackend(BackendOptions(api_key=KEY, data_dir=Path(folder().name) / "data"))


def stop() -> None:
    """End what the targets have started."""
    for started in (answers, backend):
        if started.cache_info().currsize:
            started().stop()
            started.cache_clear()
    if folder.cache_info().currsize:
        folder().cleanup()
        folder.cache_clear()


_SERVER_METHODS = (
    "create_variable", "update_variable", "append_grad", "get_variable", "create_model", "update_model",
    "clear_model_usage", "get_backprop_ids", "run_backward", "run_function", "create_optimizer", "run_step",
    "set_backward_model_client", "cancel", "release", "unknown", "",
)  # fmt: skip
_MEMBERS = (
    "variable_id", "data", "role", "requires_grad", "obj_type", "field", "value", "model_id", "config", "class_type",
    "provider", "usage", "variables", "inputs", "function_name", "args", "kwargs", "params", "id", "run_uuid",
)  # fmt: skip


def draw_request(dice: random.Random, known: list[str]) -> Any:
    """A request to a real method, with parameters of any form, some of which name what there is."""
    if dice.random() < 0.2:
        return draw_envelope(dice)
    params = {name: draw_value(dice) for name in dice.sample(_MEMBERS, dice.randrange(8))}
    if known and dice.random() < 0.6:
        params["variable_id"] = dice.choice(known)
        params["variables"] = [{"__variable__": True, "variable_id": dice.choice(known)}]
    if dice.random() < 0.3:
        params.update(data="x", role="r", requires_grad=True, obj_type="__variable__")
    return {"jsonrpc": "2.0", "id": draw_value(dice), "method": dice.choice(_SERVER_METHODS), "params": params}


def fuzz_backend(dice: random.Random, outcomes: Counter[str]) -> int:
    """Whatever one client sends, each of its requests is answered, and it and others are served afterwards."""
    running, count = backend(), 40
    client = RpcClient(running.ws_url, KEY)
    try:
        made = [client.call("create_variable", data=f"{n}", role="r", requires_grad=True, obj_type="__variable__")
                for n in range(2)]  # fmt: skip
        known = [one["variable_id"] for one in made]
        due: list[str] = []
        for number in range(count):
            request = draw_request(dice, known)
            if isinstance(request, dict) and "method" in request and dice.random() < 0.7:
                request["id"] = f"fuzz-{number}"
            text = json.dumps(request)
            if dice.random() < 0.1:
                text = draw_text(dice)
            elif isinstance(jsonrpc.classify(json.loads(text)), jsonrpc.Request) and "fuzz-" in str(request["id"]):
                due.append(request["id"])
            client.send_json(text)
        for id_ in due:
            reply = client.reply(id_)
            assert ("result" in reply) != ("error" in reply)
            if "error" in reply:
                assert isinstance(reply["error"]["code"], int)
                assert isinstance(reply["error"]["message"], str)
            outcomes["requests done" if "result" in reply else "requests refused"] += 1
        assert client.call("get_variable", variable_id=known[0])["variable_id"] == known[0]
    finally:
        client.close()
    other = RpcClient(running.ws_url, KEY)
    assert other.call("create_variable", data="x", role="r", requires_grad=False, obj_type="__variable__")
    other.close()
    return count
