"""The table of calls that wait for a reply."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tellurio_sync.deadlines import MONOTONIC, Clock, Waitable
from tellurio_sync.errors import CallTimeout
from tellurio_sync.peer.pending import PendingCall, PendingTable
from tellurio_sync.speedups import PySemaphore, Semaphore, release_all

from ..conftest import FAILSAFE
from ..fake_clock import FakeClock
from .rig import Background, resolve

REPLY = {"result": 1}


def call(id_: str = "1", timeout: float = 30, now: float = 1000) -> PendingCall:
    return PendingCall(id_, "m", timeout, now, is_extendable=True)


class PatientClock(Clock):
    """Waits until it is woken, so that a lost wake-up is not made up for by looking again."""

    def wait(self, waitable: Waitable, timeout: float) -> bool:
        assert waitable.acquire(True, FAILSAFE), "nobody woke this thread"
        return True


OUTCOMES = [lambda c: resolve(c, REPLY), lambda c: c.fail(ValueError("x"))]


class TestPendingCall:
    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_an_outcome_ends_the_wait(self, outcome: Any) -> None:
        clock = FakeClock()
        pending = call()
        waiting = Background(pending.wait, clock)
        clock.wait_for_waiting()
        assert not pending.is_done
        outcome(pending)
        assert waiting.result() is True
        assert pending.is_done

    @pytest.mark.parametrize("outcome", OUTCOMES)
    @pytest.mark.parametrize("wait", [PendingCall.wait, PendingCall.wait_outcome])
    def test_an_outcome_never_passes_by_who_begins_to_wait_at_the_same_moment(self, wait: Any, outcome: Any) -> None:
        for _ in range(200):
            pending = call(timeout=2 * FAILSAFE, now=MONOTONIC.now())
            barrier = threading.Barrier(2)

            def run(pending: PendingCall = pending, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(FAILSAFE)
                wait(pending, PatientClock())

            waiting = Background(run)
            barrier.wait(FAILSAFE)
            outcome(pending)
            waiting.result()
            assert pending.is_done

    def test_a_reply_leaves_it_to_its_receiver_when_who_waits_is_woken(self) -> None:
        clock = FakeClock()
        pending = call()
        waiting = Background(pending.wait, clock)
        clock.wait_for_waiting()
        before = PySemaphore()  # another call's
        wakeups: list[Semaphore] = [before]
        pending.resolve(REPLY, wakeups)
        assert pending.is_done
        assert pending.reply is REPLY
        assert [wakeups[0], len(wakeups)] == [before, 2]
        assert not wakeups[1].acquire(False), "released already"
        assert waiting.is_running
        release_all(wakeups)
        assert waiting.result() is True

    def test_what_is_to_be_done_with_the_reply_is_done_before_anybody_sees_it(self) -> None:
        """What the call has changed is noted by then: its thread may go on the moment the reply is there."""
        pending = call()
        seen: list[bool] = []
        pending.on_reply = lambda: seen.append(pending.is_done)
        pending.resolve(REPLY, [])
        assert seen == [False]
        assert pending.is_done

    def test_a_reply_that_nobody_waits_for_wakes_nobody(self) -> None:
        pending = call()
        wakeups: list[Semaphore] = []
        pending.resolve(REPLY, wakeups)
        assert wakeups == []
        assert pending.wait(MONOTONIC) is True
        pending.wait_outcome(MONOTONIC)

    def test_the_deadline_ends_the_wait_exactly(self) -> None:
        clock = FakeClock()
        pending = call(timeout=30)
        waiting = Background(pending.wait, clock)
        clock.wait_for_waiting()
        clock.advance(29.999)
        clock.wait_for_waiting()
        assert waiting.is_running
        clock.advance(0.001)
        assert waiting.result() is False

    def test_a_heartbeat_at_the_last_moment_moves_the_deadline_without_a_wake(self) -> None:
        clock = FakeClock()
        pending = call(timeout=30)
        waiting = Background(pending.wait, clock)
        clock.wait_for_waiting()
        clock.advance(29.999)
        clock.wait_for_waiting()
        pending.extend(clock.now())
        clock.advance(29.999)
        clock.wait_for_waiting()
        clock.advance(0.001)
        assert waiting.result() is False
        assert pending.timeout_error(clock, was_sent=True).waited_s == pytest.approx(59.999)

    def test_a_call_that_was_taken_out_waits_for_its_outcome(self) -> None:
        clock = FakeClock()
        pending = call()
        waiting = Background(pending.wait_outcome, clock)
        clock.wait_for_waiting()
        clock.advance(1000)
        clock.wait_for_waiting()
        resolve(pending, REPLY)
        waiting.result()

    def test_its_timeout_error_says_all(self) -> None:
        clock = FakeClock(1000)
        pending = call("7", timeout=30)
        pending.extend(1010)
        clock.advance(40)
        error = pending.timeout_error(clock, was_sent=False)
        assert isinstance(error, CallTimeout)
        assert (error.method, error.request_id, error.was_sent) == ("m", "7", False)
        assert (error.waited_s, error.last_heartbeat_age_s) == (40, 30)


class TestTable:
    def test_who_takes_a_call_out_has_it_alone(self) -> None:
        table = PendingTable()
        pending = call()
        table.put(pending.id, pending)
        assert table.get("1") is pending
        assert table.take("1") is pending
        assert table.take("1") is None
        assert table.get("1") is None
        assert not table.give_up(pending)
        assert not table.was_given_up("1")

    def test_a_reply_and_a_timeout_at_the_same_moment_cannot_both_win(self) -> None:
        for _ in range(200):
            table = PendingTable()
            pending = call()
            table.put(pending.id, pending)
            barrier = threading.Barrier(2)

            def give_up(table: PendingTable = table, pending: PendingCall = pending, b: Any = barrier) -> bool:
                b.wait(FAILSAFE)
                return table.give_up(pending)

            giving_up = Background(give_up)
            barrier.wait(FAILSAFE)
            taken = table.take("1") is not None
            assert giving_up.result() != taken

    @pytest.mark.parametrize("id_", [None, 1, 1.0, True, [], {}, b"1", "2"])
    def test_a_foreign_id_is_not_found_whatever_its_type(self, id_: Any) -> None:
        table = PendingTable()
        table.put("1", call("1"))
        assert table.take(id_) is None
        assert table.get(id_) is None
        assert not table.was_given_up(id_)
        assert table.snapshot() == {"1": "m"}

    def test_ids_given_up_are_remembered_up_to_a_bound(self) -> None:
        table = PendingTable()
        for number in range(3000):
            pending = call(str(number))
            table.put(pending.id, pending)
            assert table.give_up(pending)
        assert table.snapshot() == {}
        assert table.was_given_up("2999")
        assert table.was_given_up("2000")
        assert not table.was_given_up("1999")

    def test_take_all_empties_it(self) -> None:
        table = PendingTable()
        calls = [call(str(i)) for i in range(5)]
        for each in calls:
            table.put(each.id, each)
        assert table.take_all() == calls
        assert table.take_all() == []
        assert table.snapshot() == {}

    def test_a_snapshot_is_a_copy(self) -> None:
        table = PendingTable()
        table.put("1", call("1"))
        table.snapshot().clear()
        assert table.snapshot() == {"1": "m"}
