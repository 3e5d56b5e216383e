"""The receive thread, and what ends a connection: the network, a dead server, close, Ctrl-C. Clock moved by hand."""

from __future__ import annotations

import signal
import threading
from queue import SimpleQueue
from typing import Any

import pytest

from tellurio_sync.errors import (
    ClosedByUser,
    ConnectionLost,
    WouldDeadlock,
)
from tellurio_sync.peer.dispatch import Method
from tellurio_sync.peer.pending import PendingCall
from tellurio_sync.transport.base import Ending
from tellurio_sync.transport.memory import MemoryTransport

from ..conftest import FAILSAFE
from .rig import TIMEOUT, Background, HeldBack, Rig, pending, request, started

# --- the receive thread -----------------------------------------------------------------------------


def test_on_the_receive_thread_a_blocking_call_raises_at_once_and_others_work() -> None:
    outcomes: list[Any] = []

    def handler(params: dict[str, Any]) -> Any:
        for attempt in (
            lambda: rig.peer.request("m", {}, TIMEOUT),
            lambda: rig.peer.request_many([("m", {}, False)], TIMEOUT),
            lambda: rig.peer.submit("submitted", {}, TIMEOUT),
            lambda: rig.peer.notify("notified", {}, TIMEOUT),
        ):
            try:
                outcomes.append(attempt())
            except Exception as exc:  # noqa: BLE001 - looked at below
                outcomes.append(exc)
        return "ok"

    with Rig(methods={"handler": handler}) as rig:
        rig.open()
        rig.server_send({"jsonrpc": "2.0", "method": "handler", "id": 1})
        sent = [rig.server_receive() for _ in range(3)]
        assert [message.get("method") for message in sent] == ["submitted", "notified", None]
        assert isinstance(outcomes[0], WouldDeadlock)
        assert isinstance(outcomes[1], WouldDeadlock)
        assert outcomes[3] is None
        rig.reply(sent[0], 1)
        assert outcomes[2].result(FAILSAFE)["result"] == 1
        assert pending(rig) == {}


def test_a_call_before_the_greeting_on_the_receive_thread_raises_at_once() -> None:
    outcomes: list[BaseException] = []

    def handler(params: dict[str, Any]) -> None:
        for attempt in (rig.peer.request, rig.peer.submit, rig.peer.notify):
            try:
                attempt("m", {}, TIMEOUT)
            except WouldDeadlock as exc:
                outcomes.append(exc)

    with Rig("silent", methods={"early": handler}) as rig:
        opening = Background(rig.peer.lifecycle.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        transport.server_send('{"jsonrpc":"2.0","method":"early"}')
        transport.server_send('{"jsonrpc":"2.0","result":{"session_id":"s"},"id":null}')
        assert opening.result() == "s"
    assert len(outcomes) == 3


def test_a_callable_on_a_worker_may_call_the_server() -> None:
    def callable_(params: dict[str, Any]) -> Any:
        return rig.peer.request("inner", {}, TIMEOUT)["result"]

    with Rig(methods={"run": Method(callable_, on_worker=True)}) as rig:
        rig.open()
        rig.server_send({"jsonrpc": "2.0", "method": "run", "id": "outer"})
        inner = rig.server_receive()
        rig.reply(inner, 42)
        assert rig.server_receive() == {"jsonrpc": "2.0", "id": "outer", "result": 42}


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), RuntimeError("x")])
def test_what_a_handler_raises_ends_neither_thread_nor_connection(error: BaseException) -> None:
    def handler(params: dict[str, Any]) -> None:
        raise error

    with Rig(methods={"bad": handler}) as rig:
        rig.open()
        rig.server_send({"jsonrpc": "2.0", "method": "bad", "id": 1}, {"jsonrpc": "2.0", "method": "bad"})
        assert rig.server_receive()["error"]["code"] == -32603
        rig.sync()
        assert rig.peer.lifecycle.state == "open"


def test_state_handlers_run_in_wire_order_before_the_reply_behind_them() -> None:
    seen: list[int] = []
    with Rig(methods={"push": lambda params: seen.append(params["n"])}) as rig:
        rig.open()
        waiting, asked = started(rig)
        pushes = [{"jsonrpc": "2.0", "method": "push", "params": {"n": n}} for n in range(100)]
        rig.server_send(*pushes, {"jsonrpc": "2.0", "id": asked["id"], "result": "after"})
        waiting.result()
        assert seen == list(range(100))


