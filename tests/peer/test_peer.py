"""Opening, losing, restoring and closing. Memory transports, clock moved by hand."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tellurio_sync.errors import CallTimeout, ClosedByUser, ConnectionLost, NotConnected, WouldDeadlock
from tellurio_sync.peer import lifetime
from tellurio_sync.peer.dispatch import Method
from tellurio_sync.peer.keeper import CLOSED, OPEN, RECONNECTING
from tellurio_sync.transport.base import DialFailed, Ending

from ..conftest import FAILSAFE
from .rig import GREETING, Background, Rig

TIMEOUT = 30.0
LOST = Ending("reset", "network")


def refused(status: int) -> DialFailed:
    return DialFailed("handshake", f"the server answered HTTP {status}", status)


def unreachable() -> DialFailed:
    return DialFailed("TCP", "Connection refused")


def failure(opening: Background) -> DialFailed:
    error = opening.error()
    assert isinstance(error, DialFailed)
    return error


# --- the greeting -----------------------------------------------------------------------------------


def test_open_returns_what_the_greeting_says() -> None:
    with Rig() as rig:
        assert rig.peer.state == "connecting"
        assert rig.peer.open(1, 0) == "s"
        assert rig.peer.state == OPEN


def test_without_an_opening_it_is_open_at_once() -> None:
    with Rig("silent", opening=None) as rig:
        assert rig.peer.open(1, 0) is None
        assert rig.peer.state == OPEN


@pytest.mark.parametrize("before", [0.0, 5.0, 9.999])
def test_a_late_greeting_is_waited_for(before: float) -> None:
    with Rig("silent") as rig:
        opening = Background(rig.peer.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        rig.clock.advance(before)
        transport.server_send(GREETING)
        assert opening.result() == "s"


@pytest.mark.parametrize(
    "greeting",
    [
        GREETING,
        '{"result":{"session_id":"s"}}',
        '{"jsonrpc":"2.0","result":{"session_id":"s"},"id":0}',
        '{"jsonrpc":"2.0","result":{"session_id":"s"},"id":"greeting"}',
        '{"jsonrpc":"2.0","result":{"session_id":"s","more":1},"id":null,"more":[]}',
    ],
)
def test_only_the_session_id_of_the_greeting_is_looked_at(greeting: str) -> None:
    """PROTOCOL.md §A.2: no other field is checked."""
    with Rig("silent") as rig:
        opening = Background(rig.peer.open, 1, 0)
        rig.dialers.wait_for_transport(0).server_send(greeting)
        assert opening.result() == "s"


def test_a_greeting_glued_to_the_next_messages_loses_none_of_them() -> None:
    seen: list[Any] = []
    done = threading.Event()

    def push(params: dict[str, Any]) -> None:
        seen.append(params["n"])
        if len(seen) == 3:
            done.set()

    with Rig("silent", methods={"push": push}) as rig:
        opening = Background(rig.peer.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        push_text = '{{"jsonrpc":"2.0","method":"push","params":{{"n":{}}}}}'
        transport.server_send(push_text.format(0), GREETING, push_text.format(1), push_text.format(2))
        assert opening.result() == "s"
        assert done.wait(FAILSAFE)
        assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    "message",
    [
        '{"jsonrpc":"2.0","error":{"code":1,"message":"no"},"id":null}',
        '{"jsonrpc":"2.0","result":{},"id":null}',
        '{"jsonrpc":"2.0","result":null,"id":null}',
        '{"jsonrpc":"2.0","result":{"session_id":null},"id":null}',
        '{"jsonrpc":"2.0","result":{"session_id":5},"id":null}',
        '{"jsonrpc":"2.0","result":[],"id":null}',
        '{"jsonrpc":"2.0","result":"s","id":"x"}',
        "not json",
        "",
        "[" * 100_000,
        b"binary",
        "[]",
        "1",
        "null",
        "{}",
        '{"session_id":"s"}',
        '{"jsonrpc":"1.0","method":"greeting"}',
    ],
)
@pytest.mark.parametrize("is_glued", [False, True])
def test_a_wrong_greeting_fails_at_once_and_closes_the_socket(message: Any, is_glued: bool) -> None:
    with Rig("silent") as rig:
        opening = Background(rig.peer.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        transport.server_send(message, *[GREETING] * is_glued)
        error = failure(opening)
        assert (error.stage, error.attempts) == ("greeting", 1)
        assert transport.is_disposed
        assert rig.peer.state == CLOSED


def test_a_greeting_that_never_comes_ends_at_its_own_timeout() -> None:
    with Rig("silent", opening_timeout=10.0) as rig:
        opening = Background(rig.peer.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        rig.clock.wait_for_waiting()
        rig.clock.advance(9.999)
        assert opening.is_running
        rig.clock.advance(0.001)
        error = failure(opening)
        assert (error.stage, str(error)) == ("greeting", "no greeting came in time")
        assert transport.is_disposed


def test_a_connection_that_ends_before_its_greeting_is_a_failed_attempt() -> None:
    with Rig("silent") as rig:
        opening = Background(rig.peer.open, 1, 0)
        rig.dialers.wait_for_transport(0).server_end(LOST)
        error = failure(opening)
        assert (error.stage, str(error)) == ("greeting", "reset")


# --- attempts ---------------------------------------------------------------------------------------


def test_attempts_are_made_delay_seconds_apart() -> None:
    with Rig(unreachable(), refused(503), "greet") as rig:
        opening = Background(rig.peer.open, 3, 5.0)
        for attempt in (1, 2):
            rig.dialers.wait_for_attempts(attempt)
            rig.clock.wait_for_waiting(2)  # the opener and the pausing receive thread
            rig.clock.advance(4.999)
            rig.clock.wait_for_waiting(2)
            assert rig.dialers.attempts == attempt
            rig.clock.advance(0.001)
        assert opening.result() == "s"
        assert rig.dialers.attempts == 3


def test_after_the_last_attempt_its_failure_is_told() -> None:
    with Rig(default=unreachable()) as rig:
        opening = Background(rig.peer.open, 3, 0)
        error = failure(opening)
        assert (error.stage, error.attempts, rig.dialers.attempts) == ("TCP", 3, 3)
        assert rig.peer.state == CLOSED


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_tried_again(status: int) -> None:
    with Rig(default=refused(status)) as rig:
        error = failure(Background(rig.peer.open, 3, 5.0))
        assert (error.status, error.attempts, rig.dialers.attempts) == (status, 1, 1)


def test_a_defect_while_dialling_is_told_as_such() -> None:
    with Rig(default=ZeroDivisionError("our own bug")) as rig:
        error = failure(Background(rig.peer.open, 3, 0))
        assert str(error) == "ZeroDivisionError: our own bug"
        assert rig.peer.state == CLOSED


# --- calls without a connection ---------------------------------------------------------------------


def test_after_close_a_call_is_refused_at_once() -> None:
    with Rig() as rig:
        rig.open()
        rig.peer.close()
        for attempt in (rig.peer.request, rig.peer.submit, rig.peer.notify):
            with pytest.raises(NotConnected, match="WebSocket is not connected"):
                attempt("m", {}, TIMEOUT)
        with pytest.raises(NotConnected):
            rig.peer.check_is_usable()


def lose(rig: Rig, *steps: Any) -> None:
    """Lose the connection; further attempts are ``steps``, the pause before the first one is under way."""
    rig.dialers.steps[:] = steps
    rig.transport.server_end(LOST)
    rig.wait_for_state(RECONNECTING)


def test_an_attempt_that_hangs_beyond_all_timeouts_is_left_behind() -> None:
    """As a name server that does not answer: the look-up of a name cannot be interrupted."""
    with Rig("hang", dial_timeout=5.0, opening_timeout=10.0) as rig:
        opening = Background(rig.peer.open, 2, 1.0)
        rig.dialers.wait_for_attempts(1)
        rig.clock.wait_for_waiting(1)
        rig.clock.advance(2 * 15 + 1)
        rig.clock.wait_for_waiting(1)
        assert opening.is_running
        rig.clock.advance(1)
        error = opening.error()
        assert isinstance(error, DialFailed)
        assert (error.stage, error.attempts) == ("DNS", 1)
        assert rig.peer.state == CLOSED


def test_a_submitted_call_expires_between_messages_that_came_together() -> None:
    """A storm of pushes must not hold up time-outs until all of it is dealt with."""
    seen: list[bool] = []

    def work(params: dict[str, Any]) -> None:
        seen.append(future.done())
        rig.clock.advance(5)

    with Rig(methods={"work": work}) as rig:
        rig.open()
        future = rig.peer.submit("m", {}, 5.0)
        push = {"jsonrpc": "2.0", "method": "work", "params": {}}
        rig.server_send(push, push)
        assert isinstance(future.exception(FAILSAFE), CallTimeout)
        rig.server_receive()
        rig.sync()
        assert seen == [False, True]


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
        assert rig.peer.state == CLOSED
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
        rig.peer._on_lost = None


# --- closing ----------------------------------------------------------------------------------------


def test_close_before_open_and_twice_and_after_is_harmless() -> None:
    with Rig() as rig:
        rig.peer.close()
        rig.peer.close()
        assert str(failure(Background(rig.peer.open, 1, 0))) == "close() was called"
        assert rig.dialers.attempts == 0


@pytest.mark.parametrize("step", ["hang", "silent"])
def test_close_while_connecting_ends_the_opening_at_once(step: str) -> None:
    with Rig(step) as rig:
        opening = Background(rig.peer.open, 3, 5.0)
        rig.dialers.wait_for_attempts(1)
        if step == "silent":
            rig.dialers.wait_for_transport(0)
        rig.peer.close()
        assert isinstance(failure(opening), DialFailed)
        assert rig.dialers.attempts == 1
        assert all(transport.is_disposed for transport in rig.dialers.transports)


def test_close_in_the_pause_between_attempts_ends_the_opening_at_once() -> None:
    with Rig(default=unreachable()) as rig:
        opening = Background(rig.peer.open, 3, 5.0)
        rig.dialers.wait_for_attempts(1)
        rig.clock.wait_for_waiting(2)
        rig.peer.close()
        failure(opening)
        assert rig.dialers.attempts == 1


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
        rig.peer.close()
        assert isinstance(call.error(), NotConnected)
        assert rig.peer.state == CLOSED
        assert all(transport.is_disposed for transport in rig.dialers.transports)


def test_ctrl_c_while_connecting_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with Rig("silent") as rig:
        wait_for_state = rig.peer._wait_for_state

        def interrupted(*args: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                rig.dialers.wait_for_transport(0)
                raise KeyboardInterrupt
            wait_for_state(*args)

        monkeypatch.setattr(rig.peer, "_wait_for_state", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rig.peer.open(3, 5.0)
        monkeypatch.undo()
        thread = rig.peer._thread
        assert thread is not None
        thread.join(FAILSAFE)
        assert rig.peer.state == CLOSED
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
            rig.peer.open(3, 5.0)
        monkeypatch.undo()
        if is_started:
            thread = rig.peer._thread
            assert thread is not None
            thread.join(FAILSAFE)
        assert rig.peer.state == CLOSED
        assert all(transport.is_disposed for transport in rig.dialers.transports)


def test_two_closes_racing_are_one() -> None:
    for _ in range(30):
        with Rig() as rig:
            rig.open()
            barrier = threading.Barrier(3)

            def close(rig: Rig = rig, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(FAILSAFE)
                rig.peer.close()

            closing = [Background(close) for _ in range(2)]
            call = Background(rig.peer.request, "m", {}, TIMEOUT)
            barrier.wait(FAILSAFE)
            for one in closing:
                one.result()
            assert isinstance(call.error(), (ClosedByUser, NotConnected))
            assert rig.peer.state == CLOSED


def test_close_from_a_handler_and_from_a_callable_returns() -> None:
    for on_worker in (False, True):
        closed = threading.Event()

        def close(params: dict[str, Any], closed: threading.Event = closed) -> None:
            rig.peer.close()
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
        rig.peer.close()
        release.set()
        reply = rig.server_receive()
        assert (reply["id"], reply["error"]["code"]) == (7, -32001)
        assert not transport.server_has_message()


def test_close_is_bounded_when_the_server_does_not_answer() -> None:
    with Rig() as rig:
        rig.open()
        rig.transport.server_stop_reading()
        rig.peer.close(0.01)
        thread = rig.peer._thread
        assert thread is not None
        thread.join(FAILSAFE)
        assert rig.transport.is_disposed


def test_a_callback_that_comes_after_close_still_runs() -> None:
    ran = threading.Event()
    with Rig() as rig:
        rig.open()
        rig.peer.submit("m", {}, TIMEOUT).add_done_callback(lambda _: ran.set())
        rig.peer.close()
        assert ran.wait(FAILSAFE)


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
            rig.clock.advance(1)
            transport = rig.dialers.wait_for_transport(number)
            rig.wait_for_state(OPEN)
            assert transport is rig.transport
        assert threading.active_count() == before
        assert all(transport.is_disposed for transport in rig.dialers.transports[:-1])


# --- the process ------------------------------------------------------------------------------------


def test_an_open_peer_is_closed_at_exit_and_a_closed_one_forgotten() -> None:
    with Rig() as rig:
        rig.open()
        assert rig.peer in lifetime._open
        lifetime._close_all()
        assert rig.peer.state == CLOSED
        thread = rig.peer._thread
        assert thread is not None
        thread.join(FAILSAFE)
        assert rig.peer not in lifetime._open


def test_a_forked_child_is_closed_without_a_word() -> None:
    """Run here as in the child, where the receive thread does not exist."""
    with Rig() as rig:
        rig.open()
        transport, thread = rig.transport, rig.peer._thread
        assert thread is not None
        rig.peer._lock.acquire()  # another thread of the parent may hold it for ever
        rig.peer.forget_after_fork()
        assert transport.is_disposed
        assert not transport.server_has_message()
        assert rig.peer.is_forked
        with pytest.raises(NotConnected):
            rig.peer.request("m", {}, TIMEOUT)
        rig.peer.close()
        transport.server_end(LOST)  # so that this process's thread ends
        thread.join(FAILSAFE)


def test_ids_are_unique_over_peers() -> None:
    ids = set()
    for _ in range(3):
        with Rig() as rig:
            rig.open()
            for _ in range(10):
                rig.peer.submit("m", {}, TIMEOUT)
                ids.add(rig.server_receive()["id"])
    assert len(ids) == 30
