"""What becomes of open peers at interpreter exit and in forked children.

At exit each open peer is closed in good order, all together within ``EXIT_TIMEOUT`` seconds; the threads are
daemons, so nothing holds the process after that.  In a forked child the threads do not exist and the socket
is the parent's: the child's copies are closed without a word.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from typing import Protocol

EXIT_TIMEOUT = 1.0


class Closable(Protocol):
    """What this module needs of a peer."""

    def close_at_exit(self, timeout: float) -> None: ...

    def forget_after_fork(self) -> None: ...


_open: weakref.WeakSet[Closable] = weakref.WeakSet()
_lock = threading.Lock()
_is_installed = False


def register(peer: Closable) -> None:
    """Close ``peer`` at exit, and forget it in forked children."""
    global _is_installed
    with _lock:
        _open.add(peer)
        if _is_installed:
            return
        _is_installed = True
    atexit.register(_close_all)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_all)


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


def _forget_all() -> None:
    # The parent may have held the lock at the fork: the child needs its own.
    global _lock
    _lock = threading.Lock()
    peers = list(_open)
    _open.clear()
    for peer in peers:
        peer.forget_after_fork()