def test_a_defect_in_the_receive_loop_fails_the_waiting_calls(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No caller waits for a thread that is gone."""
    waiting, _ = started(rig)
    transport = rig.transport

    def break_down(timeout: float | None) -> Any:
        raise ZeroDivisionError("our own bug")

    monkeypatch.setattr(transport, "receive", break_down)
    transport.wake()
    error = waiting.error()
    assert isinstance(error, ConnectionLost)
    assert "ZeroDivisionError: our own bug" in error.reason
    assert "receive loop failed" in caplog.text
    assert transport.is_disposed


# --- the end of the connection ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending", [Ending("reset", "network"), Ending("closed", "server", 1011), Ending("end", "server")]
)
def test_losing_the_connection_fails_every_waiting_call_at_once(rig: Rig, ending: Ending) -> None:
    calls = [started(rig)[0] for _ in range(3)]
    futures = [rig.peer.submit("m", {}, TIMEOUT) for _ in range(3)]
    many = Background(rig.peer.request_many, [("m", {}, False)] * 2, TIMEOUT)
    for _ in range(5):
        rig.server_receive()
    rig.transport.server_end(ending)
    errors: list[Any] = [call.error() for call in calls]
    errors += [future.exception(FAILSAFE) for future in futures]
    errors += many.result()
    assert len({id(error) for error in errors}) == 8, "each its own exception object"
    for error in errors:
        assert type(error) is ConnectionLost
        assert (error.reason, error.who, error.code, error.was_sent) == (*ending, True)


def test_was_sent_is_false_for_what_never_left(rig: Rig) -> None:
    sent = rig.peer.submit("m", {}, TIMEOUT)
    rig.server_receive()
    rig.transport.server_stop_reading()
    connection = rig.peer.lifecycle.connection
    assert connection is not None
    call = PendingCall("stuck", "m", TIMEOUT, rig.clock.now())
    connection.pending.put(call.id, call)
    rig.transport.send(["{}"], [call])
    rig.transport.server_end(Ending("reset", "network"))
    error = sent.exception(FAILSAFE)
    assert isinstance(error, ConnectionLost)
    assert error.was_sent
    call.wait_outcome(rig.clock)
    assert isinstance(call.error, ConnectionLost)
    assert not call.error.was_sent


def test_a_dead_server_is_found_interval_plus_timeout_after_its_last_sign_of_life() -> None:
    with Rig(ping_interval=20.0, ping_timeout=5.0, reconnect=False) as rig:
        rig.open()
        waiting, _ = started(rig, timeout=1000)
        rig.clock.advance(15)
        rig.heartbeat("x")  # any message is a sign of life
        rig.sync()
        rig.clock.advance(19.999)
        assert rig.transport.pings == 0
        rig.clock.advance(0.001)
        _wait_for_ping(rig, 1)
        rig.clock.advance(4.999)
        rig.clock.wait_for_waiting()
        assert waiting.is_running
        rig.clock.advance(0.001)
        error = waiting.error()
        assert isinstance(error, ConnectionLost)
        assert error.who == "network"
        assert "ping" in error.reason


def test_an_answered_ping_keeps_the_connection() -> None:
    with Rig(ping_interval=20.0, ping_timeout=5.0) as rig:
        rig.open()
        for number in range(1, 4):
            rig.clock.advance(20)
            _wait_for_ping(rig, number)
            rig.clock.advance(4.999)
            rig.sync()  # any bytes count
        assert rig.peer.lifecycle.state == "open"


def test_the_receive_thread_sleeps_until_the_next_ping_or_its_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life move the ping without a look at the plan; so the first plan is too early, once."""
    sleeps: SimpleQueue[float | None] = SimpleQueue()
    receive = MemoryTransport.receive

    def receive_noted(transport: MemoryTransport, timeout: float | None) -> list[str | bytes]:
        sleeps.put(timeout)
        return receive(transport, timeout)

    def wait_for_sleep(expected: float) -> None:
        seen = []
        for _ in range(20):  # it must not turn and turn instead
            seen.append(sleeps.get(timeout=FAILSAFE))
            if seen[-1] == pytest.approx(expected):
                return
        raise AssertionError(seen)

    monkeypatch.setattr(MemoryTransport, "receive", receive_noted)
    with Rig(ping_interval=20.0, ping_timeout=5.0) as rig:
        rig.open()
        wait_for_sleep(20)
        rig.clock.advance(15)
        rig.sync()
        rig.clock.advance(5.5)
        wait_for_sleep(14.5)
        rig.clock.advance(14.5)
        wait_for_sleep(5)
        rig.clock.advance(1)
        rig.sync()
        rig.clock.advance(4)
        wait_for_sleep(16)


def _wait_for_ping(rig: Rig, count: int) -> None:
    transport = rig.transport
    with transport._condition:
        assert transport._condition.wait_for(lambda: transport.pings >= count, FAILSAFE)


def test_a_server_that_takes_nothing_is_given_up_after_the_write_timeout() -> None:
    with Rig(ping_interval=None, ping_timeout=5.0, reconnect=False) as rig:
        rig.open()
        waiting, _ = started(rig, timeout=1000)
        rig.transport.stalled_since = rig.clock.now()
        rig.transport.wake()
        rig.clock.advance(4.999)
        rig.clock.wait_for_waiting()
        assert waiting.is_running
        rig.clock.advance(0.001)
        error = waiting.error()
        assert isinstance(error, ConnectionLost)
        assert "took nothing for 5 s" in error.reason


# --- close ------------------------------------------------------------------------------------------


def test_close_fails_every_waiting_call_at_once(rig: Rig) -> None:
    calls = [started(rig)[0] for _ in range(2)]
    future = rig.peer.submit("m", {}, TIMEOUT)
    rig.peer.lifecycle.close()
    errors = [*(call.error() for call in calls), future.exception(FAILSAFE)]
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, ClosedByUser)
        assert (error.who, error.was_sent) == ("local", True)


