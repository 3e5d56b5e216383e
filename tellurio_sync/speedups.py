"""The optional C extension (``_speedups.c``), and its counterparts in Python.

Without the extension the package does the same, only slower: on a machine without a C compiler, on a system without
``poll``, or if the environment variable ``TELLURIO_SYNC_PURE_PYTHON`` is set, which shows whether a problem comes
from the C code.  The tests run with the extension and without it.
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
"""The compiled module, or None. Modules that have their own Python version check this once, when they are imported."""


class Semaphore(Protocol):
    """A binary semaphore that begins taken: one thread waits in ``acquire`` until another thread releases it."""

    def acquire(self, blocking: bool = True, timeout: float = -1, /) -> bool:
        """As ``threading.Lock.acquire``: Ctrl-C interrupts it."""

    def release(self) -> None:
        """Wake the waiting thread, or else the next thread that waits. Any thread may call it, any number of times."""


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
            pass  # it is released already, and no thread has waited for it yet


make_semaphore: Callable[[], Semaphore] = PySemaphore if compiled is None else compiled.Semaphore


def release_all(semaphores: list[Semaphore]) -> None:
    """Release them and empty the list."""
    while semaphores:
        semaphores.pop().release()
