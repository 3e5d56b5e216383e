"""The same question, asked by several at the same time, is asked once.

Event loop's thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from ..questions import Answer, QuestionFailed

Key = tuple[str, bytes]
"""The session that asks, and its question."""


class InFlight:
    """The questions that wait for an answer at present."""

    def __init__(self) -> None:
        self._asked: dict[Key, asyncio.Future[Answer | QuestionFailed | None]] = {}

    async def answer(self, key: Key, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of ``ask``, or that of another one that asks the same already: that is marked as cached.

        If that other one is given up, or its budget does not allow it, one of those that wait asks in its place.

        Raises:
            QuestionFailed: what ``ask`` raised, also for those that waited for it.
        """
        while (asked := self._asked.get(key)) is not None:
            # Whoever is given up while it waits must not cancel the others.
            found = await asyncio.shield(asked)
            if isinstance(found, Answer):
                return replace(found, is_cached=True)
            if found is not None and found.kind != "budget":
                raise QuestionFailed(found.kind, found.text, found.said)
        asked = self._asked[key] = asyncio.get_running_loop().create_future()
        outcome: Answer | QuestionFailed | None = None
        try:
            outcome = await ask()
            return outcome
        except QuestionFailed as exc:
            outcome = exc
            raise
        finally:
            del self._asked[key]
            asked.set_result(outcome)
