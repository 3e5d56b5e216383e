"""What becomes of open peers when the interpreter exits.

Each open peer is closed in good order, all together within ``EXIT_TIMEOUT`` seconds; the threads are daemons, so
nothing holds the process after that.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_open``, ``_is_installed`` | callers, receive threads | the main thread | ``_lock`` | only this module has it |
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from typing import Protocol

from .. import forked
from .records import log

EXIT_TIMEOUT = 1.0


class Closable(Protocol):
    """The methods of a peer that this module uses."""

    def close_at_exit(self, timeout: float) -> None: ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_lock = threading.Lock()
_is_installed = False


def register(peer: Closable) -> None:
    """Close ``peer`` at exit."""
    global _is_installed
    with _lock:
        _open.add(peer)
        if _is_installed:
            return
        _is_installed = True
    atexit.register(_close_all)


def unregister(peer: Closable) -> None:
    """``peer`` is closed."""
    with _lock:
        _open.discard(peer)


def _close_all() -> None:
    end = time.monotonic() + EXIT_TIMEOUT
    with _lock:
        peers = list(_open)
    for peer in peers:
        peer.close_at_exit(max(0.05, end - time.monotonic()))
    log.flush(max(0.05, end - time.monotonic()))


def _forget_all() -> None:
    # In a forked child: the peers are the parent's, which may have held the lock at the fork.
    global _lock
    _lock = threading.Lock()
    _open.clear()


forked.renew_by(_forget_all)
