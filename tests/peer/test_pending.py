"""The table of calls that wait for a reply."""

from __future__ import annotations

import math
import threading
from concurrent.futures import CancelledError, Future, wait
from typing import Any

import pytest

from tellurio_sync.deadlines import MONOTONIC, Deadline
from tellurio_sync.errors import CallTimeout
from tellurio_sync.peer.pending import CallFuture, FutureCall, PendingCall, PendingTable, Waiter

from ..conftest import FAILSAFE, in_thread
from ..fake_clock import FakeClock
from .rig import Background


def call(id_: str = "1", timeout: float = 30, now: float = 1000) -> PendingCall:
    return PendingCall(id_, "m", Deadline(timeout, now), is_extendable=True)


def future_call(id_: str = "1", timeout: float = 30, now: float = 1000) -> FutureCall:
    return FutureCall(id_, "m", Deadline(timeout, now), True, Future())


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
        pending.deadline.extend(clock.now())
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
        pending.deadline.extend(1010)
        clock.advance(40)
        error = pending.timeout_error(clock, was_sent=False)
        assert isinstance(error, CallTimeout)
        assert (error.method, error.request_id, error.was_sent) == ("m", "7", False)
        assert (error.waited_s, error.last_heartbeat_age_s) == (40, 30)


class TestTable:
    def test_who_takes_a_call_out_has_it_alone(self) -> None:
        table = PendingTable()
        pending = call()
        table.add(pending)
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
            table.add(pending)
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
        table.add(call("1"))
        assert table.take(id_) is None
        assert table.get(id_) is None
        assert not table.was_given_up(id_)
        assert table.snapshot() == {"1": "m"}

    def test_ids_given_up_are_remembered_up_to_a_bound(self) -> None:
        table = PendingTable()
        for number in range(3000):
            pending = call(str(number))
            table.add(pending)
            assert table.give_up(pending)
        assert table.snapshot() == {}
        assert table.was_given_up("2999")
        assert table.was_given_up("2000")
        assert not table.was_given_up("1999")

    def test_take_all_empties_it(self) -> None:
        table = PendingTable()
        calls = [call(str(i)) for i in range(5)]
        table.add(*calls)
        assert table.take_all() == calls
        assert table.take_all() == []
        assert table.snapshot() == {}

    def test_only_submitted_calls_are_expired_by_the_receive_thread(self) -> None:
        table = PendingTable()
        table.add(call("waits", 1), future_call("a", 10), future_call("b", 20), future_call("c", 30))
        assert table.expired_futures(1009.999) == ([], 1010)
        expired, next_at = table.expired_futures(1010)
        assert ([c.id for c in expired], next_at) == (["a"], 1020)
        expired, next_at = table.expired_futures(1040)
        assert ([c.id for c in expired], next_at) == (["a", "b", "c"], math.inf)
        assert len(table.snapshot()) == 4, "left in the table: a reply may still win"

    def test_a_snapshot_is_a_copy(self) -> None:
        table = PendingTable()
        table.add(call("1"))
        table.snapshot().clear()
        assert table.snapshot() == {"1": "m"}


class TestFutures:
    def test_a_reply_and_an_error_reach_the_future(self) -> None:
        first, second = future_call(), future_call()
        first.resolve({"result": 1})
        second.fail(ValueError("x"))
        assert first.future.result(0) == {"result": 1}
        with pytest.raises(ValueError, match="x"):
            second.future.result(0)

    @pytest.mark.parametrize("outcome", [lambda c: c.resolve({}), lambda c: c.fail(ValueError())])
    def test_an_outcome_after_a_cancel_is_dropped_and_who_waits_is_told(self, outcome: Any) -> None:
        pending = future_call()
        assert pending.future.cancel()
        outcome(pending)
        with pytest.raises(CancelledError):
            pending.future.result(0)
        assert wait([pending.future], FAILSAFE).done == {pending.future}

    def test_callbacks_run_where_the_future_says_and_at_once_when_it_is_done(self) -> None:
        submitted: list[Any] = []
        future = CallFuture(submitted.append)
        seen: list[Any] = []
        future.add_done_callback(seen.append)
        future.set_result({})
        assert seen == []
        submitted[0]()
        assert seen == [future]
        future.add_done_callback(seen.append)
        assert seen == [future, future]

    def test_a_callback_of_a_done_future_runs_in_the_adding_thread(self) -> None:
        future = CallFuture(lambda _: pytest.fail("not on a worker"))
        future.set_result({})
        where: list[int] = []
        in_thread(lambda: future.add_done_callback(lambda _: where.append(threading.get_ident())))
        assert where != [threading.get_ident()]
