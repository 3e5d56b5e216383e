"""Sessions: which objects belong to which client, and when they are forgotten (protocol §K.6).

A client that sends ``X-Tellurio-Session`` in its handshake has its own session: with ``new`` a new one, whose id is in
the greeting; with that id, at a reconnect, the same one again.  What the client makes (variables, models, optimizers,
the model of backward passes) is seen in that session only, so two programs at one backend never use each other's
models.

Clients that do not send the header share one session (protocol §C.3).

When the last connection of a session has ended, the session is kept for a grace time, in which a reconnect finds
everything again.  Then it is forgotten, with everything in it.

Only the event loop's thread uses this module.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from .objects import Objects, new_id

if TYPE_CHECKING:
    from .connection import Connection
    from .history import History

SESSION_HEADER = "X-Tellurio-Session"
NEW = "new"
PROPOSED = "new:"


@dataclass(eq=False)
class Session:
    """The objects of one client, over all its connections.

    Attributes:
        session_id: None for the session that is shared by clients that send no header.
        connections: how many are open.
        connection: the latest one of a session of its own.
    """

    session_id: str | None
    objects: Objects = field(repr=False)
    connections: int = 0
    connection: Connection | None = field(default=None, repr=False)
    expiry: asyncio.TimerHandle | None = field(default=None, repr=False)

    def go_on_with(self, connection: Connection) -> None:
        """Note that the client has a new connection. Nobody waits for what still runs on the one it had before."""
        if self.session_id is None:
            return
        former, self.connection = self.connection, connection
        if former is not None:
            former.abandon()


class Sessions:
    """All sessions of a backend.

    Args:
        grace: seconds, >= 0, for which a session without connection is kept.
        history: keeps what happens in all sessions; None: nothing is kept.
    """

    def __init__(self, grace: float, history: History | None = None) -> None:
        self._grace = grace
        self._history = history
        self._sessions: dict[str | None, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def join(self, header: str | None) -> Session:
        """The session of a new connection; ``header`` is the value of its :data:`SESSION_HEADER`, None if it sent none.

        For an id that is not known (any more) there is a new session; the client sees that by the id in the greeting.
        After ``new:`` a client may propose the id of a new session: it connects later than it needs to know it.
        """
        proposed = None
        if header is not None and header.startswith(PROPOSED):
            proposed = _proposed_id(header)
            header = proposed or NEW
        session = self._sessions.get(header)
        if session is None:
            session_id = None if header is None else proposed or new_id()
            session = self._sessions[session_id] = Session(session_id, Objects(self._history))
        session.connections += 1
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        return session

    def leave(self, session: Session) -> None:
        """A connection of ``session`` has ended."""
        session.connections -= 1
        if not session.connections:
            session.connection = None
            session.expiry = asyncio.get_running_loop().call_later(self._grace, self._forget, session)

    def _forget(self, session: Session) -> None:
        del self._sessions[session.session_id]
        # The connection that has ended may be part of circles, which the garbage collector takes apart later.
        session.objects.clear()

    def close(self) -> None:
        """Forget all: the backend stops."""
        for session in self._sessions.values():
            if session.expiry is not None:
                session.expiry.cancel()
        self._sessions.clear()


def _proposed_id(header: str) -> str | None:
    """The id in this header; None: it is not in the form of one."""
    try:
        return str(UUID(header[len(PROPOSED) :]))
    except ValueError:
        return None
