"""Pauses between attempts to connect again."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
AFTER_RESTART = 2.0
"""Seconds, at most, of the first pause where the server said that it restarts or is overloaded."""

PROVEN_AFTER = 10.0
"""Seconds after which a connection has shown that the server works, if it carried no reply before."""

# RFC 6455 §7.4 and its registry: "Service Restart" and "Try Again Later".
_RESTART_CODES = (1012, 1013)


class Backoff:
    """How long to pause before each further attempt. Not thread-safe.

    The longest that a pause may be doubles up to ``longest``; each pause is drawn between nothing and that (full
    jitter), so that the clients of one restarted server do not all come back at the same moment.  A connection that
    opens and is lost at once, as with a server in a crash loop, does not begin that again.

    Args:
        first, longest: seconds, > 0.
        draw: gives numbers from 0 to 1.
    """

    def __init__(
        self, first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE, draw: Callable[[], float] = random.random
    ) -> None:
        self._first = first
        self._longest = longest
        self._draw = draw
        self._limit = first

    def note_lost(self, lasted: float, *, has_replied: bool, code: int | None) -> None:
        """Note that an open connection was lost.

        Args:
            lasted: seconds that it was open.
            has_replied: whether it carried a reply.
            code: the server's close code, None without one.
        """
        if has_replied or lasted >= PROVEN_AFTER:
            self._limit = self._first
        if code in _RESTART_CODES:
            self._limit = max(self._limit, AFTER_RESTART)

    def next_pause(self) -> float:
        """Seconds."""
        limit = self._limit
        self._limit = min(self._longest, limit * 2)
        return limit * self._draw()
