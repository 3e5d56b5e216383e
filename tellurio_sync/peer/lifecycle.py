"""The life of a connection: it is dialled, greeted, and dialled again when it is lost.

States: ``connecting → open → (reconnecting → open)* → closed``.  ``closed`` is final: a new connection
after that has a new object.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| state, ``_connection``, ``_unopened``, dialer | receive thread, ``close`` | any thread | ``_lock`` | an assert |
| ``pool``, ``is_forked`` | the constructor; in a forked child | any thread | – | – |
| greeting, ``_was_open`` | receive thread | any thread | ``_lock``; stored before the state is OPEN | an assert |
| ``_failure``, ``_attempts`` | receive thread | ``open``, when the state has changed | ownership | asserts |
| ``_thread`` | ``open``, before the thread starts | any thread | one store | – |
| the threads that wait for a change of state | callers | a thread that sets it | ``_lock`` | only this module has it |

``_lock`` is never held while dialling or waiting.  A forked child has one thread: ``renew_after_fork`` takes no lock.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from .. import forked
from ..deadlines import MONOTONIC, Clock, Deadline
from ..errors import ConnectionLost, NotConnected, WouldDeadlock
from ..ownership import Without, is_held
from ..speedups import Semaphore, make_semaphore
from ..transport.base import DialFailed, Transport, TransportEnded
from . import at_exit
from .backoff import Backoff
from .connection import Cancellation, Connection, Opening
from .dispatch import Dispatcher, Method
from .keepalive import Keepalive
from .pending import OpenCall
from .recording import RecordedTransport, Recorder
from .records import log
from .tally import Tally
from .workers import WorkerPool, WorkerWait, forget_after_fork, wait_of_worker

CONNECTING = "connecting"
OPEN = "open"
RECONNECTING = "reconnecting"
CLOSED = "closed"

_REFUSED = (401, 403)

_OPENING_GRACE = 1.0  # seconds, beyond the time-outs of all attempts


class Dialer(Protocol):
    """One attempt to open a transport."""

    def dial(self) -> Transport: ...

    def abort(self) -> None: ...


class Lifecycle:
    """Opens a connection, with its own receive thread, and keeps one open. Thread-safe.

    Args:
        make_dialer: makes one attempt to connect.
        methods: what the other end may call.
        url: for error texts, without credentials.
        opening: reads the greeting (see ``connection.Opening``); None: there is none.
        dial_timeout: seconds, > 0, within which an attempt, up to the greeting, ends by itself. A name look-up that
            takes longer is abandoned. None: no limit.
        opening_timeout: seconds, > 0, for the greeting.
        ping_interval: seconds, > 0, without a sign of life before a ping; None: never.
        ping_timeout: seconds, > 0, for the answer, and for the server to take any byte of what is written.
        reconnect: whether to connect again when the connection is lost.
        on_lost: called on the receive thread with a ``ConnectionLost`` when an open connection has ended.
        on_restored: called on the receive thread with the new greeting when it is open again.
        clock: the clock of all deadlines.
        secrets: blotted out of what the server says, wherever that is shown.
        cancellation: makes the message about a call that was given up; see ``connection.Cancellation``.
        recorder: keeps the shapes of the last envelopes; None: nothing does.

    Attributes:
        tally: what has happened on all connections.
    """

    def __init__(
        self,
        make_dialer: Callable[[], Dialer],
        methods: Mapping[str, Method],
        *,
        url: str = "",
        opening: Opening | None = None,
        dial_timeout: float | None = None,
        opening_timeout: float = 10.0,
        ping_interval: float | None = 20.0,
        ping_timeout: float = 20.0,
        reconnect: bool = True,
        on_lost: Callable[[ConnectionLost], None] | None = None,
        on_restored: Callable[[Any], None] | None = None,
        clock: Clock = MONOTONIC,
        secrets: Sequence[str] = (),
        cancellation: Cancellation | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._make_dialer = make_dialer
        self._url = url
        self._opening = opening
        self._dial_timeout = dial_timeout
        self._opening_timeout = opening_timeout
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout
        self._reconnect = reconnect
        self._on_lost = on_lost
        self._on_restored = on_restored
        self.clock = clock
        self._secrets = secrets
        self._cancellation = cancellation
        self.tally: Tally = Tally(clock, url, secrets, recorder)
        self.pool: WorkerPool = WorkerPool()
        self._methods = dict(methods)

        self._lock = threading.RLock()
        self.state: str = CONNECTING
        self._waiting: dict[Semaphore, WorkerWait | None] = {}
        self.connection: Connection | None = None  # open
        self._unopened: Connection | None = None  # has no greeting yet, or is open
        self._was_open = False
        self.is_forked: bool = False
        self._dialer: Dialer | None = None
        self._failure: DialFailed | None = None
        self._attempts = 0
        self.greeting: Any = None
        self._thread: threading.Thread | None = None

    # --- opening and closing -------------------------------------------------------------------------

    def open(self, retries: int, delay: float) -> Any:
        """Connect, and return what ``opening`` made of the greeting. Blocks; once per peer.

        Args:
            retries: attempts in total, >= 1.
            delay: seconds, >= 0, between attempts.

        Raises:
            DialFailed: the last attempt's failure, ``attempts`` filled in; a refused key (401, 403) ends them at once.
        """
        thread = threading.Thread(target=self._run, args=(retries, delay), name="tellurio-sync receive", daemon=True)
        self._thread = thread
        at_exit.register(self)
        forked.renew(self)
        try:
            try:
                thread.start()
            except RuntimeError as exc:
                # Too many threads, the end of the interpreter, or one that allows no daemon threads.
                self._let_go()
                raise DialFailed("internal error", f"the receive thread cannot be started: {exc}") from None
            self._wait_for_state(lambda: self.state != CONNECTING, self._opening_deadline(retries, delay))
        except BaseException:  # Ctrl-C: leave nothing open behind
            self.close(0.0)
            raise
        failure: DialFailed | None = None
        if self.state == CONNECTING:
            # The dialer ends by itself, except during a name look-up, which cannot be interrupted.
            self.close(0.0)
            failure = DialFailed("DNS", "no answer in time")
        elif not self._was_open:
            thread.join(1.0)
            failure = self._failure.anew() if self._failure else DialFailed("handshake", "close() was called")
        if failure is not None:
            failure.attempts = max(1, self._attempts)
            try:
                raise failure
            finally:
                del failure  # its traceback has this frame
        return self.greeting

    def _opening_deadline(self, retries: int, delay: float) -> Deadline | None:
        if self._dial_timeout is None:
            return None
        attempt = self._dial_timeout + self._opening_timeout
        return Deadline(retries * attempt + (retries - 1) * delay + _OPENING_GRACE, self.clock.now())

    def close(self, timeout: float = 1.0) -> None:
        """End the connection in good order. Idempotent; from any thread, also from a handler or callable.

        Waiting calls fail at once with ``ClosedByUser``. Waits at most ``timeout`` seconds for the server's close
        frame, then aborts.
        """
        with self._lock:
            self._set_state_locked(CLOSED)  # from now on none of these is replaced
            connection, unopened, dialer = self.connection, self._unopened, self._dialer
        if dialer is not None:
            dialer.abort()
        if connection is not None:
            connection.close()
        elif unopened is not None:
            unopened.abort("close() was called")
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            with Without(*self._locks()):
                thread.join(timeout)
                if thread.is_alive() and connection is not None:
                    connection.abort("the server did not answer the close frame in time")
                    thread.join(max(timeout, 0.05))
        self.pool.close(min(timeout, 0.05))

    def close_at_exit(self, timeout: float) -> None:
        """As ``close``, for the end of the interpreter: waiting calls go on waiting, and end with the process.

        By now only daemon threads can be in a call. An error that is raised there would be printed, and help nobody.
        """
        connection = self.connection
        if connection is not None:  # otherwise there is no server to say goodbye to
            connection.forget_calls()
            self.close(timeout)

    # --- the connection, for calls ----------------------------------------------------------------------

    def check_is_usable(self) -> None:
        """Raise ``NotConnected`` if this peer is closed."""
        if self.state == CLOSED:
            raise self._not_connected()

    def is_receive_thread(self) -> bool:
        """Whether the caller runs on the receive thread of this peer."""
        return threading.current_thread() is self._thread

    def wait_for_connection(self, timeout: float) -> Connection:
        """The open connection. Blocks while there is none, at most ``timeout`` seconds; raises as ``request``."""
        connection = self.connection_for(OpenCall("", "connect", timeout, self.clock.now()))
        connection.check_may_wait()
        return connection

    def connection_for(self, call: OpenCall) -> Connection:
        """The open connection. Waits for one, at most until the call's deadline."""
        is_first = True
        while (connection := self._usable_connection()) is None:
            if self.state == CLOSED:
                raise self._not_connected()
            if self.is_receive_thread():
                raise WouldDeadlock(
                    "There is no connection at this moment, and this is the thread that has to open one: a call here "
                    "would wait for itself. Make the call on another thread."
                )
            if call.remaining(self.clock.now()) <= 0:
                raise self.tally.timeout(call, was_sent=False, is_registered=False)
            if is_first:
                is_first = False
                self.tally.waits(for_room=False)
            self._wait_for_state(lambda: self._usable_connection() is not None or self.state == CLOSED, call)
        return connection

    def _usable_connection(self) -> Connection | None:
        """The open connection; None if it accepts nothing more and another one will follow.

        The receive thread may still be busy with messages that came before the end. Until it is done, a caller that
        tries again would fail again and again. (The receive thread itself cannot wait for the next connection.)
        """
        connection = self.connection
        if connection is not None and connection.transport.is_over and self._reconnect and not self.is_receive_thread():
            return None
        return connection

    def _not_connected(self) -> Exception:
        failure = self._failure
        if failure is None:
            return NotConnected("WebSocket is not connected: it was closed. Connect, or log in, again.")
        return NotConnected(f"WebSocket is not connected: {failure} ({failure.stage}). Call connect() again.")

    # --- waiting for a state ---------------------------------------------------------------------------

    def _wait_for_state(self, is_reached: Callable[[], bool], deadline: Deadline | None) -> None:
        """Wait until ``is_reached`` (called under the lock), at most until the deadline."""
        semaphore = make_semaphore()
        try:
            while True:
                wait = wait_of_worker()
                try:
                    with self._lock:
                        # In this order: a signal handler that waits gives the lock up meanwhile.
                        self._waiting[semaphore] = wait
                        if is_reached():
                            return
                    if wait is not None:
                        wait.begin()
                    remaining = 3600.0 if deadline is None else deadline.remaining(self.clock.now())
                    if remaining <= 0:
                        return
                    with Without(*self._locks()):
                        self.clock.wait(semaphore, remaining)
                finally:
                    if wait is not None:
                        wait.leave()
        finally:
            with self._lock:
                self._waiting.pop(semaphore, None)

    def _locks(self) -> list[threading.RLock]:
        """What the receive thread may need, and this thread may have if it is a signal handler that waits."""
        locks = [self._lock, self.pool.lock]
        for connection in (self.connection, self._unopened):
            if connection is not None:
                locks += connection.pending.locks
        return locks

    def _set_state_locked(self, state: str) -> None:
        assert is_held(self._lock)
        if self.state != CLOSED:  # final
            if state != self.state:
                log.debug("= %s %s", state, self._url)
            self.state = state
        for semaphore, wait in list(self._waiting.items()):
            if wait is not None:
                wait.end()
            semaphore.release()

    # --- the receive thread ------------------------------------------------------------------------------

    def _run(self, retries: int, delay: float) -> None:
        """Connect, receive until the connection is lost, and connect again, until ``close`` or the last attempt."""
        pauses: Iterator[float] = itertools.repeat(delay, retries - 1)
        backoff = Backoff()
        try:
            while self.state != CLOSED:
                if self._serve_one_connection(backoff):
                    if not self._reconnect:
                        return
                    pauses = iter(backoff.next_pause, None)
                elif self._failure is not None and self._failure.status in _REFUSED:
                    return  # the same key would be refused again
                pause = next(pauses, None)
                if pause is None:
                    return
                self._wait_for_state(lambda: self.state == CLOSED, Deadline(pause, self.clock.now()))
        except Exception as exc:  # noqa: BLE001 - told to the next that calls, and logged
            log.exception("! the receive thread failed")
            self._failure = DialFailed("internal error", f"{type(exc).__name__}: {exc}")
        finally:
            with self._lock:
                self._set_state_locked(CLOSED)
            at_exit.unregister(self)
            forked.leave_alone(self)
            self._let_go()

    def _let_go(self) -> None:
        """Nothing will be called any more: drop all that refers to the client, which refers to this.

        Otherwise each client that was closed would stay until the garbage collector finds it.
        """
        self._make_dialer = _no_dialer
        self._methods = {}
        self._opening = self._on_lost = self._on_restored = None

    def _serve_one_connection(self, backoff: Backoff) -> bool:
        """Make one attempt to connect and, if it works, run the receive loop. Returns whether it was open."""
        assert self.is_receive_thread()
        transport = self._dial()
        if transport is None:
            return False
        connection = self._make_connection(transport)
        with self._lock:
            self._unopened = connection
            if self.state == CLOSED:
                connection.abort("close() was called")
        ending = connection.run()
        lasted = self.clock.now() - connection.opened_at
        backoff.note_lost(lasted, has_replied=connection.replies > 0, code=ending.code)
        self.tally.take_over(connection)
        with self._lock:
            was_open = self.connection is connection
            self.connection = None
            self._unopened = None
            if was_open:
                self._set_state_locked(RECONNECTING if self._reconnect else CLOSED)
        self.tally.ended(ending.reason, was_open=was_open)
        if was_open:
            level = logging.DEBUG if self.state == CLOSED else logging.INFO
            log.log(level, "connection to %s ended: %s", self._url, ending.reason)
            _call_hook(self._on_lost, connection.lost(ending, was_sent=None))
        else:
            self._failure = connection.opening_failure or DialFailed("greeting", ending.reason)
            self.tally.attempt_failed(f"{self._failure.stage}: {self._failure}")
        return was_open

    def _dial(self) -> Transport | None:
        dialer = self._make_dialer()
        with self._lock:
            if self.state == CLOSED:
                return None
            self._dialer = dialer
        self._attempts += 1
        try:
            return dialer.dial()
        except DialFailed as exc:
            self._failure = exc.anew()
            self.tally.attempt_failed(f"{exc.stage}: {exc}")
            log.info("attempt %d to connect to %s failed: %s: %s", self._attempts, self._url, exc.stage, exc)
            return None
        finally:
            with self._lock:
                self._dialer = None

    def _make_connection(self, transport: Transport) -> Connection:
        if self.tally.recorder is not None:
            transport = RecordedTransport(transport, self.tally.recorder)

        def send_reply(text: str) -> None:
            try:
                transport.send([text])
            except TransportEnded:
                log.debug("! a reply could not be sent: the connection is over")

        def on_open(greeting: Any) -> None:
            assert self.is_receive_thread()
            with self._lock:
                is_first = not self._was_open
                self._was_open = True
                self.greeting = greeting
                self._failure = None
                self._attempts = 0
                if self.state != CLOSED:
                    self.connection = connection
                    self._set_state_locked(OPEN)
            self.tally.opened(is_first)
            if not is_first:
                _call_hook(self._on_restored, greeting)

        connection = Connection(
            transport,
            Dispatcher(self._methods, self.pool, send_reply, self._secrets),
            opening=self._opening,
            opening_timeout=self._opening_timeout,
            keepalive=Keepalive(self._ping_interval, self._ping_timeout, self.clock.now()),
            write_timeout=self._ping_timeout,
            clock=self.clock,
            on_open=on_open,
            cancellation=self._cancellation,
            secrets=self._secrets,
            tally=self.tally,
        )
        return connection

    # --- fork ------------------------------------------------------------------------------------------

    def renew_after_fork(self) -> None:
        """In a forked child: this peer is closed; the parent's connection goes on untouched."""
        # A thread of the parent may have held the old lock; in the child it would never be released.
        self._lock = threading.RLock()
        self.state = CLOSED
        self.is_forked = True
        for connection in (self.connection, self._unopened):
            if connection is not None:
                connection.transport.forget_after_fork()
                connection.pending.is_forked = True
        self.connection = self._unopened = self._dialer = self._thread = None
        self.pool = WorkerPool()
        forget_after_fork()


def _no_dialer() -> Dialer:
    raise AssertionError("the receive thread has ended")


def _call_hook(hook: Callable[[Any], None] | None, argument: Any) -> None:
    """Run a hook of the user; an exception is logged, because it must not end the receive thread."""
    if hook is not None:
        try:
            hook(argument)
        except BaseException:  # noqa: BLE001 - SystemExit, too
            log.exception("! a hook failed")
