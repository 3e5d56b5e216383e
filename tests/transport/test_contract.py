"""One contract, kept by the transport in memory and by the one over a socket."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync.ownership import is_held
from tellurio_sync.transport.base import Ending, NoRoom, TransportEnded

from ..conftest import FAILSAFE
from .ends import FarEnd, MemoryFarEnd, Receiving, Slip, SocketFarEnd, receive, receive_ending, tcp_pair

BIG = '"' + "x" * (8 << 20) + '"'


@pytest.fixture(params=["memory", "websocket"])
def far(request: pytest.FixtureRequest) -> Iterator[FarEnd]:
    if request.param == "memory":
        yield MemoryFarEnd()
        return
    end = SocketFarEnd(*tcp_pair(send_buffer=4096))
    yield end
    end.dispose()


def started(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[threading.Thread, list[Any]]:
    """A thread that runs it, and the list that will hold its result or exception."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function(*args, **kwargs))
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def ended(thread: threading.Thread) -> None:
    thread.join(FAILSAFE)
    assert not thread.is_alive(), "still waiting"


TEXTS = ['""', '"a"', '"ü€😀"', '"' + "y" * 70_000 + '"', '"last"']


def test_messages_of_the_server_arrive_whole_and_in_order(far: FarEnd) -> None:
    far.send(*TEXTS)
    assert receive(far.transport, len(TEXTS)) == TEXTS


def test_messages_to_the_server_arrive_whole_and_in_order(far: FarEnd) -> None:
    far.transport.send(['"a"', '"b"'])
    far.transport.send(['"c"'], timeout=FAILSAFE)
    far.transport.send([])
    assert [far.receive() for _ in range(3)] == ['"a"', '"b"', '"c"']


def test_an_empty_message_is_a_message(far: FarEnd) -> None:
    far.send("", '"x"')
    assert receive(far.transport, 2) == ["", '"x"']


def test_a_binary_message_is_given_as_bytes(far: FarEnd) -> None:
    far.send(b"\xff\x00", b"")
    assert receive(far.transport, 2) == [b"\xff\x00", b""]


def test_receive_returns_without_messages_at_its_timeout(far: FarEnd) -> None:
    assert far.transport.receive(0.001) == []
    assert far.transport.receive(0) == []


def test_wake_makes_receive_return_early(far: FarEnd) -> None:
    thread, outcome = started(far.transport.receive, None)
    far.transport.wake()
    ended(thread)
    assert outcome == [[]]


def test_a_wake_before_receive_counts_and_many_count_once(far: FarEnd) -> None:
    for _ in range(10_000):
        far.transport.wake()
    assert far.transport.receive(FAILSAFE) == []
    assert far.transport.receive(0.001) == []


def test_what_comes_moves_bytes_received(far: FarEnd) -> None:
    assert far.transport.bytes_received == 0
    far.send('"abc"')
    receive(far.transport, 1)
    first = far.transport.bytes_received
    assert first >= 5
    far.send('"d"')
    receive(far.transport, 1)
    assert far.transport.bytes_received > first


def test_receipts_are_in_the_order_of_the_messages_and_tell_what_was_sent(far: FarEnd) -> None:
    receipts = [Slip(), Slip(), Slip()]
    assert not far.transport.was_sent(receipts[0])
    far.transport.send(['"a"', '"b"'], receipts[:2])
    far.transport.send(['"c"'], receipts[2:], timeout=FAILSAFE)
    offsets = [receipt.end_offset for receipt in receipts]
    assert None not in offsets
    assert offsets == sorted(set(offsets), key=lambda offset: offset or 0)
    assert all(far.transport.was_sent(receipt) for receipt in receipts)


def test_while_the_server_does_not_read_nothing_more_is_sent_and_send_finds_no_room(far: FarEnd) -> None:
    far.stop_reading()
    big, small = Slip(), Slip()
    far.transport.send([BIG], [big])
    with pytest.raises(NoRoom):
        far.transport.send(['"x"'], [small], timeout=0.001)
    assert not far.transport.was_sent(big)
    assert small.end_offset is None, "nothing of it was queued"
    far.transport.send(['"y"'], [small])  # without a timeout: queued at once
    assert small.end_offset is not None
    assert not far.transport.was_sent(small)


