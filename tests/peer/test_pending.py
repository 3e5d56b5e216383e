"""The table of calls that wait for a reply."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tellurio_sync.deadlines import MONOTONIC
from tellurio_sync.errors import CallTimeout
from tellurio_sync.peer.pending import PendingCall, PendingTable, Waiter

from ..conftest import FAILSAFE
from ..fake_clock import FakeClock
from .rig import Background


def call(id_: str = "1", timeout: float = 30, now: float = 1000) -> PendingCall:
    return PendingCall(id_, "m", timeout, now, is_extendable=True)


class TestWaiter:
    def test_a_wake_before_the_wait_counts(self) -> None:
        waiter = Waiter()
        waiter.wake()
        assert waiter.wait(MONOTONIC, FAILSAFE)

    def test_many_wakes_count_once(self) -> None:
        waiter = Waiter()
        for _ in range(3):
            waiter.wake()
        assert waiter.wait(MONOTONIC, FAILSAFE)
        assert not waiter.wait(MONOTONIC, 0)

    def test_wakes_from_many_threads_at_once_raise_nothing(self) -> None:
        waiter = Waiter()
        threads = [Background(lambda: [waiter.wake() for _ in range(500)]) for _ in range(4)]
        for thread in threads:
            thread.result()
        assert waiter.wait(MONOTONIC, FAILSAFE)


class TestPendingCall:
    @pytest.mark.parametrize("outcome", [lambda c: c.resolve({"result": 1}), lambda c: c.fail(ValueError("x"))])
    def test_an_outcome_ends_the_wait(self, outcome: Any) -> None:
        clock = FakeClock()
        pending = call()
        waiting = Background(pending.wait, clock)
        clock.wait_for_waiting()
        assert not pending.is_done
        outcome(pending)
        assert waiting.result() is True
        assert pending.is_done

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
        pending.resolve({"result": 1})
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
        table.add([pending])
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
            table.add([pending])
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
        table.add([call("1")])
        assert table.take(id_) is None
        assert table.get(id_) is None
        assert not table.was_given_up(id_)
        assert table.snapshot() == {"1": "m"}

    def test_ids_given_up_are_remembered_up_to_a_bound(self) -> None:
        table = PendingTable()
        for number in range(3000):
            pending = call(str(number))
            table.add([pending])
            assert table.give_up(pending)
        assert table.snapshot() == {}
        assert table.was_given_up("2999")
        assert table.was_given_up("2000")
        assert not table.was_given_up("1999")

    def test_take_all_empties_it(self) -> None:
        table = PendingTable()
        calls = [call(str(i)) for i in range(5)]
        table.add(calls)
        assert table.take_all() == calls
        assert table.take_all() == []
        assert table.snapshot() == {}

    def test_a_snapshot_is_a_copy(self) -> None:
        table = PendingTable()
        table.add([call("1")])
        table.snapshot().clear()
        assert table.snapshot() == {"1": "m"}
