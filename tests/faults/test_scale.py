"""Much of everything, over real sockets: threads, descriptors, memory and the pending table stay flat."""

from __future__ import annotations

import gc
import json
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.errors import CallTimeout, ConnectionLost
from tellurio_sync.peer.dispatch import Method
from tellurio_sync.peer.peer import Peer
from tellurio_sync.transport.frames import TEXT, apply_mask
from tellurio_sync.transport.websocket import DEFAULT_MAX_MESSAGE_SIZE

from ..conftest import FAILSAFE, not_under_coverage
from .conversation import server_frame
from .ctrl_c import count_descriptors, echo
from .scripted import Disconnected, ScriptedServer, ServerConnection
from .soak import resident_bytes, wait_until
from .test_network import peer_on, silent

pytestmark = [pytest.mark.slow, not_under_coverage]

MOST_GROWTH = 1 << 20
"""Bytes of Python objects that may be left over after the first part of a test; a leak in every round shows."""


class Flat:
    """What there is now, to be compared with what there is later."""

    def __init__(self) -> None:
        gc.collect()
        self.threads = threading.active_count()
        self.descriptors = count_descriptors()
        self.memory = tracemalloc.get_traced_memory()[0]

    def check(self) -> None:
        """Nothing has grown; threads of the server that are about to end are waited for."""
        assert wait_until(lambda: threading.active_count() <= self.threads), threading.enumerate()
        assert wait_until(lambda: count_descriptors() <= self.descriptors), "descriptors leaked"
        gc.collect()
        growth = tracemalloc.get_traced_memory()[0] - self.memory
        assert growth < MOST_GROWTH, f"{growth:,} bytes more than before"


@pytest.fixture(autouse=True)
def traced_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@contextmanager
def closing(peer: Peer) -> Iterator[Peer]:
    """Closes it whatever happens: a peer that goes on to reconnect would keep the server busy for ever."""
    try:
        yield peer
    finally:
        peer.lifecycle.close()


def forget(server: ScriptedServer) -> None:
    """The server's own record of connections that are over is not what is measured."""
    for record in (server._threads, server._sockets, server.connections):
        del record[:]


def test_a_thousand_times_connect_and_close(active_run: Any) -> None:
    with ScriptedServer(echo) as server:
        client = TellurioWebSocketClient(base_url=server.base_url, port=server.port)

        def cycles(count: int) -> None:
            for number in range(count):
                client.connect(api_key="key")
                assert client.call("echo", {"n": number})["result"]["n"] == number
                client.close()
            for thread in list(server._threads):
                thread.join(FAILSAFE)
            forget(server)

        cycles(100)
        flat = Flat()
        cycles(900)
        flat.check()
        assert client.pending == {}


def test_ten_thousand_timeouts() -> None:
    with ScriptedServer(silent) as server, ExitStack() as stack:
        peer = stack.enter_context(closing(peer_on(server.port, ping_interval=None)))

        def time_out(rounds: int) -> None:
            for _ in range(rounds):
                submitted = [peer.submit("m", {}, 0.01) for _ in range(500)]
                outcomes = peer.request_many([("m", {}, False)] * 500, 0.01)
                outcomes += [future.exception(FAILSAFE) for future in submitted]
                assert {type(outcome) for outcome in outcomes} == {CallTimeout}

        time_out(2)  # the ids given up are remembered, up to a bound
        flat = Flat()
        time_out(8)
        flat.check()
        assert peer.lifecycle.connection is not None
        assert peer.lifecycle.connection.pending.snapshot() == {}
        peer.lifecycle.close()


