"""A session: a login, its connection, its objects and its runs.

Two sessions in one process do not see each other.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| client, REST client, account, backend | a login | any thread | see ``login`` | |
| ids of the objects | a restore | any thread | see ``restore_gate`` | |
| ``_run`` | ``init``, the end of the run | any thread | one store | – |
| ``_runs_to_come`` | ``init``, the first call after it | any thread | single operations on a list | – |
| ``_run_guard`` | the first ``init`` | ``init`` | one step: ``dict.setdefault`` | a test with two at once |
| ``_last_run_uuid`` | every call, on any thread | a restore | one store: any of the last runs will do | – |
| ``_uses`` | ``with``, on its thread | the same thread | ``threading.local`` | – |
| ``open_blocks`` of all sessions | ``with``, on its thread | threads that are in none | one C call on a list each | – |
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .. import active_run, forked
from ..addresses import ws_address
from ..client import TellurioWebSocketClient
from ..client.client import DEFAULT_TIMEOUT
from ..deadlines import MONOTONIC, Deadline, check_timeout
from ..errors import (
    ConnectFailed,
    ConnectionLost,
    HttpUnreachable,
    NotConnected,
    TellurioError,
    UsageError,
)
from ..model.batch.block import open_queue, settle_open_queue
from ..model.call import Call
from ..model.registries import Registries
from ..model.session_link import use_link
from ..secret import hidden
from ..surroundings import timeout_or
from .login import MODE_VARIABLE, Address, Login, Mode
from .restore import Restored
from .restore_gate import Admission, RestoreGate

if TYPE_CHECKING:
    from ..active_run import HasUuid
    from ..local import LocalBackend
    from ..studio.rest import StudioRest
    from ..studio.runs import Run, RunGuard
    from ..studio.sync import SyncResult


_log = logging.getLogger(__name__)
# The sessions whose ``with`` blocks are open, in any thread; adding and removing are single steps of a list.
open_blocks: list[Session] = []
_NO_VALUE: Any = object()


def _check_namespace(slug: str | None) -> None:
    if slug is not None and (not isinstance(slug, str) or slug != slug.lower() or not slug.strip() or " " in slug):
        raise ValueError(
            f"namespace_slug must be the short name of an organisation or user, as in its address, not {slug!r}. Is it "
            f"the project? Then write init(project_display_name={slug!r})."
        )


class Session:
    """A login to a Tellurio backend and everything that belongs to it. Thread-safe.

    As a context manager it is the current session inside the block, and is closed at its end.

    A forked child has its own connection from its first use on, and its own copies of all objects, also on the server.
    A pickle holds the configuration, but no key, no connection, no hooks and no ``ssl_context``; what is unpickled
    logs in at its first use, as a new session does.

    Args:
        http_base_url, http_port, ws_base_url, ws_port: None: the ``TELLURIO_BACKEND_...`` variables (protocol §A.1).
        default_timeout: seconds, > 0, for calls to the server, for long-running ones from their last heartbeat; and for
            requests over REST. None: ``TELLURIO_TIMEOUT``, else 30, and 5 over REST.
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
        default_timeout: float | None = None,
        pending_timeout: float | None = None,
        on_lost: Callable[[ConnectionLost], None] | None = None,
        on_restored: Callable[[Restored], None] | None = None,
        **client_options: Any,
    ) -> None:
        self._given_timeout = default_timeout
        timeout = timeout_or(DEFAULT_TIMEOUT) if default_timeout is None else default_timeout
        self._default_timeout = check_timeout(timeout, "default_timeout")
        self._pending_timeout = check_timeout(pending_timeout or timeout, "pending_timeout")
        self._on_lost = on_lost
        self._on_restored = on_restored
        self._client_options = client_options
        self._registries = Registries(self)
        self._login = Login(
            (http_base_url, http_port),
            (ws_base_url, ws_port),
            rest_options={
                "timeout": default_timeout,
                "allow_insecure": client_options.get("allow_insecure", False),
                "ssl_context": client_options.get("ssl_context"),
            },
            make_client=self._make_client,
            on_login=self._logged_in,
            mode_of_program=self._mode_of_program,
        )
        self._gate = RestoreGate(self, lambda: self._last_run_uuid, on_restored, self._logged)
        self.sets_active_run = False
        forked.renew(self)
        self._run: HasUuid | None = None
        self._runs_to_come: list[Run] = []
        self._last_run_uuid = ""  # for the calls that a restore makes
        self._uses = threading.local()  # per thread, a stack: the same session may be entered in many threads

    def renew_after_fork(self) -> None:
        # In the child. Threads of the parent may have held the locks; they do not exist here.
        self._login.renew_after_fork()
        self._registries.renew_after_fork()
        self._gate = RestoreGate(self, lambda: self._last_run_uuid, self._on_restored, self._logged)  # new lock

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: value for name, value in self._client_options.items() if name != "ssl_context"}
        timeouts = (self._given_timeout, self._pending_timeout)
        return _unpickled, (self._login.http, self._login.ws, timeouts, options, self._login.mode)

    def __enter__(self) -> Session:
        use = self.use()
        use.__enter__()
        self._uses.stack = [*getattr(self._uses, "stack", []), use]
        open_blocks.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        open_blocks.remove(self)
        self._uses.stack.pop().__exit__(*exc_info)
        self.close()

    def use(self) -> use_link:
        """A context manager: this session is the current one of this thread or context inside it, and stays open."""
        return use_link(self)

    def __repr__(self) -> str:
        login = self.__dict__.get("_login")  # absent if the constructor has failed and a traceback shows its frame
        client = None if login is None else login.client
        if client is None and login is not None and login.is_pending:
            return "<Session, logged in, connects at the first call>"
        return "<Session, not logged in>" if client is None else f"<Session {client.ws_url} {client.state}>"

    # --- the login -----------------------------------------------------------------------------------

    def login(
        self,
        api_key: str | None = None,
        relogin: bool = False,
        *,
        mode: Mode | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        ephemeral: bool = False,
        base_url: str | None = None,
    ) -> dict[str, str]:
        """Log in and connect (protocol §A.6, §J.2). Blocks. Objects made before stay valid.

        A local backend that this starts is not waited for once its data and its port are open: the first call, or
        whatever else needs it, waits until it serves, and connects. ``init`` and ``log`` do not.

        Args:
            api_key: None: ``TELLURIO_API_KEY``, else the key stored by an earlier login (extra ``keyring``).
            relogin: do not use a stored key.
            mode: ``"online"``; or ``"local"``: a backend of your own, started in its own process, which needs no
                account and no network, and ends with this process (extra ``local``). ``"offline"``: no connection;
                runs are kept on this machine until ``sync`` sends them; ``"auto"``: as online, and runs are kept here
                while the server cannot be reached. None: as in the last login; for the default session of a worker
                process (``multiprocessing``'s, loky's, Dask's) ``"local"``, if that of its program is; else
                ``TELLURIO_MODE``, else ``"online"``.
            data_dir: for ``mode="local"``: where it keeps projects, runs and metrics; None: the backend of this process
                as it runs, or of the program that it is a worker of, else ``TELLURIO_DATA_DIR``, else the folder for
                the data of this user's programs (on Linux ``~/.local/share/tellurio``). Programs with the same folder
                share one backend.
            ephemeral: for ``mode="local"``: keep nothing; what was logged is gone at the end of this process.
            base_url: the address of the server, for REST and the WebSocket, as a browser shows it: such as
                ``"https://hub.example/tellurio"``, with the path under which a reverse proxy serves it. The session
                keeps it for later logins. None: as the session was made, or the environment says.

        Returns:
            ``{"email", "username", "session_id"}``

        Raises:
            InvalidAPIKeyError: the backend refused the key.
            ValueError: there is no key, an unknown mode, or no address of a server.
            HttpUnreachable, ConnectFailed: the backend could not be reached.
            BackendError: the local backend could not be started.
            UsageError: the local backend of this process keeps runs already, or in another folder.
        """
        api_key = hidden(api_key)  # from here on, no frame of ours shows it
        if self._login.is_pending:
            with contextlib.suppress(TellurioError):  # what could not be started now matters no longer
                self._wait_for_runs()
        answer = self._login.log_in(
            api_key, relogin, mode=mode, data_dir=data_dir, ephemeral=ephemeral, base_url=base_url
        )
        if self._login.is_pending:
            self._tell_workers()
        return answer

    def close(self) -> None:
        """Disconnect. Idempotent; blocks at most about 1 s. ``login`` works again afterwards.

        An unfinished run stays as it is: finish it first. A local backend keeps running until the process ends, because
        other sessions may use it.
        """
        self._login.close()

    @property
    def is_logged_in(self) -> bool:
        """Whether ``login`` has succeeded."""
        return self._login.is_done

    @property
    def is_connection_pending(self) -> bool:
        """Whether ``login`` did not wait for the local backend that it has started, and no call was made since."""
        return self._login.is_pending

    @property
    def client(self) -> TellurioWebSocketClient:
        """The connection. Blocks while a local backend starts that ``login`` did not wait for.

        Raises:
            NotConnected: before ``login``.
            BackendError: that backend could not be started.
        """
        client = self._login.client
        if client is None and self._login.is_pending:
            client = self._login.ensure()
        if client is None:
            raise NotConnected("WebSocket is not connected: call login() first.")
        return client

    @property
    def rest(self) -> StudioRest:
        """The REST API, with this session's key. Logs in first, if necessary. Blocks while a local backend starts.

        Raises:
            As ``login``.
        """
        rest = self._login.rest
        self._wait_for_runs()
        return rest

    @property
    def _backend(self) -> LocalBackend | None:
        """The local backend; None online."""
        return self._login.backend

    @property
    def page_url(self) -> str | None:
        """The address of the local backend's page; None online. It holds a token: keep it secret."""
        backend = self._backend
        return None if backend is None else backend.page_url or None

    @property
    def namespace(self) -> str | None:
        """The namespace of the local backend; None online."""
        backend = self._backend
        return None if backend is None else backend.namespace

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

    def _logged_in(self, client: TellurioWebSocketClient, session_id: str) -> None:
        self._tell_workers()
        self._wait_for_runs()
        connection = client.connection
        if connection is not None:
            deadline = Deadline(self._default_timeout, MONOTONIC.now())
            self._gate.restore_on(client, connection, session_id, deadline)

    def _tell_workers(self) -> None:
        if self.sets_active_run:
            from .. import workers

            workers.tell_mode("local" if self._backend is not None else None)

    def _wait_for_runs(self) -> None:
        """Wait until the server has the runs that were started before it served; calls are made for them."""
        for run in self._runs_to_come[:]:
            if not run.is_finished and run.rest is self._login.rest:  # else there has been another login
                run.wait_until_made(self._default_timeout)
            with contextlib.suppress(ValueError):  # another thread has waited, too
                self._runs_to_come.remove(run)

    def _mode_of_program(self) -> str | None:
        """In a worker process, for its default session: what that of its program is logged in to, if it said so."""
        if not self.sets_active_run:
            return None
        from .. import workers

        told = workers.told()
        return None if told is None else told.mode

    def _restore_soon(self, session_id: str) -> None:
        client = self._login.client
        if client is not None:
            self._gate.restore_soon(client, session_id)

    # --- runs ----------------------------------------------------------------------------------------

    def init(
        self,
        namespace_slug: str | None = None,
        project_display_name: str = "Default",
        name: str | None = None,
        description: str | None = None,
        status: str = "RUNNING",
        *,
        config: Any = None,
        resume: str | None = None,
        mode: Mode | None = None,
        strict: bool = False,
    ) -> Run:
        """Start a run and make it the active one; its project is created if there is none (protocol §J.1).

        In a terminal and in a notebook it says in one line where to look at it (unless ``set_quiet``). Logs in first,
        if necessary. Blocks. An earlier run of this session that is unfinished is marked FAILED; what an
        open batch has queued is sent first, for that run.

        Args:
            namespace_slug: an organisation or user; None: the local backend's own, else the account's user name.
            project_display_name: the project.
            name: None: the server makes one up.
            description: free text.
            status: to begin with.
            config: what you want to remember of it, such as hyperparameters: a dict, a dataclass, or an object with
                attributes (``argparse.Namespace``).
            resume: go on with a run: its id (``run.uuid``); or ``"must"`` or ``"allow"``: the latest run with this
                ``name`` (or of any name, if none is given). If there is none, ``"must"`` raises, and ``"allow"`` starts
                a new one.
            mode: ``"online"``, ``"local"``: as for ``login``, and used for the login if there was none yet;
                ``"offline"``: the run is kept on this machine, and ``sync`` sends it later; no server is needed;
                ``"auto"``: as online, but offline if the server cannot be reached. None: as in the last login, else
                ``TELLURIO_MODE``, else ``"online"``.
            strict: ``log`` raises for what cannot be logged, instead of a warning.

        Returns:
            The run, which is also a context manager: COMPLETED at its end, CRASHED on an exception.

        Raises:
            ValueError: ``namespace_slug`` cannot be one, for it has blanks or capital letters.
            UsageError: another project has the address that this name would get; or there is no run to go on with; or
                an offline run cannot be kept (a full disk).
            HttpStatusError: unknown namespace, or the server refused for another reason.
            HttpUnreachable: the server was not reached.
            As ``login``, where it logs in; and as the end of a batch, in one.
        """
        from ..studio.runs import RunGuard

        _check_namespace(namespace_slug)
        chosen = self._login.chosen_mode(mode)
        if self._run is not None:
            settle_open_queue(self)
        wanted = (namespace_slug, project_display_name, name, description, status, config, resume)
        if chosen == "offline":
            run = self._init_offline(*wanted)
        else:
            try:
                if not self._login.is_done:
                    self.login(mode=mode)
                run = self._init_soon(*wanted) or self._init_online(*wanted)
            except (HttpUnreachable, ConnectFailed) as exc:
                if chosen != "auto":
                    raise
                _log.warning("The server cannot be reached, so this run is kept on this machine. (%s)", exc)
                run = self._init_offline(*wanted)
        if not run.is_offline:
            base, _, run.page_query = (self.page_url or "").partition("?")
            run.page_base = base.rstrip("/")
        run.is_strict = strict
        run.before_finish = self._send_queued
        run.on_finish = self._run_finished
        # In one step: with a guard each, two threads that are here at once would leave one run without an end.
        guard: RunGuard = vars(self).setdefault("_run_guard", RunGuard())
        guard.watch(run)
        self._run = run
        if self.sets_active_run:
            active_run.set_active_run(run)
        run.begin()
        run.show_begin()
        return run

    def _init_soon(
        self,
        namespace_slug: str | None,
        project: str,
        name: str | None,
        description: str | None,
        status: str,
        config: Any,
        resume: str | None,
    ) -> Run | None:
        """A run that the local backend makes when it serves; None: it has to be asked."""
        backend = self._backend
        if backend is None or not self._login.is_pending or resume is not None or status != "RUNNING":
            return None
        from .run_to_come import plan

        namespace = namespace_slug or backend.namespace
        planned = plan(backend.data_dir, namespace, project, name, description, config)
        if planned is None:
            return None
        there, free_name, kept = planned

        def make() -> Run | None:
            from ..studio.runs import run_to_come

            if self._runs_to_come:
                return None  # two at once could change places
            run = run_to_come(self._login.rest, there, free_name, description, config=kept)
            run.begin()
            # While the connection is not made: the call that makes it waits for this run.
            self._runs_to_come.append(run)
            return run

        try:
            return self._login.while_pending(make)
        except OSError as exc:
            _log.debug("= the run cannot be kept until the backend serves: %s", exc)
            return None

    def _init_online(
        self,
        namespace_slug: str | None,
        project: str,
        name: str | None,
        description: str | None,
        status: str,
        config: Any,
        resume: str | None,
    ) -> Run:
        from ..studio.runs import continue_run, start_run

        rest = self.rest
        username = self._login.account.username
        namespace = namespace_slug or self.namespace or username
        run = None
        if resume is not None:
            run = continue_run(rest, namespace, project, resume, name, config=config)
        return run or start_run(rest, namespace, project, name, description, status, username=username, config=config)

    def _init_offline(
        self,
        namespace_slug: str | None,
        project: str,
        name: str | None,
        description: str | None,
        status: str,
        config: Any,
        resume: str | None,
    ) -> Run:
        from ..studio.runs import continue_offline_run, offline_run

        rest = self._login.rest_if_any
        run = None
        if resume is not None:
            run = continue_offline_run(rest, namespace_slug, project, resume, name, config=config)
        username = self._login.username
        return run or offline_run(rest, namespace_slug, project, name, description, config=config, username=username)

    def log(
        self,
        name: str | Mapping[str, Any],
        value: Any = _NO_VALUE,
        step: int | None = None,
        *,
        strict: bool | None = None,
    ) -> None:
        """Add one value to a metric of the active run; or, from a dict, one to each of several. See ``Run.log``.

        Does not wait for the server, and does not raise because of it.

        Raises:
            ValueError: there is no active run.
            UsageError: the active run is not one of ``init``.
            TypeError, ValueError: as ``Run.log``.
        """
        run = self._run
        if run is None:
            run = self._active_run()
        log = getattr(run, "log", None)
        if log is None:
            raise UsageError("The active run cannot log metrics: start one with init().")
        if value is _NO_VALUE:
            log(name, step=step, strict=strict)
        else:
            log(name, value, step, strict=strict)

    def runs(self, namespace_slug: str | None = None, project_display_name: str = "Default") -> list[Run]:
        """The runs of a project, oldest first, to be looked at: ``run.metrics()``, ``run.plot()``, ``run.config``.

        Logs in first, if necessary. Blocks.

        Args:
            namespace_slug: as for ``init``.
            project_display_name: the name of the project, or its slug.

        Raises:
            UsageError: there is no such project.
            HttpStatusError, HttpUnreachable: the server could not be asked. As ``login``, where it logs in.
        """
        from ..studio.projects import find_project
        from ..studio.runs import list_runs

        rest = self.rest
        namespace = namespace_slug or self.namespace or self._login.account.username
        project = find_project(rest, namespace, project_display_name)
        if project is None:
            raise UsageError(f"There is no project {project_display_name!r} in {namespace!r}.")
        return list_runs(rest, project)

    def sync(
        self, path: str | os.PathLike[str] | None = None, *, dry_run: bool = False, anyway: bool = False
    ) -> list[SyncResult]:
        """Send the runs that were left on this machine to this session's server: see ``studio.sync``.

        Logs in first, if necessary. Blocks. Repeating it does no harm: nothing is stored twice.

        Args:
            path: a folder with journals, perhaps of another machine; None: that of this user
                (``TELLURIO_JOURNAL_DIR``).
            dry_run: send nothing, and say what there is.
            anyway: send also runs that belong to another server; they become new runs here.

        Raises:
            UsageError: there is no such folder. As ``login``, where it logs in. (A run's result says what failed.)
        """
        from ..studio.sync import sync

        rest = self.rest
        username = self._login.account.username
        namespace = self.namespace or username
        return sync(rest, path, dry_run=dry_run, anyway=anyway, namespace=namespace, username=username)

    def whoami(self) -> dict[str, str]:
        """``username``, ``email`` and ``server`` of this session. Logs in first, if necessary, and raises as that."""
        account, rest = self._login.account, self.rest
        return {"username": account.username, "email": account.email, "server": rest.url}

    def logout(self) -> bool:
        """Forget the stored key of this session's server, and disconnect. Keys in the environment stay.

        Returns:
            False: the keyring could not delete it.
        """
        from ..addresses import http_address
        from ..studio.auth import forget

        self.close()
        return not forget(http_address(*self._login.http).url).is_stored

    def finish(self, status: str = "COMPLETED") -> None:
        """End the active run with this status. In a batch, what is queued is sent, too.

        Raises:
            ValueError: there is no active run, or not a final status.
            UsageError: the active run is not one of ``init``.
            HttpStatusError: the server does not take it. (If it cannot be reached, a warning says so.)
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

    def _logged(self) -> list[str | int] | None:
        from ..studio.runs import logged_by

        return logged_by(self._active_run())

    def _send_queued(self, run: Run) -> None:
        queue = open_queue(self)
        if queue is not None and self._run is run:
            queue.send()  # it belongs to this run; what is refused, the block tells

    def _run_finished(self, run: Run) -> None:
        from ..studio.runs import clear_active_run

        if self._run is run:
            self._run = None
        guard: RunGuard | None = vars(self).get("_run_guard")
        if guard is not None:
            guard.let_go(run)
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
        if self._login.is_pending:
            return True
        client = self._login.client
        if client is not None:
            return client.is_loopback
        return os.environ.get(MODE_VARIABLE) == "local" or ws_address(*self._login.ws).is_loopback

    def check_consent(self) -> None:
        """Return if the user lets keys of language models be sent to the server; see ``studio.consent``."""
        from ..studio.consent import check_consent

        check_consent()

    @property
    def extensions(self) -> frozenset[str]:
        """What the server understands beyond the protocol; nothing before a login. Connects, where that is pending."""
        client = self._login.client
        if client is None and self._login.is_pending:
            client = self._login.ensure()
        return frozenset() if client is None else client.extensions

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
            BackendError: the connection is lost because the local backend has ended.
        """
        self._login.ensure()
        return self._gate.admit(lambda: self.client, self._check_backend_lives)

    def _check_backend_lives(self) -> None:
        if self._backend is not None:
            self._backend.check_is_running()

    def check_may_wait(self) -> None:
        """Return if this thread may wait for the server.

        Raises:
            WouldDeadlock: it is the receive thread.
        """
        client = self._login.client
        if client is not None:
            client.check_may_wait()


def _unpickled(
    http: tuple[str | None, int | str | None],
    ws: tuple[str | None, int | str | None],
    timeouts: tuple[float | None, float],
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
    session._login.mode = mode
    return session
