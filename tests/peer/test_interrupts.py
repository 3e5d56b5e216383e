"""Ctrl-C at any point of a call: nothing of it is left behind, and everybody else's calls go on."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait
from typing import Any

import pytest

from tellurio_sync import deadlines, speedups
from tellurio_sync.deadlines import Clock, Waitable
from tellurio_sync.errors import CallTimeout, ConnectionLost, TellurioError
from tellurio_sync.peer import connection, futures, lifecycle, peer, pending
from tellurio_sync.peer.lifecycle import RECONNECTING, Lifecycle
from tellurio_sync.peer.peer import Peer
from tellurio_sync.transport.base import Ending, NoRoom, TransportEnded
from tellurio_sync.transport.websocket import WebSocketTransport

from ..conftest import FAILSAFE, wait_until
from ..interrupts import Strike, strikes
from ..transport.ends import SocketFarEnd, tcp_pair

WATCHED = (peer, lifecycle, connection, pending, futures, deadlines, speedups, WebSocketTransport)

TIMEOUT = 2 * FAILSAFE
"""Seconds, of a call that is to be answered."""

FOREVER = 1e300
"""Seconds, of a call whose deadline is behind all others, and so makes no difference to them."""

AT_ONCE = 1e-9
"""Seconds, of a call that has expired when it is sent."""

PARAMS = {"a": 1}


class TurnsClock(Clock):
    """The real time; but when the test's thread is about to wait by it, the server has a turn first, in this thread.

    Attributes:
        turns: what the server does in the next ones. Each is given what is waited for.
    """

    def __init__(self) -> None:
        self.turns: list[Callable[[Any], object]] = []
        self._ahead = 0.0
        self._thread = threading.get_ident()

    def now(self) -> float:
        return time.monotonic() + self._ahead

    def wait(self, waitable: Waitable, timeout: float) -> bool:
        if threading.get_ident() == self._thread:
            waitable = _Turn(self.turns, waitable)
        return super().wait(waitable, timeout)

    def expire(self, waitable: Any) -> None:
        """Let the time pass for which it is waited."""
        self._ahead += 2 * TIMEOUT
        waitable.release()


class _Turn:
    def __init__(self, turns: list[Callable[[Any], object]], waitable: Waitable) -> None:
        self._turns = turns
        self._waitable = waitable

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._turns:
            self._turns.pop(0)(self._waitable)
        return self._waitable.acquire(blocking, timeout)


class Lock:
    """One that fails the test where others hang: when it is lost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        is_free = self._lock.acquire(timeout=FAILSAFE)
        if not is_free:
            self._lock.release()  # what comes next shall go on
        assert is_free, "a lock is lost"

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def locked(self) -> bool:
        return self._lock.locked()


class Server:
    """Played by the test's thread; it is the dialer of its peer, too.

    Attributes:
        far: its end of the newest connection.
        may_dial: whether it lets the peer connect.
        sends: what comes of the next requests that the peer sends. Each is given what sends them.
    """

    far: SocketFarEnd

    def __init__(self) -> None:
        self.may_dial = threading.Event()
        self.may_dial.set()
        self.sends: list[Callable[[Callable[[], None]], None]] = []
        self._ends: list[SocketFarEnd] = []
        self._seen: set[str] = set()

    def dial(self) -> WebSocketTransport:
        assert self.may_dial.wait(FAILSAFE)
        self.far = SocketFarEnd(*tcp_pair())
        self._ends.append(self.far)
        self.far.transport._queue_lock = Lock()  # type: ignore[assignment]
        real = self.far.transport.send

        def send(texts: list[str], receipts: Any = None, timeout: float | None = None) -> None:
            if self.sends and receipts is not None:
                self.sends.pop(0)(lambda: real(texts, receipts, timeout))
            else:
                real(texts, receipts, timeout)

        self.far.transport.send = send  # type: ignore[method-assign]
        return self.far.transport

    def abort(self) -> None:
        self.may_dial.set()

    def receive(self) -> dict[str, Any]:
        """The next request."""
        request: dict[str, Any] = self.far.connection.receive()
        assert request["id"] not in self._seen, "a request came twice"
        self._seen.add(request["id"])
        return request

    def answer(self, count: int = 1) -> None:
        """Answer the next requests, each with its params, all together."""
        self.reply_to([self.receive() for _ in range(count)])

    def answer_through(self, method: str) -> None:
        """Answer the next requests up to one of this method."""
        asked = [self.receive()]
        while asked[-1]["method"] != method:
            asked.append(self.receive())
        self.reply_to(asked)

    def sync(self) -> None:
        """Return when the peer has dealt with everything sent so far."""
        self.far.connection.send({"jsonrpc": "2.0", "method": "no such method", "id": "sync"})
        assert self.far.connection.receive()["id"] == "sync"

    def dispose(self) -> None:
        for far in self._ends:
            far.dispose()

    def reply_to(self, asked: list[dict[str, Any]]) -> None:
        replies = [{"jsonrpc": "2.0", "id": request["id"], "result": request["params"]} for request in asked]
        self.far.send(*map(json.dumps, replies))


