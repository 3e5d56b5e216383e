"""The optional C extension (``_speedups.c``), and its counterparts in Python.

Without the extension the package does the same, only slower: on a machine without a C compiler, on a system without
``poll``, or if the environment variable ``TELLURIO_SYNC_PURE_PYTHON`` is set, which shows whether a problem comes
from the C code.  The tests run with the extension and without it.

Where gevent or eventlet have replaced the threads, all of them are one for the operating system.  Python's own locks
and ``select`` are replaced there, too, and let the others run; C code would stop them all, and itself for ever.  So in
such a process the extension is not used; and if it is in use already, no connection is made (:func:`check_threads`).
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

PURE_PYTHON_VARIABLE = "TELLURIO_SYNC_PURE_PYTHON"


def replaced_by() -> str | None:
    """The library that has replaced the threads of this process by others that take turns; None: they are real.

    Not whether it is installed or imported, which alone does no harm.
    """
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return None


def _load() -> Any:
    if os.environ.get(PURE_PYTHON_VARIABLE) or replaced_by() is not None:
        return None
    try:
        return importlib.import_module("._speedups", __package__)
    except ImportError:
        return None


compiled: Any = _load()
"""The compiled module, or None. Modules that have their own Python version check this once, when they are imported."""


def check_threads() -> None:
    """Return if threads can wait for each other here.

    Raises:
        RuntimeError: they were replaced after the extension was loaded: a call would wait for ever.
    """
    library = None if compiled is None else replaced_by()
    if library is not None:
        patch = "gevent.monkey.patch_all()" if library == "gevent" else "eventlet.monkey_patch()"
        raise RuntimeError(
            f"{library} has replaced the threads of this process after tellurio_sync was imported, so that a call "
            f"would wait for ever. Call {patch} before the first import of tellurio_sync, or set "
            f"{PURE_PYTHON_VARIABLE}=1."
        )


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
