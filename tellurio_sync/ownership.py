"""Checks that a lock is held, or that this is the thread that a state belongs to.

For ``assert`` only: on in tests and in every normal run, and gone with ``python -O``.  They make the column "Enforced
by" of the thread tables true: a method whose name ends with ``_locked``, and code that says on which thread it runs,
cannot be called otherwise without being noticed.
"""

from __future__ import annotations

import threading
from typing import Any


def is_held(lock: Any) -> bool:
    """Whether this thread holds the lock. A plain ``Lock`` does not know its thread: then whether any thread holds it.

    Args:
        lock: a ``threading.Lock``, ``RLock`` or ``Condition``.
    """
    is_owned = getattr(lock, "_is_owned", None)
    if is_owned is None:
        return bool(lock.locked())
    return bool(is_owned())


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
