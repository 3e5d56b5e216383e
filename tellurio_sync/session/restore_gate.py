"""The gate for the calls of a session's objects: any number pass while ids are valid, and none during a restore.

It is shut at first, and shuts itself when the connection is lost.  A thread that finds it shut waits for a connection
and then makes the restore on it: the thread that a reconnect starts, a login, the first call in a forked child, or any
call that is made meanwhile.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_connection``, on which ids are valid | a restore | callers | ``_lock``; ``_restore_lock`` to write it | asserts |
| the calls inside, held weakly | callers | a restore | ``_lock``, that of the registries | – |
| whether a restore is due | ``Registries`` | callers | see ``model.registries`` | |
| threads that wait for a restore: ``_held_up`` | these | a restore | ``_lock`` | only this class has it |
| that a restore is being made | any thread but the receive thread | – | ``_restore_lock`` | ``check_may_wait`` |

The calls inside are held weakly, so that a call that Ctrl-C interrupted is not inside any more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any
from weakref import WeakSet

from .. import long_calls
from ..client import TellurioWebSocketClient
from ..client.client import LONG_RUNNING_METHODS, SESSION
from ..deadlines import MONOTONIC, Deadline
from ..errors import CallTimeout, ConnectionLost, RemoteError, TellurioError, WouldDeadlock
from ..model.released import RELEASE, Released
from ..model.session_link import OnLate, SessionLink
from ..ownership import is_held
from ..peer.connection import Connection
from .restore import Requests, Restored, restore

_log = logging.getLogger("tellurio_sync.session")

# A call leaves the gate as soon as its connection is lost. Checked this often, for calls that Ctrl-C interrupted.
_LOOK_INTERVAL = 0.05
_LEAST = 0.001
# The time that each request adds to the deadline of a burst, because a server handles the requests one after another.
_EACH_IN_A_BURST = 0.01


# The server's tables must be this session's own, or a forked child would let go of what its parent holds.
_FORGETTING = frozenset({RELEASE, SESSION})


LOGGED = "logged"
"""The parameter of a step that tells how much was logged before it; also the extension (protocol §K.14)."""

_STEPS = frozenset({"run_step", "run_optimizer_tgd"})

_UNWATCHED = nullcontext()


class Admission:
    """The permission to make a call on one connection (``model.session_link.Admission``)."""

    __slots__ = ("__weakref__", "_client", "_connection", "_deadline", "_gate", "thread")

    def __init__(
        self, gate: RestoreGate, client: TellurioWebSocketClient, connection: Connection, deadline: Deadline | None
    ) -> None:
        self._gate = gate
        self._client = client
        self._connection = connection
        self._deadline = deadline
        self.thread: int = threading.get_ident()

    def request(self, method: str, params: dict[str, Any], on_reply: Callable[[], None], on_late: OnLate) -> Any:
        """See ``model.session_link.Admission``."""
        self._tell_released()
        timeout = self._timeout(method)
        if method in LONG_RUNNING_METHODS:
            params, watch = self._extended(method, params)
            with watch or _UNWATCHED:
                reply = self._client.call_on(self._connection, method, params, timeout, on_reply, on_late)
        else:
            reply = self._client.call_on(self._connection, method, params, timeout, on_reply, on_late)
        if "error" in reply:
            raise _error_in(method, reply)
        return reply["result"]

    def request_many(
        self, requests: Requests, on_reply: Callable[[], None] | None = None, on_late: OnLate | None = None
    ) -> list[Any]:
        """See ``model.session_link.Admission``."""
        self._tell_released()
        timeout = self._timeout(*(method for method, _ in requests))
        timeout = _burst_timeout(self._client, requests, timeout)
        with ExitStack() as watches:
            extended = []
            for method, params in requests:
                params, watch = self._extended(method, params)
                if watch is not None:
                    watches.enter_context(watch)
                extended.append((method, params))
            replies = self._client.call_many_on(self._connection, extended, timeout, on_reply, on_late)
        return [_outcome(method, reply) for (method, _), reply in zip(requests, replies)]

    def _extended(self, method: str, params: dict[str, Any]) -> tuple[dict[str, Any], long_calls.Watch | None]:
        """The parameters with those of extensions, and what shows the progress of the request while it is entered."""
        if method not in LONG_RUNNING_METHODS:
            return params, None
        known = self._client.extensions
        if method in _STEPS and LOGGED in known and (logged := self._gate.logged()) is not None:
            params = {**params, LOGGED: logged}
        watch = long_calls.watch(method)
        if watch is not None and long_calls.PARAMETER in known:
            params = {**params, long_calls.PARAMETER: watch.token}
        return params, watch

    def leave(self) -> None:
        """See ``model.session_link.Admission``."""
        self._gate.leave(self)

    def _tell_released(self) -> None:
        """Tell the server what is no longer held here, if there is enough of it. Never blocks."""
        released = self._gate.released
        params = released.take_due()
        # Another server is not told: it may count on the ids, as protocol §C.3 says.
        if params is not None and self._client.extensions >= _FORGETTING:
            is_told = self._client.tell_on(self._connection, RELEASE, params)
            if not is_told:
                released.put_back(params)

    def _timeout(self, *methods: str) -> float | None:
        """The rest of the call's time, if it had to wait; None: the full time, which a long call has anyway."""
        if self._deadline is None or not LONG_RUNNING_METHODS.isdisjoint(methods):
            return None
        return max(_LEAST, self._deadline.remaining(MONOTONIC.now()))


