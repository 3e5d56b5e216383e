"""Waiting for a socket and for what wakes: in C, with what the system has, and with the fallback."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync.speedups import Semaphore
from tellurio_sync.transport import readiness
from tellurio_sync.transport.readiness import READABLE, WOKEN, Poll, SelectorPoll, make_poll

from ..conftest import FAILSAFE, wait_until
from ..native import needs_signals, under_signals
from ..peer.rig import Background
from .ends import SocketFarEnd, receive, tcp_pair
from .receivers import SIZE, Ends

IN = readiness._POLL_IN
OUT = readiness._POLL_OUT

HAND_OVERS = 20_000


# --- polls ------------------------------------------------------------------------------------------------


@pytest.fixture(params=[make_poll, SelectorPoll])
def poll(request: pytest.FixtureRequest) -> Poll:
    make: Callable[[], Poll] = request.param
    return make()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_nothing_is_ready_at_the_timeout(poll: Poll, pair: tuple[socket.socket, socket.socket]) -> None:
    poll.register(pair[0].fileno(), IN)
    assert poll.poll(0) == []
    assert poll.poll(0.5) == []


def test_what_is_ready_is_told_with_its_descriptor(poll: Poll, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poll.register(near.fileno(), IN)
    poll.register(far.fileno(), IN)
    far.send(b"x")
    assert poll.poll(None) == [(near.fileno(), IN)]
    poll.modify(near.fileno(), IN | OUT)
    assert poll.poll(30_000) == [(near.fileno(), IN | OUT)]
    near.recv(1)
    assert poll.poll(30_000) == [(near.fileno(), OUT)]


def test_the_end_of_the_stream_is_more_than_writable(poll: Poll, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poll.register(near.fileno(), IN | OUT)
    far.close()
    ((fd, events),) = poll.poll(30_000)
    assert fd == near.fileno()
    assert events != OUT


def test_without_poll_the_transport_works_with_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll", raising=False)
    assert isinstance(readiness.make_poll(), SelectorPoll)
    far = SocketFarEnd(*tcp_pair(send_buffer=1))
    far.send('"a"')
    assert receive(far.transport, 1) == ['"a"']
    far.transport.send(['"' + "x" * 1_000_000 + '"', '"end"'])
    far.send('"b"')
    assert receive(far.transport, 1) == ['"b"']
    far.dispose()


# --- receivers --------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["in Python", "in C"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    made = Ends(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-9, 0.001])
def test_nothing_has_come_at_the_timeout(ends: Ends, timeout: float) -> None:
    for _ in range(2):
        assert ends.receive(timeout) == (0, None)


@pytest.mark.parametrize("timeout", [0.0004, 0.05])
def test_the_wait_does_not_end_before_its_timeout(ends: Ends, timeout: float) -> None:
    """It may, but it would only have to be begun again."""
    start = time.monotonic()
    assert ends.receive(timeout) == (0, None)
    assert time.monotonic() - start >= timeout


@pytest.mark.parametrize("timeout", [0, 0.5, FAILSAFE, None])
def test_what_has_come_is_read_at_most_so_much_at_once(ends: Ends, timeout: float | None) -> None:
    ends.send(b"a" * SIZE)
    ends.send(b"b" * 3)
    assert ends.receive(timeout) == (READABLE, b"a" * SIZE)
    assert ends.receive(timeout) == (READABLE, b"bbb")
    assert ends.receive(0) == (0, None)


@pytest.mark.parametrize("timeout", [FAILSAFE, None])
def test_what_comes_ends_the_wait(ends: Ends, timeout: float | None) -> None:
    waits = ends.make_semaphore()
    receiving = Background(ends.receive, timeout, [waits])
    assert waits.acquire(True, FAILSAFE)
    ends.far.send(b"x")
    assert receiving.result() == (READABLE, b"x")


def test_the_end_of_the_stream_is_no_bytes_again_and_again(ends: Ends) -> None:
    ends.send(b"last words")
    ends.far.close()
    assert ends.receive(FAILSAFE) == (READABLE, b"last words")
    for timeout in (FAILSAFE, 0, None):
        assert ends.receive(timeout) == (READABLE, b"")


def test_a_reset_connection_is_an_error(ends: Ends) -> None:
    ends.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.far.close()
    ends.wait_readable()
    semaphore = ends.make_semaphore()
    wakeups = [semaphore]
    with pytest.raises(ConnectionResetError):
        ends.receive(FAILSAFE, wakeups)
    assert wakeups == []
    assert semaphore.acquire(False)


def test_a_closed_socket_is_an_error(ends: Ends) -> None:
    ends.near.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        ends.receive(FAILSAFE)


@pytest.mark.parametrize("timeout", [0, FAILSAFE, None])
def test_who_wakes_it_is_seen_until_that_is_taken(ends: Ends, timeout: float | None) -> None:
    ends.wake()
    for _ in range(2):
        assert ends.receive(timeout) == (WOKEN, None)
    ends.wake_in.recv(100)
    assert ends.receive() == (0, None)


def test_data_and_who_wakes_it_are_told_together(ends: Ends) -> None:
    ends.send(b"x")
    ends.wake()
    assert ends.receive(FAILSAFE) == (READABLE | WOKEN, b"x")
    assert ends.receive(FAILSAFE) == (WOKEN, None)


def test_a_writable_socket_ends_the_wait_only_if_that_is_wanted(ends: Ends) -> None:
    for _ in range(2):
        assert ends.receive(0.001) == (0, None)
        assert ends.receive(None, watches_writes=True) == (0, None)
    ends.fill()
    assert ends.receive(0.001, watches_writes=True) == (0, None)
    waits = ends.make_semaphore()
    receiving = Background(ends.receive, 2 * FAILSAFE, [waits], True)
    assert waits.acquire(True, FAILSAFE)
    ends.far.settimeout(0)

    def is_over() -> bool:
        with contextlib.suppress(BlockingIOError):
            ends.far.recv(1 << 20)
        return not receiving.is_running

    wait_until(is_over, "it is not told that the socket takes more")
    assert receiving.result() == (0, None)
    assert ends.receive(0.001) == (0, None)


def test_data_is_read_also_where_writing_is_possible(ends: Ends) -> None:
    ends.send(b"x")
    assert ends.receive(FAILSAFE, watches_writes=True) == (READABLE, b"x")
    ends.wake()
    ready, _ = ends.receive(FAILSAFE, watches_writes=True)
    assert ready & WOKEN


def test_it_leaves_the_reading_to_the_caller_where_it_is_told_to(ends: Ends) -> None:
    ends.send(b"x")
    expected = (READABLE, b"x") if ends.reads else (READABLE, None)
    assert ends.receiver.receive(FAILSAFE, [], False) == expected
    assert ends.receive() == ((0, None) if ends.reads else (READABLE, b"x"))


# --- wake-ups ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 50])
def test_wake_ups_are_done_and_taken_out_also_if_it_returns_at_once(ends: Ends, count: int) -> None:
    semaphores = [ends.make_semaphore() for _ in range(count)]
    semaphores[0].release()  # one more does not matter
    ends.send(b"x")
    wakeups = [*semaphores, *semaphores]
    assert ends.receive(FAILSAFE, wakeups) == (READABLE, b"x")
    assert wakeups == []
    assert all(semaphore.acquire(False) for semaphore in semaphores)
    assert not any(semaphore.acquire(False) for semaphore in semaphores)


def test_who_is_woken_goes_on_while_it_waits(ends: Ends) -> None:
    """It is this other thread that ends its wait: a wake-up behind the wait would come too late."""
    semaphore = ends.make_semaphore()

    def go_on() -> None:
        assert semaphore.acquire(True, FAILSAFE)
        ends.wake()

    going_on = Background(go_on)
    wakeups = [semaphore]
    assert ends.receive(2 * FAILSAFE, wakeups) == (WOKEN, None)
    assert wakeups == []
    going_on.result()


def test_the_list_may_be_filled_while_it_waits(ends: Ends) -> None:
    first, second = ends.make_semaphore(), ends.make_semaphore()
    wakeups = [first]
    receiving = Background(ends.receive, FAILSAFE, wakeups)
    assert first.acquire(True, FAILSAFE)
    wakeups.append(second)
    ends.wake()
    receiving.result()
    assert wakeups == [second]
    assert not second.acquire(False)


def test_two_threads_take_turns_without_losing_a_wake_up(ends: Ends) -> None:
    """As a caller and the receive thread do: one sends and waits, the other receives and wakes."""
    semaphore = ends.make_semaphore()
    ends.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)

    def call() -> int:
        for turn in range(HAND_OVERS):
            ends.far.send(b"x")
            if not semaphore.acquire(True, FAILSAFE):
                return turn
        return HAND_OVERS

    calling = Background(call)
    wakeups: list[Semaphore] = []
    for _ in range(HAND_OVERS):
        if ends.receive(FAILSAFE, wakeups) != (READABLE, b"x"):
            break
        wakeups.append(semaphore)
    assert ends.receive(0, wakeups) == (0, None)
    assert calling.result() == HAND_OVERS


# --- signals ----------------------------------------------------------------------------------------------


@needs_signals
@pytest.mark.parametrize("timeout", [2 * FAILSAFE, None])
def test_ctrl_c_ends_the_wait(ends: Ends, timeout: float | None) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    def wait() -> Any:
        return ends.receiver.receive(timeout, [], False)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            under_signals(wait, interrupt, ends.wake)
    ends.send(b"x")
    assert ends.receive(FAILSAFE) == (READABLE, b"x")


@needs_signals
def test_other_signals_lose_nothing(ends: Ends) -> None:
    """It may return early, with nothing."""
    received: list[Any] = []

    def note(number: int) -> None:
        if number == 20:
            ends.far.send(b"x")

    def wait() -> None:
        while not any(received):
            received[:] = ends.receiver.receive(FAILSAFE, [], False)

    under_signals(wait, note, lambda: ends.far.send(b"given up"))
    assert received == ([READABLE, b"x"] if ends.reads else [READABLE, None])
