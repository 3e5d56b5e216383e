"""How fast one model is asked: so many questions at once, so many a minute, slower where that is too much for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Questions to one model at a time where nothing is said; what is more waits here and not in the endpoint.
AT_ONCE = 16

# Answers in a row after which one more at once is tried, once it was too much.
_TRIES_MORE_AFTER = 10


class Pace:
    """The turns of the questions to one model, in the order in which they come.

    An endpoint that answers "too many" is asked by fewer at once from then on: half of those that were being asked,
    one at least; after some answers in a row by one more again.
    """

    def __init__(self, at_once: int | None = None, per_minute: float | None = None) -> None:
        """``at_once``: None: :data:`AT_ONCE`; ``per_minute``: None: any number."""
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
        """Wait until one more request may leave, by the rate and by what the endpoint asked for. Within a turn."""
        loop = asyncio.get_running_loop()
        while (wait := self._next_at - loop.time()) > 0:
            await asyncio.sleep(wait)
        self._next_at = max(self._next_at, loop.time()) + self._gap

    def pause(self, seconds: float) -> None:
        """Let no request leave for so long: the endpoint asked for that."""
        self._next_at = max(self._next_at, asyncio.get_running_loop().time() + seconds)

    def too_many(self) -> None:
        """The endpoint answered that it was asked too much."""
        self._answered = 0
        self._limit = max(1, min(self._limit - 1, self._busy // 2))

    def answered(self) -> None:
        """The endpoint answered."""
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
                # The turn came at the same moment: the next one gets it.
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
