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

    Attributes:
        last_life: when something came from the server last. Stored by the owner at each turn of its loop: one store, as
            a method would cost each call one hundredth of its time.
        next_at: when to look again; infinity if never. It may be too early, for what has come since the last ``plan``.
    """

    def __init__(self, interval: float | None, timeout: float, now: float) -> None:
        self._interval = math.inf if interval is None else interval
        self._timeout = timeout
        self.last_life: float = now
        self._pinged_at = -math.inf
        self.next_at: float = now + self._interval

    @property
    def _is_waiting(self) -> bool:
        """Whether nothing has come since the last ping, which is sent later than what came before it."""
        return self._pinged_at > self.last_life

    def plan(self) -> None:
        """Set ``next_at`` to when a ping is due, or the connection dead, if nothing comes."""
        self.next_at = self._pinged_at + self._timeout if self._is_waiting else self.last_life + self._interval

    def note_ping(self, now: float) -> None:
        """Note that a ping was sent."""
        self._pinged_at = now
        self.plan()

    def is_ping_due(self, now: float) -> bool:
        """Whether a ping must be sent now."""
        return not self._is_waiting and now >= self.last_life + self._interval

    def is_dead(self, now: float) -> bool:
        """Whether the server has not answered the ping in time."""
        return self._is_waiting and now >= self._pinged_at + self._timeout
