"""The programs that use this backend: the one that started it, and those that joined it (``tellurio_sync.leash``)."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable

from aiohttp import web

from ..leash import GOES_ON, PATH
from .rest import error_response


class Leashes:
    """The programs that hold this backend. The event loop's thread only, except for :meth:`tell_starter`.

    Args:
        on_unused: called when the program that started it is gone, and all that joined it.
    """

    def __init__(self, on_unused: Callable[[], None]) -> None:
        self._on_unused = on_unused
        self._held: set[asyncio.Transport] = set()
        self._starter_is_gone = self._starter_knows = False
        self._is_over = False

    def routes(self) -> list[web.RouteDef]:
        """The routes, for an application's router."""
        return [web.post(PATH, self.hold)]

    def tell_starter(self) -> None:
        """Tell the program that started this backend, and now lets go of it, if others use it.

        It would kill a backend that neither ends nor says this within two seconds. Any thread: where the event loop is
        at work for longer, another one says it.
        """
        if self._held and not self._starter_knows:
            self._starter_knows = True
            with contextlib.suppress(OSError):  # it may be dead, so that nobody reads this
                print(GOES_ON, file=sys.stderr, flush=True)

    def starter_left(self) -> None:
        """The program that started this backend needs it no longer."""
        self._starter_is_gone = True
        self.tell_starter()
        self._end_if_unused()

    async def hold(self, request: web.Request) -> web.StreamResponse:
        """A program that joins: it uses this backend until the body of its request ends."""
        if self._is_over or request.transport is None:
            raise error_response(503, "This backend ends.")
        response, held = web.StreamResponse(), request.transport
        self._held.add(held)
        try:
            # A body without an end, or one that breaks off: either way its sender is gone.
            with contextlib.suppress(ConnectionError, web.RequestPayloadError):
                await response.prepare(request)
                await response.write(b"\n")  # the headers leave with the first piece of the body
                while await request.content.readany():
                    pass
        finally:
            self._held.discard(held)
            self._end_if_unused()
        return response

    async def close(self, app: web.Application) -> None:
        """End them all, because the backend stops: for ``on_shutdown``."""
        self._is_over = True
        for held in self._held:
            held.close()

    def _end_if_unused(self) -> None:
        if self._starter_is_gone and not self._held:
            self._is_over = True
            self._on_unused()
