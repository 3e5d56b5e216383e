"""Objects that the server has pushed are kept alive until the call that caused the push has taken them.

The server pushes objects before the reply that refers to them (protocol §C.1).  The registries refer to objects
weakly.  So from the push until the caller decodes the reply, nothing but :class:`PushedObjects` holds a momentum copy
or a graph node.

An object that is pushed while calls run may belong to any of them, but to no later call.  So each call draws a *ticket*
(a growing number); each held object is marked with the last ticket that was drawn before it came; and an object is
dropped as soon as no call with a ticket up to its mark runs.  Therefore the number of held objects stays bounded even
if calls overlap without end.

What a server can fill without end is bounded in bytes as well: of what is held, the oldest gives way.  While calls run
the bound is one that no step and no pass comes near; a call whose objects had to give way fails when its reply names
them.
"""

from __future__ import annotations

from collections import deque
from sys import getsizeof

MOST_IDLE = 10_000
"""The most objects that are held while no call runs, until the next call ends; beyond it the oldest are dropped."""

MOST_IDLE_BYTES = 64 * 2**20
"""The same, in bytes."""

MOST_BYTES = 512 * 2**20
"""The most bytes that are held while calls run; beyond it the oldest are dropped."""

LEAST_SIZE = 512
"""Bytes that are counted for an object in addition to its texts."""


def size_of(value: object) -> int:
    """Bytes that a text takes in memory, or the items of a list of them; of other values about as much."""
    size = getsizeof(value)
    if isinstance(value, list):
        size += sum(map(getsizeof, value))
    return size


class PushedObjects:
    """Strong references that end with calls. Not thread-safe: the owner calls it under its lock."""

    __slots__ = ("_bytes", "_held", "_last_ticket", "_running")

    def __init__(self) -> None:
        self._held: deque[tuple[int, object, int]] = deque()
        self._bytes = 0
        self._last_ticket = 0
        # A dict keeps insertion order, so its first key is the oldest running call.
        self._running: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._held)

    def begin_call(self) -> int:
        """Note the start of a call that may cause pushes; returns its ticket for :meth:`end_call`."""
        self._last_ticket = ticket = self._last_ticket + 1
        self._running[ticket] = None
        return ticket

    def end_call(self, ticket: int) -> list[object]:
        """Note the end of a call.

        Returns:
            The objects that no running call can need any more. The owner drops them outside its lock, because that may
            run a finaliser of the user.
        """
        self._running.pop(ticket, None)
        running = list(self._running)  # one step: other calls may begin and end within any of these lines
        oldest = running[0] if running else self._last_ticket + 1
        released: list[object] = []
        while (first := self._first()) is not None and first[0] < oldest:
            self._release(first, released)
        return released

    def hold(self, pushed: object, size: int = 0) -> list[object]:
        """Hold an object that was pushed.

        Args:
            pushed: the object.
            size: bytes of its texts, about.

        Returns:
            The objects that give way to it, for the owner to drop as those of :meth:`end_call`. It does not itself,
            however large it is.
        """
        size += LEAST_SIZE
        self._held.append((self._last_ticket, pushed, size))
        self._bytes += size
        most, most_bytes = (len(self._held), MOST_BYTES) if self._running else (MOST_IDLE, MOST_IDLE_BYTES)
        released: list[object] = []
        while len(self._held) > most or self._bytes > most_bytes:
            first = self._first()
            if first is None or first[1] is pushed:
                break
            self._release(first, released)
        return released

    # Code of the user (a signal handler, a finaliser) may run, and hold or release, between any two of these lines.

    def _first(self) -> tuple[int, object, int] | None:
        try:
            return self._held[0]
        except IndexError:
            return None

    def _release(self, first: tuple[int, object, int], released: list[object]) -> None:
        """Move the first one to ``released``, unless such code has done it."""
        try:
            taken = self._held.popleft()
        except IndexError:
            return
        if taken is not first:
            self._held.appendleft(taken)
            return
        self._bytes -= first[2]
        released.append(first[1])
