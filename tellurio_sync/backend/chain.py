"""Long-running requests that begin when an earlier one has ended (protocol §K.15).

One per connection; only the event loop's thread uses it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ..jsonrpc import INVALID_PARAMS
from .long_methods import Work
from .methods import Result
from .refused import Refused

NAME, AFTER = "name", "after"

# So many of the last named requests can be named in an `after`. Those that belong together are sent together.
_MOST_NAMED = 100
_MOST_CHARS = 100


class Chain:
    """The named requests of one connection, and what waits for them."""

    def __init__(self) -> None:
        self._named: dict[str, asyncio.Task[Any]] = {}

    def work(self, params: dict[str, Any], begin: Callable[[], Work]) -> Work:
        """The work of a request: what ``begin()`` gives, now, or when the request that it names has ended.

        Raises:
            Refused: that one is not known; or a name is no text. As ``begin``, if it begins now.
        """
        _token(params, NAME)
        after = _token(params, AFTER)
        if after is None:
            return begin()
        if after not in self._named:
            raise Refused(f"`{AFTER}` names no earlier request: {after!r}.", INVALID_PARAMS, "Invalid params")
        return _work_after(self._named[after], begin)

    def note(self, params: dict[str, Any], task: asyncio.Task[Any]) -> None:
        """Remember a request that has begun, after ``work``, by its name, if it has one."""
        name = _token(params, NAME)
        if name is not None:
            self._named[name] = task
            if len(self._named) > _MOST_NAMED:
                del self._named[next(iter(self._named))]


async def _work_after(earlier: asyncio.Task[Any], begin: Callable[[], Work]) -> Result:
    # Not `await earlier`: a request that is cancelled must not cancel the one that it waits for.
    await asyncio.wait({earlier})
    if earlier.cancelled() or earlier.exception() is not None:
        raise Refused("Not begun, because the request before it has failed.")
    return await begin()


def _token(params: dict[str, Any], key: str) -> str | None:
    token = params.get(key)
    if token is None or (isinstance(token, str) and 0 < len(token) <= _MOST_CHARS):
        return token
    raise Refused(f"`{key}` must be a text of 1 to {_MOST_CHARS} characters.", INVALID_PARAMS, "Invalid params")
