"""One client cannot stop another: floods, huge and endless messages, clients that never read or never go away."""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websocket

from tellurio_sync.local import LocalBackend, start_local_backend

from .rpc_client import FAILSAFE, RpcClient, RpcError

pytestmark = pytest.mark.slow

MIB = 2**20
TEXT, CONTINUATION = 1, 0


@pytest.fixture(scope="module")
def backend() -> Iterator[LocalBackend]:
    with start_local_backend() as backend:
        yield backend
        assert backend.is_running, backend.last_lines


@pytest.fixture
def connect(backend: LocalBackend) -> Iterator[Callable[[], RpcClient]]:
    clients: list[RpcClient] = []

    def connect() -> RpcClient:
        client = RpcClient(f"ws://127.0.0.1:{backend.ws_port}/ws/v0/rpc/", backend.api_key)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def bystander(connect: Callable[[], RpcClient]) -> Iterator[RpcClient]:
    """A well-behaved client, connected before and served after whatever the test does."""
    client = connect()
    own = client.variable("mine")
    yield client
    assert client.get(own)["data"] == "mine"
    # And newcomers are let in.
    assert connect().greeting["result"]["session_id"]


def header(size: int, opcode: int = TEXT, *, is_final: bool = True) -> bytes:
    """The begin of a masked frame; its mask of zeros leaves the payload as it is."""
    return struct.pack("!BBQ4x", opcode | (0x80 if is_final else 0), 0x80 | 127, size)


def close_code(client: RpcClient) -> int:
    """The code with which the backend closes the connection."""
    while True:
        opcode, data = client.ws.recv_data(control_frame=True)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int(struct.unpack("!H", data[:2])[0])


# --- too much -------------------------------------------------------------------------------------


def test_a_frame_that_announces_too_much(bystander: RpcClient, connect: Callable[[], RpcClient]) -> None:
    client = connect()
    client.ws.sock.sendall(header(2**40) + b"{")
    assert close_code(client) == 1009


def test_fragments_that_never_end(bystander: RpcClient, connect: Callable[[], RpcClient]) -> None:
    client = connect()
    piece = b" " * (8 * MIB)

    def send_for_ever() -> None:
        for opcode in itertools.chain([TEXT], itertools.repeat(CONTINUATION)):
            client.ws.sock.sendall(header(len(piece), opcode, is_final=False) + piece)
            assert bystander.call("create_variable", data="", role="", requires_grad=False)

    with pytest.raises(ConnectionError):
        send_for_ever()


@pytest.mark.parametrize("depth", [500, 5_000, 200_000])
def test_deeply_nested_messages(depth: int, bystander: RpcClient) -> None:
    """They end as an error reply, at whatever depth what gives up first."""
    value = "[" * depth + "]" * depth
    bystander.frames = []
    bystander.send_json(
        '{"jsonrpc": "2.0", "id": 1, "method": "create_variable", "params": '
        f'{{"data": {value}, "role": "", "requires_grad": false, "run_uuid": "r"}}}}'
    )
    reply = bystander.next()
    assert ("result" in reply) == (depth < 1000) or reply["error"]["code"] in (-32700, -32603)


@pytest.fixture
def big(bystander: RpcClient) -> dict[str, Any]:
    return bystander.variable("x" * MIB)


def test_a_sum_that_would_fill_the_memory(bystander: RpcClient, big: dict[str, Any]) -> None:
    with pytest.raises(RpcError) as error:
        bystander.run("Sum", [big] * 10_000)
    assert "too long" in error.value.text


def test_placeholders_that_would_fill_the_memory(bystander: RpcClient, big: dict[str, Any]) -> None:
    model = bystander.model(lambda messages: "never asked")
    messages = [{"role": "user", "content": [bystander.variable("{x}" * 300_000)]}]
    with pytest.raises(RpcError) as error:
        bystander.run("ChatCompletion", model, messages, {"x": big})
    assert "too long" in error.value.text


def test_answers_longer_than_the_client_takes(bystander: RpcClient, big: dict[str, Any]) -> None:
    with pytest.raises(RpcError) as error:
        bystander.run("Add", big, big)
    assert "over the 1048576 bytes that this client takes" in error.value.text


# --- too many, too fast -----------------------------------------------------------------------------


def memory_of(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def test_a_flood_from_a_client_that_never_reads(
    backend: LocalBackend, bystander: RpcClient, connect: Callable[[], RpcClient]
) -> None:
    """It is not read from any more once its replies pile up; until then the others get their turns."""
    client, before = connect(), memory_of(backend.pid)
    tag = bystander.variable("y" * 10_000)
    params = {"variable_id": tag["variable_id"], "run_uuid": "r"}
    request = {"jsonrpc": "2.0", "id": "1", "method": "get_variable", "params": params}
    text = json.dumps(request).encode()
    flood = (header(len(text)) + text) * 200
    client.ws.sock.settimeout(1.0)

    def send_for_ever() -> None:
        while True:
            client.ws.sock.sendall(flood)
            bystander.get(tag)

    with pytest.raises(TimeoutError):
        send_for_ever()
    after = memory_of(backend.pid)
    if before is not None and after is not None:
        assert after - before < 64 * MIB


def test_a_flood_of_garbage(bystander: RpcClient, connect: Callable[[], RpcClient]) -> None:
    client = connect()
    for _ in range(2_000):
        client.send_json("}{")
    assert [client.next()["error"]["code"] for _ in range(2_000)] == [-32700] * 2_000


def test_functions_that_never_answer(bystander: RpcClient, connect: Callable[[], RpcClient]) -> None:
    """Each request waits for its own function only."""
    client = connect()
    prediction = bystander.variable("a")
    never = {"__callable__": True, "callable_id": "never"}
    args = [prediction, "b", never, "purpose", None, None, None]
    for _ in range(500):
        client.send("run_function", function_name="DeterministicEvaluator", args=args, kwargs={}, grad_enabled=True)
    score, _ = bystander.run(
        "DeterministicEvaluator", prediction, "b", bystander.function(lambda p, t: 7, "f"), "purpose", None, None, None
    )
    assert score["data"] == 7


# --- half-open ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "beginning", [b"", b"GET /ws/v0/rpc/ HTTP/1.1\r\nHost: x\r\n", b"POST /api/v0/local/projects/ HTTP/1.1\r\n"]
)
def test_clients_that_begin_and_say_no_more(beginning: bytes, backend: LocalBackend, bystander: RpcClient) -> None:
    half_open = [socket.create_connection(("127.0.0.1", backend.ws_port), FAILSAFE) for _ in range(100)]
    for end in half_open:
        end.sendall(beginning)
    assert bystander.variable("served")
    for end in half_open:
        end.close()


def test_clients_that_vanish_in_the_middle_of_a_message(
    backend: LocalBackend, bystander: RpcClient, connect: Callable[[], RpcClient]
) -> None:
    for _ in range(50):
        client = connect()
        client.ws.sock.sendall(header(1000) + b'{"jsonrpc"')
        client.ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.ws.sock.close()
    assert backend.is_running
