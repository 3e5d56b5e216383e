"""The future of a submitted call, as its holder and as the standard library see it."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from collections.abc import Callable
from concurrent import futures
from typing import Any

import pytest

from tellurio_sync.peer.futures import CallFuture
from tellurio_sync.peer.pending import PendingTable

from ..conftest import FAILSAFE, in_thread
from .rig import Background

REPLY = {"jsonrpc": "2.0", "id": "1", "result": "ok"}


def at_once(callback: Callable[[], None]) -> None:
    callback()


def submitted(table: PendingTable | None = None, run_callback: Any = at_once) -> CallFuture:
    future = CallFuture("1", "m", 30.0, 1000.0, run_callback=run_callback)
    table = PendingTable() if table is None else table
    table.add([future])
    future.is_in(table)
    return future


OUTCOMES: dict[str, Callable[[CallFuture], Any]] = {
    "a reply": lambda future: future.resolve(REPLY),
    "an error": lambda future: future.fail(ValueError("no")),
    "a cancel": lambda future: future.cancel(),
}


def seen(future: futures.Future[Any]) -> str:
    """What came of it, for its holder."""
    try:
        assert future.result(0) == REPLY
    except ValueError:
        assert isinstance(future.exception(0), ValueError)
        return "an error"
    except futures.CancelledError:
        assert future.cancelled()
        return "a cancel"
    assert future.exception(0) is None
    return "a reply"


@pytest.mark.parametrize("outcome", OUTCOMES)
class TestOutcome:
    def test_is_what_the_holder_sees_afterwards(self, outcome: str) -> None:
        future = submitted()
        assert not future.done()
        OUTCOMES[outcome](future)
        assert future.done()
        assert not future.running()
        assert seen(future) == outcome

    def test_wakes_every_thread_that_waits(self, outcome: str) -> None:
        future = submitted()
        waiting = [Background(future.exception, None) for _ in range(3)]
        waiting += [Background(future.exception, FAILSAFE) for _ in range(3)]
        while len(future.__dict__.get("_wakers", ())) < 6:
            threading.Event().wait(0.001)
        OUTCOMES[outcome](future)
        for thread in waiting:
            if outcome == "a cancel":
                assert isinstance(thread.error(), futures.CancelledError)
            else:
                assert isinstance(thread.result(), ValueError) == (outcome == "an error")
        assert future.__dict__["_wakers"] == []

    def test_never_passes_by_a_thread_that_begins_to_wait_at_the_same_moment(self, outcome: str) -> None:
        for _ in range(200):
            future = submitted()
            barrier = threading.Barrier(2)

            def wait(future: CallFuture = future, barrier: threading.Barrier = barrier) -> str:
                barrier.wait(FAILSAFE)
                try:
                    future.exception(FAILSAFE)
                except futures.CancelledError:
                    pass
                return seen(future)

            waiting = Background(wait)
            barrier.wait(FAILSAFE)
            OUTCOMES[outcome](future)
            assert waiting.result() == outcome

    def test_ends_the_waiting_of_the_standard_library(self, outcome: str) -> None:
        done, pending = submitted(), submitted()
        waiting = Background(futures.wait, [done, pending], FAILSAFE, futures.FIRST_COMPLETED)
        in_turn = Background(lambda: next(futures.as_completed([done, pending], FAILSAFE)))
        while len(done.__dict__.get("_waiters", ())) < 2:
            threading.Event().wait(0.001)
        OUTCOMES[outcome](done)
        assert waiting.result() == ({done}, {pending})
        assert in_turn.result() is done
        assert futures.wait([done], 0).done == {done}

    def test_can_be_awaited(self, outcome: str) -> None:
        future = submitted()

        async def main() -> str:
            wrapped = asyncio.wrap_future(future)
            ending = threading.Thread(target=OUTCOMES[outcome], args=(future,))
            ending.start()
            try:
                assert await asyncio.wait_for(wrapped, FAILSAFE) == REPLY
            except ValueError:
                return "an error"
            except asyncio.CancelledError:
                return "a cancel"
            finally:
                ending.join()
            return "a reply"

        assert asyncio.run(main()) == outcome

    def test_runs_callbacks_where_it_was_told_and_at_once_when_it_is_over(self, outcome: str) -> None:
        tasks: list[Any] = []
        future = submitted(run_callback=tasks.append)
        called: list[Any] = []
        future.add_done_callback(called.append)
        OUTCOMES[outcome](future)
        assert called == []
        tasks[0]()
        assert called == [future]
        where: list[int] = []
        in_thread(lambda: future.add_done_callback(lambda _: where.append(threading.get_ident())))
        assert len(where) == 1
        assert where != [threading.get_ident()]


def test_waiting_ends_at_its_timeout_and_the_call_goes_on() -> None:
    future = submitted()
    for waiting in (future.result, future.exception):
        with pytest.raises(futures.TimeoutError):
            waiting(0.001)
        with pytest.raises(futures.TimeoutError):
            waiting(0)
    assert not future.done()
    future.resolve(REPLY)
    assert future.result(0) is REPLY


class TestCancelling:
    def test_takes_the_call_out_and_remembers_it(self) -> None:
        table = PendingTable()
        future = submitted(table)
        assert future.cancel()
        assert future.cancel(), "again"
        assert table.take("1") is None
        assert table.was_given_up("1")

    def test_comes_too_late_when_the_reply_is_being_handed_over(self) -> None:
        table = PendingTable()
        future = submitted(table)
        taken = table.take("1")
        assert taken is future
        assert not future.cancel()
        taken.resolve(REPLY)
        assert not future.cancel()
        assert future.result(0) is REPLY

    def test_and_a_reply_at_the_same_moment_cannot_both_win(self) -> None:
        for _ in range(200):
            table = PendingTable()
            future = submitted(table)
            barrier = threading.Barrier(2)

            def cancel(future: CallFuture = future, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait(FAILSAFE)
                return future.cancel()

            cancelling = Background(cancel)
            barrier.wait(FAILSAFE)
            taken = table.take("1")
            if taken is not None:
                taken.resolve(REPLY)
            assert cancelling.result() == (taken is None)
            assert seen(future) == ("a cancel" if taken is None else "a reply")


def test_it_is_a_future_with_the_names_of_one() -> None:
    future = submitted()
    assert isinstance(future, futures.Future)
    assert "pending" in repr(future)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        future.nothing  # noqa: B018 - the look-up is the test


def test_one_that_nobody_waits_for_is_small() -> None:
    gc.collect()
    tracemalloc.start()
    try:
        made = [CallFuture(str(number), "m", 30.0, 1000.0, run_callback=at_once) for number in range(1000)]
        for future in made:
            future.resolve(REPLY)
        assert all(future.result(0) is REPLY for future in made)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / len(made) < 320
