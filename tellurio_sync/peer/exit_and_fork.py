"""What happens to open peers at the exit of the interpreter, and in forked children.

At exit all open peers are closed in good order, within ``EXIT_TIMEOUT`` seconds together.  Their threads are daemons,
so nothing holds the process after that.  In a forked child the threads do not exist, and the connection belongs to
the parent: the child closes its copies of the descriptors and sends nothing.
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
    """A peer, as this module sees it."""

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
    """``peer`` is closed: nothing has to be done for it any more."""
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
