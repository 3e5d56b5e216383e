"""Waiting until a socket has something to read, or until another thread wakes the one that waits.

In C where that was built (see ``speedups``), which reads as well; else by ``select.poll``, and where the system has
none, by its interface over ``selectors``.  Not ``selectors`` everywhere: its ``select`` costs 78 bytecode instructions
where ``poll`` costs one C call, and the receive loop makes one for each reply.
"""

from __future__ import annotations

import select
import selectors
from typing import Protocol

from ..speedups import Semaphore, compiled, release_all

READABLE = 1
WOKEN = 2

_POLL_IN: int = getattr(select, "POLLIN", 1)
_POLL_OUT: int = getattr(select, "POLLOUT", 4)


class Receiver(Protocol):
    """Waits for one socket, and for what wakes. One thread at a time."""

    def receive(
        self, timeout: float | None, wakeups: list[Semaphore], watches_writes: bool, /
    ) -> tuple[int, bytes | None]:
        """Let others go on, wait, and read if it can.

        Args:
            timeout: seconds to wait, None for ever. It may return early.
            wakeups: released first, and the list emptied.
            watches_writes: whether to return also when the socket is writable.

        Returns:
            ``READABLE`` and ``WOKEN``, or'ed, and what was read: empty at the end of the stream; None if this leaves
            the reading of a readable socket to the caller.

        Raises:
            OSError: it could not be read.
        """


def make_receiver(fd: int, wake_fd: int, size: int) -> Receiver:
    """The best that there is.

    Args:
        fd: of a non-blocking socket; not owned.
        wake_fd: readable when the thread is to be woken; who wakes it empties it.
        size: bytes to read at once, > 0.
    """
    if compiled is None:
        return PollReceiver(fd, wake_fd)
    receiver: Receiver = compiled.Receiver(fd, wake_fd, size)
    return receiver


class PollReceiver:
    """``Receiver`` in Python, which never reads."""

    def __init__(self, fd: int, wake_fd: int) -> None:
        self._fd = fd
        self._watches_writes = False
        self._poll = make_poll()
        self._poll.register(fd, _POLL_IN)
        self._poll.register(wake_fd, _POLL_IN)

    def receive(
        self, timeout: float | None, wakeups: list[Semaphore], watches_writes: bool, /
    ) -> tuple[int, bytes | None]:
        if wakeups:
            release_all(wakeups)
        if watches_writes != self._watches_writes:
            self._watches_writes = watches_writes
            self._poll.modify(self._fd, _POLL_IN | _POLL_OUT if watches_writes else _POLL_IN)
        ready = 0
        for fd, events in self._poll.poll(None if timeout is None else timeout * 1000):
            if fd != self._fd:
                ready |= WOKEN
            elif events != _POLL_OUT:  # the other flags are errors, which reading tells
                ready |= READABLE
        return ready, None


class Poll(Protocol):
    """Who waits for descriptors. One thread at a time."""

    def register(self, fd: int, events: int, /) -> None:
        """Watch ``fd`` for ``POLLIN``, ``POLLOUT`` or both."""

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
    return (selectors.EVENT_READ if events & _POLL_IN else 0) | (selectors.EVENT_WRITE if events & _POLL_OUT else 0)


def _from_selectors(events: int) -> int:
    return (_POLL_IN if events & selectors.EVENT_READ else 0) | (_POLL_OUT if events & selectors.EVENT_WRITE else 0)
