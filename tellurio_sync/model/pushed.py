"""Objects that the server has pushed are kept alive until the call that caused the push has taken them.

The server pushes objects before the reply that refers to them (protocol §C.1).  The registries refer to objects
weakly.  So from the push until the caller decodes the reply, nothing but :class:`PushedObjects` holds a momentum copy
or a graph node.

An object that is pushed while calls run may belong to any of them, but to no later call.  So each call draws a *ticket*
(a growing number); each held object is marked with the last ticket that was drawn before it came; and an object is
dropped as soon as no call with a ticket up to its mark runs.  Therefore the number of held objects stays bounded even
if calls overlap without end.
"""

from __future__ import annotations

from collections import deque

_MAX_IDLE = 10_000
"""The most objects that are held while no call runs, until the next call ends; beyond it the oldest are dropped."""


class PushedObjects:
    """Strong references that end with calls. Not thread-safe: the owner calls it under its lock."""

    __slots__ = ("_held", "_last_ticket", "_running")

    def __init__(self) -> None:
        self._held: deque[tuple[int, object]] = deque()
        self._last_ticket = 0
        # A dict keeps insertion order, so its first key is the oldest running call.
        self._running: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._held)

    def begin_call(self) -> int:
        """Note the start of a call that may cause pushes; returns its ticket for :meth:`end_call`."""
        self._last_ticket += 1
        self._running[self._last_ticket] = None
        return self._last_ticket

    def end_call(self, ticket: int) -> list[object]:
        """Note the end of a call.

        Returns:
            The objects that no running call can need any more. The owner drops them outside its lock, because that may
            run a finaliser of the user.
        """
        del self._running[ticket]
        oldest = next(iter(self._running), self._last_ticket + 1)
        released = []
        while self._held and self._held[0][0] < oldest:
            released.append(self._held.popleft()[1])
        return released

    def hold(self, pushed: object) -> object | None:
        """Hold an object that was pushed; returns the one that is dropped for it (see ``_MAX_IDLE``), or None."""
        self._held.append((self._last_ticket, pushed))
        if not self._running and len(self._held) > _MAX_IDLE:
            return self._held.popleft()[1]
        return None
