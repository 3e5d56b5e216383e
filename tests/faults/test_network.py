"""A peer over real sockets, through a proxy that does what networks do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync.errors import ClosedByUser, ConnectionLost, NotConnected
from tellurio_sync.peer.dispatch import Method
from tellurio_sync.peer.lifecycle import OPEN, Lifecycle
from tellurio_sync.peer.peer import Peer
from tellurio_sync.transport.handshake import Dialer

from ..conftest import FAILSAFE
from ..peer.rig import Background, read_greeting
from .ctrl_c import count_descriptors, echo
from .proxy import Proxy
from .scripted import Disconnected, ScriptedServer, ServerConnection

pytestmark = pytest.mark.slow


def peer_on(port: int, methods: dict[str, Method] | None = None, **options: Any) -> Peer:
    table = methods or {}
    peer = Peer(
        Lifecycle(
            lambda: Dialer(f"ws://127.0.0.1:{port}/", ["Authorization: Api-Key k"], timeout=FAILSAFE),
            table,
            opening=read_greeting,
            **options,
        )
    )
    peer.lifecycle.open(1, 0)
    return peer


def silent(connection: ServerConnection) -> None:
    connection.wait_for_end()


@pytest.mark.parametrize(
    ("end", "who", "code"),
    [
        (lambda connection: connection.close(1000), "server", 1000),
        (lambda connection: connection.close(1001, "going away"), "server", 1001),
        (lambda connection: connection.close(1011), "server", 1011),
        (lambda connection: connection.reset(), "network", None),
        (lambda connection: connection.sock.close(), "server", None),
        (lambda connection: (connection.send_raw(b"\x81\x7ehalf"), connection.reset()), "network", None),
        (lambda connection: connection.send_raw(b"\xff\xff"), "server", 1002),
    ],
    ids=["1000", "1001", "1011", "RST", "FIN", "half a frame", "violation"],
)
def test_however_the_server_ends_every_waiting_call_fails_at_once(
    end: Callable[[ServerConnection], Any], who: str, code: int | None
) -> None:
    """At once: the calls' own time-outs are longer than the test may take."""

    def script(connection: ServerConnection) -> None:
        for _ in range(4):
            connection.receive()
        end(connection)

    with ScriptedServer(script) as server:
        peer = peer_on(server.port, reconnect=False)
        calls = [Background(peer.request, "m", {}, 10 * FAILSAFE) for _ in range(4)]
        errors = [call.error() for call in calls]
        peer.lifecycle.close()
    assert len({id(error) for error in errors}) == 4
    for error in errors:
        assert type(error) is ConnectionLost
        assert (error.who, error.code, error.was_sent) == (who, code, True)


def test_silence_is_found_by_an_unanswered_ping() -> None:
    lost: list[ConnectionLost] = []
    with ScriptedServer(echo) as server, Proxy(server.port) as proxy:
        peer = peer_on(proxy.port, ping_interval=0.05, ping_timeout=2.0, on_lost=lost.append)
        assert peer.request("echo", {"n": 1}, FAILSAFE)["result"] == {"n": 1}
        proxy.stall()
        error = Background(peer.request, "echo", {"n": 2}, 10 * FAILSAFE).error()
        assert isinstance(error, ConnectionLost)
        assert (error.who, error.was_sent) == ("network", True)
        proxy.go_on()
        assert peer.request("echo", {"n": 3}, FAILSAFE)["result"] == {"n": 3}
        peer.lifecycle.close()
    assert "ping" in lost[0].reason


def test_silence_is_found_also_while_a_callable_runs() -> None:
    entered, release = threading.Event(), threading.Event()

    def callable_(params: dict[str, Any]) -> None:
        entered.set()
        assert release.wait(FAILSAFE)

    def script(connection: ServerConnection) -> None:
        connection.send({"jsonrpc": "2.0", "method": "run", "id": 1})
        connection.wait_for_end()

    lost = threading.Event()
    with ScriptedServer(script) as server, Proxy(server.port) as proxy:
        peer = peer_on(
            proxy.port,
            {"run": Method(callable_, on_worker=True)},
            ping_interval=0.05,
            ping_timeout=2.0,
            on_lost=lambda _: lost.set(),
        )
        assert entered.wait(FAILSAFE)
        proxy.stall()
        assert lost.wait(FAILSAFE)
        release.set()
        proxy.go_on()
        peer.lifecycle.close()


def test_messages_pass_byte_by_byte_in_both_directions() -> None:
    with ScriptedServer(echo) as server, Proxy(server.port, byte_by_byte=True) as proxy:
        peer = peer_on(proxy.port)
        calls = [Background(peer.request, "echo", {"n": n, "x": "ü" * 300}, FAILSAFE) for n in range(5)]
        assert [call.result()["result"]["n"] for call in calls] == [0, 1, 2, 3, 4]
        peer.lifecycle.close()


