"""Things for foreign code, handed to a thread of their own, so that no thread of this package runs that code.

Foreign code may raise, take its time, or call the client.  So what is meant for it is put into a bounded queue, which
never blocks, and a thread that does nothing else hands it over.  What finds the queue full is counted and left out.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the queue; ``_dropped``, a rough number | any thread | the thread of the queue | one C call on a deque each | – |
| ``_thread``: at most one, by its key | any thread | any thread | one C call on a dict each | – |
| ``_is_handling`` | the thread of the queue | any thread | one store | – |
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from . import forked
from .speedups import make_semaphore

T = TypeVar("T")

_IDLE = 1.0  # seconds after which the thread ends
_ONE = "thread"


class Queued(Generic[T]):
    """A bounded queue, and the thread that empties it while there is something in it. Thread-safe, never blocks.

    Args:
        handle: what is done with each item; must not raise.
        make_thread: makes the thread, not started, that runs the function that it takes.
        on_dropped: called by that thread with the number of items that were left out; must not raise.
        most: items, > 0, that wait at most.
    """

    def __init__(
        self,
        handle: Callable[[T], object],
        make_thread: Callable[[Callable[[], None]], threading.Thread],
        on_dropped: Callable[[int], object],
        most: int,
    ) -> None:
        self._handle = handle
        self._make_thread = make_thread
        self._on_dropped = on_dropped
        self._most = most
        self._items: deque[T] = deque()
        self._start_afresh()
        forked.renew(self)

    def _start_afresh(self) -> None:
        self._came = make_semaphore()
        self._thread: dict[str, threading.Thread] = {}  # not a lock: a signal handler could wait while it is held
        self._is_handling = False
        self._dropped = 0

    def renew_after_fork(self) -> None:
        """In a forked child: the waiting items are the parent's."""
        self._items.clear()
        self._start_afresh()

    def has_room(self) -> bool:
        """Whether to make an item and ``put`` it; if not, it counts as left out."""
        if len(self._items) < self._most:
            return True
        self._dropped += 1
        return False

    def put(self, item: T) -> None:
        """Hand over an item, after ``has_room``."""
        self._items.append(item)
        self._came.release()
        if not self._thread:
            self._start()

    def flush(self, timeout: float) -> None:
        """Wait until the waiting items have been handled, at most ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while (self._items or self._is_handling) and self._thread and time.monotonic() < end:
            time.sleep(0.001)

    def _start(self) -> None:
        thread = self._make_thread(self._run)
        if self._thread.setdefault(_ONE, thread) is not thread:
            return
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down, or the system has no thread left
            self._thread.clear()

    def _run(self) -> None:
        while True:
            self._is_handling = True
            while self._items:
                self._handle(self._items.popleft())
                dropped, self._dropped = self._dropped, 0
                if dropped:
                    self._on_dropped(dropped)
            self._is_handling = False
            if not self._came.acquire(True, _IDLE) and not self._items:
                self._thread.clear()
                if not self._items:  # else one came meanwhile, and saw this thread
                    return
                own = threading.current_thread()
                if self._thread.setdefault(_ONE, own) is not own:
                    return
