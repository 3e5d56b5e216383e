"""The future of a submitted call, as its holder and as the standard library see it."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import _base
from typing import Any

import pytest

from tellurio_sync.errors import ConnectionLost
from tellurio_sync.peer.futures import CallFuture
from tellurio_sync.peer.pending import PendingTable
from tellurio_sync.speedups import PySemaphore, Semaphore, release_all

from ..conftest import FAILSAFE, in_thread, wait_until
from .rig import Background, resolve

REPLY = {"jsonrpc": "2.0", "id": "1", "result": "ok"}


def at_once(callback: Callable[[], None]) -> None:
    callback()


def submitted(table: PendingTable | None = None, run_callback: Any = at_once) -> CallFuture:
    future = CallFuture("1", "m", 30.0, 1000.0, run_callback=run_callback)
    table = PendingTable() if table is None else table
    table.put(future.id, future)
    future.is_in(table)
    return future


OUTCOMES: dict[str, Callable[[CallFuture], Any]] = {
    "a reply": lambda future: resolve(future, REPLY),
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
        wait_until(lambda: len(future.__dict__.get("_semaphores", ())) == 6, "not all are waiting")
        OUTCOMES[outcome](future)
        for thread in waiting:
            if outcome == "a cancel":
                assert isinstance(thread.error(), futures.CancelledError)
            else:
                assert isinstance(thread.result(), ValueError) == (outcome == "an error")
        assert future.__dict__["_semaphores"] == []

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
        wait_until(lambda: len(done.__dict__.get("_waiters", ())) == 2, "not both are waiting")
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


class OfTheStandardLibrary(futures.Future[Any]):
    """To compare with: a plain future, ended by the words of a call's."""

    fail = futures.Future.set_exception

    def resolve(self, reply: dict[str, Any], _: list[Semaphore]) -> None:
        self.set_result(reply)

    def cancel(self) -> bool:
        is_first = not self.cancelled()
        is_cancelled = super().cancel()
        if is_cancelled and is_first:
            self.set_running_or_notify_cancel()  # as an executor does, when it comes to it
        return is_cancelled


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("make", [submitted, OfTheStandardLibrary], ids=["ours", "the standard library's"])
def test_it_behaves_as_a_future_of_the_standard_library(
    make: Callable[[], Any], outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    future = make()
    called: list[str] = []

    def fail(ended: Any) -> None:
        assert (ended is future, ended.done()) == (True, True)
        called.append("fails")
        raise ValueError("of the callback")

    future.add_done_callback(fail)
    for name in ("a", "b"):
        future.add_done_callback(lambda _, name=name: called.append(name))
    for timeout in (0, -1, 0.001):
        with pytest.raises(futures.TimeoutError):
            future.exception(timeout)
    with pytest.raises(TypeError):
        future.result("soon")
    assert (future.done(), future.running(), future.cancelled()) == (False, False, False)

    OUTCOMES[outcome](future)
    assert called == ["fails", "a", "b"]
    future.add_done_callback(fail)
    assert called == ["fails", "a", "b", "fails"]
    assert caplog.text.count("ValueError: of the callback") == 2
    assert (future.done(), future.running(), future.cancelled()) == (True, False, outcome == "a cancel")
    assert future.cancel() == (outcome == "a cancel")
    for timeout in (None, 0, -1, 1e300):
        try:
            assert (future.result(timeout), future.exception(timeout)) == (REPLY, None)
        except (ValueError, futures.CancelledError):
            assert seen(future) == outcome != "a reply"
    assert futures.wait([future, future], 0).done == {future}
    assert list(futures.as_completed([future, future], 0)) == [future]
    assert weakref.ref(future)() is future == future
    assert len({future, future}) == 1
    for take_along in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot pickle"):
            take_along(future)


MOMENTS = {"before it looks": "_AcquireFutures", "when it has looked": "_create_and_install_waiters"}


def reply_at(moment: str, future: CallFuture, monkeypatch: pytest.MonkeyPatch) -> list[Background]:
    """The reply to ``future`` comes, on another thread, as the standard library holds its lock for the first time."""
    name = MOMENTS[moment]
    real = getattr(_base, name)
    replying: list[Background] = []

    def reply() -> None:
        if not replying:
            replying.append(Background(resolve, future, REPLY))
            wait_until(future.done, "the reply is not being handed over")

    class Acquired(_base._AcquireFutures):
        def __enter__(self) -> None:
            super().__enter__()
            reply()

    def install(*args: Any) -> Any:
        reply()
        return real(*args)

    monkeypatch.setattr(_base, name, Acquired if name == "_AcquireFutures" else install)
    return replying


@pytest.mark.parametrize("moment", MOMENTS)
class TestAReplyThatComesAsTheStandardLibraryBeginsToWait:
    def test_is_not_missed(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        future = submitted()
        reply_at(moment, future, monkeypatch)
        assert Background(futures.wait, [future], 2 * FAILSAFE).result() == ({future}, set())

    def test_is_not_missed_by_a_second_one(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        future = submitted()
        first = Background(futures.wait, [future], 2 * FAILSAFE)
        wait_until(lambda: future.__dict__.get("_waiters"), "it does not wait")
        reply_at(moment, future, monkeypatch)
        assert Background(futures.wait, [future], 2 * FAILSAFE).result() == ({future}, set())
        assert first.result() == ({future}, set())

    def test_does_not_count_for_another_call(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        replied, open_ = submitted(), submitted()
        replying = reply_at(moment, replied, monkeypatch)
        waiting = Background(futures.wait, [replied, open_], FAILSAFE)
        wait_until(lambda: open_.__dict__.get("_waiters") or not waiting.is_running, "it does not wait for the other")
        assert waiting.is_running, "it has not waited for the other"
        replying[0].result()
        (waiter,) = open_.__dict__["_waiters"]
        assert not waiter.event.is_set()
        resolve(open_, REPLY)
        assert waiting.result() == ({replied, open_}, set())

    def test_is_given_once(self, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
        replied, open_ = submitted(), submitted()
        reply_at(moment, replied, monkeypatch)
        given = []
        for future in futures.as_completed([replied, open_], FAILSAFE):
            given.append(future)
            if future is replied:
                resolve(open_, REPLY)
        assert given == [replied, open_]


class HeldUp(CallFuture):
    """Its end is held up where it was seen whether somebody waits, before it is stored for the standard library."""

    def __init__(self, sees_who_waits: bool) -> None:
        self.at, self.go = threading.Event(), threading.Event()
        self._sees_who_waits = sees_who_waits
        super().__init__("1", "m", 30.0, 1000.0, run_callback=at_once)

    @property
    def _is_watched(self) -> bool:
        self.at.set()
        assert self.go.wait(FAILSAFE)
        return self._sees_who_waits

    @_is_watched.setter
    def _is_watched(self, _: bool) -> None:
        pass


@pytest.mark.parametrize("sees_who_waits", [False, True])
def test_who_begins_to_wait_as_a_reply_is_handed_over_counts_it_once(sees_who_waits: bool) -> None:
    future, open_ = HeldUp(sees_who_waits), submitted()
    replying = Background(resolve, future, REPLY)
    assert future.at.wait(FAILSAFE)
    assert futures.wait([future], 0).done == {future}
    waiting = Background(futures.wait, [future, open_], FAILSAFE)
    wait_until(lambda: open_.__dict__.get("_waiters"), "it does not wait for the other")
    future.go.set()
    replying.result()
    (waiter,) = open_.__dict__["_waiters"]
    assert not waiter.event.is_set(), "the wait for both is over"
    resolve(open_, REPLY)
    assert waiting.result() == ({future, open_}, set())
    assert seen(future) == "a reply"


def test_a_callback_added_as_the_reply_is_handed_over_runs_where_it_was_told() -> None:
    tasks: list[Any] = []
    called: list[Any] = []
    future = submitted(run_callback=tasks.append)
    with future._condition:
        replying = Background(resolve, future, REPLY)
        wait_until(future.done, "the reply is not being handed over")
        future.add_done_callback(called.append)
    replying.result()
    assert called == []
    tasks[0]()
    assert called == [future]


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty_threads")
def test_replies_that_come_as_the_standard_library_waits_are_each_counted_once() -> None:
    for _ in range(60):
        for wait_for_all in (
            lambda *calls: futures.wait(*calls).done,
            lambda *calls: list(futures.as_completed(*calls)),
        ):
            calls = [submitted() for _ in range(200)]
            waiting = Background(wait_for_all, calls, 2 * FAILSAFE)
            for future in calls:
                resolve(future, REPLY)
            assert (len(waiting.result()), set(waiting.result())) == (200, set(calls))


def taken_out() -> CallFuture:
    """As it is when its outcome is set."""
    table = PendingTable()
    future = submitted(table)
    assert table.take(future.id) is future
    return future


@pytest.mark.parametrize("make", [taken_out, OfTheStandardLibrary], ids=["ours", "the standard library's"])
def test_a_failed_one_is_gone_with_its_last_holder(make: Callable[[], Any]) -> None:
    """Without waiting for the garbage collector: its error has the traceback, and that the frame that held it."""
    gc.disable()
    try:
        future = make()
        future.fail(ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            future.result()
        gone = weakref.ref(future)
        del future
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("is_over", [False, True])
def test_its_outcome_is_the_servers_to_set(is_over: bool) -> None:
    future = submitted()
    if is_over:
        resolve(future, REPLY)
    for attempt in (
        lambda: future.set_result({}),
        lambda: future.set_exception(ValueError()),
        future.set_running_or_notify_cancel,
    ):
        with pytest.raises(futures.InvalidStateError):
            attempt()
    assert future.done() == is_over
    if not is_over:
        resolve(future, REPLY)
    assert future.result(0) is REPLY


def test_in_a_forked_child_only_what_is_known_already_can_be_had() -> None:
    table = PendingTable()
    open_, over = (submitted(table) for _ in range(2))
    resolve(over, REPLY)
    table.is_forked = True
    assert over.result() is REPLY
    for waiting in (open_.result, open_.exception):
        with pytest.raises(ConnectionLost, match="forked") as caught:
            waiting(FAILSAFE)
        assert caught.value.was_sent


def test_a_reply_leaves_it_to_its_receiver_when_who_waits_is_woken() -> None:
    future = submitted()
    waiting = [Background(future.result, 2 * FAILSAFE) for _ in range(2)]
    wait_until(lambda: len(future.__dict__.get("_semaphores", ())) == 2, "not both are waiting")
    semaphores = [*future.__dict__["_semaphores"]]
    before = PySemaphore()  # another call's
    wakeups: list[Semaphore] = [before]
    future.resolve(REPLY, wakeups)
    assert wakeups == [before, *semaphores]
    assert not any(semaphore.acquire(False) for semaphore in semaphores), "released already"
    assert all(thread.is_running for thread in waiting)
    release_all(wakeups)
    assert [thread.result() for thread in waiting] == [REPLY, REPLY]


def test_a_reply_that_nobody_waits_for_wakes_nobody() -> None:
    future = submitted()
    wakeups: list[Semaphore] = []
    future.resolve(REPLY, wakeups)
    assert wakeups == []
    assert future.result(0) is REPLY


def test_waiting_ends_at_its_timeout_and_the_call_goes_on() -> None:
    future = submitted()
    for waiting in (future.result, future.exception):
        with pytest.raises(futures.TimeoutError):
            waiting(0.001)
        with pytest.raises(futures.TimeoutError):
            waiting(0)
    assert not future.done()
    resolve(future, REPLY)
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
        resolve(taken, REPLY)
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
                resolve(taken, REPLY)
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
            resolve(future, REPLY)
        assert all(future.result(0) is REPLY for future in made)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / len(made) < 320