class Line:
    """A peer, its server, and the connection between them, on which somebody else has a call under way."""

    def __init__(self) -> None:
        self.clock = TurnsClock()
        self.server = Server()
        self.peer = Peer(Lifecycle(lambda: self.server, {}, ping_interval=None, clock=self.clock))
        self.locks = [Lock(), Lock(), Lock()]

    def __enter__(self) -> Line:
        self.peer.lifecycle._lock = self.locks[0]  # type: ignore[assignment]
        self.peer.lifecycle.open(1, 0)
        self.connection = self.peer.lifecycle.wait_for_connection(FAILSAFE)
        self.connection.pending.lock = self.locks[1]  # type: ignore[assignment]
        self.locks.append(self.server.far.transport._queue_lock)  # type: ignore[arg-type]
        self.bystander = self.peer.submit("bystander", PARAMS, FOREVER)
        self._asked_by_bystander = self.server.receive()
        # Whether the receive thread has to be woken depends on its plan.
        planned = self.bystander.expires_at
        wait_until(lambda: self.connection._planned_wake == planned, "the receive thread makes no plan")
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.lifecycle.close(0)
        thread = self.peer.lifecycle._thread
        assert thread is not None
        thread.join(FAILSAFE)
        self.server.dispose()
        assert not thread.is_alive(), "the receive thread hangs"

    def request(self, **options: Any) -> Any:
        return self.peer.request("mine", PARAMS, TIMEOUT, **options)

    def request_many(self, count: int) -> Any:
        return self.peer.request_many([("mine", PARAMS, False)] * count, TIMEOUT)

    def check_nothing_is_left(self) -> None:
        """After Ctrl-C, or a call that is over."""
        for lock in self.locks:
            with lock:
                pass
        left = {} if self.bystander.done() else {self.bystander.id: "bystander"}
        assert self.connection.pending.snapshot() == left
        newest = self.peer.lifecycle.connection
        assert newest in (None, self.connection) or newest.pending.snapshot() == {}

    def check_usable(self) -> None:
        self.clock.turns.clear()
        self.server.sends.clear()
        self.server.may_dial.set()
        self.peer.lifecycle.wait_for_connection(FAILSAFE)
        self.clock.turns.append(lambda _: self.server.answer_through("last"))  # with what is late by now
        assert self.peer.request("last", {"n": 1}, TIMEOUT)["result"] == {"n": 1}
        if self.bystander.done():
            assert isinstance(self.bystander.exception(), ConnectionLost)
        else:
            self.server.reply_to([self._asked_by_bystander])
            assert self.bystander.result(FAILSAFE)["result"] == PARAMS
        self.check_nothing_is_left()
        transport = self.server.far.transport
        wait_until(lambda: transport._queued == transport._written, "the accounts of what is queued and written differ")


def under(strike: Strike, call: Callable[[], Any]) -> Any:
    """What it returns or raises; None after Ctrl-C."""
    with strike:
        try:
            return call()
        except (TellurioError, FutureTimeoutError) as exc:
            return exc
    return None


# What comes of sending a request.


def go_on(send: Callable[[], None]) -> None:
    send()


def find_no_room(_: object) -> None:
    raise NoRoom


def find_it_over(_: object) -> None:
    raise TransportEnded(Ending("it is over", "network"))


class Mute:
    """What wakes nobody."""

    def send(self, data: bytes, flags: int = 0) -> int:
        return len(data)


# --- the scenarios ----------------------------------------------------------------------------------------


def request(line: Line, strike: Strike) -> None:
    line.clock.turns = [lambda _: line.server.answer()]
    reply = under(strike, line.request)
    assert strike.where or reply["result"] == PARAMS


