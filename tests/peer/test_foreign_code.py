"""Signal handlers and finalisers that call, or raise, at any point of a call: nothing stands still, nothing is torn."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync import deadlines, speedups
from tellurio_sync.errors import WouldDeadlock
from tellurio_sync.peer import (
    at_exit,
    connection,
    dispatch,
    futures,
    lifecycle,
    peer,
    pending,
    recording,
    tally,
    workers,
)
from tellurio_sync.queued import Queued
from tellurio_sync.transport.tls import TlsStream
from tellurio_sync.transport.websocket import WebSocketTransport

from ..conftest import FAILSAFE, wait_until
from ..faults.scripted import ScriptedServer, ServerConnection
from ..finalisers import Circle, Finaliser, collected_always
from ..interrupts import strikes
from ..transport.conftest import Tls, tls
from .rig import Background

__all__ = ["tls"]

WATCHED = (
    *(peer, lifecycle, connection, pending, futures, tally, recording, deadlines, speedups),
    *(Queued, WebSocketTransport, TlsStream),
)
SOON = 10.0
"""Seconds: far more than a call takes, and far less than its time-out."""


def echo(far: ServerConnection) -> None:
    for request in far.requests():
        if "id" in request:
            far.reply(request, request["params"])


@pytest.fixture(params=["tcp", "tls"])
def client(request: pytest.FixtureRequest, tls: Tls) -> Iterator[te.TellurioWebSocketClient]:
    is_tls = request.param == "tls"
    with ScriptedServer(echo, tls=tls.server if is_tls else None) as server:
        made = te.TellurioWebSocketClient(server.base_url, server.port, ssl_context=tls.client if is_tls else None)
        made.connect("k", retries=1)
        yield made
        made.close()


def call(client: te.TellurioWebSocketClient, number: int, timeout: float = SOON) -> None:
    params = {"run_uuid": "r", "number": number}
    assert client.call("m", params, timeout)["result"] == params


def check_usable(client: te.TellurioWebSocketClient) -> None:
    for number in range(3):
        call(client, number)
    assert client.pending == {}
    assert client.state == "open"


class Handler:
    """A signal handler that makes a call of one kind. What it could not do is in ``refused``."""

    def __init__(self, client: te.TellurioWebSocketClient, kind: str) -> None:
        self.client = client
        self.kind = kind
        self.futures: list[Any] = []
        self.refused = 0

    def __call__(self) -> None:
        params = {"run_uuid": "r", "x": "handler"}
        try:
            if self.kind == "call":
                assert self.client.call("m", params, SOON)["result"] == params
            elif self.kind == "submit":
                self.futures.append(self.client.submit("m", params, SOON))
            else:
                self.client.notify("n", params)
        except WouldDeadlock:
            self.refused += 1

    def check(self) -> None:
        for future in self.futures:
            assert future.result(FAILSAFE)["result"]["x"] == "handler"


@pytest.mark.parametrize("kind", ["call", "submit", "notify"])
@pytest.mark.parametrize(
    "outer",
    ["call", "submit", pytest.param("large", marks=pytest.mark.slow), pytest.param("many", marks=pytest.mark.slow)],
)
def test_a_signal_handler_may_call_at_any_point(client: te.TellurioWebSocketClient, kind: str, outer: str) -> None:
    """Such as that of a job scheduler's SIGTERM: tell the server, then leave."""
    handler = Handler(client, kind)
    # More than the socket takes at once; or some records of TLS, each of which has its points.
    large = "x" * (500_000 if client.ws_url.startswith("ws:") else 60_000)
    for number, strike in enumerate(strikes(*WATCHED, act=handler)):
        try:
            with strike:
                if outer == "call":
                    call(client, number)
                elif outer == "large":
                    params = {"run_uuid": "r", "x": large}
                    assert client.call("m", params, SOON)["result"] == params
                elif outer == "many":
                    replies = client.call_many([("m", {"run_uuid": "r", "n": n}) for n in range(3)], SOON)
                    assert [reply["result"]["n"] for reply in replies] == [0, 1, 2]
                else:
                    client.submit("m", {"run_uuid": "r"}, SOON).result(FAILSAFE)
            handler.check()
            check_usable(client)
        except BaseException as exc:
            raise AssertionError(f"{kind} in {outer}: {strike}") from exc
    if client.ws_url.startswith("ws:") or kind != "call":
        assert handler.refused == 0, "without TLS, and without waiting, it works each time"


