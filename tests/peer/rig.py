"""A peer on memory transports with a clock moved by hand, and the server's side of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync.deadlines import Clock
from tellurio_sync.peer.dispatch import Method
from tellurio_sync.peer.lifecycle import RECONNECTING, Lifecycle
from tellurio_sync.peer.peer import Peer
from tellurio_sync.peer.pending import OpenCall
from tellurio_sync.speedups import Semaphore, release_all
from tellurio_sync.transport.base import DialFailed, Ending
from tellurio_sync.transport.memory import MemoryTransport

from ..conftest import FAILSAFE
from ..fake_clock import FakeClock

GREETING = '{"jsonrpc":"2.0","result":{"session_id":"s"},"id":null}'


def read_greeting(envelope: dict[str, Any]) -> str:
    """As the client's: the session id, or ValueError."""
    result = envelope.get("result")
    if not isinstance(result, dict) or not isinstance(result.get("session_id"), str):
        raise ValueError("no session id")
    return str(result["session_id"])


class WatchedTransport(MemoryTransport):
    """Knows whether the receive thread is done with all that it was given, and waits."""

    def __init__(self) -> None:
        super().__init__()
        self._is_idle = False

    def receive(self, timeout: float | None) -> list[str | bytes]:
        with self._condition:
            self._is_idle = True
            self._condition.notify_all()
        try:
            return super().receive(timeout)
        finally:
            self._is_idle = False

    def wait_until_idle(self) -> None:
        """Return when the receive thread has ended the turn in which it did what was seen of it."""
        with self._condition:
            assert self._condition.wait_for(lambda: self._is_idle, FAILSAFE), "the receive thread is stuck"


class FakeDialer:
    """One attempt of a ``Dialers``."""

    def __init__(self, dialers: Dialers) -> None:
        self._dialers = dialers
        self._aborted = threading.Event()
        self.is_aborted = False

    def dial(self) -> WatchedTransport:
        with self._dialers.changed:
            self._dialers.attempts += 1
            step = self._dialers.steps.pop(0) if self._dialers.steps else self._dialers.default
            self._dialers.changed.notify_all()
        if step == "hang":
            assert self._aborted.wait(FAILSAFE)
            raise DialFailed("handshake", "given up by this side")
        if isinstance(step, BaseException):
            raise step
        transport = WatchedTransport()
        if step == "greet":
            transport.server_send(GREETING)
        with self._dialers.changed:
            self._dialers.transports.append(transport)
            self._dialers.changed.notify_all()
        return transport

    def abort(self) -> None:
        self.is_aborted = True
        self._aborted.set()


class Dialers:
    """What each attempt to connect comes to.

    Attributes:
        steps: one per attempt: ``"greet"``, ``"silent"``, ``"hang"`` until aborted, or an exception to raise.
        default: the step of all further attempts.
    """

    def __init__(self, *steps: Any, default: Any = "greet") -> None:
        self.steps = list(steps)
        self.default = default
        self.changed = threading.Condition()
        self.attempts = 0
        self.transports: list[WatchedTransport] = []
        self.made: list[FakeDialer] = []

    def __call__(self) -> FakeDialer:
        dialer = FakeDialer(self)
        self.made.append(dialer)
        return dialer

    def wait_for_attempts(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.attempts >= count, FAILSAFE), f"{self.attempts} attempts"

    def wait_for_transport(self, index: int) -> WatchedTransport:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.transports) > index, FAILSAFE), "no further connection"
            return self.transports[index]


