"""Submitted calls: a call that is a ``concurrent.futures.Future``, without what nobody may ever need of one.

A future of the standard library makes a condition variable, two lists and a dict when it is made: 2,000 bytes and a
third of what submitting costs. A thousand calls in flight have one thread that waits for them in turn, and most are
over when it asks. So here each part is made when somebody first needs it, and how a call ends is decided by who takes
it out of the table (see ``pending``), not under the future's lock.

The names with an underscore that are not of this module are those of ``Future`` on which ``concurrent.futures.wait``,
``as_completed`` and ``asyncio.wrap_future`` rely; the tests use all three.

| State | Written by | Guarded by |
|---|---|---|
| result, exception, then ``_state`` | who took the call out of the table, once | the order of the stores |
| ``_is_watched``, then looking at ``_state`` | who begins to wait | the same: one of the two sees the other |
| waiters, callbacks of the standard library | who waits, who finishes | ``_condition``, made when first needed |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from ..deadlines import MONOTONIC
from .pending import OpenCall, PendingTable, Waiter

PENDING = "PENDING"
FINISHED = "FINISHED"
CANCELLED = "CANCELLED_AND_NOTIFIED"

_LONGEST_WAIT = 3600.0

RunCallback = Callable[[Callable[[], None]], None]


class CallFuture(OpenCall, Future[dict[str, Any]]):
    """One request whose reply goes to who holds this future. Thread-safe.

    Callbacks run on the worker pool, not on the receive thread: they may be slow, and may themselves call the server.
    """

    __slots__ = ("_exception", "_is_watched", "_pending", "_result", "_run_callback", "_state")

    def __init__(
        self,
        id_: str,
        method: str,
        timeout: float,
        now: float,
        hard_timeout: float | None = None,
        is_extendable: bool = False,
        *,
        run_callback: RunCallback,
    ) -> None:
        # Not Future.__init__, which makes everything at once.
        OpenCall.__init__(self, id_, method, timeout, now, hard_timeout, is_extendable)
        self._state = PENDING
        self._result: dict[str, Any] | None = None
        self._exception: BaseException | None = None
        self._is_watched = False
        self._pending: PendingTable | None = None
        self._run_callback = run_callback

    def __getattr__(self, name: str) -> Any:
        # What is looked up in vain: a part that nobody has needed so far.
        make = _PARTS.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._is_watched = True
        # One step: of two threads that need it at once, both get the same.
        return self.__dict__.setdefault(name, make())

    # --- who took the call out of the table -----------------------------------------------------------

    def resolve(self, reply: dict[str, Any]) -> None:
        self._result = reply
        self._finish(FINISHED)

    def fail(self, error: BaseException) -> None:
        self._exception = error
        self._finish(FINISHED)

    def _finish(self, state: str) -> None:
        self._state = state
        # Who begins to wait from now on sees the state. Who began before is seen here.
        if not self._is_watched:
            return
        for waker in self._wakers.copy():
            waker.wake()
        with self._condition:
            for waiter in self._waiters:
                if state == CANCELLED:
                    waiter.add_cancelled(self)
                elif self._exception is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._condition.notify_all()
        self._invoke_callbacks()

    # --- who holds the future -------------------------------------------------------------------------

    def is_in(self, pending: PendingTable) -> None:
        """The table from which cancelling takes the call out."""
        self._pending = pending

    def cancel(self) -> bool:
        """Give up the call, if it is not over; the server is not told. Returns whether it is cancelled."""
        if self._state == PENDING and self._pending is not None and self._pending.give_up(self):
            self._finish(CANCELLED)
        return self._state == CANCELLED

    def cancelled(self) -> bool:
        return self._state == CANCELLED

    def running(self) -> bool:
        """False: the server does not tell when it begins."""
        return False

    def done(self) -> bool:
        return self._state != PENDING

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """The reply envelope. Blocks, at most ``timeout`` seconds; None: until the call is over.

        Raises:
            concurrent.futures.TimeoutError: it is not over within ``timeout`` seconds; it goes on.
            concurrent.futures.CancelledError: it was cancelled.
            CallTimeout, ConnectionLost, RemoteProtocolError: how the call ended.
        """
        error = self.exception(timeout)
        if error is None:
            assert self._result is not None
            return self._result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error of the call, None if it has a reply. Blocks as ``result``, and raises its first two errors."""
        if self._state == PENDING:
            self._wait(timeout)
        if self._state == CANCELLED:
            raise CancelledError()
        return self._exception

    def add_done_callback(self, fn: Callable[[Future[dict[str, Any]]], object]) -> None:
        """Call ``fn(future)`` when the call is over, on a worker thread; at once in this thread if it is already."""
        if self.done():
            super().add_done_callback(fn)
        else:
            super().add_done_callback(lambda future: self._run_callback(lambda: _discard(fn(future))))

    def _wait(self, timeout: float | None) -> None:
        end = None if timeout is None else time.monotonic() + timeout
        waiter = Waiter()
        self._wakers.append(waiter)
        try:
            while self._state == PENDING:
                remaining = _LONGEST_WAIT if end is None else end - time.monotonic()
                if remaining <= 0:
                    raise FutureTimeoutError()
                waiter.wait(MONOTONIC, remaining)
        finally:
            self._wakers.remove(waiter)


_PARTS: dict[str, Callable[[], Any]] = {
    "_condition": threading.Condition,
    "_waiters": list,
    "_done_callbacks": list,
    "_wakers": list,
}


def _discard(_: object) -> None:
    pass
