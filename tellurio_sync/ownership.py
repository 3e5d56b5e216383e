"""Checks that a lock is held, or that this is the thread that a state belongs to; and how a thread that is about to
wait gives its locks up.

The checks are for ``assert`` only: on in tests and in every normal run, and gone with ``python -O``.  They make the
column "Enforced by" of the thread tables true: a method whose name ends with ``_locked``, and code that says on which
thread it runs, cannot be called otherwise without being noticed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


def is_held(lock: Any) -> bool:
    """Whether this thread holds the lock. A plain ``Lock`` does not know its thread: then whether any thread holds it.

    Args:
        lock: a ``threading.Lock``, ``RLock`` or ``Condition``.
    """
    is_owned = getattr(lock, "_is_owned", None)
    if is_owned is None:
        return bool(lock.locked())
    return bool(is_owned())


def owned(lock: threading.RLock) -> Callable[[], bool]:
    """As ``is_held``, for one lock and many questions: one call of C each."""
    is_owned: Callable[[], bool] = lock._is_owned  # type: ignore[attr-defined]
    return is_owned


def alive(items: WeakKeyDictionary[T, None]) -> list[T]:
    """Those objects, held weakly, that are still there.

    What is registered in a ``WeakKeyDictionary`` is added, taken out and copied by one C call each. So it needs no
    lock, which a signal handler or a finaliser could find taken by its own thread. A ``WeakSet`` is iterated over by
    Python code, and that fails if such code adds something meanwhile.
    """
    return [item for reference in items.keyrefs() if (item := reference()) is not None]


class Without:
    """Context manager: inside, this thread holds none of these locks, however often it has taken them before.

    For code that waits for another thread, and can be called by a signal handler or a finaliser, in the middle of
    anything that this thread does: the other thread may need the lock.  So where such a lock is held, the state must be
    fit to be seen by others wherever foreign code can run: after any call, at any jump back and at any allocation.

    Args:
        locks: ``threading.RLock``.
    """

    __slots__ = ("_given_up", "_locks")

    def __init__(self, *locks: Any) -> None:
        self._locks = locks

    def __enter__(self) -> None:
        self._given_up: list[Any] = []  # as often as it was taken
        for lock in self._locks:
            while is_held(lock):
                lock.release()
                self._given_up.append(lock)

    def __exit__(self, *_: object) -> None:
        for lock in reversed(self._given_up):
            lock.acquire()


class Owner:
    """The thread to which a state belongs: the first one that asks."""

    __slots__ = ("_thread",)

    def __init__(self) -> None:
        self._thread: int | None = None

    def is_here(self) -> bool:
        """Whether this is the owner. The first thread that asks becomes the owner."""
        here = threading.get_ident()
        if self._thread is None:
            self._thread = here
        return self._thread == here

    def release(self) -> None:
        """The thread has ended: the next one that asks becomes the owner."""
        self._thread = None
