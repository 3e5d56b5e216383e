"""The ids of objects that this side has let go of, on their way to the server (protocol §K.3).

The tables of the registries note here the ids of objects that are gone.  Before a call is sent, these ids are sent in
one notification, which has no reply.  A few ids wait for more, but not for long.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the ids | the thread that drops the last reference; callers | callers | one C call on a deque each | – |
| when to send again: ``_next_at`` | callers | callers | one store: two may send at once | – |
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

RELEASE = "release"
"""The extension, and the method, by which a server is told."""

_MANY = 100
_INTERVAL = 0.2  # seconds for which a few ids wait for more
_MOST = 10_000  # in one message
# If the server does not know ``release``, nothing takes the ids away: then the oldest ones go.
_KEPT = 100_000


class Released:
    """The ids of objects that are gone. Thread-safe, never blocks.

    Attributes:
        variables, models, optimizers: to these the tables append ids.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.variables: deque[str] = deque(maxlen=_KEPT)
        self.models: deque[str] = deque(maxlen=_KEPT)
        self.optimizers: deque[str] = deque(maxlen=_KEPT)
        self._clock = clock
        self._next_at = 0.0

    def clear(self) -> None:
        """Forget all ids."""
        for ids in (self.variables, self.models, self.optimizers):
            ids.clear()

    def take_due(self) -> dict[str, list[str]] | None:
        """The parameters of a ``release``, if it is time for one. Takes their ids away from here."""
        if not (self.variables or self.models or self.optimizers):
            return None
        now = self._clock()
        if now < self._next_at and len(self.variables) < _MANY:
            return None
        self._next_at = now + _INTERVAL
        found = {
            "variable_ids": _taken(self.variables),
            "model_ids": _taken(self.models),
            "optimizer_ids": _taken(self.optimizers),
        }
        return {key: ids for key, ids in found.items() if ids}

    def put_back(self, params: dict[str, list[str]]) -> None:
        """What was taken could not be sent."""
        self.variables.extend(params.get("variable_ids", ()))
        self.models.extend(params.get("model_ids", ()))
        self.optimizers.extend(params.get("optimizer_ids", ()))


def _taken(ids: deque[str]) -> list[str]:
    taken: list[str] = []
    try:
        while len(taken) < _MOST:
            taken.append(ids.popleft())
    except IndexError:
        pass  # another thread may have taken the last ones
    return taken
