"""Requests that nobody waits for any more, but that are paid: their answers are waited for, for the bill in them.

A call that is cancelled asks nothing more.  What it has asked already the endpoint goes on working at, and charges for,
whether somebody listens or not; only who listens learns how much.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Seconds. Longer than most answers take; one that takes longer is not worth the endpoint's time any more.
PATIENCE = 30.0


class Lingering:
    """What is still waited for. The event loop's thread only.

    Args:
        patience: seconds for which an answer is waited for that is of no use any more; then its request is ended.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def see_through(self, request: Coroutine[Any, Any, T], on_left: Callable[[], Callable[[], None]]) -> T:
        """The result of ``request``, which books what it cost.

        Where this is cancelled, the request goes on, and ``on_left`` is called; what that returns is called when the
        request has ended, however that was.
        """
        task = asyncio.ensure_future(request)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                self._keep(task, on_left())
            raise

    def _keep(self, task: asyncio.Task[Any], on_end: Callable[[], None]) -> None:
        timer = asyncio.get_running_loop().call_later(self._patience, task.cancel)
        self._tasks.add(task)

        def ended(task: asyncio.Task[Any]) -> None:
            timer.cancel()
            self._tasks.discard(task)
            if task.cancelled():
                logger.info(
                    "An answer that nobody waits for did not come in %g s: its cost is unknown.", self._patience
                )
            elif (error := task.exception()) is not None:
                logger.debug("A request that nobody waits for failed: %s", error)
            on_end()

        task.add_done_callback(ended)

    async def close(self) -> None:
        """End all of it: the backend stops."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
