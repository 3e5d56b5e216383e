"""A session: a login, its connection, its objects and its runs.

Two sessions in one process do not see each other.

| State | Written by | Guarded by |
|---|---|---|
| client, rest, account, backend of a session | ``login``, ``close`` | ``_login_lock``, held while logging in |
| run | ``init``, end of the run | one assignment |
| ids of the objects | a restore: at a login, after a reconnect, in a forked child | ``_gate`` |
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from .. import active_run
from ..addresses import ws_address
from ..client import TellurioWebSocketClient
from ..client.client import DEFAULT_TIMEOUT
from ..deadlines import MONOTONIC, Deadline, check_timeout
from ..errors import ConnectionLost, UsageError
from ..model.batch.block import open_queue, settle_open_queue
from ..model.call import Call
from ..model.registries import Registries
from ..model.session_link import use_link
from .login import MODE_VARIABLE, Address, Login
from .restore import Restored
from .restore_gate import Admission, RestoreGate

if TYPE_CHECKING:
    from ..active_run import HasUuid
    from ..studio.runs import Run, RunGuard


class Session(Login):
    """A login to a Tellurio backend and everything that belongs to it. Thread-safe.

    As a context manager it is the current session inside the block, and is closed at its end.

    A forked child has its own connection from its first use on, and its own copies of all objects, also on the server.
    A pickle holds the configuration, but no key, no connection, no hooks and no ``ssl_context``; what is unpickled
    logs in at its first use, as a new session does.

    Args:
        http_base_url, http_port, ws_base_url, ws_port: None: the ``TELLURIO_BACKEND_...`` variables (protocol §A.1).
        default_timeout: seconds, > 0, for calls to the server; for long-running ones from their last heartbeat.
        pending_timeout: seconds, > 0: how long reading a Variable waits for a change that the server announced
            (protocol §F.4); None: ``default_timeout``.
        on_lost: called with the ``ConnectionLost`` when an open connection has ended. On the receive thread: be quick.
        on_restored: called with a ``Restored`` after each restore (see ``restore``): when a lost connection is open
            again, or after a login, and there are objects to restore. On any thread but the receive thread; an
            exception is logged.
        client_options: further keyword arguments of ``TellurioWebSocketClient``.

    Attributes:
        sets_active_run: whether the runs that it starts become the active run of the process; the default session's do.

    Raises:
        ValueError: a timeout that is not a positive finite number.
    """

    def __init__(
        self,
        *,
        http_base_url: str | None = None,
        http_port: int | str | None = None,
        ws_base_url: str | None = None,
        ws_port: int | str | None = None,
        default_timeout: float = DEFAULT_TIMEOUT,
        pending_timeout: float | None = None,
        on_lost: Callable[[ConnectionLost], None] | None = None,
        on_restored: Callable[[Restored], None] | None = None,
        **client_options: Any,
    ) -> None:
        super().__init__(
            (http_base_url, http_port),
            (ws_base_url, ws_port),
            allow_insecure=client_options.get("allow_insecure", False),
        )
        self._default_timeout = check_timeout(default_timeout, "default_timeout")
        self._pending_timeout = check_timeout(pending_timeout or default_timeout, "pending_timeout")
        self._on_lost = on_lost
        self._on_restored = on_restored
        self._client_options = client_options
        self._registries = Registries(self)
        self.sets_active_run = False
        self._renew_locks()
        _sessions.add(self)
        self._guard: RunGuard | None = None
        self._run: HasUuid | None = None
        self._last_run_uuid = ""  # for the calls that a restore makes
        self._uses = threading.local()  # per thread, a stack: the same session may be entered in many threads

    def _renew_locks(self) -> None:
        self._gate = RestoreGate(self, lambda: self._last_run_uuid, self._on_restored)
        self._login_lock = threading.RLock()

    def _renew_after_fork(self) -> None:
        # In the child. Threads of the parent may have held the locks; they do not exist here.
        self._renew_locks()
        self._registries.renew_after_fork()

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: value for name, value in self._client_options.items() if name != "ssl_context"}
        timeouts = (self._default_timeout, self._pending_timeout)
        return _unpickled, (self._http, self._ws, timeouts, options, self._mode)

    def __enter__(self) -> Session:
        use = self.use()
        use.__enter__()
        self._uses.stack = [*getattr(self._uses, "stack", []), use]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._uses.stack.pop().__exit__(*exc_info)
        self.close()

    def use(self) -> use_link:
        """A context manager: this session is the current one of this thread or context inside it, and stays open."""
        return use_link(self)

    def __repr__(self) -> str:
        client = self.__dict__.get("_client")  # absent if the constructor has failed and a traceback shows its frame
        return "<Session, not logged in>" if client is None else f"<Session {client.ws_url} {client.state}>"

    # --- connecting ----------------------------------------------------------------------------------

    def _make_client(self, ws: Address) -> TellurioWebSocketClient:
        return TellurioWebSocketClient(
            *ws,
            self._default_timeout,
            registries=self._registries,
            active_run=self._active_run,
            on_lost=self._on_lost,
            on_restored=self._restore_soon,
            **self._client_options,
        )

    def _connected(self, client: TellurioWebSocketClient, session_id: str) -> None:
        connection = client.connection
        if connection is not None:
            deadline = Deadline(self._default_timeout, MONOTONIC.now())
            self._gate.restore_on(client, connection, session_id, deadline)

    def _restore_soon(self, session_id: str) -> None:
        if self._client is not None:
            self._gate.restore_soon(self._client, session_id)

    # --- runs ----------------------------------------------------------------------------------------

    def init(
        self,
        namespace_slug: str | None = None,
        project_display_name: str = "Default",
        name: str | None = None,
        description: str | None = None,
        status: str = "RUNNING",
    ) -> Run:
        """Start a run and make it the active one; its project is created if there is none (protocol §J.1).

        Logs in first, if necessary. Blocks. An earlier run of this session that is unfinished is marked FAILED; what an
        open batch has queued is sent first, for that run.

        Args:
            namespace_slug: an organisation or user; None: the local backend's own, else the account's user name.
            project_display_name: the project.
            name: None: the server makes one up.
            description: free text.
            status: to begin with.

        Returns:
            The run, which is also a context manager: COMPLETED at its end, CRASHED on an exception.

        Raises:
            HttpStatusError: unknown namespace, or the server refused for another reason.
            HttpUnreachable: the server was not reached.
            As ``login``, where it logs in; and as the end of a batch, in one.
        """
        from ..studio.runs import RunGuard, start_run

        if self._run is not None:
            settle_open_queue(self)
        rest = self.rest
        assert self._account is not None
        username = self._account.username
        namespace = namespace_slug or self.namespace or username
        run = start_run(rest, namespace, project_display_name, name, description, status, username=username)
        run.before_finish = self._send_queued
        run.on_finish = self._run_finished
        if self._guard is None:
            self._guard = RunGuard()
        self._guard.watch(run)
        self._run = run
        if self.sets_active_run:
            active_run.set_active_run(run)
        return run

    def log(self, name: str, value: Any, step: int | None = None) -> None:
        """Add one value to a metric of the active run. Blocks until the server has it, at most the REST timeout.

        Args:
            name: of the metric.
            value: any JSON value; NumPy and PyTorch scalars too.
            step: a whole number; None: the server counts, beginning with 0.

        Raises:
            ValueError: there is no active run; or the value is no JSON value.
            UsageError: the active run is not one of ``init``.
            HttpUnreachable, HttpStatusError: the server did not take it.
        """
        run = self._active_run()
        log = getattr(run, "log", None)
        if log is None:
            raise UsageError("The active run cannot log metrics: start one with init().")
        log(name, value, step)

    def finish(self, status: str = "COMPLETED") -> None:
        """End the active run with this status. In a batch, what is queued is sent, too.

        Raises:
            ValueError: there is no active run, or not a final status.
            UsageError: the active run is not one of ``init``.
            HttpUnreachable, HttpStatusError: the server did not take it.
            As ``TellurioWebSocketClient.call``: what was queued is not told to the server; the run has ended.
        """
        finish = getattr(self._active_run(), "finish", None)
        if finish is None:
            raise UsageError("The active run cannot be finished: it was not started with init().")
        finish(status)

    def _active_run(self) -> HasUuid:
        run = self._run
        if run is None:
            run = active_run.get_active_run()
        self._last_run_uuid = run.uuid
        return run

    def _send_queued(self, run: Run) -> None:
        queue = open_queue(self)
        if queue is not None and self._run is run:
            queue.send()  # it belongs to this run; what is refused, the block tells

    def _run_finished(self, run: Run) -> None:
        from ..studio.runs import clear_active_run

        if self._run is run:
            self._run = None
        clear_active_run(run)

    # --- what the object model needs (model.session_link.SessionLink) ------------------------------------

    @property
    def registries(self) -> Registries:
        """The variables, nodes, models, optimizers and callables of this session."""
        return self._registries

    @property
    def pending_timeout(self) -> float:
        """Seconds: how long reading a Variable waits for an announced change."""
        return self._pending_timeout

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine; before a login: whether it will be."""
        if self._client is not None:
            return self._client.is_loopback
        return os.environ.get(MODE_VARIABLE) == "local" or ws_address(*self._ws).is_loopback

    def check_consent(self) -> None:
        """Return if the user lets keys of language models be sent to the server; see ``studio.consent``."""
        from ..studio.consent import check_consent

        check_consent()

    @property
    def extensions(self) -> frozenset[str]:
        """What the server understands beyond the protocol; nothing before a login. Does not block."""
        greeting = None if self._client is None else self._client.greeting
        return frozenset() if greeting is None else greeting.extensions

    def request(self, method: str, params: dict[str, Any]) -> Any:
        """Call the server and return the ``result`` of its reply. Logs in first, if necessary.

        Blocks for one round trip, and before that until what an open batch has queued is sent.

        Raises:
            RemoteError: the server answered with an error.
            As ``TellurioWebSocketClient.call``, and as ``login`` where it logs in.
        """
        with Call(self) as call:
            return call.request(method, params)

    def submit(self, method: str, params: Mapping[str, Any]) -> Future[dict[str, Any]]:
        """As ``request``, without waiting for the reply: a future of the whole reply envelope.

        Waits for what an open batch has queued, and while a lost connection is being restored.
        """
        with Call(self):
            return self.client.submit(method, params)

    def admit(self) -> Admission:
        """The permission to make one call, after any restore that is necessary. Logs in first, if necessary.

        Blocks while a lost connection is being restored, at most ``default_timeout``.

        Raises:
            CallTimeout, NotConnected, WouldDeadlock: as ``TellurioWebSocketClient.call``; and as ``login``.
        """
        self._ensure_login()
        return self._gate.admit(lambda: self.client)

    def check_may_wait(self) -> None:
        """Return if this thread may wait for the server.

        Raises:
            WouldDeadlock: it is the receive thread.
        """
        if self._client is not None:
            self._client.check_may_wait()


def _unpickled(
    http: tuple[str | None, int | str | None],
    ws: tuple[str | None, int | str | None],
    timeouts: tuple[float, float],
    options: dict[str, Any],
    mode: str | None,
) -> Session:
    session = Session(
        http_base_url=http[0],
        http_port=http[1],
        ws_base_url=ws[0],
        ws_port=ws[1],
        default_timeout=timeouts[0],
        pending_timeout=timeouts[1],
        **options,
    )
    session._mode = mode
    return session


# --- fork -----------------------------------------------------------------------------------------------

_sessions: WeakSet[Session] = WeakSet()


def _after_fork_in_child() -> None:
    for session in list(_sessions):
        session._renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
