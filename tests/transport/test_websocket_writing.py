"""Writing to real sockets: servers that do not read, many threads, failures and Ctrl-C at any moment."""

from __future__ import annotations

import errno
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync.transport import frames
from tellurio_sync.transport.base import Ending, TransportEnded

from ..conftest import FAILSAFE, wait_until
from .ends import GatedSocket, Receiving, Slip, SocketFarEnd, receive_ending, receive_until, tcp_pair

MIB = 1 << 20


@pytest.fixture
def narrow() -> Iterator[SocketFarEnd]:
    """With the smallest buffers between the two ends."""
    end = SocketFarEnd(*tcp_pair(send_buffer=1))
    yield end
    end.dispose()


@pytest.fixture
def gated() -> Iterator[tuple[SocketFarEnd, GatedSocket]]:
    ours, theirs = tcp_pair()
    sock = GatedSocket(ours)
    end = SocketFarEnd(sock, theirs)
    yield end, sock
    sock.gate.set()
    end.dispose()


def receive_all(far: SocketFarEnd, count: int) -> list[Any]:
    return [far.connection.receive() for _ in range(count)]


def in_background(function: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


# --- much at once -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reader_that_stalls_and_reads_on_finds_every_message_whole(narrow: SocketFarEnd) -> None:
    """Eight threads send small and large messages, while nobody reads at first."""
    counts = 30
    failures: list[Exception] = []

    def send(name: int) -> None:
        try:
            for i in range(counts):
                size = (1, 10, 500, 20_000, 200_000)[(i + name) % 5]
                narrow.transport.send([json.dumps([name, i, "x" * size])], timeout=FAILSAFE)
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            failures.append(exc)

    with Receiving(narrow.transport):
        threads = [threading.Thread(target=send, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        stalled = threading.Event()
        while narrow.transport.stalled_since is None:
            assert not stalled.wait(0.001)
        messages = receive_all(narrow, 8 * counts)
        for thread in threads:
            thread.join(FAILSAFE)
    assert failures == []
    for name in range(8):
        mine = [(i, len(text)) for who, i, text in messages if who == name]
        assert mine == [(i, (1, 10, 500, 20_000, 200_000)[(i + name) % 5]) for i in range(counts)]


def test_stalled_since_is_set_while_nothing_is_taken_and_cleared_by_progress(narrow: SocketFarEnd) -> None:
    assert narrow.transport.stalled_since is None
    narrow.transport.send(['"' + "x" * MIB + '"', '"end"'])
    assert narrow.transport.stalled_since is not None
    with Receiving(narrow.transport):
        assert len(narrow.connection.receive()) == MIB
        assert narrow.connection.receive() == "end"
        narrow.transport.send(['"more"'])
        assert narrow.connection.receive() == "more"
        assert narrow.transport.stalled_since is None


@pytest.mark.slow
def test_both_ends_push_8_mib_at_once_while_pings_fly(far: SocketFarEnd) -> None:
    text = '"' + "x" * (8 * MIB) + '"'
    with Receiving(far.transport) as receiving:
        pushing = threading.Thread(
            target=lambda: [(far.connection.send_ping(ping), far.send(text)) for ping in (b"first", b"last")],
            name="server's push",
        )
        pushing.start()
        for _ in range(2):
            far.transport.ping()
            far.transport.send([text])
        assert [len(message) for message in receive_all(far, 2)] == [8 * MIB] * 2
        pushing.join(FAILSAFE)
        assert [len(message) for message in receiving.wait_for(2)] == [8 * MIB + 2] * 2
        wait_until(lambda: far.transport._unanswered is None, "the last ping is not answered")
        far.transport.send(['"end"'])
        assert far.connection.receive() == "end"
    assert far.connection.pings == 2
    # While the server takes nothing, only the newest of its pings is answered.
    assert far.connection.pongs in ([b"first", b"last"], [b"last"])


@pytest.mark.slow
def test_64_mib_pass_both_ways() -> None:
    size = 64 * MIB
    far = SocketFarEnd(*tcp_pair(), max_message_size=size)
    with Receiving(far.transport) as receiving:
        far.connection.send_raw(b"\x82\x7f" + size.to_bytes(8, "big") + b"x" * size)
        assert len(receiving.wait_for(1)[0]) == size
        far.transport.send(["y" * size])
        head = far.connection.sock.recv(14, socket.MSG_WAITALL)
        assert head[:10] == b"\x81\xff" + size.to_bytes(8, "big")
        payload = bytearray()
        while len(payload) < size:
            payload += far.connection.sock.recv(MIB)
        assert (frames.apply_mask(payload, head[10:]) == b"y" * size) is True  # no comparison of 64 MiB in the report
    far.dispose()


def test_a_server_that_never_reads_is_given_up_when_too_much_waits_for_it(
    far: SocketFarEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tellurio_sync.transport.websocket._MAX_QUEUE", MIB)
    big = '"' + "x" * (16 * MIB) + '"'
    far.transport.send([big])  # a single message may be larger than that
    far.transport.send(['"x"'])
    _, ending = receive_ending(far.transport)
    assert ending.who == "server"
    assert "does not read" in ending.reason


def test_of_pings_from_a_server_that_does_not_read_only_the_latest_is_answered(narrow: SocketFarEnd) -> None:
    """RFC 6455 §5.5.3: so a flood of them fills no memory here. The time limit for writes ends such a connection."""
    narrow.transport.send(['"' + "x" * MIB + '"'])  # more than the socket takes
    assert narrow.transport.stalled_since is not None
    queued = narrow.transport._queued
    payloads = [str(number).encode().rjust(125) for number in range(1000)]
    asking = threading.Thread(target=lambda: [narrow.connection.send_ping(payload) for payload in payloads])
    asking.start()
    receive_until(narrow.transport, lambda _: narrow.transport.bytes_received >= 127 * 1000)
    asking.join(FAILSAFE)
    assert narrow.transport._queued == queued
    with Receiving(narrow.transport):
        assert len(narrow.connection.receive()) == MIB
        narrow.transport.send(['"last"'])
        assert narrow.connection.receive() == "last"
        wait_until(lambda: narrow.transport._unanswered is None, "the last ping is not answered")
        narrow.transport.send(['"end"'])
        assert narrow.connection.receive() == "end"
    assert narrow.connection.pongs == [b"999".rjust(125)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_socket_takes_messages_come_once_whole_and_in_order(
    far: SocketFarEnd, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd seeds: the connection is aborted meanwhile, and of what has come ``was_sent`` is never False."""
    draw = random.Random(seed)
    real = far.transport._send_some

    def send_some(data: bytes | memoryview, *flags: int) -> int:
        if draw.random() < 0.1:
            raise BlockingIOError(errno.EAGAIN, "no room")
        return real(data[: draw.choice((1, 2, 7, 100, 5000, MIB))], *flags)

    monkeypatch.setattr(far.transport, "_send_some", send_some)
    receipts = {(name, i): Slip() for name in range(4) for i in range(60)}

    def send(name: int) -> None:
        for i in range(0, 60, 2):
            texts = [json.dumps([name, n, "x" * (10, 130, 3000, 70_000)[(n + name) % 4]]) for n in (i, i + 1)]
            try:
                far.transport.send(texts, [receipts[name, i], receipts[name, i + 1]], timeout=FAILSAFE)
            except TransportEnded:
                return

    came: list[tuple[int, int]] = []
    with Receiving(far.transport) as receiving:
        threads = [in_background(lambda name=name: send(name)) for name in range(4)]
        while len(came) < (50 if seed % 2 else len(receipts)):
            name, i, text = far.connection.receive()
            assert len(text) == (10, 130, 3000, 70_000)[(i + name) % 4]
            came.append((name, i))
        if seed % 2:
            far.transport.abort(Ending("aborted", "local"))
            receiving.join()
        for thread in threads:
            thread.join(FAILSAFE)
    far.transport.dispose()
    came += [(name, i) for name, i, _ in far.connection.requests()]
    for name in range(4):
        mine = [i for who, i in came if who == name]
        assert mine == list(range(len(mine)))
    assert all(far.transport.was_sent(receipts[key]) for key in came)


@pytest.mark.slow
def test_a_wait_for_room_can_be_very_long(narrow: SocketFarEnd) -> None:
    narrow.transport.send(['"' + "x" * MIB + '"'])
    with Receiving(narrow.transport):
        waiting = in_background(lambda: narrow.transport.send(['"y"'], timeout=1e300))
        assert len(narrow.connection.receive()) == MIB
        assert narrow.connection.receive() == "y"
        waiting.join(FAILSAFE)


# --- one writer for all -----------------------------------------------------------------------------


class TakenBack:
    """A receipt: its sender finds the connection over, and takes the offset back as it is read."""

    def __init__(self) -> None:
        self._offsets = [5]

    @property
    def end_offset(self) -> int | None:
        return self._offsets.pop() if self._offsets else None

    @end_offset.setter
    def end_offset(self, offset: int | None) -> None:
        raise AssertionError("only read here")


def test_whether_a_message_was_sent_can_be_asked_while_its_sender_finds_the_connection_over(far: SocketFarEnd) -> None:
    assert not far.transport.was_sent(TakenBack())


class Interrupted(list[bytes]):
    """A queue: when it is looked at for the ``at``-th time, code of the user runs, as that of a signal handler may."""

    def __init__(self, items: list[bytes], at: int, act: Callable[[], None]) -> None:
        super().__init__(items)
        self._act = act
        self.left = at

    def __len__(self) -> int:
        length = super().__len__()
        self.left -= 1
        if self.left == 0:
            self._act()
        return length


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("queued", [1, 2])
def test_a_queue_that_a_signal_handler_has_written_as_it_was_to_be_taken(
    far: SocketFarEnd, queued: int, at: int
) -> None:
    transport = far.transport
    encoded = [frame for i in range(queued) for frame in transport._encoder.encode([json.dumps(f"queued {i}")])]
    with transport._queue_lock:
        transport._queue = queue = Interrupted(encoded, at, lambda: transport.send([json.dumps("of the handler")]))
        transport._queued += sum(map(len, encoded))
    transport._flush()
    assert queue.left <= 0, "it was not looked at so often"
    expected = [f"queued {i}" for i in range(queued)] + ["of the handler"]
    assert receive_all(far, len(expected)) == expected
    assert transport._writer is None
    transport.send([json.dumps("another")])
    assert far.connection.receive() == "another"


def test_who_finds_a_writer_at_work_leaves_and_the_writer_writes_for_it(
    gated: tuple[SocketFarEnd, GatedSocket],
) -> None:
    """No wake-up is lost between the writer's last look at the queue and the giving up of its role."""
    far, sock = gated
    sock.hold()
    writer = in_background(lambda: far.transport.send(['"a"']))
    assert sock.entered.wait(FAILSAFE)
    far.transport.send(['"b"'])  # returns although the writer is stuck
    far.transport.ping()
    far.transport.send(['"c"'])
    sock.gate.set()
    writer.join(FAILSAFE)
    assert receive_all(far, 3) == ["a", "b", "c"]
    assert far.connection.pings == 1


def test_dispose_leaves_the_descriptors_to_a_writer_at_work(gated: tuple[SocketFarEnd, GatedSocket]) -> None:
    """Closed under the writer, the descriptor could be another file's by the time of its system call."""
    far, sock = gated
    sock.hold()
    writer = in_background(lambda: far.transport.send(['"a"', '"b"']))
    assert sock.entered.wait(FAILSAFE)
    far.transport.dispose()
    assert sock.fileno() != -1
    sock.gate.set()
    writer.join(FAILSAFE)
    assert sock.fileno() == -1


def test_what_a_writer_is_at_when_the_connection_ends_may_have_been_sent(
    gated: tuple[SocketFarEnd, GatedSocket],
) -> None:
    """``was_sent`` False is a promise: the server certainly did not get it."""
    far, sock = gated
    sock.hold()
    at_work, queued = Slip(), Slip()
    writer = in_background(lambda: far.transport.send(['"a"'], [at_work]))
    assert sock.entered.wait(FAILSAFE)
    far.transport.send(['"b"'], [queued])
    far.transport.abort(Ending("aborted", "local"))
    far.transport.dispose()
    assert far.transport.was_sent(at_work)
    assert not far.transport.was_sent(queued)
    sock.gate.set()
    writer.join(FAILSAFE)
    assert far.connection.receive() == "a"
    assert not far.transport.was_sent(queued)


def test_after_a_failed_write_nothing_follows_and_the_servers_last_words_are_read(
    gated: tuple[SocketFarEnd, GatedSocket],
) -> None:
    far, sock = gated
    far.send('"why"')
    sock.failure = BrokenPipeError(errno.EPIPE, "Broken pipe")
    receipt = Slip()
    far.transport.send(['"lost"'], [receipt])
    far.transport.send(['"after"'])
    messages, ending = receive_ending(far.transport)
    assert messages == ['"why"']
    assert (ending.who, ending.reason) == ("network", "Broken pipe")
    assert not far.transport.was_sent(receipt)


# --- Ctrl-C -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_while_writing_frees_the_role_and_tears_nothing(
    gated: tuple[SocketFarEnd, GatedSocket], interrupts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, sock = gated
    sock.failure = KeyboardInterrupt()
    if interrupts == 2:  # the second one while the first is being dealt with

        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(far.transport, "wake", interrupted)
    with pytest.raises(KeyboardInterrupt):
        far.transport.send(['"a"'])
    monkeypatch.undo()
    far.transport.send(['"b"'])
    assert receive_all(far, 2) == ["a", "b"]


class InterruptedSlip(Slip):
    """Ctrl-C comes while it is filled in: under the queue's lock."""

    def __setattr__(self, name: str, value: object) -> None:
        raise KeyboardInterrupt


def test_ctrl_c_while_queueing_loses_no_lock_and_queues_nothing(far: SocketFarEnd) -> None:
    with pytest.raises(KeyboardInterrupt):
        far.transport.send(['"a"'], [InterruptedSlip()])
    far.transport.send(['"b"'])
    assert receive_all(far, 1) == ["b"]


def test_ctrl_c_before_writing_gives_the_role_back(far: SocketFarEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(far.transport, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        far.transport.send(['"a"'])
    monkeypatch.undo()
    far.transport.send(['"b"'])
    assert receive_all(far, 2) == ["a", "b"]
