"""Waits until a socket has something to read, or until another thread wakes the waiting one.

The C extension (see ``speedups``) does this and reads as well.  Without it ``select.poll`` is used, and on systems that
have no ``poll`` a class with the same interface over ``selectors``.  ``selectors`` is not used everywhere, because its
``select`` costs 78 bytecode instructions where ``poll`` costs one C call, and the receive loop needs one for each
reply.  Only the receive thread uses any of this.
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
    """Waits for one socket and one wake-up descriptor. One thread at a time."""

    def receive(
        self, timeout: float | None, wakeups: list[Semaphore], watches_writes: bool, /
    ) -> tuple[int, bytes | None]:
        """Release ``wakeups``, wait, and read if this receiver can read.

        Args:
            timeout: seconds to wait, None for ever. It may return early.
            wakeups: semaphores, which are released first; the list is emptied.
            watches_writes: whether to return also when the socket is writable.

        Returns:
            ``READABLE`` and ``WOKEN``, combined by "or", and the bytes that were read: empty at the end of the stream;
            None if the caller has to read a readable socket.

        Raises:
            OSError: reading failed.
            RuntimeError: another thread is receiving.
        """


def make_receiver(fd: int, wake_fd: int, size: int) -> Receiver:
    """The best receiver that is available.

    Args:
        fd: the descriptor of a non-blocking socket; not owned.
        wake_fd: becomes readable when the thread is to wake; the thread that was woken empties it.
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
        self._is_in_use = False
        self._poll = make_poll()
        self._poll.register(fd, _POLL_IN)
        self._poll.register(wake_fd, _POLL_IN)

    def receive(
        self, timeout: float | None, wakeups: list[Semaphore], watches_writes: bool, /
    ) -> tuple[int, bytes | None]:
        if self._is_in_use:
            raise RuntimeError("another thread is receiving")
        self._is_in_use = True
        try:
            if wakeups:
                release_all(wakeups)
            if watches_writes != self._watches_writes:
                self._watches_writes = watches_writes
                self._poll.modify(self._fd, _POLL_IN | _POLL_OUT if watches_writes else _POLL_IN)
            ready = 0
            for fd, events in self._poll.poll(None if timeout is None else timeout * 1000):
                if fd != self._fd:
                    ready |= WOKEN
                elif events != _POLL_OUT:  # the other flags mean errors, which reading reports
                    ready |= READABLE
            return ready, None
        finally:
            self._is_in_use = False


class Poll(Protocol):
    """Waits for descriptors. One thread at a time."""

    def register(self, fd: int, events: int, /) -> None:
        """Watch ``fd`` for ``POLLIN``, ``POLLOUT`` or both."""

    def modify(self, fd: int, events: int, /) -> None:
        """Watch ``fd`` for these events instead."""

    def poll(self, timeout: float | None, /) -> list[tuple[int, int]]:
        """Wait, at most ``timeout`` milliseconds (None: for ever); returns what is ready. Other flags mean errors."""


def make_poll() -> Poll:
    """``select.poll``, or its substitute on systems that have none."""
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
