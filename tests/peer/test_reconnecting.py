"""Losing a connection and coming back: calls meanwhile, and the hooks. Memory transports, clock moved by hand."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tellurio_sync.errors import CallTimeout, ConnectionLost, NotConnected, WouldDeadlock
from tellurio_sync.peer.backoff import LONGEST_PAUSE
from tellurio_sync.peer.lifecycle import CLOSED, OPEN

from ..conftest import FAILSAFE
from .rig import LOST, TIMEOUT, Background, Rig, lose, refused, unreachable

# --- calls without a connection ---------------------------------------------------------------------


def test_calls_made_while_reconnecting_wait_and_then_work() -> None:
    with Rig() as rig:
        rig.open()
        lose(rig)
        call = Background(rig.peer.request, "m", {}, TIMEOUT)
        submitting = Background(rig.peer.submit, "s", {}, TIMEOUT)
        rig.clock.wait_for_waiting(3)
        rig.clock.advance(1)  # the backoff's first pause is shorter
        rig.dialers.wait_for_transport(1)
        asked = {request["method"]: request for request in (rig.server_receive() for _ in range(2))}
        rig.reply(asked["m"], 1)
        rig.reply(asked["s"], 2)
        assert call.result()["result"] == 1
        assert submitting.result().result(FAILSAFE)["result"] == 2


def test_a_call_made_while_reconnecting_expires_at_its_own_deadline_unsent() -> None:
    with Rig() as rig:
        rig.open()
        lose(rig, "hang")
        call = Background(rig.peer.request, "m", {}, 5.0)
        rig.clock.wait_for_waiting(2)
        rig.clock.advance(1)
        rig.dialers.wait_for_attempts(2)
        rig.clock.wait_for_waiting(1)
        rig.clock.advance(3.999)
        rig.clock.wait_for_waiting(1)
        assert call.is_running
        rig.clock.advance(0.001)
        error = call.error()
        assert isinstance(error, CallTimeout)
        assert not error.was_sent
        assert error.waited_s == pytest.approx(5.0)


def test_the_pauses_of_reconnecting_grow_and_it_goes_on_until_it_works() -> None:
    with Rig() as rig:
        rig.open()
        lose(rig, *[unreachable() for _ in range(20)], "greet")
        for attempt in range(2, 22):
            rig.clock.wait_for_waiting()
            rig.clock.advance(10)  # the longest pause
            rig.dialers.wait_for_attempts(attempt)
        rig.clock.wait_for_waiting()
        rig.clock.advance(10)
        rig.wait_for_state(OPEN)
        assert rig.dialers.attempts == 22


def test_a_key_refused_while_reconnecting_ends_it_and_is_told() -> None:
    with Rig() as rig:
        rig.open()
        lose(rig, refused(401))
        call = Background(rig.peer.request, "m", {}, TIMEOUT)
        rig.clock.wait_for_waiting(2)
        rig.clock.advance(1)
        error = call.error()
        assert isinstance(error, NotConnected)
        assert "401" in str(error)
        assert rig.peer.lifecycle.state == CLOSED
        assert rig.dialers.attempts == 2


def test_without_reconnect_a_lost_connection_is_the_end() -> None:
    with Rig(reconnect=False) as rig:
        rig.open()
        rig.transport.server_end(LOST)
        rig.wait_for_state(CLOSED)
        with pytest.raises(NotConnected):
            rig.peer.request("m", {}, TIMEOUT)
        assert rig.dialers.attempts == 1


def test_without_reconnect_a_call_made_in_the_hook_or_meanwhile_is_refused_at_once() -> None:
    in_hook, go_on = threading.Event(), threading.Event()
    outcomes: list[BaseException] = []

    def on_lost(error: ConnectionLost) -> None:
        try:
            rig.peer.request("m", {}, TIMEOUT)
        except NotConnected as exc:
            outcomes.append(exc)
        in_hook.set()
        assert go_on.wait(FAILSAFE)

    with Rig(reconnect=False, on_lost=on_lost) as rig:
        rig.open()
        rig.transport.server_end(LOST)
        assert in_hook.wait(FAILSAFE)
        assert isinstance(Background(rig.peer.request, "m", {}, TIMEOUT).error(), NotConnected)
        assert len(outcomes) == 1
        go_on.set()


def test_a_call_racing_with_the_loss_ends_one_way_or_the_other() -> None:
    for number in range(60):
        with Rig(reconnect=False) as rig:
            rig.open()
            calls = [Background(rig.peer.request, "m", {}, TIMEOUT) for _ in range(4)]
            if number % 2:
                rig.server_receive()
            rig.transport.server_end(LOST)
            for call in calls:
                assert isinstance(call.error(), (ConnectionLost, NotConnected))


@pytest.mark.slow
def test_a_thousand_reconnects_leave_nothing() -> None:
    with Rig() as rig:
        rig.open()
        before = threading.active_count()
        for number in range(1, 1001):
            rig.transport.server_end(LOST)
            rig.clock.wait_for_waiting()
            rig.clock.advance(LONGEST_PAUSE)
            transport = rig.dialers.wait_for_transport(number)
            rig.wait_for_state(OPEN)
            assert transport is rig.transport
        assert threading.active_count() == before
        assert all(transport.is_disposed for transport in rig.dialers.transports[:-1])


# --- hooks ------------------------------------------------------------------------------------------


def test_the_hooks_tell_of_loss_and_restoring() -> None:
    lost: list[ConnectionLost] = []
    restored: list[Any] = []
    came = threading.Event()
    with Rig(on_lost=lost.append, on_restored=lambda greeting: (restored.append(greeting), came.set())) as rig:
        rig.open()
        assert (lost, restored) == ([], [])
        lose(rig)
        rig.clock.wait_for_waiting()
        rig.clock.advance(1)
        assert came.wait(FAILSAFE)
        assert [error.reason for error in lost] == ["reset"]
        assert restored == ["s"]


@pytest.mark.parametrize("exc", [ValueError("hook"), SystemExit(1)])
def test_a_hook_that_raises_is_logged_and_stops_nothing(exc: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def hook(_: Any) -> None:
        raise exc

    with Rig(on_lost=hook, on_restored=hook) as rig:
        rig.open()
        for connection in (1, 2):
            lose(rig)
            rig.clock.wait_for_waiting()
            rig.clock.advance(1)
            rig.dialers.wait_for_transport(connection)
            rig.wait_for_state(OPEN)
            rig.sync()
    assert caplog.text.count("a hook failed") == 5, "two losses, two restorings, and the close"


def test_a_call_in_a_hook_is_refused_at_once() -> None:
    outcomes: list[BaseException] = []
    restored = threading.Event()

    def call(_: Any) -> None:
        for attempt in (rig.peer.request, rig.peer.request):
            try:
                attempt("m", {}, TIMEOUT)
            except WouldDeadlock as exc:
                outcomes.append(exc)
        if len(outcomes) == 4:
            restored.set()

    with Rig(on_lost=call, on_restored=call) as rig:
        rig.open()
        lose(rig)
        rig.clock.wait_for_waiting()
        rig.clock.advance(1)
        assert restored.wait(FAILSAFE)
        rig.peer.lifecycle._on_lost = None
