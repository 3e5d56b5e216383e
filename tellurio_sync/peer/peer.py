"""One end of a conversation: it sends requests, one or many, waits for replies or gives futures.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| numbers of requests | callers | callers | one call of C: ``itertools.count`` | – |
| the connection and its state | see ``lifecycle`` | | | |

The texts that are sent may hold keys of language models.  Error reporters show the variables of each frame; so the list
that carries the texts is emptied before an error leaves: by ``del``, which is no call, after which Ctrl-C could come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import cached_property
from itertools import count, repeat
from operator import add
from secrets import token_hex
from typing import Any

from .. import jsonrpc
from ..errors import TellurioError
from .connection import Connection
from .futures import CallFuture, RunCallback
from .lifecycle import Lifecycle
from .pending import OnLate, OpenCall, PendingCall


class Peer:
    """One end of a JSON-RPC 2.0 conversation. Thread-safe.

    Args:
        lifecycle: opens the connection, and opens it again.

    Attributes:
        lifecycle: as above.
    """

    _numbers = count(1)  # of the requests of all peers: taking one is a single C call

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle = lifecycle
        self._clock = lifecycle.clock
        # Unique over connections and processes, so that a late reply can never be taken for the reply to another call.
        # One C call for each: a step that nothing can interrupt.
        prefix = token_hex(4) + "-"
        self._next_id: Callable[[], str] = map(add, repeat(prefix), map(repr, self._numbers)).__next__

    def request(
        self,
        method: str,
        params: dict[str, Any],
        timeout: float,
        is_extendable: bool = False,
        hard_timeout: float | None = None,
        *,
        connection: Connection | None = None,
        on_reply: Callable[[], None] | None = None,
        on_late: OnLate | None = None,
    ) -> dict[str, Any]:
        """Call a method and return the whole reply envelope. Blocks, at most until the call's deadline.

        Args:
            method: its name.
            params: its parameters; encoded before this returns, never changed.
            timeout: seconds, > 0, from the start and, if ``is_extendable``, from each heartbeat.
            is_extendable: whether heartbeats move the deadline.
            hard_timeout: seconds, > 0, beyond which heartbeats do not move it; None: no such limit.
            connection: the only connection to use; None: the open one, for which this waits.
            on_reply: called on the receive thread when the reply has come, before the next message is looked at; it
                must neither block nor raise.
            on_late: called instead of returning, if the reply comes although the call was given up (Ctrl-C, a
                time-out): on the receive thread, or on this one where it was interrupted just then.

        Raises:
            CallTimeout, ConnectionLost, ClosedByUser, NotConnected, LocalProtocolError, RemoteProtocolError,
            WouldDeadlock: see ``errors``.
        """
        call = PendingCall(
            self._next_id(), method, timeout, self._clock.now(), hard_timeout, is_extendable, on_reply, on_late
        )
        texts = [jsonrpc.encode_request(call.id, method, params)]
        if connection is None:
            connection = self.lifecycle.connection
            if connection is None or connection.transport.is_over:
                connection = self._connection_for(call, texts)
        try:
            connection.check_may_wait()
            connection.start(call, texts)
            return connection.wait(call)
        except BaseException:
            del texts[:]
            try:
                connection.pending.give_up(call)
            finally:
                connection.pending.pop(call.id, None)
                call.hand_over_late()
            raise

    def request_many(
        self,
        requests: Iterable[tuple[str, dict[str, Any], bool]],
        timeout: float,
        *,
        hard_timeout: float | None = None,
        connection: Connection | None = None,
        on_reply: Callable[[], None] | None = None,
        on_late: OnLate | None = None,
    ) -> list[Any]:
        """Send many requests at once; returns the outcomes in order, each an envelope or an error. Blocks for all.

        ``requests`` are method, params and whether heartbeats extend the call; all are encoded before any is sent.

        Uses only this ``connection``; None: the open one, for which it waits. ``on_reply`` and ``on_late`` are for
        the last one.

        Each call has its own deadline, as in ``request``. Errors are returned, not raised, except those that
        concern all: what ``start`` raises, ``NotConnected``, ``WouldDeadlock``, ``LocalProtocolError``.
        """
        requests = list(requests)  # before the time starts to count, because a generator of the user may make them
        now = self._clock.now()
        calls: list[PendingCall] = []
        texts: list[str] = []
        for method, params, is_extendable in requests:
            call = PendingCall(self._next_id(), method, timeout, now, hard_timeout, is_extendable)
            calls.append(call)
            texts.append(jsonrpc.encode_request(call.id, method, params))
        del requests
        if not calls:
            return []
        calls[-1].on_reply, calls[-1].on_late = on_reply, on_late
        connection = connection or self._connection_for(calls[0], texts)
        outcomes: list[Any] = []
        try:
            connection.check_may_wait()
            connection.start_many(calls, texts)
            del texts[:]  # not needed while this waits for a thousand replies
            for call in calls:
                try:
                    outcomes.append(connection.wait(call))
                except TellurioError as exc:  # given to the caller in its place
                    outcomes.append(exc)
        except BaseException:
            del texts[:]
            try:
                for call in calls:
                    connection.pending.give_up(call)
            finally:
                for call in calls:
                    connection.pending.pop(call.id, None)
                calls[-1].hand_over_late()
            raise
        return outcomes

    def submit(
        self,
        method: str,
        params: dict[str, Any],
        timeout: float,
        *,
        is_extendable: bool = False,
        hard_timeout: float | None = None,
    ) -> Future[dict[str, Any]]:
        """As ``request``, but returns a future of the envelope at once. May be used on the receive thread.

        Waits only while the outgoing queue is full or the connection is being restored.
        """
        future = CallFuture(
            self._next_id(),
            method,
            timeout,
            self._clock.now(),
            hard_timeout,
            is_extendable,
            run_callback=self._run_callback,
        )
        texts = [jsonrpc.encode_request(future.id, method, params)]
        connection = self._connection_for(future, texts)
        future.is_in(connection.pending)
        try:
            connection.start(future, texts)
            connection.watch_expiry(future.expires_at)
        except BaseException:
            del texts[:]
            try:
                connection.pending.give_up(future)
            finally:
                connection.pending.pop(future.id, None)
                # It may have been interrupted after it noted the deadline and before it woke the receive thread.
                connection.transport.wake()
            raise
        return future

    def notify(self, method: str, params: dict[str, Any], timeout: float) -> None:
        """Send a notification. Waits only for room in the outgoing queue, or for a lost connection to be restored."""
        texts = [jsonrpc.encode(jsonrpc.notification(method, params))]
        call = OpenCall("", method, timeout, self._clock.now())
        connection = self._connection_for(call, texts)
        try:
            connection.notify(call, texts)
        except BaseException:
            del texts[:]
            raise

    def _connection_for(self, call: OpenCall, texts: list[str]) -> Connection:
        """The open connection; waits for it as ``Lifecycle.connection_for`` does."""
        try:
            return self.lifecycle.connection_for(call)
        except BaseException:
            del texts[:]
            raise

    def extend(self, request_id: object) -> None:
        """Note a heartbeat of one call. Unknown ids change nothing. Never blocks."""
        connection = self.lifecycle.connection
        if connection is not None:
            connection.extend(request_id)

    @cached_property
    def _run_callback(self) -> RunCallback:
        # All futures share this one object; a bound method would be a new object for each of them. It does not refer to
        # this peer, which keeps it.
        lifecycle = self.lifecycle

        def run_callback(callback: Callable[[], None]) -> None:
            if not lifecycle.pool.submit(callback, must_run=True):
                callback()  # no thread can be started any more, and a thread may wait for this callback

        return run_callback
