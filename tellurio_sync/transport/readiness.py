"""Waiting until descriptors are ready: ``select.poll``, and its interface over ``selectors`` where there is none.

Not ``selectors`` everywhere: its ``select`` costs 78 bytecode instructions where ``poll`` costs one C call, and the
receive loop makes one for each reply.
"""

from __future__ import annotations

import select
import selectors
from typing import Protocol

READABLE: int = getattr(select, "POLLIN", 1)
WRITABLE: int = getattr(select, "POLLOUT", 4)


class Poll(Protocol):
    """Who waits for descriptors. One thread at a time."""

    def register(self, fd: int, events: int, /) -> None:
        """Watch ``fd`` for ``READABLE``, ``WRITABLE`` or both."""

    def modify(self, fd: int, events: int, /) -> None:
        """Watch it for these instead."""

    def poll(self, timeout: float | None, /) -> list[tuple[int, int]]:
        """Wait, at most ``timeout`` milliseconds (None: for ever); what is ready. Further flags mean errors."""


def make_poll() -> Poll:
    """The best that the system has."""
    return select.poll() if hasattr(select, "poll") else SelectorPoll()


class SelectorPoll:
    """``Poll`` for systems without it (Windows). It holds no descriptor of its own, so nothing has to be closed."""

    def __init__(self) -> None:
        self._selector = selectors.SelectSelector()

    def register(self, fd: int, events: int, /) -> None:
        self._selector.register(fd, _to_selectors(events))

    def modify(self, fd: int, events: int, /) -> None:
        self._selector.modify(fd, _to_selectors(events))

    def poll(self, timeout: float | None, /) -> list[tuple[int, int]]:
        ready = self._selector.select(None if timeout is None else timeout / 1000)
        return [(key.fd, _from_selectors(events)) for key, events in ready]


def _to_selectors(events: int) -> int:
    return (selectors.EVENT_READ if events & READABLE else 0) | (selectors.EVENT_WRITE if events & WRITABLE else 0)


def _from_selectors(events: int) -> int:
    return (READABLE if events & selectors.EVENT_READ else 0) | (WRITABLE if events & selectors.EVENT_WRITE else 0)
