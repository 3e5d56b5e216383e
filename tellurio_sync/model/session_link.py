"""The interface between the object model and its session.

A Variable calls the server when it is created or changed, but ``model`` imports neither the client nor the session.  It
uses only this interface; ``session`` implements it, and sets the session that is current.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import UsageError

if TYPE_CHECKING:
    from .registries import Registries


OnLate = Callable[[dict[str, Any]], None]
"""Takes the whole reply envelope of a call that was given up before."""


class Admission(Protocol):
    """The permission to call the server. While it is held, no id of an object changes."""

    def request(self, method: str, params: dict[str, Any], on_reply: Callable[[], None], on_late: OnLate) -> Any:
        """Call the server and return the ``result`` of its reply. Blocks.

        Args:
            method: its name.
            params: its parameters.
            on_reply: called when a reply has come, also an error reply, before any later message is handled. Runs on
                the receive thread: it must not block.
            on_late: called with the envelope if the reply comes after this call was given up (Ctrl-C, a time-out). As
                ``on_reply``, or on this thread if it was interrupted just when the reply came.

        Raises:
            RemoteError: the server answered with an error.
            CallTimeout, ConnectionLost, NotConnected, WouldDeadlock: as ``TellurioWebSocketClient.call``.
        """
        ...

    def request_many(
        self,
        requests: Sequence[tuple[str, dict[str, Any]]],
        on_reply: Callable[[], None] | None = None,
        on_late: OnLate | None = None,
    ) -> list[Any]:
        """Call the server many times in one round trip: all requests are sent together. Blocks until all are over.

        Together they have the timeout of one call, and 10 ms more for each.

        Args:
            requests: pairs of method and parameters. A server handles them in this order.
            on_reply, on_late: as for ``request``, for the reply to the last one.

        Returns:
            For each request the ``result`` of its reply, or the error that ``request`` would raise.

        Raises:
            LocalProtocolError: one of them cannot be sent as JSON; nothing was sent.
            ConnectionLost, NotConnected, WouldDeadlock: nothing was sent, or it is not known what was.
        """
        ...

    def leave(self) -> None:
        """Give it back."""
        ...


class SessionLink(Protocol):
    """A session, as an object of the model sees it."""

    @property
    def registries(self) -> Registries:
        """The variables, nodes, models, optimizers and callables of this session."""
        ...

    @property
    def pending_timeout(self) -> float:
        """Seconds, > 0: how long reading a Variable waits for a change that the server announced (protocol §F.4)."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, so that nothing sent to it leaves it."""
        ...

    def check_consent(self) -> None:
        """Return if the user lets keys of language models be sent to the server. Blocks while it asks.

        Raises:
            UsageError: the user does not, or cannot be asked.
            ValueError: the answer in the environment is neither true nor false.
        """
        ...

    @property
    def extensions(self) -> frozenset[str]:
        """What the server understands beyond the protocol; nothing before a login. Does not block."""
        ...

    def admit(self) -> Admission:
        """Leave to make one call: use ``call.Call``. Blocks while a lost connection is being restored.

        Raises:
            CallTimeout, NotConnected, WouldDeadlock: as ``TellurioWebSocketClient.call``; and as a login, where that
                has not been done.
        """
        ...

    def check_may_wait(self) -> None:
        """Return if this thread may wait for the server.

        Raises:
            WouldDeadlock: this is the receive thread, which would wait for itself.
        """
        ...


_current: ContextVar[SessionLink | None] = ContextVar("tellurio_sync_link", default=None)
_default: Callable[[], SessionLink] | None = None


def current_link() -> SessionLink:
    """The link of this thread or context, else the default session's."""
    link = _current.get()
    if link is not None:
        return link
    if _default is None:
        raise UsageError("There is no session: import tellurio_sync and call tellurio_sync.login() first.")
    return _default()


def set_default_link(provider: Callable[[], SessionLink]) -> None:
    """Name the function that gives the default session. Called once, by ``session``."""
    global _default
    _default = provider


class use_link:
    """Context manager: ``link`` is current in this thread or context inside it."""

    def __init__(self, link: SessionLink) -> None:
        self._link = link

    def __enter__(self) -> SessionLink:
        self._token = _current.set(self._link)
        return self._link

    def __exit__(self, *exc_info: object) -> None:
        _current.reset(self._token)