def test_a_sender_that_waits_for_room_holds_none_of_the_transports_locks(far: FarEnd) -> None:
    """It may be a signal handler's, in the middle of code that holds one."""
    far.stop_reading()
    far.transport.send([BIG])
    with contextlib.ExitStack() as held:
        for lock in far.transport.locks:
            held.enter_context(lock)
        ending, _ = started(far.transport.abort, Ending("aborted", "local"))
        with pytest.raises(TransportEnded):
            far.transport.send(['"x"'], timeout=FAILSAFE)
        assert all(map(is_held, far.transport.locks))
    ended(ending)


@pytest.mark.parametrize(
    "end", [lambda far: far.transport.abort(Ending("aborted", "local")), lambda far: far.transport.close(1000, "")]
)
def test_a_sender_that_waits_for_room_is_told_when_the_connection_ends(
    far: FarEnd, end: Callable[[FarEnd], None]
) -> None:
    far.stop_reading()
    far.transport.send([BIG])
    threads = [started(far.transport.send, ['"x"'], timeout=FAILSAFE) for _ in range(3)]
    end(far)
    for thread, outcome in threads:
        ended(thread)
        assert isinstance(outcome[0], TransportEnded)


def test_abort_wakes_the_reader_and_the_first_ending_counts(far: FarEnd) -> None:
    thread, outcome = started(far.transport.receive, None)
    first = Ending("first", "network", None)
    far.transport.abort(first)
    far.transport.abort(Ending("second", "server"))
    ended(thread)
    assert isinstance(outcome[0], TransportEnded)
    for operation in (lambda: far.transport.send(["x"]), lambda: far.transport.receive(0)):
        with pytest.raises(TransportEnded) as caught:
            operation()
        assert caught.value.ending == first


def test_everything_that_came_before_the_end_is_returned(far: FarEnd) -> None:
    far.send('"a"', '"b"')
    far.end()
    messages, ending = receive_ending(far.transport)
    assert messages == ['"a"', '"b"']
    assert ending.who == "server"


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000])
def test_the_server_closes_with_a_code(far: FarEnd, code: int) -> None:
    far.send('"last"')
    far.close(code)
    messages, ending = receive_ending(far.transport)
    assert messages == ['"last"']
    assert (ending.who, ending.code) == ("server", code)


def test_close_delivers_what_was_queued_and_takes_nothing_more(far: FarEnd) -> None:
    far.transport.send(['"before"'])
    far.transport.close(1000, "bye")
    with pytest.raises(TransportEnded):
        far.transport.send(['"after"'])
    far.transport.close(1000, "twice")
    far.transport.ping()
    assert far.receive() == '"before"'
    far.answer_close()
    messages, ending = receive_ending(far.transport)
    assert (messages, ending.who) == ([], "local")


def test_after_dispose_everything_is_harmless(far: FarEnd) -> None:
    far.transport.dispose()
    far.transport.dispose()
    far.transport.wake()
    far.transport.ping()
    far.transport.abort(Ending("late", "local"))
    far.transport.close(1000, "")
    with pytest.raises(TransportEnded):
        far.transport.send(["x"])
    with pytest.raises(TransportEnded):
        far.transport.receive(0)


@pytest.mark.parametrize(
    "end",
    [
        lambda far: far.transport.close(1000, ""),
        lambda far: far.transport.abort(Ending("first", "local")),
        lambda far: (far.close(1001), receive_ending(far.transport)),
        lambda far: (far.end(), receive_ending(far.transport)),
        lambda far: far.transport.dispose(),
        lambda far: far.transport.forget_after_fork(),
    ],
    ids=["close", "abort", "closed by the server", "end of stream", "dispose", "fork"],
)
def test_it_is_over_exactly_when_nothing_is_sent_any_more(far: FarEnd, end: Callable[[FarEnd], object]) -> None:
    assert not far.transport.is_over
    far.transport.send(['"a"'])
    end(far)
    assert far.transport.is_over
    with pytest.raises(TransportEnded):
        far.transport.send(['"b"'])


def test_many_threads_may_send_at_once(far: FarEnd) -> None:
    names = [f"{i}" for i in range(8)]
    threads = [
        started(lambda name=name: [far.transport.send([f'"{name}-{i}"'], timeout=FAILSAFE) for i in range(50)])
        for name in names
    ]
    with Receiving(far.transport):
        received = [far.receive().strip('"').split("-") for _ in range(8 * 50)]
        for thread, outcome in threads:
            ended(thread)
            assert not isinstance(outcome[0], Exception)
    for name in names:
        assert [number for who, number in received if who == name] == [str(i) for i in range(50)]