class Rig:
    """A peer, its clock, its dialers; closed at the end of a ``with``."""

    def __init__(
        self,
        *steps: Any,
        methods: dict[str, Method | Callable[[dict[str, Any]], Any]] | None = None,
        default: Any = "greet",
        opening: Any = read_greeting,
        clock: Clock | None = None,
        **options: Any,
    ) -> None:
        self.clock = FakeClock()  # stands still unless the test moves it
        self.clock.on_advance.append(self._wake)
        self.dialers = Dialers(*steps, default=default)
        table = {
            name: method if isinstance(method, Method) else Method(method) for name, method in (methods or {}).items()
        }
        table.setdefault("heartbeat", Method(lambda params: self.peer.extend(params.get("id"))))
        self.peer = Peer(Lifecycle(self.dialers, table, opening=opening, clock=clock or self.clock, **options))

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.lifecycle.close()

    def _wake(self) -> None:
        for transport in self.dialers.transports:
            transport.wake()

    def open(self, retries: int = 1, delay: float = 0) -> Rig:
        self.peer.lifecycle.open(retries, delay)
        return self

    @property
    def transport(self) -> WatchedTransport:
        """The newest connection's."""
        return self.dialers.transports[-1]

    def server_receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.transport.server_receive())
        return message

    def server_send(self, *messages: Any) -> None:
        self.transport.server_send(*(json.dumps(message) for message in messages))

    def reply(self, request: dict[str, Any], result: Any = "ok") -> None:
        self.server_send({"jsonrpc": "2.0", "id": request["id"], "result": result})

    def heartbeat(self, request_id: Any) -> None:
        self.server_send({"jsonrpc": "2.0", "method": "heartbeat", "params": {"id": request_id}})

    def sync(self) -> None:
        """Return when the receive thread has dealt with everything sent so far, and has read the clock after it."""
        self.server_send({"jsonrpc": "2.0", "method": "no such method", "id": "sync"})
        while (reply := self.server_receive()).get("id") != "sync":
            raise AssertionError(f"unexpected message from the client: {reply}")
        self.transport.wait_until_idle()

    def wait_for_state(self, state: str) -> None:
        """Return when the peer is in this state."""
        self.peer.lifecycle._wait_for_state(lambda: self.peer.lifecycle.state == state, _Failsafe())


class _Failsafe:
    """A deadline of real time, for waiting on what must come."""

    def remaining(self, now: float) -> float:
        return FAILSAFE


class Background:
    """A function on a thread of its own, and what came of it."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._outcome: list[Any] = []

        def run() -> None:
            try:
                self._outcome.append((function(*args, **kwargs), None))
            except BaseException as exc:  # noqa: BLE001 - given to the test
                self._outcome.append((None, exc))

        self._thread = threading.Thread(target=run, name="background")
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Any:
        result, error = self._finish()
        if error is not None:
            raise error
        return result

    def error(self) -> BaseException:
        result, error = self._finish()
        assert error is not None, f"it returned {result!r}"
        return error

    def _finish(self) -> tuple[Any, BaseException | None]:
        self._thread.join(FAILSAFE)
        assert self._outcome, "it did not end"
        outcome: tuple[Any, BaseException | None] = self._outcome[0]
        return outcome


# --- what goes wrong ----------------------------------------------------------------------------------

LOST = Ending("reset", "network")


def refused(status: int) -> DialFailed:
    return DialFailed("handshake", f"the server answered HTTP {status}", status)


def unreachable() -> DialFailed:
    return DialFailed("TCP", "Connection refused")


def failure(opening: Background) -> DialFailed:
    error = opening.error()
    assert isinstance(error, DialFailed)
    return error


def lose(rig: Rig, *steps: Any) -> None:
    """Lose the connection; further attempts are ``steps``, the pause before the first one is under way."""
    rig.dialers.steps[:] = steps
    rig.transport.server_end(LOST)
    rig.wait_for_state(RECONNECTING)


# --- calls --------------------------------------------------------------------------------------------

TIMEOUT = 30.0


def resolve(call: OpenCall, reply: dict[str, Any]) -> None:
    """As the receive thread does it: waiting threads are woken when everything else is done."""
    wakeups: list[Semaphore] = []
    call.resolve(reply, wakeups)
    release_all(wakeups)


def pending(rig: Rig) -> dict[str, str]:
    connection = rig.peer.lifecycle.connection
    return {} if connection is None else connection.pending.snapshot()


def request(rig: Rig, method: str = "m", timeout: float = TIMEOUT, **options: Any) -> Any:
    return rig.peer.request(method, {"a": 1}, timeout, **options)


def started(rig: Rig, **options: Any) -> tuple[Background, dict[str, Any]]:
    """A call that waits for its reply, and its request as the server got it."""
    waiting = Background(request, rig, **options)
    asked = rig.server_receive()
    rig.clock.wait_for_waiting()
    return waiting, asked


class HeldBack:
    """Requests are held back after they were registered, and before the transport gets them."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_registered, self.go_on = threading.Event(), threading.Event()
        send = rig.transport.send

        def held(texts: list[str], receipts: Any = None, timeout: float | None = None) -> None:
            if receipts is not None:  # a request's, not a reply's of the receive thread
                self.is_registered.set()
                assert self.go_on.wait(FAILSAFE)
            send(texts, receipts, timeout)

        monkeypatch.setattr(rig.transport, "send", held)

    def wait(self) -> None:
        assert self.is_registered.wait(FAILSAFE)
