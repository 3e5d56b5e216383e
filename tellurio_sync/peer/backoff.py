"""Pauses between attempts to connect again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0


def backoff(
    first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE, draw: Callable[[], float] = random.random
) -> Iterator[float]:
    """Seconds to pause before each further attempt, without end: doubling up to ``longest``, with jitter.

    Each pause is drawn between half of its length and the whole, so that the clients of one restarted server
    do not all come back at the same moment.
    """
    pause = first
    while True:
        yield pause * (0.5 + 0.5 * draw())
        pause = min(longest, pause * 2)