def request_whose_reply_comes_before_it_waits(line: Line, strike: Strike) -> None:
    def send_and_answer(send: Callable[[], None]) -> None:
        send()
        line.server.answer()
        line.server.sync()

    line.server.sends = [send_and_answer]
    reply = under(strike, line.request)
    assert strike.where or reply["result"] == PARAMS


def request_whose_reply_does_not_come(line: Line, strike: Strike) -> None:
    line.clock.turns = [line.clock.expire]
    error = under(strike, line.request)
    assert strike.where or isinstance(error, CallTimeout)


def request_whose_reply_comes_at_the_last_moment(line: Line, strike: Strike) -> None:
    """The receive thread has taken the call when it expires."""
    is_taken, may_resolve = threading.Event(), threading.Event()

    def on_reply() -> None:
        is_taken.set()
        assert may_resolve.wait(FAILSAFE)

    def answer_and_expire(waitable: Any) -> None:
        line.server.answer()
        assert is_taken.wait(FAILSAFE)
        line.clock.expire(waitable)

    line.clock.turns = [answer_and_expire, lambda _: may_resolve.set()]
    reply = under(strike, lambda: line.request(on_reply=on_reply))
    may_resolve.set()
    assert strike.where or reply["result"] == PARAMS


def request_that_waits_for_room(line: Line, strike: Strike) -> None:
    line.server.sends = [find_no_room]
    line.clock.turns = [lambda _: line.server.answer()]
    reply = under(strike, line.request)
    assert strike.where or reply["result"] == PARAMS


def request_that_finds_no_room(line: Line, strike: Strike) -> None:
    line.server.sends = [find_no_room, find_no_room]
    error = under(strike, line.request)
    assert strike.where or isinstance(error, CallTimeout)


def request_that_finds_the_connection_over(line: Line, strike: Strike) -> None:
    """The receive thread does not know yet."""
    transport = line.server.far.transport

    def send_too_late(send: Callable[[], None]) -> None:
        transport._ending, transport.is_over = Ending("it is over", "network"), True
        send()

    line.server.sends = [send_too_late]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transport, "_wake_out", Mute())
        error = under(strike, line.request)
        assert strike.where or isinstance(error, ConnectionLost)
        line.check_nothing_is_left()
    if transport._ending is not None:
        transport.wake()
        assert isinstance(line.bystander.exception(FAILSAFE), ConnectionLost)


def request_that_waits_for_a_connection(line: Line, strike: Strike) -> None:
    line.server.may_dial.clear()
    line.server.far.end()
    wait_until(lambda: line.peer.lifecycle.state == RECONNECTING, "the connection is not lost")
    line.clock.turns = [lambda _: line.server.may_dial.set(), lambda _: line.server.answer()]
    reply = under(strike, line.request)
    assert strike.where or reply["result"] == PARAMS


def request_many(line: Line, strike: Strike) -> None:
    line.clock.turns = [lambda _: line.server.answer(3)]
    replies = under(strike, lambda: line.request_many(3))
    assert strike.where or [reply["result"] for reply in replies] == [PARAMS] * 3


def request_many_of_which_one_is_answered(line: Line, strike: Strike) -> None:
    line.clock.turns = [lambda _: line.server.answer(), line.clock.expire]
    outcomes = under(strike, lambda: line.request_many(3))
    assert strike.where or [type(outcome) for outcome in outcomes] == [dict, CallTimeout, CallTimeout]


def request_many_of_which_some_find_no_room(line: Line, strike: Strike) -> None:
    line.server.sends = [go_on, find_no_room, find_no_room]
    line.clock.turns = [lambda _: line.server.answer(2)]
    outcomes = under(strike, lambda: line.request_many(3))
    assert strike.where or [type(outcome) for outcome in outcomes] == [dict, dict, CallTimeout]


def request_many_of_which_some_find_the_connection_over(line: Line, strike: Strike) -> None:
    line.server.sends = [go_on, find_it_over]
    line.clock.turns = [lambda _: line.server.answer(2)]
    outcomes = under(strike, lambda: line.request_many(3))
    assert strike.where or [type(outcome) for outcome in outcomes] == [dict, dict, ConnectionLost]


