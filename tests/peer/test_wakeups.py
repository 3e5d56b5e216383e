"""When a thread that has its reply is woken: late, so that it finds the interpreter free, but before anything else."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from tellurio_sync.deadlines import Clock, Waitable
from tellurio_sync.errors import CallTimeout, ClosedByUser, ConnectionLost
from tellurio_sync.peer import pending
from tellurio_sync.peer.dispatch import Method
from tellurio_sync.peer.futures import CallFuture
from tellurio_sync.peer.lifecycle import Lifecycle
from tellurio_sync.peer.peer import Peer
from tellurio_sync.peer.pending import PendingCall
from tellurio_sync.speedups import PySemaphore, Semaphore, make_semaphore
from tellurio_sync.transport.base import Ending, Transport

from ..conftest import FAILSAFE, wait_until
from ..transport.ends import FarEnd, MemoryFarEnd, SocketFarEnd, tcp_pair
from .rig import Background, resolve

SOON = FAILSAFE / 3
"""Seconds: what must come before anybody is given up by ``Background``, and before any deadline."""

TIMEOUT = 2 * FAILSAFE
"""Seconds, of calls. Nothing else wakes anybody: no ping is sent, and the clock is the real one."""


class AheadClock(Clock):
    """The real time, which a test can let jump without waking anybody."""

    ahead = 0.0

    def __init__(self) -> None:
        self.now = lambda: time.monotonic() + self.ahead


class Line:
    """A peer and its server's end. The server's messages of one ``send`` come together.

    Attributes:
        on_push: what the handler of the server's method ``push`` does.
    """

    def __init__(self, far: FarEnd) -> None:
        self.far = far
        self.clock = AheadClock()
        self.on_push: Callable[[], object] = lambda: None
        methods = {"push": Method(lambda params: self.on_push())}
        self.peer = Peer(Lifecycle(lambda: self, methods, ping_interval=None, reconnect=False, clock=self.clock))
        self.peer.lifecycle.open(1, 0)
        self.connection = self.peer.lifecycle.wait_for_connection(FAILSAFE)

    def dial(self) -> Transport:
        return self.far.transport

    def abort(self) -> None:
        pass

    @property
    def wakeups(self) -> list[Semaphore]:
        return self.far.transport.wakeups

    def send(self, *messages: Any) -> None:
        self.far.send(*(message if isinstance(message, (str, bytes)) else json.dumps(message) for message in messages))

    def submit(self, timeout: float = TIMEOUT) -> CallFuture:
        """A submitted call that has reached the server."""
        future = self.peer.submit("m", {}, timeout)
        assert isinstance(future, CallFuture)
        self.far.receive()
        return future

    def has_no_thread_for_callbacks(self, patch: pytest.MonkeyPatch) -> None:
        """So they run where the call ends."""
        patch.setattr(self.peer.lifecycle.pool, "submit", lambda *_, **__: False)


@pytest.fixture(params=["memory", "websocket"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    far = MemoryFarEnd() if request.param == "memory" else SocketFarEnd(*tcp_pair())
    made = Line(far)
    yield made
    made.peer.lifecycle.close(0)
    assert made.peer.lifecycle._thread is not None
    made.peer.lifecycle._thread.join(FAILSAFE)
    far.transport.dispose()
    if isinstance(far, SocketFarEnd):
        far.dispose()


@pytest.fixture
def socket_line() -> Iterator[Line]:
    far = SocketFarEnd(*tcp_pair())
    made = Line(far)
    yield made
    made.peer.lifecycle.close(0)
    far.dispose()


class Caller(Background):
    """A call that waits for its reply on a thread of its own.

    Attributes:
        semaphore: what it waits for.
        is_back: set as soon as the call is over.
    """

    def __init__(self, line: Line, **options: Any) -> None:
        self.is_back = threading.Event()

        def call() -> Any:
            try:
                return line.peer.request("m", {}, TIMEOUT, **options)["result"]
            finally:
                self.is_back.set()

        super().__init__(call)
        self.id = json.loads(line.far.receive())["id"]
        waiting = line.connection.pending.get(self.id)
        assert isinstance(waiting, PendingCall)
        wait_until(lambda: waiting._semaphore is not None, "it does not wait")
        self.semaphore = waiting._semaphore
        self.reply = reply(self.id)


class Holder(Background):
    """Waits for a future on a thread of its own."""

    def __init__(self, future: CallFuture) -> None:
        self.is_back = threading.Event()

        def wait() -> Any:
            try:
                return future.result(TIMEOUT)["result"]
            finally:
                self.is_back.set()

        before = len(future._semaphores)
        super().__init__(wait)
        wait_until(lambda: len(future._semaphores) > before, "it does not wait")
        self.semaphore = future._semaphores[before]


def reply(id_: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "result": id_}


# --- as late as can be --------------------------------------------------------------------------------------


def test_nobody_is_woken_while_there_are_more_replies_to_hand_over(line: Line) -> None:
    seen: list[list[Semaphore | None]] = []
    first = Caller(line)
    future = line.submit()
    holders = [Holder(future), Holder(future)]
    last = Caller(line, on_reply=lambda: seen.append([*line.wakeups]))
    line.send(first.reply, reply(future.id), last.reply)
    assert [first.result(), last.result()] == [first.id, last.id]
    assert [holder.result() for holder in holders] == [future.id] * 2
    assert seen == [[first.semaphore, *(holder.semaphore for holder in holders)]]
    assert line.wakeups == []


def test_they_are_woken_as_the_receive_thread_begins_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Noted(PySemaphore):
        def release(self) -> None:
            events.append("woken")
            super().release()

    monkeypatch.setattr(pending, "make_semaphore", Noted)
    far = MemoryFarEnd()
    receive = far.transport.receive

    def noted(timeout: float | None) -> list[str | bytes]:
        events.append("waiting")
        return receive(timeout)

    monkeypatch.setattr(far.transport, "receive", noted)
    line = Line(far)
    callers = [Caller(line, on_reply=lambda: events.append("reply")) for _ in range(3)]
    wait_until(lambda: events == ["waiting"], "the receive thread does not wait")
    line.send(*(caller.reply for caller in callers))
    assert [caller.result() for caller in callers] == [caller.id for caller in callers]
    assert events == ["waiting", *["reply"] * 3, "waiting", *["woken"] * 3]
    line.peer.lifecycle.close()


def test_one_reply_after_another_wakes_its_caller_and_no_other(line: Line) -> None:
    """Nothing else comes that could make up for a lost wake-up."""
    other = Caller(line)
    for _ in range(100):
        caller = Caller(line)
        line.send(caller.reply)
        assert caller.result() == caller.id
    assert other.is_running
    line.send(other.reply)
    assert other.result() == other.id


# --- behind nothing else ------------------------------------------------------------------------------------

NOTIFICATION = {"jsonrpc": "2.0", "method": "push", "params": {}}

HANDLED: dict[str, Any] = {
    "a notification": NOTIFICATION,
    "a request": {**NOTIFICATION, "id": 1},
    "a batch": [NOTIFICATION],
}

LOGGED: dict[str, Callable[[Line, Caller], Any]] = {
    "an invalid message": lambda line, caller: {"jsonrpc": "1.0"},
    "no JSON": lambda line, caller: "nonsense",
    "a binary message": lambda line, caller: b"x",
    "a reply to nobody": lambda line, caller: reply("nobody"),
    "a second reply": lambda line, caller: caller.reply,
    "a late reply": lambda line, caller: given_up(line),
    "a malformed reply to nobody": lambda line, caller: {"jsonrpc": "2.0", "id": "nobody", "error": 1},
}


def given_up(line: Line) -> Any:
    future = line.submit()
    assert future.cancel()
    return reply(future.id)


class PatientHandler(logging.Handler):
    """Takes its time over each record: until somebody is back."""

    def __init__(self, is_back: threading.Event) -> None:
        super().__init__()
        self.waits: list[bool] = []
        self._is_back = is_back

    def emit(self, record: logging.LogRecord) -> None:
        self.waits.append(self._is_back.wait(SOON))


@pytest.mark.parametrize("behind", HANDLED)
def test_a_handler_may_wait_for_what_who_has_its_reply_does_next(line: Line, behind: str) -> None:
    waits: list[bool] = []
    caller = Caller(line)
    line.on_push = lambda: waits.append(caller.is_back.wait(SOON))
    line.send(caller.reply, HANDLED[behind])
    assert caller.result() == caller.id
    wait_until(lambda: waits, "the handler did not run")
    assert waits == [True]


@pytest.mark.parametrize("behind", LOGGED)
def test_nobody_waits_for_what_is_logged(line: Line, behind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A logger's handler may be slow, and may want a lock that the caller holds."""
    caplog.set_level(logging.DEBUG, "tellurio_sync.peer")
    caller = Caller(line)
    message = LOGGED[behind](line, caller)
    handler = PatientHandler(caller.is_back)
    logger = logging.getLogger("tellurio_sync.peer")
    logger.addHandler(handler)
    try:
        line.send(caller.reply, message)
        assert caller.result() == caller.id
        wait_until(lambda: handler.waits, "nothing was logged")
        assert all(handler.waits)
    finally:
        logger.removeHandler(handler)


