"""A transport within the process: one end is for the peer, the other end is driven by a test.

It keeps the contract of ``Transport`` exactly (one contract suite runs over this and the real one), and can do what a
network does: sends that fail, a server that stops reading, endings at any point.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| every attribute | any thread | any thread | ``_condition``, held only while texts move | only this module has it |
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from ..speedups import Semaphore, release_all
from .base import Ending, NoRoom, Receipt, Transport, TransportEnded


class MemoryTransport(Transport):
    """The client's end. The methods ``server_...`` are the other end; any thread may call them.

    One condition guards everything; while it is held, only texts are moved.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._incoming: deque[str | bytes] = deque()
        self._outgoing: deque[str] = deque()
        self._queued = 0
        self._written = 0
        self._bytes_sent = 0
        self.bytes_received: int = 0
        self.stalled_since = None
        self.wakeups: list[Semaphore] = []
        self._is_woken = False
        self._is_closing = False
        self._is_reading = True
        self._ending: Ending | None = None
        self.pings: int = 0
        self.is_disposed: bool = False

    # --- the contract ----------------------------------------------------------------------------

    def send(self, texts: list[str], receipts: Sequence[Receipt] | None = None, timeout: float | None = None) -> None:
        with self._condition:
            if timeout is not None and not self._is_reading and not self._is_over():
                self._condition.wait_for(lambda: self._is_reading or self._is_over(), timeout)
                if not self._is_reading and not self._is_over():
                    raise NoRoom
            if self._ending is not None:
                raise TransportEnded(self._ending)
            if self._is_closing:
                raise TransportEnded(Ending("the connection is closing", "local"))
            for index, text in enumerate(texts):
                self._queued += 1
                if receipts is not None:
                    receipts[index].end_offset = self._queued
                self._outgoing.append(text)
                self._bytes_sent += len(text)
            if self._is_reading:
                self._written = self._queued
            self._condition.notify_all()

    def _is_over(self) -> bool:
        return self._is_closing or self._ending is not None

    @property
    def is_over(self) -> bool:  # type: ignore[override]
        return self._is_over()  # two reads without the lock are exact enough

    @property
    def bytes_sent(self) -> int:
        return self._bytes_sent

    def was_sent(self, receipt: Receipt) -> bool:
        return receipt.end_offset is not None and self._written >= receipt.end_offset

    def ping(self) -> None:
        with self._condition:
            self.pings += 1
            self._condition.notify_all()

    def receive(self, timeout: float | None) -> list[str | bytes]:
        release_all(self.wakeups)
        with self._condition:
            self._condition.wait_for(lambda: self._incoming or self._is_woken or self._ending is not None, timeout)
            self._is_woken = False
            messages = list(self._incoming)
            self._incoming.clear()
            if not messages and self._ending is not None:
                raise TransportEnded(self._ending)
            return messages

    def wake(self) -> None:
        with self._condition:
            self._is_woken = True
            self._condition.notify_all()

    def close(self, code: int, reason: str) -> None:
        with self._condition:
            self._is_closing = True
            # The other end answers a close at once, unless it has stopped reading.
            if self._is_reading and self._ending is None:
                self._ending = Ending("closed", "local", code)
            self._condition.notify_all()

    def abort(self, ending: Ending) -> None:
        with self._condition:
            self._ending = self._ending or ending
            self._condition.notify_all()

    def dispose(self) -> None:
        self.abort(Ending("the connection was disposed of", "local"))
        self.is_disposed = True

    def forget_after_fork(self) -> None:
        # No lock: in the child, the lock of another thread stays taken for ever.
        self._ending = self._ending or Ending("this process was forked", "local")
        self.is_disposed = True

    # --- the other end ---------------------------------------------------------------------------

    def server_send(self, *messages: str | bytes) -> None:
        """Deliver messages to the client, together."""
        with self._condition:
            self._incoming.extend(messages)
            self.bytes_received += sum(map(len, messages))
            self._condition.notify_all()

    def server_receive(self, timeout: float = 30.0) -> str:
        """The next message of the client.

        Raises:
            TimeoutError: none came within ``timeout`` seconds.
        """
        with self._condition:
            if not self._condition.wait_for(lambda: self._outgoing, timeout):
                raise TimeoutError(f"the client sent nothing within {timeout} s")
            return self._outgoing.popleft()

    def server_has_message(self) -> bool:
        """Whether a message of the client is waiting."""
        with self._condition:
            return bool(self._outgoing)

    def server_stop_reading(self) -> None:
        """From now on no message counts as sent, and ``send`` with a timeout finds no room."""
        with self._condition:
            self._is_reading = False

    def server_end(self, ending: Ending) -> None:
        """End the connection after the messages that were delivered before."""
        self.abort(ending)