class Others:
    """A thread that gives one call up and makes another whenever it is told to. Context manager."""

    def __init__(self, client: te.TellurioWebSocketClient) -> None:
        self.turns: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self.failures: list[BaseException] = []
        self._client = client
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while self.turns.get():
                assert self._client.submit("m", {"run_uuid": "r", "x": "never"}, SOON).cancel()
                self._client.call("m", {"run_uuid": "r", "x": "other"}, SOON)
        except BaseException as exc:  # noqa: BLE001 - raised in __exit__
            self.failures.append(exc)

    def __enter__(self) -> Others:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.turns.put(False)
        self._thread.join(FAILSAFE)
        assert self.failures == []


def others_first(far: ServerConnection) -> None:
    """The reply to a call of a signal handler comes only when another thread's call has come. "never": no reply."""
    held: list[dict[str, Any]] = []
    others = 0
    for request in far.requests():
        x = request.get("params", {}).get("x")
        others += x == "other"
        if x == "nested":
            held.append(request)
        elif x != "never" and "id" in request:
            far.reply(request, request["params"])
        while held and others:
            others -= 1
            far.reply(held[0], held.pop(0)["params"])


@pytest.mark.parametrize("nested", ["call", "submit"])
@pytest.mark.parametrize("outer", ["call", "submit", "many", "time-out", "cancel", "notify"])
def test_a_signal_handler_that_waits_holds_nobody_up(outer: str, nested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no point of this thread's code does it wait with something that another thread needs to send or to receive."""
    # An error of a time-out says what happened last, line by line: for each of some hundred lines the same points.
    monkeypatch.setattr("tellurio_sync.client.client.Recorder", functools.partial(recording.Recorder, most_lines=3))
    with ScriptedServer(others_first) as server, contextlib.ExitStack() as stack:
        client = te.TellurioWebSocketClient(server.base_url, server.port, record_envelopes=True)
        stack.callback(client.close)
        client.connect("k", retries=1)
        others = stack.enter_context(Others(client))

        def act() -> None:
            others.turns.put(True)
            params = {"run_uuid": "r", "x": "nested"}
            if nested == "call":
                client.call("m", params, SOON)
            else:
                client.submit("m", params, SOON).result(SOON)

        params = {"run_uuid": "r", "x": "never" if outer in ("time-out", "cancel") else "x"}
        for strike in strikes(*WATCHED, act=act):
            with strike:
                if outer == "call":
                    client.call("m", params, SOON)
                elif outer == "submit":
                    client.submit("m", params, SOON).result(FAILSAFE)
                elif outer == "many":
                    client.call_many([("m", params)] * 2, SOON)
                elif outer == "time-out":
                    with contextlib.suppress(te.CallTimeout):
                        client.call("m", params, 1e-6)
                elif outer == "cancel":
                    client.submit("m", params, SOON).cancel()
                else:
                    client.notify("m", params)
            assert others.failures == [], strike


def test_a_signal_handler_may_call_at_any_point_while_a_connection_is_awaited() -> None:
    """The receive thread, which makes the connection, never waits for it."""
    may_open, has_come = threading.Event(), threading.Event()
    may_open.set()

    def script(far: ServerConnection) -> None:
        for request in far.requests():
            if request["method"] == "drop":
                may_open.clear()
                has_come.clear()
                far.reset()
                return
            far.reply(request, request["params"])

    def serve(far: ServerConnection) -> None:
        has_come.set()
        may_open.wait(FAILSAFE)
        far.greet()
        script(far)

    with ScriptedServer(serve, greet=False) as server:
        client = te.TellurioWebSocketClient(server.base_url, server.port)
        client.connect("k", retries=1)
        life = client._usable_peer().lifecycle

        def act() -> None:
            may_open.set()
            call(client, 2)

        for strike in strikes(lifecycle, act=act):
            client.notify("drop", {"run_uuid": "r"})
            wait_until(lambda: life.state != lifecycle.OPEN and has_come.is_set(), "it does not connect again")

            def let_open() -> None:
                wait_until(lambda: len(life._waiting) > 0 or may_open.is_set(), "nothing waits for the connection")
                may_open.set()

            letting = Background(let_open)
            with strike:
                call(client, 1)
            letting.result()
            check_usable(client)
        client.close()


def test_a_signal_handler_that_calls_while_others_call(client: te.TellurioWebSocketClient) -> None:
    """They never notice."""
    is_over = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not is_over.is_set():
                call(client, 7)
        except BaseException as exc:  # noqa: BLE001 - raised below
            failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        handler = Handler(client, "call")
        for strike in strikes(*WATCHED, act=handler):
            with strike:
                call(client, 1)
    finally:
        is_over.set()
        for thread in threads:
            thread.join(FAILSAFE)
    assert failures == []


class SoftTimeLimitExceeded(Exception):
    """As celery's."""


class OwnTimeout(OSError):
    """As in many a recipe."""


ERRORS: dict[str, Callable[[], BaseException]] = {
    "Exception": SoftTimeLimitExceeded,
    "TimeoutError": lambda: TimeoutError("Timer expired"),
    "TimeoutError with a number": lambda: TimeoutError(62, "Timer expired"),
    "OSError": lambda: OwnTimeout("x"),
    "BlockingIOError": lambda: BlockingIOError(11, "x"),
    "ConnectionResetError": lambda: ConnectionResetError(104, "x"),
}


@pytest.mark.parametrize("error", ERRORS)
def test_what_a_signal_handler_raises_leaves_as_it_is(client: te.TellurioWebSocketClient, error: str) -> None:
    """At any point, and the connection stays usable."""

    def act() -> None:
        raise ERRORS[error]()

    session = client.connection
    for number, strike in enumerate(strikes(*WATCHED, act=act, expected=Exception)):
        try:
            with strike:
                call(client, number)
            check_usable(client)
            assert client.connection is session, "the connection was given up"
        except BaseException as exc:
            raise AssertionError(f"{error}: {strike}") from exc


@pytest.mark.parametrize("kind", ["call", "submit", "notify"])
def test_a_finaliser_may_call_wherever_the_collector_runs(client: te.TellurioWebSocketClient, kind: str) -> None:
    """The collector runs at every allocation that it may run at, in all threads."""
    handler = Handler(client, kind)

    def act() -> None:
        if threading.current_thread().name != "scripted connection":  # a server that waits for its own reply
            handler()

    finalise = Finaliser(act)

    def work(number: int) -> None:
        for _ in range(60):
            Circle(finalise)
            call(client, number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    with collected_always():
        for thread in threads:
            thread.start()
        work(9)
        for thread in threads:
            thread.join(4 * FAILSAFE)
            assert not thread.is_alive(), "it stands still"
    assert finalise.failures == []
    handler.check()
    check_usable(client)


def answer_after_a_callable(far: ServerConnection) -> None:
    """Before it answers "asks", it wants an answer to a request of its own. "never": no reply."""
    asked: list[dict[str, Any]] = []
    for message in far.requests():
        if message.get("method") == "asks":
            asked.append(message)
            far.send({"jsonrpc": "2.0", "id": 1, "method": "run_callable", "params": {}})
        elif "method" not in message:
            far.reply(asked.pop(), "answered")
        elif message["method"] != "never":
            far.reply(message, "at once")


@pytest.mark.parametrize("nested", ["close", "cancel", "connect", "ask"])
@pytest.mark.parametrize("outer", ["connect", "close", "cancel"])
def test_a_signal_handler_may_close_or_connect_at_any_point(outer: str, nested: str) -> None:
    """Such as that of a second SIGTERM, while the first one is being dealt with; and what runs callbacks holds nobody
    up."""
    run = {"run_uuid": "r"}

    with ScriptedServer(answer_after_a_callable) as server:

        def connected() -> te.TellurioWebSocketClient:
            made = te.TellurioWebSocketClient(server.base_url, server.port)
            made.connect("k", retries=1)
            return made

        def cancel(client: te.TellurioWebSocketClient) -> None:
            future = client.submit("never", run, SOON)
            future.add_done_callback(lambda _: None)
            future.cancel()

        def act() -> None:
            if nested == "close":
                client.close()
            elif nested == "cancel":
                with contextlib.suppress(te.NotConnected, te.ConnectionLost):
                    cancel(client)
            elif nested == "connect":
                connected().close()
            else:
                with contextlib.suppress(te.NotConnected, te.ConnectionLost):
                    assert client.call("asks", run, SOON)["result"] == "answered"

        for strike in strikes(workers, dispatch, at_exit, weakref.WeakKeyDictionary, act=act):
            client = connected()
            asked = client.submit("never", run, SOON)
            asked.add_done_callback(lambda _: None)
            with contextlib.suppress(te.NotConnected, te.ConnectionLost), strike:
                if outer == "connect":
                    connected().close()
                elif outer == "cancel":
                    asked.cancel()
                else:
                    client.close()
            if outer != "close" and nested != "close":
                assert client.call("m", run, SOON)["result"] == "at once", strike
            client.close()
            assert client.state == "closed"
