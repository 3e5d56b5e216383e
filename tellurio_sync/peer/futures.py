"""Submitted calls: each is a ``concurrent.futures.Future`` that makes its parts only when they are needed.

A future of the standard library makes a condition variable, two lists and a dict at once: 2,000 bytes, and a third of
the cost of submitting. Usually one thread waits for a thousand calls in turn, and most of them are over when it asks.
So here each part is made at its first use. The thread that takes a call out of the table (see ``pending``) decides how
it ends, and needs no lock of the future for that.

The names with an underscore that are not of this module are those of ``Future`` on which ``concurrent.futures.wait``,
``as_completed`` and ``asyncio.wrap_future`` rely; the tests use all three.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_result``, ``_exception``, then ``_outcome`` | the thread that took it out | any thread | order of stores | – |
| ``_pending`` | the thread that submits | any thread | one store, before the future is returned | – |
| ``_is_watched``, before it reads ``_outcome`` | one that begins to wait | one that ends it | order of stores | – |
| ``_state``: outcome for the standard library | the thread that ends it, or makes the condition | any | see there | – |
| waiters, callbacks of the standard library | threads that wait, the one that ends it | the same | ``_condition`` | – |

While a thread holds the condition, the state must not change: ``wait`` and ``as_completed`` read it more than once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, NoReturn

from ..deadlines import MONOTONIC
from ..errors import ConnectionLost
from ..ownership import Without
from ..speedups import Semaphore, make_semaphore, release_all
from .pending import OpenCall, PendingTable
from .workers import wait_of_worker

PENDING = "PENDING"
FINISHED = "FINISHED"
CANCELLED = "CANCELLED_AND_NOTIFIED"

_LONGEST_WAIT = 3600.0

RunCallback = Callable[[Callable[[], None]], None]


class CallFuture(OpenCall, Future[dict[str, Any]]):
    """One request; the holder of this future gets the reply. Thread-safe.

    Callbacks run on the worker pool, not on the receive thread: they may be slow, and may themselves call the server.
    """

    __slots__ = ("_exception", "_is_watched", "_outcome", "_pending", "_result", "_run_callback", "_state")

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
        self._state = self._outcome = PENDING
        self._result: dict[str, Any] | None = None
        self._exception: BaseException | None = None
        self._is_watched = False
        self._pending: PendingTable | None = None
        self._run_callback = run_callback

    def __getattr__(self, name: str) -> Any:
        # Python calls this for a missing attribute: a part that was not needed so far. From now on it is in __dict__.
        make = _PARTS.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._is_watched = True
        part = make()
        if name != "_condition":
            # One step: if two threads need the part at once, both get the same object.
            return self.__dict__.setdefault(name, part)
        with part:
            kept = self.__dict__.setdefault(name, part)
            if kept is part and self._outcome != PENDING:
                # The thread that ends the future may not have seen this one, and may be about to store the state, which
                # must not change later on.
                self._state = self._outcome
        return kept

    # --- for the thread that took the call out of the table -------------------------------------------

    def resolve(self, reply: dict[str, Any], wakeups: list[Semaphore]) -> None:
        self._result = reply
        self._finish(FINISHED, wakeups)

    def fail(self, error: BaseException) -> None:
        self._exception = error
        self._finish_now(FINISHED)

    def _finish_now(self, state: str) -> None:
        wakeups: list[Semaphore] = []
        self._finish(state, wakeups)
        release_all(wakeups)

    def _finish(self, state: str, wakeups: list[Semaphore]) -> None:
        self._outcome = state
        # A thread that begins to wait after this store sees the outcome. One that began before is seen here.
        if not self._is_watched:
            self._state = state
            return
        for wait in self._worker_waits.copy():
            wait.end()
        wakeups += self._semaphores.copy()
        with self._condition:
            # If the state is stored already, the condition was made since then, and the threads that wait there have
            # seen the state. If they were told again, they would count this future twice.
            if self._state == PENDING:
                self._state = state
                for waiter in self._waiters:
                    if state == CANCELLED:
                        waiter.add_cancelled(self)
                    elif self._exception is None:
                        waiter.add_result(self)
                    else:
                        waiter.add_exception(self)
                self._condition.notify_all()
        if self._done_callbacks:
            # If no thread can be started any more, callbacks run here, and may wait for other threads.
            release_all(wakeups)
            self._invoke_callbacks()

    # --- for the holder of the future -----------------------------------------------------------------

    def is_in(self, pending: PendingTable) -> None:
        """Set the table from which ``cancel`` takes the call out."""
        self._pending = pending

    def cancel(self) -> bool:
        """Give up the call, if it is not over. Returns whether it is cancelled.

        A server that knows ``cancel`` is told, and stops working on a long call.
        """
        if self._outcome == PENDING and self._pending is not None:
            taken: list[OpenCall] = []
            try:
                self._pending.give_up_into(taken, self)
            finally:
                if taken:  # also after Ctrl-C: no other thread can end this future any more
                    self._outcome = CANCELLED
                    try:
                        self._finish_now(CANCELLED)
                    finally:
                        if self._is_watched:  # also after Ctrl-C: other threads wait for it
                            release_all(self._semaphores.copy())
            if taken:
                self._pending.tell_given_up(self)
        return self._outcome == CANCELLED

    def cancelled(self) -> bool:
        return self._outcome == CANCELLED

    def running(self) -> bool:
        """Always False: the server does not say when it begins."""
        return False

    def done(self) -> bool:
        return self._outcome != PENDING

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """The reply envelope. Blocks, at most ``timeout`` seconds; None: until the call is over.

        Raises:
            concurrent.futures.TimeoutError: the call is not over after ``timeout`` seconds; it goes on.
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
            del self, error  # its traceback holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error of the call; None: it has a reply. Blocks as ``result``, and raises the first two of its errors."""
        if self._outcome == PENDING:
            self._wait(timeout)
        if self._outcome == CANCELLED:
            raise CancelledError()
        return self._exception

    def set_result(self, result: Any) -> NoReturn:
        """Not available: only a reply, or the end of the connection, ends a call.

        Raises:
            InvalidStateError: always.
        """
        raise InvalidStateError("The outcome of a call is the server's to set.")

    def set_exception(self, exception: BaseException | None) -> NoReturn:
        """As ``set_result``."""
        raise InvalidStateError("The outcome of a call is the server's to set.")

    def set_running_or_notify_cancel(self) -> NoReturn:
        """As ``set_result``."""
        raise InvalidStateError("This is the future of a call, which no executor runs.")

    def add_done_callback(self, fn: Callable[[Future[dict[str, Any]]], object]) -> None:
        """Call ``fn(future)`` when the call is over, on a worker thread; at once in this thread if it is already."""
        if self._state != PENDING:
            super().add_done_callback(fn)
        else:
            super().add_done_callback(lambda future: self._run_callback(lambda: _discard(fn(future))))

    def _wait(self, timeout: float | None) -> None:
        if self._pending is not None and self._pending.is_forked:
            raise ConnectionLost(
                "this process was forked, and the call belongs to its parent", who="local", was_sent=True
            )
        locks = () if self._pending is None else self._pending.locks
        end = None if timeout is None else time.monotonic() + timeout
        semaphore = make_semaphore()
        self._semaphores.append(semaphore)
        wait = wait_of_worker()
        try:
            if wait is not None:
                self._worker_waits.append(wait)
                wait.begin()
            while self._outcome == PENDING:
                remaining = _LONGEST_WAIT if end is None else end - time.monotonic()
                if remaining <= 0:
                    raise FutureTimeoutError()
                with Without(*locks):
                    MONOTONIC.wait(semaphore, remaining)
        finally:
            if wait is not None:
                wait.leave()
                self._worker_waits.remove(wait)
            self._semaphores.remove(semaphore)


_PARTS: dict[str, Callable[[], Any]] = {
    "_condition": threading.Condition,
    "_waiters": list,
    "_done_callbacks": list,
    "_semaphores": list,
    "_worker_waits": list,
}


def _discard(_: object) -> None:
    pass
