"""What becomes of open peers when the interpreter exits.

Each open peer is closed in good order, all together within ``EXIT_TIMEOUT`` seconds; the threads are daemons, so
nothing holds the process after that. ``exit_order`` calls it, before the local backends end.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_open`` | callers, receive threads | the main thread | one C call on a dict each | – |
"""

from __future__ import annotations

import time
import weakref
from typing import Protocol

from .. import exit_order, forked
from ..ownership import alive
from .records import log

EXIT_TIMEOUT = 1.0


class Closable(Protocol):
    """The methods of a peer that this module uses."""

    def close_at_exit(self, timeout: float) -> None: ...


_open: weakref.WeakKeyDictionary[Closable, None] = weakref.WeakKeyDictionary()


def register(peer: Closable) -> None:
    """Close ``peer`` at exit."""
    _open[peer] = None
    exit_order.use(exit_order.CONNECTIONS)


def unregister(peer: Closable) -> None:
    """``peer`` is closed."""
    _open.pop(peer, None)


def _close_all() -> None:
    end = time.monotonic() + EXIT_TIMEOUT
    for peer in alive(_open):
        peer.close_at_exit(max(0.05, end - time.monotonic()))
    log.flush(max(0.05, end - time.monotonic()))


def _forget_all() -> None:
    # In a forked child: the peers are the parent's.
    _open.clear()


exit_order.add(exit_order.CONNECTIONS, _close_all)
forked.renew_by(_forget_all)
