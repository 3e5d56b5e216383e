"""Keeping what the server has pushed alive until the call that caused the push has taken it.

The server announces objects before the reply that refers to them (protocol §C.1).  The
registries refer to objects weakly, so between the push and the moment the caller decodes the reply
nothing else would hold a momentum copy or a graph node.  :class:`PushedObjects` does.

An object that was pushed while calls were running may belong to any of them, and to no later one.
So each call draws a *ticket* (a growing number), each held object is stamped with the last ticket
drawn before it came, and an object is let go as soon as no call with a ticket up to its stamp runs.
The area therefore stays bounded even if calls overlap without end.
"""

from __future__ import annotations

from collections import deque

_MAX_IDLE = 10_000
"""Objects held while no call runs: they wait for the next call to end, and the oldest give way."""


class PushedObjects:
    """Strong references with an end. Not thread-safe: the owner calls it under its lock."""

    __slots__ = ("_held", "_last_ticket", "_running")

    def __init__(self) -> None:
        self._held: deque[tuple[int, object]] = deque()
        self._last_ticket = 0
        # A dict keeps insertion order, so its first key is the oldest running call.
        self._running: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._held)

    def begin_call(self) -> int:
        """Note that a call which may cause pushes starts; returns its ticket for :meth:`end_call`."""
        self._last_ticket += 1
        self._running[self._last_ticket] = None
        return self._last_ticket

    def end_call(self, ticket: int) -> list[object]:
        """Note that a call has ended.

        Returns:
            What no running call can need any more: the owner drops it outside its lock, because
            dropping may run a finaliser of the user's.
        """
        del self._running[ticket]
        oldest = next(iter(self._running), self._last_ticket + 1)
        released = []
        while self._held and self._held[0][0] < oldest:
            released.append(self._held.popleft()[1])
        return released

    def hold(self, pushed: object) -> object | None:
        """Hold what was pushed just now; returns what had to give way to it (see ``_MAX_IDLE``), else None."""
        self._held.append((self._last_ticket, pushed))
        if not self._running and len(self._held) > _MAX_IDLE:
            return self._held.popleft()[1]
        return None
