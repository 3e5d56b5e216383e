"""The pool for code that is not ours."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tellurio_sync.peer.workers import WorkerPool

from ..conftest import FAILSAFE


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
