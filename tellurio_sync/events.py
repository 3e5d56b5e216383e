"""What happens on connections, told to functions of the user on a thread of their own.

While nobody listens, nothing is made: each place that could tell something first looks at ``LISTENERS``.  A function
that raises is logged and called no more; one that takes long holds nobody up, and misses what finds the queue full.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``LISTENERS`` | any thread | any thread | one C call on a list each | – |
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from .queued import Queued

_log = logging.getLogger(__name__)

MOST_EVENTS = 1000

EventKind = Literal["opened", "reopened", "lost", "attempt failed", "call ended", "heartbeat"]


@dataclass(frozen=True)
class Event:
    """Something that happened on a connection to the server. It holds no parameters, no results and no keys.

    Attributes:
        kind: ``"opened"``, ``"reopened"``: the connection is open, for the first time or again. ``"lost"``: an open
            connection has ended. ``"attempt failed"``: one attempt to connect. ``"call ended"``: a call that was
            registered is over. ``"heartbeat"``: the server still works on a call.
        url: of the connection.
        method, request_id: of the call; "" where the event is not about a call.
        seconds: how long the call took; None where the event is not about its end.
        text: the outcome of a call (``"answered"``, ``"error"``, ``"timed out"``, ``"lost"``, ``"given up"``), or why
            a connection ended or did not come about.
        time: when it happened, in seconds since 1970 (``time.time()``).
    """

    kind: EventKind
    url: str
    method: str = ""
    request_id: str = ""
    seconds: float | None = None
    text: str = ""
    time: float = field(default_factory=time.time)


LISTENERS: list[Callable[[Event], object]] = []
"""Those that are told. Other modules only look whether there are any, before they make an event."""


def on_event(callback: Callable[[Event], object]) -> Callable[[], None]:
    """Call ``callback`` with an :class:`Event` for what happens on the connections of this process. Does not block.

    It is called on a thread of this package, which nothing waits for: it may be slow, and may call the server. What it
    raises is logged, and ends the calling. If more than a thousand events wait, further ones are left out, and their
    number is logged.

    Returns:
        A function that ends it.

    Raises:
        TypeError: not callable.
    """
    if not callable(callback):
        raise TypeError(f"on_event takes a function, not {type(callback).__name__}")
    LISTENERS.append(callback)
    return lambda: _remove(callback)


def tell(event: Event) -> None:
    """Hand an event over. Any thread; does not block, raises nothing."""
    if _queue.has_room():
        _queue.put(event)


def flush(timeout: float) -> None:
    """Wait until the events so far have been told, at most ``timeout`` seconds."""
    _queue.flush(timeout)


def _hand_over(event: Event) -> None:
    for listener in LISTENERS.copy():
        try:
            listener(event)
        except BaseException:  # noqa: BLE001 - SystemExit, too: foreign code must not end this thread
            _remove(listener)
            with contextlib.suppress(Exception):  # the logging handlers are foreign code as well
                _log.warning("A callback of on_event failed, and is not called again.", exc_info=True)


def _tell_dropped(dropped: int) -> None:
    with contextlib.suppress(Exception):
        _log.warning("%d events were left out: the callbacks of on_event take longer than new ones come", dropped)


def _remove(callback: Callable[[Event], object]) -> None:
    with contextlib.suppress(ValueError):
        LISTENERS.remove(callback)


_queue: Queued[Event] = Queued(
    _hand_over,
    lambda run: threading.Thread(target=run, name="tellurio-sync events", daemon=True),
    _tell_dropped,
    MOST_EVENTS,
)
