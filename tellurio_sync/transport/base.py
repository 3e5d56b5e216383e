"""The contract between the peer and a connection: whole text messages in order, both ways, and one ending.

Which thread may do what:

| Operation | Thread | May wait |
|---|---|---|
| ``send``, ``ping``, ``wake``, ``close``, ``abort`` | any | ``send`` only, for room, at most its ``timeout`` |
| ``receive`` | the receive thread | for the network |
| ``dispose`` | the receive thread, last of all | no |
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..speedups import Semaphore


class Ending(NamedTuple):
    """Why a connection is over.

    Attributes:
        reason: in words.
        who: ``"local"``, ``"server"`` or ``"network"``.
        code: the WebSocket close code, None without a close frame.
    """

    reason: str
    who: str
    code: int | None = None


class DialFailed(Exception):
    """An attempt to connect failed. Stays inside the package: the peer maps it to ``ConnectFailed``.

    Attributes:
        stage: ``"url"``, ``"DNS"``, ``"proxy"``, ``"TCP"``, ``"TLS"``, ``"handshake"`` or ``"greeting"``.
        status: the HTTP status of a refused upgrade, else None.
        attempts: how many attempts were made in all.
    """

    def __init__(self, stage: str, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.stage = stage
        self.status = status
        self.attempts = 1

    def anew(self) -> DialFailed:
        """The same, not raised yet: what keeps it does not keep the frames of its traceback, and all that they hold."""
        return DialFailed(self.stage, str(self), self.status)


class TransportEnded(Exception):
    """The connection is over. Stays inside the package: the peer maps it to ``ConnectionLost``."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.reason)
        self.ending = ending


class NoRoom(Exception):
    """``send`` found no room in the queue within its timeout; nothing of the message was queued."""


class Receipt(Protocol):
    """Where in the outgoing stream a message ends. Written once, before any byte of the message can be sent."""

    end_offset: int | None


class Transport(ABC):
    """Whole text messages over one connection.

    Attributes:
        bytes_received: grows with everything that comes; a change is a sign of life.
        is_over: whether ``send`` would raise ``TransportEnded``; ``receive`` may still return what came before.
        stalled_since: since when (monotonic) the other end has taken none of the bytes that are to be written; None if
            it takes them.
        wakeups: semaphores, which ``receive`` releases and takes out before it waits: so a thread that is woken finds
            the interpreter free. For the receive thread only.
    """

    can_nest: bool = True
    """Whether ``send`` within an interrupted ``send`` of the same thread goes out at once."""

    locks: tuple[threading.RLock, ...] = ()
    """What a thread must not hold while it waits for the receive thread."""

    bytes_received: int
    is_over: bool
    wakeups: list[Semaphore]
    stalled_since: float | None

    @abstractmethod
    def send(self, texts: list[str], receipts: Sequence[Receipt] | None = None, timeout: float | None = None) -> None:
        """Queue the messages, in order and next to each other, and write what can be written without waiting.

        Args:
            texts: the messages.
            receipts: one for each message; each is filled in before its message can reach the wire.
            timeout: seconds to wait for room while the queue is over its limit, 0 not to wait; None: queue at once.

        Raises:
            TransportEnded: the connection is over or closing; nothing was queued.
            NoRoom: the queue stayed full.
        """

    @property
    def is_held_up(self) -> bool:
        """Whether what this thread sends waits for a turn of this same thread, which was interrupted for it."""
        return False

    @property
    @abstractmethod
    def bytes_sent(self) -> int:
        """What the operating system has taken, without what TLS adds."""

    @abstractmethod
    def was_sent(self, receipt: Receipt) -> bool:
        """Whether the whole message was handed to the operating system, so that the server can act on it."""

    @abstractmethod
    def ping(self) -> None:
        """Queue a ping. Does nothing once the connection is over."""

    @abstractmethod
    def receive(self, timeout: float | None) -> list[str | bytes]:
        """Wait once, for at most ``timeout`` seconds, and return the messages that came, possibly none.

        A binary message is given as ``bytes``. Everything that comes, pongs included, adds to ``bytes_received``.

        Raises:
            TransportEnded: the connection is over, and everything that came before was returned.
        """

    @abstractmethod
    def wake(self) -> None:
        """Make ``receive`` return early."""

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Queue a close frame behind everything that is queued; from now on ``send`` raises. Does not wait."""

    @abstractmethod
    def abort(self, ending: Ending) -> None:
        """End at once, without a close frame: ``receive`` raises ``TransportEnded(ending)``. Idempotent."""

    @abstractmethod
    def dispose(self) -> None:
        """Close sockets and descriptors. Idempotent."""

    @abstractmethod
    def forget_after_fork(self) -> None:
        """In a forked child: close the descriptors and send nothing, because the connection belongs to the parent."""