def _burst_timeout(client: TellurioWebSocketClient, requests: Requests, timeout: float | None = None) -> float:
    """Seconds for all of these together; ``timeout``: seconds for one of them, None: the client's."""
    return (client.default_timeout if timeout is None else timeout) + _EACH_IN_A_BURST * len(requests)


def _outcome(method: str, reply: dict[str, Any] | TellurioError) -> Any:
    if isinstance(reply, TellurioError):
        return reply
    return _error_in(method, reply) if "error" in reply else reply["result"]


def _error_in(method: str, reply: dict[str, Any]) -> RemoteError:
    return RemoteError.from_reply(reply["error"], method=method, request_id=reply.get("id"))


class RestoreGate:
    """One per session. Thread-safe.

    Args:
        link: the session, whose objects are restored.
        run_uuid: gives the run for the calls of a restore.
        on_restored: called after each restore that had anything to do; an exception is logged.
        logged: gives how much the active run has logged, as a step tells it; None for nothing.
    """

    def __init__(
        self,
        link: SessionLink,
        run_uuid: Callable[[], str],
        on_restored: Callable[[Restored], None] | None,
        logged: Callable[[], list[str | int] | None] = lambda: None,
    ) -> None:
        self._link = link
        self._registries = link.registries
        self.logged = logged
        self._run_uuid = run_uuid
        self._on_restored = on_restored
        # The one that a thread gives up when a signal handler calls while it has it (``model.call``).
        self._lock = self._registries.lock
        self._left = threading.Condition(self._lock)
        self._inside: WeakSet[Admission] = WeakSet()
        self._held_up: set[int] = set()
        self._connection: Connection | None = None
        self._restore_lock = threading.RLock()

    # --- calls ---------------------------------------------------------------------------------------

    @property
    def released(self) -> Released:
        """What this side has let go of and the server does not know about."""
        return self._registries.released

    def admit(
        self, current: Callable[[], TellurioWebSocketClient], before_wait: Callable[[], None] = lambda: None
    ) -> Admission:
        """The permission to make one call. Blocks while there is no connection, or during a restore.

        Args:
            current: gives the session's client.
            before_wait: called before it waits for a connection; raises if that cannot come.

        Raises:
            CallTimeout: not within the client's ``default_timeout``.
            NotConnected, WouldDeadlock: as ``TellurioWebSocketClient.call``.
            ConnectFailed: in a forked child, which connects.
        """
        deadline = None
        while (admission := self._enter(current(), deadline)) is None:
            before_wait()
            client = current()
            deadline = deadline or Deadline(client.default_timeout, MONOTONIC.now())
            connection = client.wait_for_connection(max(_LEAST, deadline.remaining(MONOTONIC.now())))
            self.restore_on(client, connection, "", deadline)
        return admission

    def _enter(self, client: TellurioWebSocketClient, deadline: Deadline | None) -> Admission | None:
        with self._lock:
            connection = self._connection
            if connection is None or connection.ending is not None or self._registries.is_restore_due:
                return None
            admission = Admission(self, client, connection, deadline)
            self._inside.add(admission)
            # Once more, because a restore may have begun in between: see ``Without``. A restore shuts the gate and then
            # looks who is inside.
            if self._connection is connection and not self._registries.is_restore_due:
                return admission
            self._inside.discard(admission)
            return None

    def leave(self, admission: Admission) -> None:
        """The call is over."""
        with self._lock:
            self._inside.discard(admission)
            if self._connection is None:
                self._left.notify_all()

    # --- restores ------------------------------------------------------------------------------------

    def restore_soon(self, client: TellurioWebSocketClient, session_id: str) -> None:
        """Start a restore in a new thread: the receive thread calls this, and a restore needs replies from it."""
        connection = client.connection
        if connection is None:
            return

        def run() -> None:
            try:
                self.restore_on(client, connection, session_id, None)
            except TellurioError as exc:
                # The next call tries again, and raises the error if it fails.
                _log.warning("the restore after the reconnect failed: %s", exc)

        try:
            threading.Thread(target=run, name="tellurio-sync restore", daemon=True).start()
        except RuntimeError:
            _log.debug("no restore: no thread can be started, as when the interpreter shuts down")

    def restore_on(
        self, client: TellurioWebSocketClient, connection: Connection, session_id: str, deadline: Deadline | None
    ) -> None:
        """Restore on this connection, unless that is done already. Then open the gate.

        Returns also if this connection is lost meanwhile: then there will be another one, or none.

        Args:
            session_id: for the report.
            deadline: until when to wait for another thread that is restoring; None: without limit.

        Raises:
            CallTimeout: the other thread was not done by then.
            WouldDeadlock: this thread makes a restore already.
            As ``restore``.
        """
        if is_held(self._restore_lock):
            raise WouldDeadlock(
                "This code runs in the middle of a restore that this same thread makes after a lost connection (it is "
                "a signal handler or a finaliser): a blocking call here would wait for itself. Do it on another "
                "thread, or use submit()."
            )
        timeout = -1.0 if deadline is None else max(0.0, deadline.remaining(MONOTONIC.now()))
        if not self._restore_lock.acquire(blocking=False) and not self._wait_for_other_restore(timeout):
            raise CallTimeout(method="restore", waited_s=timeout, was_sent=False)
        try:
            is_done = self._connection is connection and not self._link.registries.is_restore_due
            if is_done or connection.ending is not None:
                return
            self._shut()
            restored = restore(self._link, lambda requests: self._call_many(client, connection, requests), session_id)
            self._open_on(connection)
        except ConnectionLost as lost:
            _log.debug("the connection was lost during the restore: %s", lost)
            return
        finally:
            self._restore_lock.release()
        self._report(restored)

    def _wait_for_other_restore(self, timeout: float) -> bool:
        """Take ``_restore_lock``, for which this waits; False if it is not free in time.

        A signal handler or a finaliser may be what waits here, in the middle of a call of this thread. That call cannot
        leave before, so the restore must not wait for it.
        """
        own = threading.get_ident()
        with self._lock:
            is_first = own not in self._held_up
            self._held_up.add(own)
            self._left.notify_all()
        try:
            return self._restore_lock.acquire(timeout=timeout)
        finally:
            if is_first:
                with self._lock:
                    self._held_up.discard(own)

    def _open_on(self, connection: Connection) -> None:
        assert is_held(self._restore_lock)
        with self._lock:
            self._connection = connection

    def _shut(self) -> None:
        """Let no call in any more, and wait until all have left: calls on a lost connection end at once."""
        assert is_held(self._restore_lock)
        own = threading.get_ident()
        with self._lock:
            self._connection = None
            # A signal handler or a finaliser may call the server from inside a call of its thread: that call cannot be
            # waited for, neither here nor where that thread waits for this restore.
            while any(admission.thread not in (own, *self._held_up) for admission in self._inside.copy()):
                self._left.wait(_LOOK_INTERVAL)

    def _call_many(self, client: TellurioWebSocketClient, connection: Connection, requests: Requests) -> list[Any]:
        run_uuid = self._run_uuid()
        calls = [(method, {"run_uuid": run_uuid, **params}) for method, params in requests]
        return client.call_many_on(connection, calls, _burst_timeout(client, requests))

    def _report(self, restored: Restored) -> None:
        if not (restored.known or restored.renewed or restored.lost):
            return
        _log.info("%s", restored)
        if self._on_restored is not None:
            try:
                self._on_restored(restored)
            except Exception:  # noqa: BLE001 - the user's hook must not fail the call that happened to restore
                _log.exception("on_restored failed")
