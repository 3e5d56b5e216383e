"""Detection of connections that died silently: pure arithmetic over signs of life. Only the receive thread uses it."""

from __future__ import annotations

import math


class Keepalive:
    """When to ping, and when to give up.

    Any byte from the server is a sign of life. After ``interval`` seconds without one a ping is due; after
    ``timeout`` more the connection is dead. So a dead connection is found ``interval + timeout`` seconds
    after its last sign of life.

    Args:
        interval: seconds, > 0; None: never ping.
        timeout: seconds, > 0.
        now: the time of the start.
    """

    def __init__(self, interval: float | None, timeout: float, now: float) -> None:
        self._interval = math.inf if interval is None else interval
        self._timeout = timeout
        self._last_life = now
        self._pinged_at: float | None = None
        self.next_at: float = now + self._interval
        """When to call ``is_ping_due`` and ``is_dead`` again; infinity if never."""

    def note_life(self, now: float) -> None:
        """Note that something came from the server."""
        self._last_life = now
        self._pinged_at = None
        self.next_at = now + self._interval

    def note_ping(self, now: float) -> None:
        """Note that a ping was sent."""
        self._pinged_at = now
        self.next_at = now + self._timeout

    def is_ping_due(self, now: float) -> bool:
        """Whether a ping must be sent now."""
        return self._pinged_at is None and now >= self._last_life + self._interval

    def is_dead(self, now: float) -> bool:
        """Whether the server has not answered the ping in time."""
        return self._pinged_at is not None and now >= self._pinged_at + self._timeout