def test_a_thousand_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tellurio_sync.peer.lifecycle.Backoff.next_pause", lambda self: 0.001)

    def one_call(connection: ServerConnection) -> None:
        message = connection.receive()
        connection.reply(message, message["params"])
        connection.reset()

    restored = threading.Semaphore(0)
    with ScriptedServer(one_call) as server, ExitStack() as stack:
        peer = stack.enter_context(closing(peer_on(server.port, on_restored=lambda _: restored.release())))

        def lose(times: int) -> None:
            for number in range(times):
                assert peer.request("echo", {"n": number}, FAILSAFE)["result"] == {"n": number}
                assert restored.acquire(timeout=FAILSAFE)
            for thread in list(server._threads)[:-1]:
                thread.join(FAILSAFE)
                assert not thread.is_alive(), "a connection of the server did not end"
            forget(server)

        lose(100)
        flat = Flat()
        lose(900)
        flat.check()
        assert peer.lifecycle.connection is not None
        assert peer.lifecycle.connection.pending.snapshot() == {}
        peer.lifecycle.close()
        assert server.accepted == 1001


def test_a_storm_of_pushes_leaves_memory_bounded_and_loses_none() -> None:
    """A handler slower than the storm: what is not yet read waits in the network, not here."""
    tracemalloc.stop()  # it would slow down the storm; resident memory shows it, too
    count = 200_000
    seen: list[int] = [0]

    def count_push(params: dict[str, Any]) -> None:
        assert params["n"] == seen[0]
        seen[0] += 1

    def script(connection: ServerConnection) -> None:
        def storm() -> None:
            for start in range(0, count, 500):
                texts = (f'{{"jsonrpc":"2.0","method":"push","params":{{"n":{n}}}}}' for n in range(start, start + 500))
                connection.send_raw(b"".join(server_frame(TEXT, text.encode()) for text in texts))

        thread = threading.Thread(target=storm)
        thread.start()
        try:
            echo(connection)
        except Disconnected:
            pass
        thread.join(FAILSAFE)

    with ScriptedServer(script) as server:
        peer = peer_on(server.port, {"push": Method(count_push)})
        before = resident_bytes()
        calls = 0
        while seen[0] < count:
            assert peer.request("echo", {"n": calls}, FAILSAFE)["result"] == {"n": calls}
            calls += 1
            assert resident_bytes() - before < 32 << 20, f"after {seen[0]} pushes"
        assert seen == [count]
        peer.lifecycle.close()


def echo_large(connection: ServerConnection) -> None:
    """As ``echo``, for one unfragmented message of any size."""
    sock = connection.sock

    def read(size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = sock.recv(size - len(data))
            if not piece:
                raise Disconnected
            data += piece
        return bytes(data)

    head = read(2)
    size = head[1] & 127
    if size > 125:
        size = int.from_bytes(read(2 if size == 126 else 8), "big")
    mask = read(4)
    request = json.loads(apply_mask(read(size), mask))
    reply = {"jsonrpc": "2.0", "id": request["id"], "result": request["params"]["text"]}
    connection.send_raw(server_frame(TEXT, json.dumps(reply, separators=(",", ":")).encode()))
    connection.wait_for_end()


def test_64_mib_pass_both_ways_in_one_call() -> None:
    tracemalloc.stop()
    text = "x" * (DEFAULT_MAX_MESSAGE_SIZE - 1000)
    with ScriptedServer(echo_large) as server:
        peer = peer_on(server.port)
        assert peer.request("echo", {"text": text}, 2 * FAILSAFE)["result"] == text
        peer.lifecycle.close()


def test_a_reply_beyond_max_message_size_fails_the_call_naming_the_limit_and_the_client_goes_on(
    active_run: Any,
) -> None:
    with ScriptedServer(echo) as server:
        client = TellurioWebSocketClient(base_url=server.base_url, port=server.port, max_message_size=10_000)
        client.connect(api_key="key")
        with pytest.raises(ConnectionLost, match="max_message_size=10000") as caught:
            client.call("echo", {"x": "x" * 20_000})
        assert (caught.value.code, caught.value.was_sent) == (1009, True)
        assert client.call("echo", {"x": "x" * 5_000})["result"]["x"] == "x" * 5_000
        client.close()