def test_a_server_that_comes_back_is_found_again_with_the_same_key() -> None:
    restored = threading.Event()
    with ScriptedServer(echo) as server, Proxy(server.port) as proxy:
        peer = peer_on(proxy.port, on_restored=lambda _: restored.set())
        for number in range(5):
            proxy.reset()
            assert restored.wait(FAILSAFE)
            restored.clear()
            assert peer.request("echo", {"n": number}, FAILSAFE)["result"] == {"n": number}
        peer.lifecycle.close()
        assert {connection.headers["authorization"] for connection in server.connections} == {"Api-Key k"}


def test_calls_retried_over_a_line_that_is_cut_again_and_again_all_come_through_once_each() -> None:
    """Cut in the middle of frames, too. A retry is safe where ``was_sent`` is False; the echo may be repeated."""
    with ScriptedServer(echo) as server, Proxy(server.port) as proxy:
        peer = peer_on(proxy.port)
        results: list[int] = []

        def call(number: int) -> None:
            for _ in range(200):
                try:
                    reply = peer.request("echo", {"n": number, "x": "x" * (number * 97 % 5000)}, FAILSAFE)
                except ConnectionLost:
                    continue
                results.append(reply["result"]["n"])
                return

        for start in range(0, 60, 4):
            proxy.reset_after(3000 + start * 211)
            calls = [Background(call, number) for number in range(start, start + 4)]
            for one in calls:
                one.result()
        peer.lifecycle.close()
        assert sorted(results) == list(range(60))
        assert proxy.cuts > 3


def test_was_sent_false_is_a_promise() -> None:
    """What the server has read can only belong to calls that say they may have been sent."""
    seen: set[str] = set()

    def script(connection: ServerConnection) -> None:
        for message in connection.requests():
            seen.add(message["id"])

    outcomes: list[Exception] = []
    may_be_sent: list[bool] = []
    with ScriptedServer(script) as server, Proxy(server.port) as proxy:
        for number in range(10):
            peer = peer_on(proxy.port, reconnect=False)
            proxy.reset_after(20_000 + number * 7777)
            futures = []
            for _ in range(40):
                try:
                    futures.append(peer.submit("m", {"x": "x" * 3000}, FAILSAFE))
                except (ConnectionLost, NotConnected) as exc:
                    outcomes.append(exc)
            for future in futures:
                error = future.exception(FAILSAFE)
                assert isinstance(error, ConnectionLost)
                may_be_sent.append(error.was_sent)
            peer.lifecycle.close()
    assert not any(getattr(error, "was_sent", False) for error in outcomes), "refused by submit: never queued"
    assert 0 < len(seen) <= sum(may_be_sent)


def test_a_close_that_the_server_answers_ends_on_both_sides() -> None:
    with ScriptedServer(silent) as server:
        peer = peer_on(server.port)
        call = Background(peer.request, "m", {}, FAILSAFE)
        peer.lifecycle.close()
        assert isinstance(call.error(), Exception)
        assert peer.lifecycle.connection is None
    assert server.connections[0].close_code == 1000


def test_close_with_a_server_that_says_nothing_is_bounded_and_fails_the_calls_first() -> None:
    with ScriptedServer(silent) as server, Proxy(server.port) as proxy:
        peer = peer_on(proxy.port)
        call = Background(peer.request, "m", {}, 10 * FAILSAFE)
        while not (peer.lifecycle.connection and peer.lifecycle.connection.pending.snapshot()):
            assert call.is_running
        proxy.stall()
        closing = Background(peer.lifecycle.close, FAILSAFE)
        assert isinstance(call.error(), ClosedByUser)
        assert closing.is_running, "it still waits for the server"
        proxy.end()
        closing.result()


def test_a_storm_of_notifications_leaves_calls_served() -> None:
    count = 50_000
    seen: list[int] = []

    def script(connection: ServerConnection) -> None:
        frame = connection.frame('{"jsonrpc":"2.0","method":"push","params":{}}')
        storm = threading.Thread(target=lambda: [connection.send_raw(frame * 500) for _ in range(count // 500)])
        storm.start()
        try:
            echo(connection)
        except Disconnected:
            pass
        storm.join(FAILSAFE)

    with ScriptedServer(script) as server:
        peer = peer_on(server.port, {"push": Method(lambda params: seen.append(1))})
        for number in range(50):
            assert peer.request("echo", {"n": number}, FAILSAFE)["result"] == {"n": number}
        while len(seen) < count:
            peer.request("echo", {}, FAILSAFE)
        assert peer.lifecycle.state == OPEN
        peer.lifecycle.close()


def test_large_messages_pass_both_ways() -> None:
    size = 8 << 20
    with ScriptedServer(echo) as server:
        peer = peer_on(server.port)
        text = "x" * size
        assert peer.request("echo", {"text": text}, 2 * FAILSAFE)["result"]["text"] == text
        peer.lifecycle.close()


def test_a_hundred_connections_leave_no_thread_and_no_descriptor() -> None:
    with ScriptedServer(echo) as server:
        peer_on(server.port).lifecycle.close()
        threads, descriptors = threading.active_count(), count_descriptors()
        for _ in range(100):
            peer = peer_on(server.port)
            peer.request("echo", {}, FAILSAFE)
            peer.lifecycle.close()
        for thread in list(server._threads):
            thread.join(FAILSAFE)
        assert threading.active_count() <= threads
        assert count_descriptors() <= descriptors + 2
