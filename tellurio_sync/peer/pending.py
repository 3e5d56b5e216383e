"""Requests waiting for their replies.

A call is resolved, failed or dropped by whoever takes it out of the table, and by nobody else: taking it
out is the one atomic step, so a reply and a time-out at the same moment cannot both win.

| State | Written by | Read by | Guarded by |
|---|---|---|---|
| ``PendingTable`` | caller (add, give up), receive thread (take) | any | its lock, held for dict operations only |
| outcome of a call | whoever took it out of the table | the waiting caller, after ``wake`` | the semaphore |
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..deadlines import Clock, Deadline
from ..errors import CallTimeout
from ..transport.base import Receipt

_REMEMBERED_IDS = 1000


class Waiter:
    """A binary semaphore: ``wake`` any number of times, from any thread; one thread waits."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self) -> None:
        """Let the waiting thread go on, or the next one that waits. Never blocks."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # already woken and not yet waited for: once is enough

    def wait(self, clock: Clock, timeout: float) -> bool:
        """Wait for ``wake``, about ``timeout`` seconds; may return early, False if not woken."""
        return clock.wait(self._lock, timeout)


class PendingCall(Receipt):
    """One request waiting for its reply, and the thread that waits for it."""

    __slots__ = ("_waiter", "deadline", "error", "id", "is_extendable", "method", "on_reply", "reply")

    def __init__(self, id_: str, method: str, deadline: Deadline, is_extendable: bool) -> None:
        super().__init__()
        self.id = id_
        self.method = method
        self.deadline = deadline
        self.is_extendable = is_extendable  # do heartbeats move the deadline?
        self.reply: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.on_reply: Callable[[], None] | None = None
        self._waiter = Waiter()

    def resolve(self, reply: dict[str, Any]) -> None:
        """Hand over the reply. Only for who took the call out of the table."""
        if self.on_reply is not None:
            self.on_reply()
        self.reply = reply
        self._waiter.wake()

    def fail(self, error: BaseException) -> None:
        """Hand over an error, new and for this call only. Only for who took the call out of the table."""
        self.error = error
        self._waiter.wake()

    @property
    def is_done(self) -> bool:
        return self.reply is not None or self.error is not None

    def wait(self, clock: Clock) -> bool:
        """Wait until the call is done (True) or its deadline, as heartbeats left it, has passed (False)."""
        while not self.is_done:
            remaining = self.deadline.remaining(clock.now())
            if remaining <= 0:
                return False
            self._waiter.wait(clock, remaining)
        return True

    def wait_outcome(self, clock: Clock) -> None:
        """Wait for a call that somebody has already taken out of the table: its outcome is being set."""
        while not self.is_done:
            self._waiter.wait(clock, 1.0)

    def timeout_error(self, clock: Clock, was_sent: bool) -> CallTimeout:
        """The error for this call having expired now."""
        now = clock.now()
        return CallTimeout(
            method=self.method,
            request_id=self.id,
            waited_s=now - self.deadline.started,
            last_heartbeat_age_s=self.deadline.silent_for(now),
            was_sent=was_sent,
        )


class FutureCall(PendingCall):
    """One request whose outcome goes to a future; nobody waits in ``wait``."""

    __slots__ = ("future",)

    def __init__(
        self, id_: str, method: str, deadline: Deadline, is_extendable: bool, future: Future[dict[str, Any]]
    ) -> None:
        super().__init__(id_, method, deadline, is_extendable)
        self.future = future

    def resolve(self, reply: dict[str, Any]) -> None:
        # False: the user cancelled the future in this very moment, and nobody wants the reply.
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(reply)

    def fail(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class CallFuture(Future[dict[str, Any]]):
    """The future of a submitted call. Callbacks run on the worker pool, not on the receive thread.

    So a callback may be slow, and may itself call the server.
    """

    def __init__(self, run_callback: Callable[[Callable[[], None]], None]) -> None:
        super().__init__()
        self._run_callback = run_callback

    def add_done_callback(self, fn: Callable[[Future[dict[str, Any]]], object]) -> None:
        """Call ``fn(future)`` when the call is over, on a worker thread; at once in this thread if it is already."""
        if self.done():
            super().add_done_callback(fn)
        else:
            super().add_done_callback(lambda future: self._run_callback(lambda: _discard(fn(future))))


def _discard(_: object) -> None:
    pass


class PendingTable:
    """The calls of one connection that wait for a reply, by id. Thread-safe, never blocks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[str, PendingCall] = {}
        # Ids given up by this side, so that a late reply is known as late. Bounded: the oldest go first.
        self._given_up: OrderedDict[str, None] = OrderedDict()

    def add(self, *calls: PendingCall) -> None:
        """Register before sending: the reply may come before ``send`` returns."""
        with self._lock:
            for call in calls:
                self._calls[call.id] = call

    def take(self, id_: object) -> PendingCall | None:
        """Take out the call with this id; None if there is none (any more)."""
        if not isinstance(id_, str):
            return None
        with self._lock:
            return self._calls.pop(id_, None)

    def give_up(self, call: PendingCall) -> bool:
        """Take the call out because nobody waits any more; False if somebody else took it, whose outcome counts."""
        with self._lock:
            if self._calls.pop(call.id, None) is None:
                return False
            self._given_up[call.id] = None
            if len(self._given_up) > _REMEMBERED_IDS:
                self._given_up.popitem(last=False)
            return True

    def expired_futures(self, now: float) -> tuple[list[FutureCall], float]:
        """The submitted calls whose deadline has passed, left in the table, and the next deadline (infinity: none)."""
        expired: list[FutureCall] = []
        next_at = math.inf
        with self._lock:
            for call in self._calls.values():
                if isinstance(call, FutureCall):
                    expires_at = call.deadline.expires_at
                    if expires_at <= now:
                        expired.append(call)
                    else:
                        next_at = min(next_at, expires_at)
        return expired, next_at

    def take_all(self) -> list[PendingCall]:
        """Take out all calls."""
        with self._lock:
            calls = list(self._calls.values())
            self._calls.clear()
            return calls

    def get(self, id_: object) -> PendingCall | None:
        """The call with this id, left in the table."""
        if not isinstance(id_, str):
            return None
        with self._lock:
            return self._calls.get(id_)

    def was_given_up(self, id_: object) -> bool:
        """Whether this side gave the call up not long ago."""
        with self._lock:
            return isinstance(id_, str) and id_ in self._given_up

    def snapshot(self) -> dict[str, str]:
        """A copy: request id to method."""
        with self._lock:
            return {id_: call.method for id_, call in self._calls.items()}
