"""Cancelled requests to language models whose answers are still awaited, because the answers have the bill.

A call that is cancelled asks no more questions.  But the endpoint goes on with the questions that were asked, and
charges for them; only the answer says how much.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)

# Seconds. Most answers take less time; an answer that takes longer is not worth the endpoint's time any more.
PATIENCE = 30.0


class Lingering:
    """The answers that are still awaited. For the event loop's thread only.

    Args:
        patience: seconds to wait for an answer that is not needed any more; then its request is ended.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def see_through(self, request: Coroutine[Any, Any, T], on_left: Callable[[], Callable[[], None]]) -> T:
        """The result of ``request``, which adds up its own cost.

        If this is cancelled, the request goes on, and ``on_left`` is called. The function that it returns is called
        when the request has ended, in whatever way.
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
        """End all requests: the backend stops."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
