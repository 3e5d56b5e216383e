"""How fast one model is asked: how many questions at once, how many a minute, fewer if that is too much for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# The default of the questions to one model at once. The others wait here and not at the endpoint.
AT_ONCE = 16

# After so many answers in a row, one more question at once is tried again.
_TRIES_MORE_AFTER = 10


class Pace:
    """The turns of the questions to one model, in the order in which they come.

    When an endpoint answers "too many", the number of questions at once is halved, to at least one; after some answers
    in a row it grows by one.
    """

    def __init__(self, at_once: int | None = None, per_minute: float | None = None) -> None:
        """``at_once``: None means :data:`AT_ONCE`. ``per_minute``: None means any number."""
        self._most = at_once or AT_ONCE
        self._limit = self._most
        self._gap = 0.0 if per_minute is None else 60.0 / per_minute
        self._busy = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._next_at = 0.0
        self._answered = 0

    @property
    def limit(self) -> int:
        """Questions at once, at present."""
        return self._limit

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it."""
        await self._enter()
        try:
            yield
        finally:
            self._busy -= 1
            self._wake()

    async def wait_for_rate(self) -> None:
        """Wait until the rate and the endpoint's wishes allow one more request. For the holder of a turn."""
        loop = asyncio.get_running_loop()
        while (wait := self._next_at - loop.time()) > 0:
            await asyncio.sleep(wait)
        self._next_at = max(self._next_at, loop.time()) + self._gap

    def pause(self, seconds: float) -> None:
        """Send no request for so many seconds: the endpoint asked for that."""
        self._next_at = max(self._next_at, asyncio.get_running_loop().time() + seconds)

    def too_many(self) -> None:
        """Note that the endpoint answered "too many"."""
        self._answered = 0
        self._limit = max(1, min(self._limit - 1, self._busy // 2))

    def answered(self) -> None:
        """Note that the endpoint answered."""
        self._answered += 1
        if self._answered >= _TRIES_MORE_AFTER and self._limit < self._most:
            self._answered = 0
            self._limit += 1
            self._wake()

    async def _enter(self) -> None:
        if self._busy < self._limit and not self._waiting:
            self._busy += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                # The turn came at the same moment: pass it on.
                self._busy -= 1
                self._wake()
            else:
                self._waiting.remove(turn)
            raise

    def _wake(self) -> None:
        while self._waiting and self._busy < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy += 1
                turn.set_result(None)
