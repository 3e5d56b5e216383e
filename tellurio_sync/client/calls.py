"""Calls of the client on the server: one request, many requests, or without waiting for the reply."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from ..active_run import HasUuid
from ..deadlines import check_timeout
from ..peer.connection import Connection
from ..peer.lifecycle import OPEN
from ..peer.peer import Peer

LONG_RUNNING_METHODS = frozenset({"run_function", "run_backward", "run_step", "run_optimizer_tgd"})
"""The methods whose deadline the server extends by heartbeats (protocol §C)."""

DEFAULT_TIMEOUT = 30.0
"""Seconds."""


class ClientCalls(ABC):
    """The calls of the client. Every request carries the run that it is made for.

    Attributes:
        default_timeout: seconds, > 0, for calls that name none.
        hard_timeout: seconds, > 0, beyond which heartbeats do not extend a call; None: no such limit.
    """

    default_timeout: float
    hard_timeout: float | None
    _peer: Peer | None
    _active_run: Callable[[], HasUuid]

    @abstractmethod
    def _usable_peer(self) -> Peer:
        """The peer for calls; connects first, if necessary. Raises ``NotConnected``, ``ConnectFailed``."""

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Call a method of the server and wait for its reply (protocol §A.4).

        Args:
            method: its name.
            params: its parameters, JSON values; never changed. ``run_uuid`` is added if it is absent.
            timeout: seconds, > 0; None: ``default_timeout``. For ``LONG_RUNNING_METHODS`` it counts from the last
                heartbeat. It does not cover what your own callables do meanwhile: heartbeats go on.

        Returns:
            The whole reply envelope: ``{"jsonrpc", "id", "result" | "error"}``. An ``error`` is not raised.

        Raises:
            CallTimeout: no reply came in time.
            ConnectionLost: the connection ended first (``ClosedByUser`` if by ``close``); ``was_sent`` says whether the
                server may have acted.
            NotConnected: there is no connection, or ``close`` was called.
            WouldDeadlock: called on the receive thread.
            LocalProtocolError: ``params`` cannot be sent as JSON.
            RemoteProtocolError: the reply breaks JSON-RPC 2.0.
            ValueError: there is no active run, or ``timeout`` is not a positive finite number.
        """
        seconds = self.default_timeout if timeout is None else check_timeout(timeout)
        peer = self._peer
        if peer is None or peer.state != OPEN:
            peer = self._usable_peer()
        return peer.request(
            method,
            self._with_run(params),
            seconds,
            is_extendable=method in LONG_RUNNING_METHODS,
            hard_timeout=self.hard_timeout,
        )

    def submit(
        self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Future[dict[str, Any]]:
        """As ``call``, without waiting: returns a future of the reply envelope.

        The future ends by itself at the call's deadline. To cancel it gives up the call; the server is not told.
        Callbacks added to it run on a worker thread. Waits only while the outgoing queue is full, or while a lost
        connection is being restored.

        Raises:
            NotConnected, ConnectionLost, CallTimeout, LocalProtocolError, ValueError: as ``call``, while sending;
                a later error is the exception of the future.
        """
        seconds = self._timeout(timeout)
        peer = self._peer
        if peer is None or peer.state != OPEN:
            peer = self._usable_peer()
        return peer.submit(
            method,
            self._with_run(params),
            seconds,
            is_extendable=method in LONG_RUNNING_METHODS,
            hard_timeout=self.hard_timeout,
        )

    def call_many(
        self,
        calls: Iterable[tuple[str, Mapping[str, Any]]],
        timeout: float | None = None,
        *,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Call many methods: all requests are sent at once, then this waits for all replies.

        Args:
            calls: pairs of method and params.
            timeout: seconds, > 0, for each call; None: ``default_timeout``.
            return_exceptions: return an error in place of its reply, instead of raising the first one.

        Returns:
            The reply envelopes, in the order of ``calls``.

        Raises:
            As ``call``. With ``return_exceptions=False`` the first error is raised after all calls are over.
        """
        seconds = self._timeout(timeout)
        peer = self._usable_peer()
        outcomes = peer.request_many(self._with_runs(calls), seconds, hard_timeout=self.hard_timeout)
        if not return_exceptions:
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
        return outcomes

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification: the server does not reply, not even with an error.

        Returns when it is queued for sending; waits only as ``submit`` does.

        Raises:
            NotConnected, ConnectionLost, CallTimeout, LocalProtocolError, ValueError: it was not sent.
        """
        self._usable_peer().notify(method, self._with_run(params), self.default_timeout)

    # --- for a session, which restores its objects on a new connection before anything else ------------------

    def wait_for_connection(self, timeout: float) -> Connection:
        """The open connection. Blocks while it is being restored, at most ``timeout`` seconds.

        Raises:
            NotConnected, CallTimeout, WouldDeadlock: as ``call``; ConnectFailed: in a forked child, which connects.
        """
        return self._usable_peer().wait_for_connection(timeout)

    def call_on(
        self,
        connection: Connection,
        method: str,
        params: Mapping[str, Any],
        timeout: float | None = None,
        on_reply: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """As ``call``, but on this connection or not at all.

        Args:
            on_reply: called on the receive thread when the reply has come, before any later message is handled.
        """
        return self._usable_peer().request(
            method,
            self._with_run(params),
            self._timeout(timeout),
            is_extendable=method in LONG_RUNNING_METHODS,
            hard_timeout=self.hard_timeout,
            connection=connection,
            on_reply=on_reply,
        )

    def call_many_on(
        self,
        connection: Connection,
        calls: Iterable[tuple[str, Mapping[str, Any]]],
        timeout: float | None = None,
        on_reply: Callable[[], None] | None = None,
    ) -> list[Any]:
        """As ``call_many``, but on this connection or not at all; returns errors in place of replies.

        Args:
            on_reply: as for ``call_on``, when the reply to the last of them has come.
        """
        return self._usable_peer().request_many(
            self._with_runs(calls),
            self._timeout(timeout),
            hard_timeout=self.hard_timeout,
            connection=connection,
            on_reply=on_reply,
        )

    # --- within ------------------------------------------------------------------------------------------

    def _timeout(self, timeout: float | None) -> float:
        return self.default_timeout if timeout is None else check_timeout(timeout)

    def _with_run(self, params: Mapping[str, Any] | None) -> dict[str, Any]:
        with_run = dict(params) if params else {}
        if "run_uuid" not in with_run:
            with_run["run_uuid"] = self._active_run().uuid
        return with_run

    def _with_runs(self, calls: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[tuple[str, dict[str, Any], bool]]:
        """As ``_with_run``, for many calls; each with whether heartbeats extend it."""
        for method, params in calls:
            yield method, self._with_run(params), method in LONG_RUNNING_METHODS
