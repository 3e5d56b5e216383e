"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tellurio_sync.deadlines import Clock, Waitable

from .conftest import FAILSAFE


class FakeClock(Clock):
    """Time that passes only in ``advance``, which wakes the threads that wait by this clock.

    No wake-up is lost: a thread that read the time before ``advance`` and begins to wait after it returns at once
    (it may return early, and looks at its deadline again).

    Attributes:
        on_advance: called after each advance, for what waits otherwise (a transport's ``wake``).
    """

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        # A plain lock, not a Condition: tests raise Ctrl-C in here, and inside a Condition it can lose the lock.
        self._lock = threading.Lock()
        self._waiting: list[Any] = []
        self._seen = threading.local()
        self.on_advance: list[Callable[[], None]] = []

    def now(self) -> float:
        with self._lock:
            self._seen.now = self._now
            return self._now

    def wait(self, waitable: Waitable, timeout: float) -> bool:
        try:
            with self._lock:
                has_passed = getattr(self._seen, "now", self._now) != self._now
                self._seen.now = self._now
                if timeout <= 0 or has_passed:
                    return waitable.acquire(False)
                self._waiting.append(waitable)
            acquired = waitable.acquire(True, FAILSAFE)
            assert acquired, f"nobody woke this thread or moved the clock within {FAILSAFE} s"
            return True
        finally:
            with self._lock:
                if waitable in self._waiting:
                    self._waiting.remove(waitable)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        with self._lock:
            self._now += seconds
            for waitable in self._waiting:
                try:
                    waitable.release()
                except RuntimeError:
                    pass  # woken already
        for wake in self.on_advance:
            wake()

    def wait_for_waiting(self, threads: int = 1) -> None:
        """Return when so many threads wait by this clock."""
        failsafe = time.monotonic() + FAILSAFE
        pause = threading.Event()
        while len(self._waiting) < threads:
            assert time.monotonic() < failsafe, f"{len(self._waiting)} of {threads} threads wait by the clock"
            pause.wait(0.0005)
