"""Ctrl-C at any point of sending and closing: the connection stays usable, and nothing is torn, lost or made up."""

from __future__ import annotations

import contextlib
import errno
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tellurio_sync.transport import websocket
from tellurio_sync.transport.base import TransportEnded
from tellurio_sync.transport.tls import TlsStream
from tellurio_sync.transport.websocket import WebSocketTransport

from ..conftest import FAILSAFE, in_thread, wait_until
from ..interrupts import Strike, strikes
from .conftest import Tls
from .ends import Receiving, Slip, SocketFarEnd, tcp_pair, tls_pair

pytestmark = pytest.mark.slow

SOON = FAILSAFE / 3
"""Seconds: before the receive loop turns by itself, which makes up for a lost wake-up."""


class Ground(NamedTuple):
    """What a scenario takes place on: a strike, and TLS or none."""

    strike: Strike
    tls: Tls | None


@contextlib.contextmanager
def far_end(ground: Ground, send_buffer: int | None = None) -> Iterator[SocketFarEnd]:
    tls = ground.tls
    far = SocketFarEnd(*(tcp_pair(send_buffer) if tls is None else tls_pair(tls.server, tls.client, send_buffer)))
    far.connection.sock.settimeout(SOON)
    try:
        yield far
    finally:
        far.dispose()


def check_usable(far: SocketFarEnd, sent: list[str], receipts: list[Slip]) -> None:
    """After Ctrl-C in sending ``sent``: all of it has come or nothing, and the next message comes behind it."""
    transport = far.transport
    is_free = transport._queue_lock.acquire(timeout=FAILSAFE)
    transport._queue_lock.release()  # in any case: what comes next must not hang
    assert is_free, "the queue's lock is lost"
    last = Slip()
    transport.send(['"last"'], [last], timeout=FAILSAFE)
    came = list(iter(far.receive, '"last"'))
    assert came in ([], sent)
    wait_until(lambda: transport._queued == transport._written, "the accounts of what is queued and written differ")
    # False is a promise; of what was never queued it is not asked.
    assert all(transport.was_sent(receipt) for receipt in ([*receipts, last] if came else [last]))


