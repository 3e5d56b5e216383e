"""The Tellurio WebSocket client: JSON-RPC 2.0 calls to the server, and what the server may call here.

``TellurioWebSocketClient`` has the names of the published API, without ``await``.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_peer`` | ``connect``, the first use after a fork | any thread | ``_lock``, not held in a wait | no other has it |
| ``_api_key`` | ``connect`` | any thread | one store | – |
| ``_session_id`` | receive thread (greeting); ``go_on_with``, ``propose_session`` | receive thread | one store | – |
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, ClassVar, TypeVar

from .. import forked, long_calls
from ..active_run import HasUuid, get_active_run
from ..addresses import check_may_send_key, ws_address
from ..deadlines import MONOTONIC, check_timeout
from ..errors import ConnectFailed, ConnectionLost, NotConnected, UsageError
from ..jsonrpc import encode, notification
from ..model.registries import Registries
from ..peer.connection import Connection
from ..peer.dispatch import Method
from ..peer.lifecycle import CLOSED, OPEN, Lifecycle
from ..peer.peer import Peer
from ..peer.recording import Recorder
from ..secret import Secret, hidden, redact
from ..speedups import check_threads
from ..tracing import TRACERS, of_call
from ..transport.base import DialFailed
from ..transport.handshake import Dialer
from ..transport.tls import check_context
from ..transport.websocket import DEFAULT_MAX_MESSAGE_SIZE
from . import server_methods
from .greeting import Greeting, cancellation, checked_key, connect_failed, read_greeting
from .stats import ClientStats, stats_of

T = TypeVar("T")

WS_PATH = "/ws/v0/rpc/"

SESSION = "session"
"""The extension of servers at which a client goes on with its session when it connects again."""

API_KEY_VARIABLE = "TELLURIO_API_KEY"
RECORD_VARIABLE = "TELLURIO_RECORD_ENVELOPES"

LONG_RUNNING_METHODS = frozenset({"run_function", "run_backward", "run_step", "run_optimizer_tgd"})
"""The methods whose deadline the server extends by heartbeats (protocol §C)."""

DEFAULT_TIMEOUT = 30.0
"""Seconds."""


_RPC = "rpc_"

ServerMethod = Callable[[Any, dict[str, Any]], Any]
"""A method that the server may call: the client and the parameters to the result."""


class TellurioWebSocketClient:
    """A connection to the Tellurio backend. Thread-safe: any number of threads may call at once.

    What to know:

    * ``call`` waits for the reply; ``submit`` does not; ``call_many`` sends many requests at once and waits once.
    * The receive thread, started by ``connect``, reads the socket and applies the pushes of the server, in the order in
      which they were sent, and before the reply that follows them. Your functions never run on it: callables run on
      worker threads, and may call the server themselves.
    * A call ends at its deadline: its ``timeout`` after the start, for long-running methods after the last heartbeat.
    * When the connection is lost, every waiting call ends at once with ``ConnectionLost``. The client then reconnects
      automatically; calls that are made meanwhile wait for that, within their own timeout.
    * A forked child never touches the connection of its parent: its first use opens its own.
    * A pickle holds the configuration, but no key, no connection, no hooks and no ``ssl_context``. What is unpickled
      connects at its first use if ``TELLURIO_API_KEY`` is set.

    Subclass it to change the methods that the server may call: ``rpc_...``. All but ``rpc_run_callable`` run on the
    receive thread: they must be quick and must not call the server.

    Args:
        base_url: ``ws://`` or ``wss://`` and host; None: ``TELLURIO_BACKEND_WS_BASE_URL``, else the platform.
        port: None: ``TELLURIO_BACKEND_WS_PORT``, else 443.
        default_timeout: seconds, > 0, of calls that name none.
        api_key: for ``connect`` calls that name none; None: ``TELLURIO_API_KEY`` at that time.
        hard_timeout: seconds, > 0, beyond which heartbeats do not extend a call; None: no such limit.
        connect_timeout: seconds, > 0, for one attempt up to the end of the handshake, and again for the greeting.
        ping_interval: seconds, > 0, of silence before a ping; None: never ping.
        ping_timeout: seconds, > 0, for its answer, and for the server to take any byte of what is sent.
        max_message_size: bytes, > 0, of an incoming message; a longer one ends the connection.
        reconnect: whether to connect again automatically when the connection is lost.
        on_lost: called with the ``ConnectionLost`` when an open connection has ended. On the receive thread: be quick.
        on_restored: called with the new session id when it is open again. On the receive thread: be quick.
        allow_insecure: permit a key to cross a network unencrypted (``ws://`` to another host).
        ssl_context: for ``wss://``; None: the system's certificates, host name checked. Its ``wrap_bio`` is used.
        registries: the objects that pushes of the server change; None: new ones.
        active_run: gives the run for which calls are made; None: ``active_run.get_active_run``.
        record_envelopes: keep the shapes of the last 200 envelopes, at most 64 KiB of text, for ``recent``: names of
            members, numbers and ids, but of each text only its length. None: if ``TELLURIO_RECORD_ENVELOPES`` is set.

    Raises:
        ValueError: an address, timeout or size that cannot be right, or an ``ssl_context`` that overrides
            ``wrap_socket`` or ``sslsocket_class``, because these would not be used.
    """

    def __init__(
        self,
        base_url: str | None = None,
        port: int | str | None = None,
        default_timeout: float = DEFAULT_TIMEOUT,
        *,
        api_key: str | None = None,
        hard_timeout: float | None = None,
        connect_timeout: float = 10.0,
        ping_interval: float | None = 20.0,
        ping_timeout: float = 20.0,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        reconnect: bool = True,
        on_lost: Callable[[ConnectionLost], None] | None = None,
        on_restored: Callable[[str], None] | None = None,
        allow_insecure: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        registries: Registries | None = None,
        active_run: Callable[[], HasUuid] | None = None,
        record_envelopes: bool | None = None,
    ) -> None:
        api_key = hidden(api_key)  # from here on, no frame of ours shows it
        self._address = ws_address(base_url, port)
        self.default_timeout: float = check_timeout(default_timeout, "default_timeout")
        self.hard_timeout: float | None = None if hard_timeout is None else check_timeout(hard_timeout, "hard_timeout")
        self._connect_timeout = check_timeout(connect_timeout, "connect_timeout")
        self._ping_interval = None if ping_interval is None else check_timeout(ping_interval, "ping_interval")
        self._ping_timeout = check_timeout(ping_timeout, "ping_timeout")
        if not isinstance(max_message_size, int) or max_message_size < 1:
            raise ValueError(f"max_message_size must be a positive number of bytes, not {max_message_size!r}")
        self._max_message_size = max_message_size
        self._reconnect = reconnect
        self._on_lost = on_lost
        self._on_restored = on_restored
        self._allow_insecure = allow_insecure
        if ssl_context is not None:
            check_context(ssl_context)
        self._ssl_context = ssl_context
        self._active_run = active_run or get_active_run
        self._records_envelopes = (
            bool(os.environ.get(RECORD_VARIABLE)) if record_envelopes is None else record_envelopes
        )
        self.registries: Registries = Registries() if registries is None else registries
        self._api_key: str | None = None if api_key is None else checked_key(api_key)
        self._is_unpickled = False
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._peer: Peer | None = None
        self._session_id: str | None = None  # to go on with at the next connection; None: a new one
        self._lock = threading.RLock()  # guards the assignment of _peer; never held while connecting or closing
        forked.renew(self)

    def __getstate__(self) -> dict[str, Any]:
        here = ("_api_key", "_peer", "_session_id", "_lock", "registries", "_active_run", "_on_lost", "_on_restored")
        return {name: value for name, value in self.__dict__.items() if name not in (*here, "_ssl_context")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._on_lost = self._on_restored = self._ssl_context = None
        self._active_run = get_active_run
        self.registries = Registries()
        self._api_key = None
        self._is_unpickled = True
        self._start_afresh()

    def renew_after_fork(self) -> None:
        # In the child. Threads of the parent may have held the locks; they do not exist here.
        self._lock = threading.RLock()
        self._session_id = None  # the parent's
        self.registries.renew_after_fork()

    # --- the connection --------------------------------------------------------------------------------

    @property
    def ws_url(self) -> str:
        """The address of the WebSocket (protocol §A.1)."""
        return f"{self._address.url}{WS_PATH}"

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine."""
        return self._address.is_loopback

    @property
    def connection(self) -> Connection | None:
        """The open connection; None before ``connect``, after ``close`` and while it is lost. For ``is None`` only."""
        peer = self._peer
        return None if peer is None else peer.lifecycle.connection

    @property
    def pending(self) -> dict[str, str]:
        """The calls that wait for a reply: a new dict, request id to method."""
        connection = self.connection
        return {} if connection is None else connection.pending.snapshot()

    @property
    def state(self) -> str:
        """One of ``"new"``, ``"connecting"``, ``"open"``, ``"reconnecting"``, ``"closed"``."""
        peer = self._peer
        return "new" if peer is None else peer.lifecycle.state

    @property
    def greeting(self) -> Greeting | None:
        """What the server said of itself when the connection last opened; None before that."""
        peer = self._peer
        return None if peer is None else peer.lifecycle.greeting

    @property
    def extensions(self) -> frozenset[str]:
        """What the server understands beyond the protocol (its §K); nothing before ``connect``."""
        greeting = self.greeting
        return frozenset() if greeting is None else greeting.extensions

    def stats(self) -> ClientStats:
        """What has happened since the last ``connect``: calls, waits, latencies, bytes. Does not block; any thread.

        ``print(client.stats())`` shows it in lines. It holds no parameters, no results and no keys.
        """
        peer = self._peer
        return ClientStats(url=self.ws_url) if peer is None else stats_of(self.ws_url, peer.lifecycle)

    def recent(self) -> tuple[str, ...]:
        """What happened last, oldest first, in lines: as in ``CallTimeout.recent``. Does not block; any thread.

        With ``record_envelopes=True`` also the shapes of the last envelopes.
        """
        peer, connection = self._peer, self.connection
        if peer is None:
            return ()
        return peer.lifecycle.tally.recent(() if connection is None else connection.pending.copy().values())

    def go_on_with(self, former: TellurioWebSocketClient) -> None:
        """Connect, later, to the session of this former client, if that was at the same server."""
        if former.ws_url == self.ws_url:
            self._session_id = former._session_id

    def propose_session(self, session_id: str) -> None:
        """Connect, later, to a new session, which is to have this id (a UUID), if the server lets it be chosen."""
        self._session_id = f"new:{session_id}"

    def connect(self, api_key: str | None = None, retries: int = 3, delay: float = 5) -> dict[str, str]:
        """Connect, and wait for the server's greeting (protocol §A.3). Blocks.

        An open connection is closed first: there is only one at a time.

        Args:
            api_key: sent in the handshake; None: the key of the last ``connect``, else the constructor's, else
                ``TELLURIO_API_KEY``.
            retries: attempts in total, >= 1.
            delay: seconds, >= 0, between attempts.

        Returns:
            ``{"session_id": ...}``

        Raises:
            InvalidAPIKeyError: the server refused the key; it is not tried again.
            ConnectFailed: every attempt failed (the text has the reason of the last one); or there is no key; or
                ``close`` was called meanwhile.
            UsageError: gevent or eventlet has replaced the threads since this package was imported.
            ValueError: ``retries`` or ``delay`` out of range.
        """
        api_key = hidden(api_key)  # from here on, no frame of ours shows it
        if not isinstance(retries, int) or retries < 1:
            raise ValueError(f"retries must be at least 1, not {retries!r}")
        if delay:
            check_timeout(delay, "delay")
        if api_key is not None:
            self._api_key = checked_key(api_key)
        elif self._api_key is None and API_KEY_VARIABLE in os.environ:
            self._api_key = checked_key(hidden(os.environ[API_KEY_VARIABLE]))
        if self._api_key is None:
            raise ConnectFailed(
                f"There is no API key: call connect(api_key=...), or set {API_KEY_VARIABLE}.",
                stage="url",
                url=self.ws_url,
                attempts=0,
            )
        check_may_send_key(self._address, allow_insecure=self._allow_insecure)
        peer = self._make_peer()
        with self._lock:
            previous, self._peer = self._peer, peer
        try:
            if previous is not None:
                previous.lifecycle.close()
            greeting: Greeting = peer.lifecycle.open(retries, delay)
        except DialFailed as failure:
            raise connect_failed(self.ws_url, self.is_loopback, failure) from failure
        except BaseException:  # Ctrl-C: no thread may wait for a peer that was never opened
            peer.lifecycle.close(0.0)
            raise
        return {"session_id": greeting.session_id}

    def close(self) -> None:
        """Close the connection in good order. Blocks, at most about 1 s (protocol §A.5).

        Idempotent; from any thread, also from a callable. Waiting calls fail at once with ``ClosedByUser``;
        requests of the server that are still open are answered with an error. ``connect`` works again afterwards.
        """
        peer = self._peer
        if peer is not None:
            peer.lifecycle.close()

    def __enter__(self) -> TellurioWebSocketClient:
        if self._peer is None or self._peer.lifecycle.state == CLOSED:
            self.connect()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if "_peer" not in self.__dict__:  # the constructor has failed, and a traceback shows its frame
            return f"<{type(self).__name__}, not made>"
        return f"<{type(self).__name__} {self.ws_url} {self.state}>"

    def check_may_wait(self) -> None:
        """Return if this thread may wait for the server.

        Raises:
            WouldDeadlock: it is the receive thread.
        """
        connection = self.connection
        if connection is not None:
            connection.check_may_wait()

    # --- calls -------------------------------------------------------------------------------------------

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
        if peer is None or peer.lifecycle.state != OPEN:
            peer = self._usable_peer()
        with_run = self._with_run(params)
        is_extendable = method in LONG_RUNNING_METHODS
        if TRACERS:
            return self._traced(peer.request)(method, with_run, seconds, is_extendable, self.hard_timeout)
        return peer.request(method, with_run, seconds, is_extendable, self.hard_timeout)

    def submit(
        self, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> Future[dict[str, Any]]:
        """As ``call``, without waiting: returns a future of the reply envelope.

        The future ends at the call's deadline. To cancel it gives up the call; a server that knows ``cancel`` is told.
        Callbacks added to it run on a worker thread. Waits only while the outgoing queue is full, or while a lost
        connection is being restored.

        Raises:
            NotConnected, ConnectionLost, CallTimeout, LocalProtocolError, ValueError: as ``call``, while sending;
                a later error is the exception of the future.
        """
        seconds = self._timeout(timeout)
        peer = self._peer
        if peer is None or peer.lifecycle.state != OPEN:
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
        return self._usable_peer().lifecycle.wait_for_connection(timeout)

    def call_on(
        self,
        connection: Connection,
        method: str,
        params: Mapping[str, Any],
        timeout: float | None = None,
        on_reply: Callable[[], None] | None = None,
        on_late: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """As ``call``, but on this connection or not at all.

        Args:
            on_reply: called on the receive thread when the reply has come, before any later message is handled.
            on_late: called with the envelope if the reply comes after the call was given up; see ``Peer.request``.
        """
        request = self._usable_peer().request
        if TRACERS:
            request = self._traced(request)
        return request(
            method,
            self._with_run(params),
            self._timeout(timeout),
            is_extendable=method in LONG_RUNNING_METHODS,
            hard_timeout=self.hard_timeout,
            connection=connection,
            on_reply=on_reply,
            on_late=on_late,
        )

    def tell_on(self, connection: Connection, method: str, params: Mapping[str, Any]) -> bool:
        """Send a notification on this connection, if there is room for it at once. Returns whether it was queued."""
        return connection.send_at_once(encode(notification(method, dict(params))))

    def call_many_on(
        self,
        connection: Connection,
        calls: Iterable[tuple[str, Mapping[str, Any]]],
        timeout: float | None = None,
        on_reply: Callable[[], None] | None = None,
        on_late: Callable[[dict[str, Any]], None] | None = None,
    ) -> list[Any]:
        """As ``call_many``, but on this connection or not at all; returns errors in place of replies.

        Args:
            on_reply, on_late: as for ``call_on``, for the last of them.
        """
        calls = list(calls)

        def request(_: str) -> list[Any]:
            return self._usable_peer().request_many(
                self._with_runs(calls),
                self._timeout(timeout),
                hard_timeout=self.hard_timeout,
                connection=connection,
                on_reply=on_reply,
                on_late=on_late,
            )

        # Named after the last one, for which the others prepare.
        name = calls[-1][0] if calls else ""
        return (self._traced(request) if TRACERS else request)(name)

    # --- what the server may call -----------------------------------------------------------------------------

    def rpc_heartbeat(self, params: dict[str, Any]) -> Any:
        """Extend the deadline of the call that the server is still working on. Unknown ids change nothing."""
        peer = self._peer
        if peer is not None:
            peer.extend(params.get("id"))
        if long_calls.PARAMETER in params:
            long_calls.note(params)
        return None

    rpc_create_variable: ClassVar[ServerMethod] = server_methods.create_variable
    rpc_update_variable: ClassVar[ServerMethod] = server_methods.update_variable
    rpc_append_grad: ClassVar[ServerMethod] = server_methods.append_grad
    rpc_create_node: ClassVar[ServerMethod] = server_methods.create_node
    rpc_create_edge: ClassVar[ServerMethod] = server_methods.create_edge
    rpc_update_model: ClassVar[ServerMethod] = server_methods.update_model
    rpc_run_callable: ClassVar[ServerMethod] = server_methods.run_callable
    rpc_clear_backward: ClassVar[ServerMethod] = server_methods.clear_backward
    rpc_clear_step: ClassVar[ServerMethod] = server_methods.clear_step

    def _methods(self) -> dict[str, Method]:
        """The handlers by method name: every ``rpc_...`` method of the class of this object, and of its bases."""
        names = [name[len(_RPC) :] for name in dir(type(self)) if name.startswith(_RPC)]
        return {name: Method(getattr(self, _RPC + name), on_worker=name in server_methods.ON_WORKER) for name in names}

    # --- within ------------------------------------------------------------------------------------------

    def _usable_peer(self) -> Peer:
        """The peer that calls go to; connects first where that is due. Raises ``NotConnected``, ``ConnectFailed``."""
        peer = self._peer
        if (peer is None and self._is_unpickled) or (peer is not None and peer.lifecycle.is_forked):
            self._connect_at_first_use(peer)
            return self._usable_peer()
        if peer is None:
            raise NotConnected()
        peer.lifecycle.check_is_usable()
        return peer

    def _connect_at_first_use(self, former: Peer | None) -> None:
        if self._api_key is None:
            if API_KEY_VARIABLE not in os.environ:
                raise NotConnected(
                    "WebSocket is not connected: this client was unpickled, and a pickle holds no key. Set "
                    f"{API_KEY_VARIABLE}, or call connect(api_key=...)."
                )
            self._api_key = checked_key(hidden(os.environ[API_KEY_VARIABLE]))
        check_may_send_key(self._address, allow_insecure=self._allow_insecure)
        # One thread connects; the others find its peer, and their calls wait until it is open.
        peer = self._make_peer()
        with self._lock:
            if self._peer is not former:
                return
            self._peer = peer
        try:
            peer.lifecycle.open(1, 0)
        except DialFailed as failure:
            raise connect_failed(self.ws_url, self.is_loopback, failure) from failure

    def _make_peer(self) -> Peer:
        try:
            check_threads()
        except RuntimeError as exc:
            raise UsageError(str(exc)) from None
        secrets = (self._api_key,) if self._api_key else ()
        return Peer(
            Lifecycle(
                lambda: Dialer(
                    self.ws_url,
                    self._headers(),
                    timeout=self._connect_timeout,
                    is_loopback=self.is_loopback,
                    ssl_context=self._ssl_context,
                    max_message_size=self._max_message_size,
                    redact=lambda text: redact(text, *secrets),
                ),
                self._methods(),
                url=self.ws_url,
                opening=self._read_greeting,
                dial_timeout=self._connect_timeout,
                opening_timeout=self._connect_timeout,
                ping_interval=self._ping_interval,
                ping_timeout=self._ping_timeout,
                reconnect=self._reconnect,
                on_lost=self._lost,
                on_restored=self._restored,
                secrets=secrets,
                cancellation=cancellation,
                recorder=Recorder(MONOTONIC) if self._records_envelopes else None,
            )
        )

    def _headers(self) -> list[str]:
        # The last two are optional: a server that does not know them ignores them (protocol §A.7, §K.6).
        return [
            Secret(f"Authorization: Api-Key {self._api_key}"),
            f"X-Tellurio-Max-Message-Size: {self._max_message_size}",
            f"X-Tellurio-Session: {self._session_id or 'new'}",
        ]

    def _read_greeting(self, envelope: Any) -> Greeting:
        greeting = read_greeting(envelope)
        if SESSION in greeting.extensions:
            self._session_id = greeting.session_id
        return greeting

    def _restored(self, greeting: Greeting) -> None:
        if self._on_restored is not None:
            self._on_restored(greeting.session_id)

    def _lost(self, error: ConnectionLost) -> None:
        # Threads that wait for a push, which the lost connection will never bring, must raise, too.
        self.registries.fail_pending(
            lambda: ConnectionLost(error.reason, who=error.who, was_sent=True, code=error.code)
        )
        if self._on_lost is not None:
            self._on_lost(error)

    def _traced(self, request: Callable[..., T]) -> Callable[..., T]:
        return of_call(request, self._address.host, self._address.port)

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
