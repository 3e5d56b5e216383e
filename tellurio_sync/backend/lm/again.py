"""Whether a request to an endpoint is made again, and after which pause."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from ..questions import QuestionFailed
from ..reading.completion import Problem
from .exchange import Response
from .pace import Pace

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 20.0
_RATE_PATIENCE = 120.0


class Again(Exception):
    """Another try may help, after a pause; if there is no other try, ``failure`` is raised."""

    def __init__(self, failure: QuestionFailed, pause: float | None = None) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.pause = pause


class TooMany(Again):
    """The endpoint takes no more questions at present, and asks for this ``pause``."""


def failure_of(problem: Problem, response: Response) -> Exception:
    """What to raise for what an endpoint said: ``Again`` where that may pass."""
    failure = QuestionFailed(problem.kind, problem.text[:1].lower() + problem.text[1:], problem.said)
    if not problem.may_pass:
        return failure
    return (TooMany if problem.kind == "rate" else Again)(failure, response.retry_after)


class Patience:
    """How often, and how long, one request is tried again.

    Args:
        pace: of the endpoint, which learns what it takes.
        max_retries: of failures that may pass. 0: also of waits for a rate; otherwise these have a time of their own.
        on_wait: told what it waits for, and "" afterwards.
    """

    def __init__(self, pace: Pace, max_retries: int, on_wait: Callable[[str], object] = lambda why: None) -> None:
        self._pace, self._max_retries, self._on_wait = pace, max_retries, on_wait
        self._retries, self._refused, self._waited = 0, 0, 0.0

    async def wait(self, again: Again, left: float) -> None:
        """Wait until it may be tried again.

        Args:
            left: seconds until the end of its time.

        Raises:
            QuestionFailed: there is no other try.
        """
        if isinstance(again, TooMany):
            self._pace.too_many()
            self._refused += 1
            pause = again.pause if again.pause is not None else _pause(self._refused)
            self._waited += 0.0 if again.pause is not None else pause
            if self._max_retries == 0 or pause >= left or self._waited > _RATE_PATIENCE:
                raise again.failure from None
            if again.pause is not None:
                self._pace.pause(pause)
            why = "the endpoint takes no more questions"
        else:
            self._retries += 1
            pause = again.pause if again.pause is not None else _pause(self._retries)
            if self._retries > self._max_retries or pause >= left:
                raise again.failure from None
            why = f"try {self._retries + 1}, after: {again.failure.kind}"
        self._on_wait(f"waits {pause:.0f} s: {why}")
        try:
            await asyncio.sleep(pause)
        finally:
            self._on_wait("")


def _pause(tries: int) -> float:
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(tries - 1, 10))
    return longest * random.uniform(0.5, 1.0)
