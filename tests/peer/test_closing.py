"""Closing: while it connects, reconnects or works, from anywhere, and by Ctrl-C. Clock moved by hand."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tellurio_sync.errors import ClosedByUser, NotConnected
from tellurio_sync.peer.dispatch import Method
from tellurio_sync.peer.lifecycle import CLOSED
from tellurio_sync.transport.base import DialFailed

from ..conftest import FAILSAFE
from .rig import TIMEOUT, Background, Rig, failure, lose, unreachable

# --- before it is open ------------------------------------------------------------------------------


def test_close_before_open_and_twice_and_after_is_harmless() -> None:
    with Rig() as rig:
        rig.peer.lifecycle.close()
        rig.peer.lifecycle.close()
        assert str(failure(Background(rig.peer.lifecycle.open, 1, 0))) == "close() was called"
        assert rig.dialers.attempts == 0


@pytest.mark.parametrize("step", ["hang", "silent"])
def test_close_while_connecting_ends_the_opening_at_once(step: str) -> None:
    with Rig(step) as rig:
        opening = Background(rig.peer.lifecycle.open, 3, 5.0)
        rig.dialers.wait_for_attempts(1)
        if step == "silent":
            rig.dialers.wait_for_transport(0)
        rig.peer.lifecycle.close()
        assert isinstance(failure(opening), DialFailed)
        assert rig.dialers.attempts == 1
        assert all(transport.is_disposed for transport in rig.dialers.transports)


def test_close_in_the_pause_between_attempts_ends_the_opening_at_once() -> None:
    with Rig(default=unreachable()) as rig:
        opening = Background(rig.peer.lifecycle.open, 3, 5.0)
        rig.dialers.wait_for_attempts(1)
        rig.clock.wait_for_waiting(2)
        rig.peer.lifecycle.close()
        failure(opening)
        assert rig.dialers.attempts == 1


def test_ctrl_c_while_connecting_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig("silent") as rig:
        wait_for_state = rig.peer.lifecycle._wait_for_state

        def interrupted(*args: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                rig.dialers.wait_for_transport(0)
                raise KeyboardInterrupt
            wait_for_state(*args)

        monkeypatch.setattr(rig.peer.lifecycle, "_wait_for_state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rig.peer.lifecycle.open(3, 5.0)
        monkeypatch.undo()
        thread = rig.peer.lifecycle._thread
        assert thread is not None
        thread.join(FAILSAFE)
        assert rig.peer.lifecycle.state == CLOSED
        assert rig.transport.is_disposed


@pytest.mark.parametrize("is_started", [False, True])
def test_ctrl_c_while_the_thread_starts_leaves_nothing_open(is_started: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if is_started:
            start(thread)
        raise KeyboardInterrupt

    with Rig("silent") as rig:
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rig.peer.lifecycle.open(3, 5.0)
        monkeypatch.undo()
        if is_started:
            thread = rig.peer.lifecycle._thread
            assert thread is not None
            thread.join(FAILSAFE)
        assert rig.peer.lifecycle.state == CLOSED
        assert all(transport.is_disposed for transport in rig.dialers.transports)


# --- at work, or while it reconnects ----------------------------------------------------------------


def test_after_close_a_call_is_refused_at_once() -> None:
    with Rig() as rig:
        rig.open()
        rig.peer.lifecycle.close()
        for attempt in (rig.peer.request, rig.peer.submit, rig.peer.notify):
            with pytest.raises(NotConnected, match="WebSocket is not connected"):
                attempt("m", {}, TIMEOUT)
        with pytest.raises(NotConnected):
            rig.peer.lifecycle.check_is_usable()


@pytest.mark.parametrize("step", ["pause", "hang", "silent"])
def test_close_while_reconnecting_ends_it_and_the_waiting_calls(step: str) -> None:
    with Rig() as rig:
        rig.open()
        lose(rig, step)
        call = Background(rig.peer.request, "m", {}, TIMEOUT)
        rig.clock.wait_for_waiting(2)
        if step != "pause":
            rig.clock.advance(1)
            rig.dialers.wait_for_attempts(2)
        if step == "silent":
            rig.dialers.wait_for_transport(1)
        rig.peer.lifecycle.close()
        assert isinstance(call.error(), NotConnected)
        assert rig.peer.lifecycle.state == CLOSED
        assert all(transport.is_disposed for transport in rig.dialers.transports)


def test_two_closes_racing_are_one() -> None:
    for _ in range(30):
        with Rig() as rig:
            rig.open()
            barrier = threading.Barrier(3)

            def close(rig: Rig = rig, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(FAILSAFE)
                rig.peer.lifecycle.close()

            closing = [Background(close) for _ in range(2)]
            call = Background(rig.peer.request, "m", {}, TIMEOUT)
            barrier.wait(FAILSAFE)
            for one in closing:
                one.result()
            assert isinstance(call.error(), (ClosedByUser, NotConnected))
            assert rig.peer.lifecycle.state == CLOSED


def test_close_from_a_handler_and_from_a_callable_returns() -> None:
    for on_worker in (False, True):
        closed = threading.Event()

        def close(params: dict[str, Any], closed: threading.Event = closed) -> None:
            rig.peer.lifecycle.close()
            closed.set()

        with Rig(methods={"close": Method(close, on_worker=on_worker)}) as rig:
            rig.open()
            call = Background(rig.peer.request, "m", {}, TIMEOUT)
            rig.server_receive()
            rig.server_send({"jsonrpc": "2.0", "method": "close", "id": 1})
            assert closed.wait(FAILSAFE)
            assert isinstance(call.error(), ClosedByUser)


def test_close_answers_the_open_requests_of_the_server() -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(params: dict[str, Any]) -> str:
        entered.set()
        assert release.wait(FAILSAFE)
        return "too late"

    with Rig(methods={"slow": Method(slow, on_worker=True)}) as rig:
        rig.open()
        rig.server_send({"jsonrpc": "2.0", "method": "slow", "id": 7})
        assert entered.wait(FAILSAFE)
        transport = rig.transport
        rig.peer.lifecycle.close()
        release.set()
        reply = rig.server_receive()
        assert (reply["id"], reply["error"]["code"]) == (7, -32001)
        assert not transport.server_has_message()


def test_close_is_bounded_when_the_server_does_not_answer() -> None:
    with Rig() as rig:
        rig.open()
        rig.transport.server_stop_reading()
        rig.peer.lifecycle.close(0.01)
        thread = rig.peer.lifecycle._thread
        assert thread is not None
        thread.join(FAILSAFE)
        assert rig.transport.is_disposed


def test_a_callback_that_comes_after_close_still_runs() -> None:
    ran = threading.Event()
    with Rig() as rig:
        rig.open()
        rig.peer.submit("m", {}, TIMEOUT).add_done_callback(lambda _: ran.set())
        rig.peer.lifecycle.close()
        assert ran.wait(FAILSAFE)