def request_many_that_all_find_the_connection_over(line: Line, strike: Strike) -> None:
    line.server.sends = [find_it_over]
    error = under(strike, lambda: line.request_many(3))
    assert strike.where or isinstance(error, ConnectionLost)


def submit(line: Line, strike: Strike) -> None:
    future = under(strike, lambda: line.peer.submit("mine", PARAMS, TIMEOUT))
    if strike.where is None:
        line.server.answer()
        assert future.result(FAILSAFE)["result"] == PARAMS


def submit_before_one_that_expires(line: Line, strike: Strike) -> None:
    """The receive thread wakes for the next one, too, whose deadline is later."""
    future = under(strike, lambda: line.peer.submit("mine", PARAMS, AT_ONCE))
    next_future = line.peer.submit("next", PARAMS, AT_ONCE)
    assert isinstance(next_future.exception(FAILSAFE), CallTimeout)
    assert strike.where or isinstance(future.exception(FAILSAFE), CallTimeout)


def submit_that_finds_the_connection_over(line: Line, strike: Strike) -> None:
    line.server.sends = [find_it_over]
    error = under(strike, lambda: line.peer.submit("mine", PARAMS, TIMEOUT))
    assert strike.where or isinstance(error, ConnectionLost)


def result(line: Line, strike: Strike) -> None:
    """The call goes on."""
    future = line.peer.submit("mine", PARAMS, TIMEOUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(futures, "MONOTONIC", line.clock)
        line.clock.turns = [lambda _: line.server.answer()]
        reply = under(strike, future.result)
    assert strike.where or reply["result"] == PARAMS
    if line.clock.turns:
        line.server.answer()
    assert future.result(FAILSAFE)["result"] == PARAMS
    check_told(future)


def result_that_is_not_there_yet(line: Line, strike: Strike) -> None:
    future = line.peer.submit("mine", PARAMS, TIMEOUT)
    error = under(strike, lambda: future.result(0))
    assert strike.where or isinstance(error, FutureTimeoutError)
    line.server.answer()
    assert future.result(FAILSAFE)["result"] == PARAMS


def cancel(line: Line, strike: Strike) -> None:
    """Either the call goes on, or it is cancelled and the thread that waits for it is told."""
    future = line.peer.submit("mine", PARAMS, TIMEOUT)
    is_cancelled = under(strike, future.cancel)
    assert strike.where or is_cancelled
    line.server.answer()
    check_told(future)
    assert future.cancelled() or future.result()["result"] == PARAMS


def check_told(future: Any) -> None:
    """The thread that waits for it is told that it is over."""
    is_free = future._condition.acquire(timeout=FAILSAFE)
    assert is_free, "the lock of the future is lost"
    future._condition.release()
    assert wait([future], FAILSAFE).done == {future}


@pytest.mark.parametrize(
    "scenario",
    [
        request,
        request_whose_reply_comes_before_it_waits,
        request_whose_reply_does_not_come,
        request_whose_reply_comes_at_the_last_moment,
        request_that_waits_for_room,
        request_that_finds_no_room,
        request_that_finds_the_connection_over,
        request_that_waits_for_a_connection,
        request_many,
        request_many_of_which_one_is_answered,
        request_many_of_which_some_find_no_room,
        request_many_of_which_some_find_the_connection_over,
        request_many_that_all_find_the_connection_over,
        submit,
        submit_before_one_that_expires,
        submit_that_finds_the_connection_over,
        result,
        result_that_is_not_there_yet,
        cancel,
    ],
)
def test_ctrl_c_at_any_point_leaves_nothing_behind(
    scenario: Callable[[Line, Strike], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "_TOGETHER", 2)
    monkeypatch.setattr(lifecycle.Backoff, "next_pause", lambda self: 0.0)
    for strike in strikes(*WATCHED):
        try:
            with Line() as line:
                scenario(line, strike)
                line.check_nothing_is_left()
                line.check_usable()
            assert caplog.records == []  # a late reply is no reason to warn
        except BaseException as exc:
            if not is_beyond_guarding(strike):
                raise AssertionError(f"{scenario.__name__}: {strike}") from exc


def is_beyond_guarding(strike: Strike) -> bool:
    """Whether it came before the first line of the handler that is to give the call up: only Python 3.10 looks there.

    The call then stays in the table until the connection ends.
    """
    where = strike.where or ""
    return sys.version_info < (3, 11) and where.startswith("peer.py, ") and "after an exception" in where
