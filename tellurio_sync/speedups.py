"""What is also written in C (``_speedups.c``), and whether that was built.

The package does the same without it, only slower: on a machine without a C compiler, on a system without
``poll``, or where the environment variable ``TELLURIO_SYNC_PURE_PYTHON`` is set, to find out whether a
problem is the C code's.  The tests run both ways.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

PURE_PYTHON_VARIABLE = "TELLURIO_SYNC_PURE_PYTHON"


def _load() -> Any:
    if os.environ.get(PURE_PYTHON_VARIABLE):
        return None
    try:
        return importlib.import_module("._speedups", __package__)
    except ImportError:
        return None


compiled: Any = _load()
"""The compiled module, or None. Who has a way of its own without it looks here once, when it is imported."""


class Semaphore(Protocol):
    """A binary semaphore, taken at first: one thread waits in ``acquire`` until another one releases it."""

    def acquire(self, blocking: bool = True, timeout: float = -1, /) -> bool:
        """As ``threading.Lock.acquire``: Ctrl-C interrupts it."""

    def release(self) -> None:
        """Let the waiting thread go on, or the next one that waits. Any number of times, from any thread."""


class PySemaphore:
    """The same in Python."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def acquire(self, blocking: bool = True, timeout: float = -1, /) -> bool:
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # released already and not yet waited for: once is enough


make_semaphore: Callable[[], Semaphore] = PySemaphore if compiled is None else compiled.Semaphore


def release_all(semaphores: list[Semaphore]) -> None:
    """Release them and empty the list."""
    while semaphores:
        semaphores.pop().release()
