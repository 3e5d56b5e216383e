"""How far one long-running request is, for the client that asked to be told (protocol §K.4)."""

from __future__ import annotations

import asyncio
from typing import Any

from .questions import Asked

PARAMETER = "progress"
"""The parameter of a request that names the token, and the member of a heartbeat that has it."""

# Seconds between two heartbeats that tell of progress; without news they come as to any other client.
LEAST_INTERVAL = 0.2
_MOST_TOKEN_CHARS = 100


class Progress:
    """Counts the questions of one request. Event loop's thread only."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._done = self._total = self._tokens = 0
        self._cost: float | None = 0.0
        self._notes: dict[int, str] = {}
        self._changed = asyncio.Event()

    def began(self) -> int:
        """A question is asked; its number, by which it is told from others that ask the same."""
        self._total += 1
        self._changed.set()
        return self._total

    def waits(self, number: int, note: str) -> None:
        """The question of this number waits for something, or does not any more ("")."""
        self._notes.pop(number, None)
        if note:
            self._notes[number] = note
        self._changed.set()

    def ended(self, asked: Asked) -> None:
        """A question has ended, with or without an answer."""
        self._done += 1
        answer = asked.answer
        if answer is not None and not answer.is_cached:
            tokens = answer.usage.get("total_tokens")
            self._tokens += tokens if isinstance(tokens, int) and tokens > 0 else 0
        self._cost = None if self._cost is None or asked.cost is None else self._cost + asked.cost
        self._changed.set()

    def told(self) -> dict[str, Any]:
        """What a heartbeat says of it."""
        told: dict[str, Any] = {PARAMETER: self._token, "done": self._done, "total": self._total}
        if self._tokens:
            told["tokens"] = self._tokens
        if self._cost:
            told["cost"] = self._cost
        if self._notes:
            more = f" (and {len(self._notes) - 1} more)" if len(self._notes) > 1 else ""
            told["note"] = next(reversed(self._notes.values())) + more
        return told

    async def news(self, longest: float) -> None:
        """Wait until there is something new, or ``longest`` seconds."""
        await asyncio.sleep(min(LEAST_INTERVAL, longest))
        try:
            await asyncio.wait_for(self._changed.wait(), max(0.0, longest - LEAST_INTERVAL))
        except (asyncio.TimeoutError, TimeoutError):
            return
        self._changed.clear()


def progress_of(params: dict[str, Any]) -> Progress | None:
    """What counts for this request; None: its client does not want to know."""
    token = params.get(PARAMETER)
    return Progress(token) if isinstance(token, str) and 0 < len(token) <= _MOST_TOKEN_CHARS else None