def test_close_fails_the_waiting_calls_also_while_the_server_does_not_answer(rig: Rig) -> None:
    waiting, _ = started(rig)
    rig.transport.server_stop_reading()
    closing = Background(rig.peer.lifecycle.close, FAILSAFE)
    error = waiting.error()
    assert isinstance(error, ClosedByUser)
    assert error.was_sent
    assert closing.is_running, "it still waits for the server"
    rig.transport.server_end(Ending("at last", "server"))
    closing.result()
    assert rig.transport.is_disposed


@pytest.mark.parametrize("submits", [False, True])
@pytest.mark.parametrize("is_in_time", [True, False])
def test_close_tells_the_truth_about_a_call_that_is_just_being_sent(
    rig: Rig, submits: bool, is_in_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, transport = rig.peer.lifecycle.connection, rig.transport
    assert connection is not None
    is_closing, close_on = threading.Event(), threading.Event()
    refuse = connection._dispatcher.refuse_open_requests

    def refuse_slowly() -> None:
        is_closing.set()
        assert close_on.wait(FAILSAFE)
        refuse()

    monkeypatch.setattr(connection._dispatcher, "refuse_open_requests", refuse_slowly)
    sending = HeldBack(rig, monkeypatch)
    calling = Background(rig.peer.submit if submits else rig.peer.request, "m", {}, TIMEOUT)
    sending.wait()
    closing = Background(rig.peer.lifecycle.close)
    assert is_closing.wait(FAILSAFE)
    for _ in range(2):  # the receive thread has seen that it is closing
        rig.sync()
    if is_in_time:
        sending.go_on.set()
        assert rig.server_receive()["method"] == "m"
    close_on.set()
    closing.result()
    sending.go_on.set()
    error = calling.result().exception(FAILSAFE) if submits and is_in_time else calling.error()
    assert isinstance(error, ClosedByUser)
    assert error.was_sent == is_in_time
    assert not transport.server_has_message()


# --- Ctrl-C -----------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_wait_at_once_and_leaves_the_connection_usable(rig: Rig) -> None:
    raised: list[bool] = []

    def on_signal(*_: object) -> None:
        if not raised:
            raised.append(True)
            raise KeyboardInterrupt

    def interrupt() -> None:
        rig.server_receive()
        rig.clock.wait_for_waiting()
        pause = threading.Event()
        while not raised:  # a signal that comes just before the system call of the wait does not interrupt it
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            pause.wait(0.01)

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        for _ in range(2):
            raised.clear()
            interrupting = Background(interrupt)
            with pytest.raises(KeyboardInterrupt):
                request(rig)
            interrupting.result()
            assert pending(rig) == {}
    finally:
        signal.signal(signal.SIGINT, previous)
    waiting, asked = started(rig)
    rig.reply(asked)
    assert waiting.result()["result"] == "ok"


@pytest.mark.parametrize("where", ["now", "wait"])
def test_ctrl_c_anywhere_in_a_wait_leaves_no_pending_call(
    rig: Rig, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    main = threading.main_thread()
    real = getattr(rig.clock, where)
    calls = iter(range(1000))
    monkeypatch.setattr(
        rig.clock,
        where,
        lambda *args: interrupt() if threading.current_thread() is main and next(calls) >= 1 else real(*args),
    )
    if where == "wait":
        next(calls)
    with pytest.raises(KeyboardInterrupt):
        request(rig)
    with pytest.raises(KeyboardInterrupt):
        rig.peer.request_many([("m", {}, False)] * 3, TIMEOUT)
    monkeypatch.undo()
    assert pending(rig) == {}


def test_ctrl_c_in_submit_leaves_no_pending_call(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would have its future, and nobody watch its deadline."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rig.peer.lifecycle.connection, "watch_expiry", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rig.peer.submit("m", {}, TIMEOUT)
    assert pending(rig) == {}
    asked = rig.server_receive()
    rig.reply(asked)
    rig.sync()
