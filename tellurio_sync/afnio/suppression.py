"""Whether the server is told of changes of afnio's Variables: per thread, not by one switch for all threads.

A push is applied while notifications are suppressed.  With one switch for the process, the server would never be told
of a Variable that another thread makes at that moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_suppressed: ContextVar[bool] = ContextVar("tellurio_sync_afnio_suppressed", default=False)


@contextmanager
def suppress_variable_notifications() -> Iterator[None]:
    """Context manager in the place of afnio's: what is made or changed inside is not told, in this thread only."""
    before = _suppressed.get()
    _suppressed.set(True)
    try:
        yield
    finally:
        _suppressed.set(before)


def is_variable_notify_suppressed() -> bool:
    """In the place of afnio's: whether this thread is inside such a block."""
    return _suppressed.get()
