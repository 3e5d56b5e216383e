"""Many questions at the same time, but not too many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from ..objects import Model

T = TypeVar("T")
R = TypeVar("R")

# As many as a model's endpoint gets unless it is said otherwise: fewer would be waves of questions.
AT_ONCE = 16


def at_once(model: Model) -> int:
    """How many samples are worked on at a time: as many questions as the model's endpoint may get, where that is more.

    The model's own pace decides then which of them leave.
    """
    most = model.config.get("max_concurrency") if model.provider != "callable" else None
    return max(AT_ONCE, most) if isinstance(most, int) else AT_ONCE


async def map_at_once(function: Callable[[T], Awaitable[R]], values: Iterable[T]) -> list[R]:
    """The results in the order of ``values``, at most :data:`AT_ONCE` of them in work at a time.

    The first failure is raised after the others were cancelled and have ended.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(value: T) -> R:
        async with gate:
            return await function(value)

    tasks = [asyncio.ensure_future(one(value)) for value in values]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
