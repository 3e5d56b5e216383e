"""A receiver, the connection that it reads from, and what wakes it."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable
from typing import Any

from tellurio_sync.speedups import PySemaphore, Semaphore
from tellurio_sync.transport.readiness import READABLE, PollReceiver

from ..conftest import FAILSAFE, wait_until
from ..native import compiled
from .ends import tcp_pair

SIZE = 100
"""Bytes that a receiver reads at once."""


class Ends:
    """A receiver for one end of a connection, the other end, and what wakes it.

    Attributes:
        reads: whether it reads by itself; else the caller does.

    Args:
        is_compiled: whether it is the one in C.
    """

    def __init__(self, is_compiled: bool) -> None:
        self.make_semaphore: Callable[[], Semaphore] = compiled().Semaphore if is_compiled else PySemaphore
        self.near, self.far = tcp_pair(send_buffer=1)
        self.wake_in, self.wake_out = socket.socketpair()
        for end in (self.near, self.wake_in, self.wake_out):
            end.settimeout(0)
        self.reads = is_compiled
        ends = self.near.fileno(), self.wake_in.fileno()
        self.receiver: Any = compiled().Receiver(*ends, SIZE) if is_compiled else PollReceiver(*ends)

    def receive(
        self, timeout: float | None = 0, wakeups: list[Semaphore] | None = None, watches_writes: bool = False
    ) -> tuple[int, bytes | None]:
        """As the transport does: what the receiver leaves to it is read here. None: nothing was there."""
        ready, data = self.receiver.receive(timeout, [] if wakeups is None else wakeups, watches_writes)
        assert (data is not None) <= self.reads
        if ready & READABLE and data is None:
            assert not self.reads
            with contextlib.suppress(BlockingIOError):
                data = self.near.recv(SIZE)
        return ready, data

    def send(self, data: bytes) -> None:
        """Return when it has arrived."""
        self.far.sendall(data)
        self.wait_readable()

    def wait_readable(self) -> None:
        assert select.select([self.near], [], [], FAILSAFE)[0]

    def wake(self) -> None:
        self.wake_out.send(b"\0")

    def fill(self) -> None:
        """Write until the socket takes no more, also when the other end has said what has arrived."""

        def is_full() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.near.send(bytes(65536))
            return not select.select([], [self.near], [], 0.05)[1]

        wait_until(is_full, "the socket takes everything")

    def close(self) -> None:
        for end in (self.near, self.far, self.wake_in, self.wake_out):
            end.close()
