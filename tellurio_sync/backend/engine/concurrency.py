"""Many questions at the same time, but not too many."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AT_ONCE = 8


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
