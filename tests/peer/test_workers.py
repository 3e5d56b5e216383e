"""The pool for code that is not ours."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

from tellurio_sync.deadlines import MONOTONIC, Clock, Waitable
from tellurio_sync.errors import NotConnected
from tellurio_sync.peer import workers
from tellurio_sync.peer.futures import CallFuture
from tellurio_sync.peer.lifecycle import RECONNECTING, Lifecycle
from tellurio_sync.peer.pending import OpenCall, PendingCall, PendingTable
from tellurio_sync.peer.workers import WorkerPool, wait_of_worker

from ..conftest import FAILSAFE, wait_until
from ..interrupts import strikes
from .rig import resolve


class Gate:
    """A task that waits to be let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()
        self.done = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self.entered.set()
        assert self.open.wait(FAILSAFE)
        self.done.set()


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    made = WorkerPool(max_workers=2, max_queue=2)
    yield made
    made.close()


def test_a_pool_without_tasks_has_no_thread(pool: WorkerPool) -> None:
    before = threading.active_count()
    WorkerPool()
    assert threading.active_count() == before


def test_tasks_run_on_daemon_threads_at_once_up_to_max_workers(pool: WorkerPool) -> None:
    first, second, third = Gate(), Gate(), Gate()
    for gate in (first, second, third):
        assert pool.submit(gate)
    assert first.entered.wait(FAILSAFE)
    assert second.entered.wait(FAILSAFE)
    assert not third.entered.is_set()
    assert first.thread is not None
    assert first.thread.daemon
    assert first.thread is not second.thread
    first.open.set()
    assert third.entered.wait(FAILSAFE)
    assert third.thread is first.thread
    second.open.set()
    third.open.set()