class TestACallbackForWhichThereIsNoThread:
    """It runs where its call ends, and may wait for a thread that has been told, or has its reply."""

    def test_of_the_same_future(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        future = line.submit()
        self._check(line, monkeypatch, future, Holder(future), lambda: line.send(reply(future.id)))

    def test_of_another_one(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        caller, future = Caller(line), line.submit()
        self._check(line, monkeypatch, future, caller, lambda: line.send(caller.reply, reply(future.id)))

    def test_of_one_that_is_cancelled(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        future = line.submit()
        self._check(line, monkeypatch, future, Holder(future), future.cancel)

    def test_of_one_that_fails(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        future = line.submit()
        self._check(line, monkeypatch, future, Holder(future), line.connection.abort, "the test is over")

    def test_of_one_that_fails_because_the_peer_is_closed_behind_a_reply(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caller, future = Caller(line, on_reply=line.connection.close), line.submit()
        self._check(line, monkeypatch, future, caller, lambda: line.send(caller.reply))
        assert isinstance(future.exception(0), ClosedByUser)

    def test_of_one_that_expires_behind_a_reply(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        def expire() -> None:
            line.clock.ahead = TIMEOUT / 2

        caller, future = Caller(line, on_reply=expire), line.submit(TIMEOUT / 4)
        self._check(line, monkeypatch, future, caller, lambda: line.send(caller.reply))
        assert isinstance(future.exception(0), CallTimeout)

    def _check(
        self,
        line: Line,
        patch: pytest.MonkeyPatch,
        future: CallFuture,
        waiting: Caller | Holder,
        end: Callable[..., object],
        *args: Any,
    ) -> None:
        line.has_no_thread_for_callbacks(patch)
        waits: list[bool] = []
        future.add_done_callback(lambda _: waits.append(waiting.is_back.wait(SOON)))
        end(*args)
        assert waiting.is_back.wait(FAILSAFE)
        wait_until(lambda: waits, "the callback did not run")
        assert waits == [True]


# --- no way out without it ----------------------------------------------------------------------------------


def end_in_memory(line: Line, message: str) -> None:
    assert isinstance(line.far, MemoryFarEnd)
    with line.far.transport._condition:
        line.far.transport.server_send(message)
        line.far.transport.server_end(Ending("ended", "server"))


def sent_with(rest: Callable[[SocketFarEnd], bytes]) -> Callable[[Line, str], None]:
    def send(line: Line, message: str) -> None:
        assert isinstance(line.far, SocketFarEnd)
        line.far.connection.send_raw(line.far.connection.frame(message) + rest(line.far))

    return send


def end_stream(line: Line, message: str) -> None:
    line.send(message)
    line.far.end()


def reset(line: Line, message: str) -> None:
    assert isinstance(line.far, SocketFarEnd)
    sock = line.far.connection.sock
    line.send(message)
    # A reset loses what has not been read. When the waiting thread is back, it has been read; but that thread waits for
    # both.
    wait_until(lambda: line.connection._bytes_seen, "the reply does not come")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


ENDS: dict[str, Callable[[Line, str], None]] = {
    "the end of the stream": end_stream,
    "a reset": reset,
    "a close frame": sent_with(lambda far: b"\x88\x02\x03\xe8"),
    "a broken frame": sent_with(lambda far: b"\xff\xff"),
    "a text that is none": sent_with(lambda far: b"\x81\x01\xff"),
    "a message that is too long": sent_with(lambda far: b"\x81\x7f" + bytes((0x7F,)) * 8),
}


def check_end(line: Line, end: Callable[[Line, str], None]) -> None:
    caller, other, future = Caller(line), Caller(line), line.submit()
    holder = Holder(future)
    end(line, json.dumps(caller.reply))
    assert caller.result() == caller.id
    assert isinstance(other.error(), ConnectionLost)
    assert isinstance(holder.error(), ConnectionLost)


@pytest.mark.parametrize("end", ENDS)
def test_a_reply_before_the_end_is_its_callers(socket_line: Line, end: str) -> None:
    check_end(socket_line, ENDS[end])


def test_a_reply_before_the_end_is_its_callers_in_memory() -> None:
    check_end(Line(MemoryFarEnd()), end_in_memory)


def test_who_has_its_reply_is_woken_though_the_connection_is_aborted(line: Line) -> None:
    other = Caller(line)
    caller = Caller(line, on_reply=lambda: line.connection.abort("the test is over"))
    line.send(caller.reply)
    assert caller.result() == caller.id
    assert isinstance(other.error(), ConnectionLost)


def test_who_has_its_reply_is_woken_though_the_peer_is_closed(line: Line) -> None:
    caller = Caller(line, on_reply=line.connection.close)
    line.send(caller.reply)
    assert caller.result() == caller.id


def test_who_has_its_reply_is_woken_though_the_transport_fails_before_it_waits(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no memory")

    other = Caller(line)
    caller = Caller(line, on_reply=lambda: monkeypatch.setattr(line.far.transport, "receive", fail))
    line.send(caller.reply)
    assert caller.result() == caller.id
    assert "no memory" in str(other.error())
    monkeypatch.undo()


def test_who_has_its_reply_is_woken_though_giving_back_descriptors_fails(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(line.far.transport, "dispose", fail)
    caller = Caller(line, on_reply=lambda: line.connection.abort("the test is over"))
    line.send(caller.reply)
    assert caller.result() == caller.id
    monkeypatch.undo()


class Struck(threading.Condition):
    """Ctrl-C comes where it is entered."""

    def __enter__(self) -> bool:
        raise KeyboardInterrupt


def test_who_waits_for_a_future_is_woken_though_ctrl_c_strikes_who_cancels_it(line: Line) -> None:
    future = line.submit()
    holders = [Holder(future), Holder(future)]
    future.__dict__["_condition"] = Struck()
    with pytest.raises(KeyboardInterrupt):
        future.cancel()
    assert [type(holder.error()) for holder in holders] == [CancelledError] * 2


def test_a_deadline_that_passes_before_who_has_its_reply_is_woken_does_not_count(line: Line) -> None:
    backs: list[bool] = []

    def late() -> None:
        line.clock.ahead = 2 * TIMEOUT
        assert first.semaphore is not None
        first.semaphore.release()  # as its time-out does
        backs.append(first.is_back.wait(SOON))

    first = Caller(line)
    last = Caller(line, on_reply=late)
    line.send(first.reply, last.reply)
    assert [first.result(), last.result()] == [first.id, last.id]
    assert backs == [True]


# --- the order of the stores --------------------------------------------------------------------------------


class Patient(Clock):
    """Waits until it is woken: a lost wake-up is not made up for by looking again."""

    def wait(self, waitable: Waitable, timeout: float) -> bool:
        assert waitable.acquire(True, SOON), "nobody woke this thread"
        return True


OUTCOMES: dict[str, Callable[[PendingCall], None]] = {
    "a reply": lambda call: resolve(call, reply(call.id)),
    "an error": lambda call: call.fail(ValueError("x")),
}
WAITS = [PendingCall.wait, PendingCall.wait_outcome]


def a_call(kind: type[PendingCall] = PendingCall) -> PendingCall:
    return kind("1", "m", TIMEOUT, time.monotonic())


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("wait", WAITS)
def test_an_outcome_is_seen_by_who_was_about_to_wait(wait: Any, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes before there is anything to release."""
    made: list[Semaphore] = []

    def make_too_late() -> Semaphore:
        OUTCOMES[outcome](call)
        made.append(make_semaphore())
        return made[-1]

    monkeypatch.setattr(pending, "make_semaphore", make_too_late)
    call = a_call()
    wait(call, Patient())
    assert call.is_done
    assert len(made) == 1


class WaitedForAtTheLastMoment(PendingCall):
    """Somebody begins to wait for it just before its outcome is stored."""

    waiting: Background | None = None

    def _begin_to_wait(self) -> None:
        self.waiting = Background(PendingCall.wait, self, Patient())
        wait_until(lambda: self._semaphore is not None, "it does not wait")

    @property
    def reply(self) -> Any:
        return self.__dict__.get("reply")

    @reply.setter
    def reply(self, value: Any) -> None:
        if value is not None:
            self._begin_to_wait()
        self.__dict__["reply"] = value

    @property
    def error(self) -> Any:
        return self.__dict__.get("error")

    @error.setter
    def error(self, value: Any) -> None:
        if value is not None:
            self._begin_to_wait()
        self.__dict__["error"] = value


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_who_begins_to_wait_is_seen_by_who_was_about_to_store_the_outcome(outcome: str) -> None:
    call = a_call(WaitedForAtTheLastMoment)
    OUTCOMES[outcome](call)
    assert isinstance(call, WaitedForAtTheLastMoment)
    assert call.waiting is not None
    assert call.waiting.result() is True