class Interference:
    """What another thread does, once, at some moment of what this thread does within a strike.

    Attributes:
        has_come: whether it was done.
        may_come: whether it still may be.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.has_come = False
        self.may_come = True
        self._do = lambda: in_thread(function, *args)
        self._thread = threading.get_ident()

    def __call__(self) -> None:
        if self.may_come and threading.get_ident() == self._thread:
            self.may_come = False
            self._do()
            self.has_come = True


def sender_of(transport: WebSocketTransport) -> Any:
    """A transport whose ``_send_some`` is the system call itself."""
    return transport if transport._tls is None else transport._tls


def do_before_sending(transport: WebSocketTransport, do: Interference) -> None:
    """``do`` it just before the system call of the writer."""
    sender = sender_of(transport)
    real = sender._send_some

    def send_some(data: Any, *flags: int) -> int:
        do()
        return int(real(data, *flags))

    sender._send_some = send_some


def do_before_leaving(transport: WebSocketTransport, do: Interference) -> None:
    """``do`` it just before the writer gives back its role."""

    class Observed(WebSocketTransport):
        @property
        def _writer(self) -> object | None:
            return self.__dict__["_writer"]

        @_writer.setter
        def _writer(self, turn: object | None) -> None:
            if turn is None and self._writer is not None:
                do()
            self.__dict__["_writer"] = turn

    transport.__class__ = Observed


def take_nothing(*_: object) -> int:
    raise BlockingIOError(errno.EAGAIN, "no room")


# --- the scenarios ----------------------------------------------------------------------------------------


def send(ground: Ground, count: int = 1) -> None:
    with far_end(ground) as far, Receiving(far.transport):
        texts, receipts = [f'"{n}"' for n in range(count)], [Slip() for _ in range(count)]
        with ground.strike:
            far.transport.send(texts, receipts, timeout=FAILSAFE)
        check_usable(far, texts, receipts)


def send_many(ground: Ground) -> None:
    send(ground, 3)


def send_while_another_thread_queues(ground: Ground) -> None:
    """The other finds a writer, and leaves its message to it; and nobody sends after that."""
    with far_end(ground) as far, Receiving(far.transport):
        queue_other = Interference(far.transport.send, ['"other"'])
        do_before_sending(far.transport, queue_other)
        sends_with_another(ground, far, queue_other)


def send_while_another_thread_queues_at_the_last_moment(ground: Ground) -> None:
    """The other thread finds a writer that has just seen that nothing is left to write."""
    with far_end(ground) as far, Receiving(far.transport):
        queue_other = Interference(far.transport.send, ['"other"'])
        do_before_leaving(far.transport, queue_other)
        sends_with_another(ground, far, queue_other)


def sends_with_another(ground: Ground, far: SocketFarEnd, queue_other: Interference) -> None:
    receipt = Slip()
    with ground.strike:
        far.transport.send(['"mine"'], [receipt], timeout=FAILSAFE)
    queue_other.may_come = False
    assert queue_other.has_come or ground.strike.where is not None, "its moment never came"
    came: list[str] = []
    while queue_other.has_come and '"other"' not in came:
        came.append(far.receive())
    if '"mine"' in came:
        assert far.transport.was_sent(receipt)
        check_usable(far, [], [])
    else:
        check_usable(far, ['"mine"'], [receipt])


def send_more_than_the_socket_takes(ground: Ground) -> None:
    with far_end(ground, send_buffer=4096) as far, Receiving(far.transport):
        text, receipt = '"' + "x" * 600_000 + '"', Slip()
        with ground.strike:
            far.transport.send([text], [receipt], timeout=FAILSAFE)
        check_usable(far, [text], [receipt])


def make_room_for_another_thread(ground: Ground) -> None:
    """Room comes as this thread, the writer, gets rid of what is queued; the other must not wait on."""
    with far_end(ground) as far, pytest.MonkeyPatch.context() as patch:
        patch.setattr(websocket, "HIGH_WATER", 1000)
        with pytest.MonkeyPatch.context() as full:
            full.setattr(sender_of(far.transport), "_send_some", take_nothing)
            far.transport.send(['"first"'])
            far.transport.send(['"' + "x" * 5000 + '"'])  # written together with what comes next: then nothing is left
        waiting = threading.Thread(target=far.transport.send, args=(['"waited"'],), kwargs={"timeout": 2 * FAILSAFE})
        waiting.start()
        wait_until(lambda: far.transport._waiting_for_room, "it does not wait for room")
        with ground.strike:
            far.transport.send(['"mine"'])
        with Receiving(far.transport):
            waiting.join(SOON)
            assert not waiting.is_alive(), "it waits on, although there is room"
            assert [far.receive(), len(far.receive())] == ['"first"', 5002]
            came = [far.receive()]
            if came == ['"mine"']:
                came.append(far.receive())
            assert '"waited"' in came
            check_usable(far, ['"mine"'], [])


def send_while_the_connection_is_disposed_of(ground: Ground) -> None:
    """The writer has to close the descriptors then."""
    with far_end(ground) as far:
        dispose = Interference(far.transport.dispose)
        do_before_sending(far.transport, dispose)
        with contextlib.suppress(TransportEnded), ground.strike:
            far.transport.send(['"mine"'])
        assert (far.transport._sock.fileno() == -1) == dispose.has_come


def close(ground: Ground) -> None:
    """Closing again is then enough."""
    with far_end(ground) as far, Receiving(far.transport) as receiving:
        with ground.strike:
            far.transport.close(1000, "")
        far.transport.close(1000, "")
        far.transport.wake()
        far.connection.wait_for_end()
        assert far.connection.close_code == 1000
        receiving.join()


@pytest.mark.parametrize(
    "scenario",
    [
        send,
        send_many,
        send_while_another_thread_queues,
        send_while_another_thread_queues_at_the_last_moment,
        send_more_than_the_socket_takes,
        make_room_for_another_thread,
        send_while_the_connection_is_disposed_of,
        close,
    ],
)
@pytest.mark.parametrize("is_tls", [False, True], ids=["tcp", "tls"])
def test_ctrl_c_at_any_point_leaves_the_connection_usable(
    scenario: Callable[[Ground], None], is_tls: bool, tls: Tls
) -> None:
    strike_all(scenario, tls if is_tls else None)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tracing, which strikes before 3.12, ends with the first strike")
@pytest.mark.parametrize("again", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("scenario", [send, send_more_than_the_socket_takes])
@pytest.mark.parametrize("is_tls", [False, True], ids=["tcp", "tls"])
def test_ctrl_c_may_come_twice(scenario: Callable[[Ground], None], again: int, is_tls: bool, tls: Tls) -> None:
    strike_all(scenario, tls if is_tls else None, again)


def strike_all(scenario: Callable[[Ground], None], tls: Tls | None, again: int | None = None) -> None:
    for strike in strikes(WebSocketTransport, TlsStream, ssl.SSLObject, again=again):
        try:
            scenario(Ground(strike, tls))
        except BaseException as exc:
            raise AssertionError(f"{scenario.__name__}: {strike}") from exc