def test_a_full_queue_refuses_at_once_but_takes_what_must_run(pool: WorkerPool) -> None:
    gates = [Gate() for _ in range(6)]
    for gate in gates[:2]:
        assert pool.submit(gate)
        assert gate.entered.wait(FAILSAFE)
    assert pool.submit(gates[2])
    assert pool.submit(gates[3])
    assert not pool.submit(gates[4])
    assert pool.submit(gates[5], must_run=True)
    for gate in gates:
        gate.open.set()
    for gate in [*gates[:4], gates[5]]:
        assert gate.done.wait(FAILSAFE)
    assert not gates[4].entered.is_set()


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_worker_outlives_what_it_runs_and_logs_it(
    pool: WorkerPool, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error

    gate = Gate()
    gate.open.set()
    with caplog.at_level(logging.ERROR, "tellurio_sync.peer"):
        assert pool.submit(fail)
        assert pool.submit(gate)
        assert gate.done.wait(FAILSAFE)
        pool.close(FAILSAFE)
    assert type(error).__name__ in caplog.text


def test_close_lets_queued_tasks_run_and_takes_no_more(pool: WorkerPool) -> None:
    gates = [Gate() for _ in range(4)]
    for gate in gates:
        assert pool.submit(gate)
    assert gates[0].entered.wait(FAILSAFE)
    pool.close()
    assert not pool.submit(Gate())
    for gate in gates:
        gate.open.set()
    for gate in gates:
        assert gate.done.wait(FAILSAFE)


def test_what_must_run_runs_even_after_close(pool: WorkerPool) -> None:
    pool.close()
    gate = Gate()
    gate.open.set()
    assert pool.submit(gate, must_run=True)
    assert gate.done.wait(FAILSAFE)


def test_close_from_a_worker_does_not_wait_for_itself(pool: WorkerPool) -> None:
    closed = threading.Event()

    def close() -> None:
        pool.close(FAILSAFE)
        closed.set()

    pool.submit(close)
    assert closed.wait(FAILSAFE)


def test_close_ends_the_idle_threads(pool: WorkerPool) -> None:
    gate = Gate()
    gate.open.set()
    pool.submit(gate)
    assert gate.done.wait(FAILSAFE)
    pool.close(FAILSAFE)
    assert gate.thread is not None
    assert not gate.thread.is_alive()


def test_without_a_thread_to_be_had_a_task_is_refused(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ran: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not pool.submit(lambda: ran.append(1))
    gate = Gate()
    gate.open.set()
    assert pool.submit(gate), "the pool goes on when threads can be had again"
    assert gate.done.wait(FAILSAFE)
    assert ran == []


def test_a_running_worker_takes_the_task_for_which_no_thread_can_be_had(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Gate(), Gate()
    pool.submit(first)
    assert first.entered.wait(FAILSAFE)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert pool.submit(second)
    first.open.set()
    second.open.set()
    assert second.done.wait(FAILSAFE)


def test_a_thousand_tasks_from_many_threads_all_run_once() -> None:
    pool = WorkerPool(max_workers=4, max_queue=10_000)
    ran: list[int] = []
    done = threading.Event()

    def task(number: int) -> None:
        ran.append(number)
        if len(ran) == 1000:
            done.set()

    def submit(start: int) -> None:
        for number in range(start, start + 250):
            assert pool.submit(functools.partial(task, number))

    threads = [threading.Thread(target=submit, args=(start,)) for start in range(0, 1000, 250)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAILSAFE)
    pool.close(FAILSAFE)
    assert done.wait(FAILSAFE)
    assert sorted(ran) == list(range(1000))


# --- workers that wait for the server ---------------------------------------------------------------


def waiting(event: threading.Event, begun: threading.Event | None = None) -> None:
    """What a task does that calls the server and gets its reply with ``event``."""
    wait = wait_of_worker()
    if wait is not None:
        wait.begin()
    try:
        if begun is not None:
            begun.set()
        assert event.wait(FAILSAFE)
    finally:
        if wait is not None:
            wait.leave()


def test_a_worker_that_waits_for_the_server_does_not_count() -> None:
    pool = WorkerPool(max_workers=1, max_threads=2)
    answered, done = threading.Event(), threading.Event()

    def outer() -> None:
        assert pool.submit(answered.set)
        waiting(answered)
        done.set()

    assert pool.submit(outer)
    assert done.wait(FAILSAFE)
    pool.close(FAILSAFE)


@pytest.mark.parametrize("is_early", [True, False])
def test_any_depth_ends_within_the_bound(is_early: bool) -> None:
    """Each task is called back before it answers; some wait first, and are called back then."""
    pool = WorkerPool(max_workers=1, max_threads=40)
    done = threading.Event()

    def level(depth: int, answered: threading.Event) -> None:
        if depth:
            inner = threading.Event()
            task = functools.partial(level, depth - 1, inner)
            if is_early:
                assert pool.submit(task)
                waiting(inner)
            else:
                begun = threading.Event()
                caller = threading.Thread(target=lambda: begun.wait(FAILSAFE) and pool.submit(task))
                caller.start()
                waiting(inner, begun)
                caller.join()
        answered.set()

    assert pool.submit(functools.partial(level, 30, done))
    assert done.wait(FAILSAFE)
    pool.close(FAILSAFE)


def test_many_at_once_each_with_two_levels_below_it_end_with_few_threads() -> None:
    """Whatever the scheduler does: a thread that has its answer, and no turn yet, takes the place of a further one."""
    pool = WorkerPool(max_workers=4, max_threads=100)
    answers = [threading.Event() for _ in range(200)]
    highest = [0]
    refused: list[str] = []
    all_queued = threading.Event()

    def level(depth: int, answer: Callable[[], object]) -> None:
        assert all_queued.wait(FAILSAFE)
        highest[0] = max(highest[0], len(pool._threads))
        if depth:
            call = PendingCall("1", "m", FAILSAFE, MONOTONIC.now())
            task = functools.partial(level, depth - 1, functools.partial(resolve, call, {}))
            assert pool.submit(task, refuse=refused.append)
            assert call.wait(MONOTONIC)
        answer()

    for answered in answers:
        assert pool.submit(functools.partial(level, 2, answered.set), refuse=refused.append)
    all_queued.set()
    assert all(answered.wait(FAILSAFE) for answered in answers)
    assert refused == []
    # Nothing queued is begun before what was called back for: at most four are under way, and eight threads wait for
    # them.
    assert highest[0] <= 24, "the newest tasks are not run first, or those that go on do not count"
    pool.close(FAILSAFE)


def test_what_a_waiting_worker_may_wait_for_runs_before_what_was_queued_earlier() -> None:
    """So that waits end soon, and few threads are needed."""
    pool = WorkerPool(max_workers=1, max_threads=2)
    order: list[str] = []
    answered, last = threading.Event(), threading.Event()
    go_on = Gate()

    def outer() -> None:
        go_on()
        assert pool.submit(lambda: (order.append("inner"), answered.set()))
        waiting(answered)

    assert pool.submit(outer)
    assert go_on.entered.wait(FAILSAFE)
    assert pool.submit(lambda: (order.append("queued earlier"), last.set()))
    go_on.open.set()
    assert last.wait(FAILSAFE)
    assert order == ["inner", "queued earlier"]
    pool.close(FAILSAFE)


def test_beyond_the_bound_what_waits_is_refused_with_the_reason() -> None:
    pool = WorkerPool(max_workers=2, max_threads=2)
    answered = threading.Event()
    begun = [threading.Event(), threading.Event()]
    refused: list[str] = []
    assert pool.submit(functools.partial(waiting, answered, begun[0]))
    assert begun[0].wait(FAILSAFE)
    go_on = Gate()

    def outer() -> None:
        go_on()
        waiting(answered, begun[1])

    assert pool.submit(outer)
    assert go_on.entered.wait(FAILSAFE)
    assert pool.submit(lambda: refused.append("ran"), refuse=refused.append)
    ran = threading.Event()
    assert pool.submit(ran.set, must_run=True)
    go_on.open.set()
    assert begun[1].wait(FAILSAFE)
    (reason,) = refused
    assert "All 2 threads for callables wait for the server" in reason
    assert not pool.submit(answered.set, refuse=refused.append)
    assert pool.refusal == reason
    assert len(refused) == 1
    answered.set()
    assert ran.wait(FAILSAFE), "what must run runs when one of them goes on"
    pool.close(FAILSAFE)


def test_where_no_thread_can_be_had_and_all_wait_what_is_queued_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = WorkerPool(max_workers=1)
    answered, begun, go_on = threading.Event(), threading.Event(), Gate()

    def outer() -> None:
        go_on()
        waiting(answered, begun)

    assert pool.submit(outer)
    assert go_on.entered.wait(FAILSAFE)
    refused: list[str] = []
    assert pool.submit(answered.set, refuse=refused.append)

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        go_on.open.set()
        assert begun.wait(FAILSAFE)
        assert len(refused) == 1
        assert not pool.submit(answered.set)
    answered.set()
    pool.close(FAILSAFE)


def test_a_worker_that_waits_for_what_cannot_be_seen_is_replaced_after_a_while() -> None:
    """Such as threads of the user's own, which call the server."""
    pool = WorkerPool(max_workers=1, max_threads=3, patience=0.05)
    first, second, third = Gate(), Gate(), Gate()
    for gate in (first, second, third):
        assert pool.submit(gate)
    assert third.entered.wait(FAILSAFE)
    for gate in (third, second, first):
        gate.open.set()
        assert gate.done.wait(FAILSAFE)
    pool.close(FAILSAFE)


def test_while_tasks_end_nobody_is_replaced() -> None:
    pool = WorkerPool(max_workers=2, max_threads=10, patience=FAILSAFE)
    gates = [Gate() for _ in range(50)]
    for gate in gates:
        assert pool.submit(gate)
    for gate in gates:
        gate.open.set()
        assert gate.done.wait(FAILSAFE)
        assert len(pool._threads) <= 2
    pool.close(FAILSAFE)


def test_workers_beyond_the_usual_number_end_when_the_waits_do() -> None:
    pool = WorkerPool(max_workers=1, max_threads=10)
    answered = threading.Event()
    begun = [threading.Event() for _ in range(5)]
    for event in begun:
        assert pool.submit(functools.partial(waiting, answered, event))
        assert event.wait(FAILSAFE)
    answered.set()
    wait_until(lambda: len(pool._threads) <= 1, "surplus workers stay")
    pool.close(FAILSAFE)


def test_a_wait_counts_once_and_not_after_its_end() -> None:
    pool = WorkerPool(max_workers=1, max_threads=3)
    done = threading.Event()

    def outer() -> None:
        answered = threading.Event()
        answered.set()
        for _ in range(2):
            wait = wait_of_worker()
            assert wait is not None
            wait.begin()
            waiting(answered)
            assert pool._waiting == 1
            wait.leave()
            assert pool._waiting == 0
        wait = wait_of_worker()
        assert wait is not None
        wait.end()  # its answer is there before it begins
        wait.begin()
        assert pool._waiting == 0
        wait.leave()
        done.set()

    assert pool.submit(outer)
    assert done.wait(FAILSAFE)
    wait_until(lambda: pool._waiting == 0, "a wait is still counted")
    pool.close(FAILSAFE)


# --- workers whose wait is over, and which have no turn yet -------------------------------------------


class Crowded(Clock):
    """As on a busy machine: a thread that is woken has its turn only when ``turn`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.turn = threading.Event()

    def wait(self, waitable: Waitable, timeout: float) -> bool:
        self.begun.set()
        acquired = super().wait(waitable, timeout)
        assert self.turn.wait(FAILSAFE)
        return acquired


Wait = tuple[Callable[[], object], Callable[[], object]]
"""What a worker does that waits, and what ends it."""


def reply_of_a_call(clock: Clock) -> Wait:
    call = PendingCall("1", "m", FAILSAFE, clock.now())
    return lambda: call.wait(clock), lambda: resolve(call, {})


def error_of_a_call(clock: Clock) -> Wait:
    call = PendingCall("1", "m", FAILSAFE, clock.now())
    return lambda: call.wait(clock), lambda: call.fail(ValueError())


def submitted(clock: Clock) -> CallFuture:
    future = CallFuture("1", "m", FAILSAFE, clock.now(), run_callback=lambda callback: callback())
    table = PendingTable()
    table.put(future.id, future)
    future.is_in(table)
    return future


def reply_of_a_future(clock: Clock) -> Wait:
    future = submitted(clock)
    return lambda: future.result(), lambda: resolve(future, {})


def error_of_a_future(clock: Clock) -> Wait:
    future = submitted(clock)
    return lambda: future.exception(), lambda: future.fail(ValueError())


def cancel_of_a_future(clock: Clock) -> Wait:
    future = submitted(clock)

    def wait() -> None:
        with pytest.raises(CancelledError):
            future.result()

    return wait, future.cancel


def end_of_the_connection(clock: Clock) -> Wait:
    """For which a call waits while there is none."""
    lifecycle = Lifecycle(lambda: pytest.fail("nothing is dialled"), {}, clock=clock)

    def wait() -> None:
        with pytest.raises(NotConnected):
            lifecycle.connection_for(OpenCall("1", "m", FAILSAFE, clock.now()))

    return wait, lifecycle.close


WAITS = [
    reply_of_a_call,
    error_of_a_call,
    reply_of_a_future,
    error_of_a_future,
    cancel_of_a_future,
    end_of_the_connection,
]


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowded]:
    clock = Crowded()
    monkeypatch.setattr("tellurio_sync.peer.futures.MONOTONIC", clock)
    yield clock
    clock.turn.set()


@pytest.mark.parametrize("make", WAITS)
def test_a_worker_whose_wait_is_over_counts_from_then_on(make: Callable[[Clock], Wait], crowded: Crowded) -> None:
    """Not from its turn on: it may get that late, and until then thread after thread would be started."""
    wait, end = make(crowded)
    pool = WorkerPool(max_workers=1, max_threads=3)
    assert pool.submit(wait)
    assert crowded.begun.wait(FAILSAFE)
    end()
    ran = threading.Event()
    assert pool.submit(ran.set)
    assert len(pool._threads) == 1
    crowded.turn.set()
    assert ran.wait(FAILSAFE)
    assert pool._waiting == 0
    pool.close(FAILSAFE)


@pytest.mark.parametrize("make", WAITS)
def test_a_wait_that_ends_while_it_begins_does_not_count(
    make: Callable[[Clock], Wait], crowded: Crowded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that takes the place of this one may have its turn first."""
    wait, end = make(crowded)
    pool = WorkerPool(max_workers=1, max_threads=2)
    go_on, ended = Gate(), threading.Event()
    assert pool.submit(lambda: (go_on(), wait()))
    assert go_on.entered.wait(FAILSAFE)
    assert pool.submit(lambda: (end(), ended.set()))
    start = threading.Thread.start

    def start_and_lose_the_turn(thread: threading.Thread) -> None:
        start(thread)
        assert crowded.turn.wait(FAILSAFE)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_and_lose_the_turn)
        go_on.open.set()
        assert ended.wait(FAILSAFE)
        assert pool._waiting == 0
        crowded.turn.set()
        pool.close(FAILSAFE)


@pytest.mark.parametrize("make", WAITS)
def test_what_a_worker_will_come_to_is_not_refused(make: Callable[[Clock], Wait], crowded: Crowded) -> None:
    """At the bound of threads: one of them has its answer, and will take the next task."""
    wait, end = make(crowded)
    pool = WorkerPool(max_workers=1, max_threads=1)
    assert pool.submit(wait)
    assert crowded.begun.wait(FAILSAFE)
    wait_until(lambda: pool.refusal != "", "the worker does not count as one that waits")
    end()
    assert pool.refusal == ""
    ran = threading.Event()
    assert pool.submit(ran.set)
    crowded.turn.set()
    assert ran.wait(FAILSAFE)
    pool.close(FAILSAFE)


def test_a_worker_that_waits_on_after_a_change_that_does_not_help_is_one_that_waits() -> None:
    """The connection is lost once more before the call could use it."""
    lifecycle = Lifecycle(lambda: pytest.fail("nothing is dialled"), {})
    pool = WorkerPool(max_workers=1, max_threads=1)

    def call() -> None:
        with pytest.raises(NotConnected):
            lifecycle.connection_for(OpenCall("1", "m", FAILSAFE, MONOTONIC.now()))

    assert pool.submit(call)
    wait_until(lambda: len(lifecycle._waiting) == 1, "nothing waits")
    for _ in range(3):
        with lifecycle._lock:
            lifecycle._set_state_locked(RECONNECTING)
        wait_until(lambda: pool.refusal != "", "the worker does not count as one that waits")
    lifecycle.close()
    wait_until(lambda: pool._waiting == 0, "a wait is still counted")
    pool.close(FAILSAFE)


@pytest.mark.parametrize("kind", ["submit", "close", "Ctrl-C"])
def test_a_signal_handler_at_any_point_of_submitting_loses_no_task(kind: str) -> None:
    """It submits, closes the pool, or raises: every task runs, once, also those that come later."""
    ran: list[str] = []

    def act() -> None:
        if kind == "submit":
            assert pool.submit(lambda: ran.append("nested"))
        elif kind == "close":
            pool.close()
        else:
            raise KeyboardInterrupt

    def is_idle() -> bool:
        return ran == ["first"] and pool._idle == 1

    def is_done() -> bool:
        return "last" in ran and not pool._tasks

    expected = KeyboardInterrupt if kind == "Ctrl-C" else None
    for strike in strikes(workers, act=act, expected=expected):
        ran.clear()
        pool = WorkerPool(max_workers=2)
        pool.submit(lambda: ran.append("first"))
        wait_until(is_idle, "the first task does not run")
        with strike:
            pool.submit(lambda: ran.append("second"), must_run=True)
            pool.submit(lambda: ran.append("third"), must_run=True)
        pool.submit(lambda: ran.append("last"), must_run=True)
        wait_until(is_done, f"only {ran}: {strike}")
        pool.close(FAILSAFE)
        assert expected or {"second", "third"} < set(ran)
        assert len(ran) == len(set(ran)), strike


FORKED = """
import os, signal, threading
from tellurio_sync.peer.workers import WorkerPool

def fork():
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # instead of waiting for ever
    else:
        print("child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        done.set()

done = threading.Event()
WorkerPool().submit(fork)
assert done.wait(30)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_child_of_a_task_that_forks_and_returns_ends() -> None:
    """In it there is nothing more to do for the worker, the only thread."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "child ended with 0\n", "")
