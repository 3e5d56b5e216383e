"""Waits for pushes of the server.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the losses of the connection: ``_lost``, ``_losses`` | receive thread | threads that wait | ``_changed`` | – |
| the threads that wait | any thread | receive thread | ``_changed`` | – |
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..errors import ConnectionLost

_LOOK_INTERVAL = 0.05
"""Seconds: the awaited state may also come without a push."""


class Pushes:
    """Wakes the threads that wait for the effect of a push. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lost: ConnectionLost | None = None
        self._losses = 0

    @contextmanager
    def applying(self) -> Iterator[None]:
        """Around the handling of a push."""
        try:
            yield
        finally:
            with self._changed:
                self._changed.notify_all()

    def connection_lost(self, error: ConnectionLost) -> None:
        """What was announced on that connection will not come."""
        with self._changed:
            self._lost = error
            self._losses += 1
            self._changed.notify_all()

    def wait(self, is_over: Callable[[], bool], timeout: float) -> bool:
        """Block until ``is_over()``, at most ``timeout`` seconds; whether it is.

        Raises:
            ConnectionLost: the connection was lost meanwhile, and it is not over.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            losses = self._losses
            while not is_over():
                if self._losses != losses and self._lost is not None:
                    lost = self._lost
                    raise ConnectionLost(lost.reason, who=lost.who, was_sent=True, code=lost.code)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                self._changed.wait(min(remaining, _LOOK_INTERVAL))
        return True
