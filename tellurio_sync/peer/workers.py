"""A bounded pool of daemon threads for code of the user.

Not ``concurrent.futures.ThreadPoolExecutor``: its queue has no bound, and the interpreter joins its threads
at exit, so that one callable that never returns would keep the process alive.

A function of the user's may call the server, which may call another function of the user's before it answers: an agent,
a judge, a router.  So a worker that waits for the server does not count: another one takes the next task, and the
newest task first, since that may be what the waiting ones wait for.  The number of threads is bounded all the same.
When all of them wait for the server, the tasks in the queue are refused, so that those who wait get an error.

The thread that ends a wait takes it out of the count, before it wakes the worker (see ``WorkerWait``): on a busy
machine that one may have its turn late, and until then one thread after the other would be started in its place.

A worker may also wait for something that cannot be seen here, such as threads of the user's that call the server.  If
nothing at all has begun or ended for ``patience`` seconds while a task is in the queue, one more worker is started.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_tasks``, ``_threads``, ``_is_closed`` | any thread | any thread | ``lock`` | asserts |
| ``_starting``, ``_idle``, ``_waiting``, ``_progress`` | any thread | any thread | ``lock`` | asserts |
| ``_sleeping`` | any thread | any thread | ``lock``; one C call on a list each | – |
| ``_has_watcher``, ``_extra`` | any thread | any thread | ``lock`` | asserts |
| ``WorkerWait``: what it counts as | the worker, the thread that ends the wait | the same | ``lock`` | only the pool |
| ``POOLS``: the pool of a worker, unless it waits | that worker | that worker | each step is one C call on a dict | – |

``lock`` is not held while a task runs, a thread is started or a worker has nothing to do.  A signal handler or a
finaliser can run while its thread holds it, and may close the client, cancel a future or call.  So it is re-entrant, a
thread that waits for the server gives it up meanwhile (see ``ownership.Without``), and a worker first says that it
sleeps and then looks for a task.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from operator import methodcaller
from typing import NamedTuple

from ..ownership import is_held
from ..speedups import Semaphore, make_semaphore, release_all

log: logging.Logger = logging.getLogger("tellurio_sync.peer")

MAX_THREADS = 512
"""Workers of one client at most, those included that wait for the server."""

_RELEASE = methodcaller("release")
_LAST = (-1,)

Task = Callable[[], None]
Refuse = Callable[[str], None]


class _Queued(NamedTuple):
    task: Task
    refuse: Refuse | None


class WorkerPool:
    """Runs tasks on threads that are started when they are needed.

    Args:
        max_workers: threads, > 0, that run tasks at the same time; those that wait for the server are not counted.
        max_queue: tasks, >= 0, that may wait for a thread.
        max_threads: threads in all, >= ``max_workers``.
        patience: seconds, > 0, without any progress after which a further thread is started.

    Attributes:
        lock: guards it; the connections that it works for share it.
    """

    def __init__(
        self, max_workers: int = 32, max_queue: int = 1000, max_threads: int = MAX_THREADS, patience: float = 5.0
    ) -> None:
        self._max_workers = max_workers
        self._max_queue = max_queue
        self._max_threads = max_threads
        self._patience = patience
        self.lock: threading.RLock = threading.RLock()
        self._sleeping: list[Semaphore] = []  # of the workers that wait for a task
        self._closing = make_semaphore()  # for the watcher
        self._tasks: deque[_Queued] = deque()
        self._threads: set[threading.Thread] = set()
        self._starting: set[threading.Thread] = set()  # threads that have not looked at the queue
        self._idle = 0
        self._waiting = 0  # for the server
        self._progress = 0  # grows with each task that begins or ends, and each wait that does
        self._has_watcher = False
        self._extra = 0  # workers that the watcher has started
        self._is_closed = False

    def submit(self, task: Task, *, must_run: bool = False, refuse: Refuse | None = None) -> bool:
        """Run ``task`` soon, on a worker. Thread-safe, never blocks.

        Args:
            task: an exception that it raises is logged.
            must_run: queue it even if the queue is full or the pool closed (for tasks whose number is bounded
                elsewhere).
            refuse: called with the reason, on any thread, if it turns out later that ``task`` will not run.

        Returns:
            False if it will not run, for ``refusal``.
        """
        with self.lock:
            if not must_run and self._refusal_locked():
                return False
            queued = _Queued(task, None if must_run else refuse)
            self._tasks.append(queued)
            self._wake_one_locked()
        return self._start_workers() or self._stays(queued)

    @property
    def refusal(self) -> str:
        """Why a task would not be run now; empty: it would."""
        with self.lock:
            return self._refusal_locked()

    def _wake_one_locked(self) -> None:
        assert is_held(self.lock)
        # One piece of C code, so that Ctrl-C cannot come in between; and a signal handler may take the last one.
        with contextlib.suppress(IndexError):
            list(map(_RELEASE, map(self._sleeping.pop, _LAST)))

    def _refusal_locked(self) -> str:
        assert is_held(self.lock)
        if self._is_closed:
            return "The client is closing."
        if self._all_wait_locked():
            return self._nested_too_deeply()
        if len(self._tasks) >= self._max_queue:
            return f"The client is busy: its queue of {self._max_queue} callables is full."
        return ""

    def _nested_too_deeply(self) -> str:
        return (
            f"All {len(self._threads)} threads for callables wait for the server, which calls further callables before "
            "it answers: nest callables less deeply, or make smaller batches."
        )

    def _all_wait_locked(self) -> bool:
        assert is_held(self.lock)
        return len(self._threads) >= self._max_threads and self._waiting >= len(self._threads)

    def close(self, timeout: float = 0.0) -> None:
        """Take no more tasks; threads end when the queue is empty. Waits for that at most ``timeout`` seconds."""
        end = time.monotonic() + timeout
        with self.lock:
            self._is_closed = True
            release_all(self._sleeping)
            self._closing.release()
            threads = [thread for thread in self._threads.copy() if thread is not threading.current_thread()]
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    # --- starting threads ------------------------------------------------------------------------------

    def _start_workers(self) -> bool:
        """Start as many as the queue wants; False if the system lets none be started."""
        while True:
            with self.lock:
                running = len(self._threads) - self._waiting
                wants = len(self._tasks) > self._idle + len(self._starting)
                is_full = running >= self._max_workers or len(self._threads) >= self._max_threads
                wants_watcher = wants and is_full and not self._has_watcher and not self._is_closed
            if wants_watcher:
                self._start_watcher()
            if not wants or is_full:
                return True
            if not self._start_one():
                return False

    def _start_one(self) -> bool:
        thread = threading.Thread(target=self._run, name="tellurio-sync worker", daemon=True)
        try:
            with self.lock:
                if len(self._threads) >= self._max_threads:
                    return True
                self._threads.add(thread)
                self._starting.add(thread)
            thread.start()
        except BaseException as exc:
            if thread.ident is None:  # after Ctrl-C it may start all the same: then it adds itself
                with self.lock:
                    self._threads.discard(thread)
                    self._starting.discard(thread)
            if not isinstance(exc, (RuntimeError, MemoryError)):
                raise
            return False  # the interpreter is shutting down, or the system has no thread left
        return True

    def _stays(self, queued: _Queued) -> bool:
        """Whether a task stays in the queue for which no thread could be started: others may still run it."""
        with self.lock:
            return len(self._threads) > self._waiting or not self._take_back_locked(queued)

    def _take_back_locked(self, queued: _Queued) -> bool:
        """Take a task out of the queue; False if it is not in there any more."""
        assert is_held(self.lock)
        try:
            self._tasks.remove(queued)
        except ValueError:
            return False
        return True

    def _start_watcher(self) -> None:
        watcher = threading.Thread(target=self._watch, name="tellurio-sync worker", daemon=True)
        with self.lock:
            if self._has_watcher:
                return
            self._has_watcher = True
        try:
            watcher.start()
        except BaseException as exc:
            if watcher.ident is None:
                self._has_watcher = False
            if not isinstance(exc, (RuntimeError, MemoryError)):
                raise

    def _watch(self) -> None:
        """Start a worker each time that nothing has happened for a while, as long as a task is in the queue."""
        while True:
            before = self._progress
            if not self._is_closed:
                self._closing.acquire(True, self._patience)
            with self.lock:
                if not self._tasks or self._is_closed:
                    self._has_watcher = False
                    self._extra = 0
                    return
                is_stuck = self._progress == before
                self._extra += is_stuck
            if is_stuck:
                self._start_one()

    # --- the workers -----------------------------------------------------------------------------------

    def _run(self) -> None:
        ident = threading.get_ident()
        pid = os.getpid()
        semaphore = make_semaphore()
        POOLS[ident] = self
        try:
            # A task may have forked, and come back here in the child as well, where this pool gets no more tasks.
            while os.getpid() == pid and (task := self._next_task(semaphore)) is not None:
                try:
                    task()
                except BaseException:  # a worker goes on after a task that fails
                    log.exception("a task on a worker thread failed")
                del task  # an idle worker must not keep the objects of its last task alive
        finally:
            POOLS.pop(ident, None)

    def _next_task(self, semaphore: Semaphore) -> Task | None:
        """Wait for one. None: this worker is to end, and does not count any more."""
        own = threading.current_thread()
        with self.lock:
            self._threads.add(own)
            self._starting.discard(own)
            self._progress += 1
            # One too many, since a wait has ended: the others see to the queue.
            if len(self._threads) - self._waiting > self._max_workers + self._extra:
                self._threads.discard(own)
                return None
            self._idle += 1
        while True:
            with self.lock:
                if semaphore not in self._sleeping:
                    self._sleeping.append(semaphore)
                if self._tasks or self._is_closed:
                    with contextlib.suppress(ValueError):  # woken already
                        self._sleeping.remove(semaphore)
                    self._idle -= 1
                    if not self._tasks:
                        self._threads.discard(own)
                        return None
                    self._progress += 1
                    return (self._tasks.pop() if self._waiting else self._tasks.popleft()).task
            semaphore.acquire()

    def begin_wait(self, wait: WorkerWait) -> None:
        """For ``WorkerWait``."""
        with self.lock:
            if wait.is_over:
                return
            wait.is_counted = True
            self._waiting += 1
            self._progress += 1
        can_start = self._start_workers()
        refused: list[_Queued] = []
        with self.lock:
            if self._waiting >= len(self._threads) and (not can_start or len(self._threads) >= self._max_threads):
                for queued in self._tasks.copy():
                    if queued.refuse is not None and self._take_back_locked(queued):
                        refused.append(queued)
        for queued in refused:
            assert queued.refuse is not None
            queued.refuse(self._nested_too_deeply())

    def end_wait(self, wait: WorkerWait) -> None:
        """For ``WorkerWait``."""
        with self.lock:
            wait.is_over = True
            if wait.is_counted:
                wait.is_counted = False
                self._waiting -= 1
                self._progress += 1


class WorkerWait:
    """One wait of a worker for the server; see ``wait_of_worker``.

    Attributes:
        pool: the worker's.
        is_counted, is_over: only the pool uses them.
    """

    __slots__ = ("is_counted", "is_over", "pool")

    def __init__(self, pool: WorkerPool) -> None:
        self.pool: WorkerPool = pool
        self.is_counted: bool = False
        self.is_over: bool = False

    def begin(self) -> None:
        """The worker does not count from now on, and another one may take its place; unless the wait is over already.

        Call it when the thread that ends the wait can find this object: a worker that is started here may end it.
        """
        self.pool.begin_wait(self)

    def end(self) -> None:
        """The worker counts again. Idempotent, never blocks; for the thread that wakes the worker, before it does."""
        self.pool.end_wait(self)

    def leave(self) -> None:
        """The worker goes on, whether what it waited for has come or not. For the worker, each time."""
        self.end()
        POOLS[threading.get_ident()] = self.pool


POOLS: dict[int, WorkerPool] = {}
"""The pool of each worker of all clients, by the identifier of the thread."""


def wait_of_worker() -> WorkerWait | None:
    """If this thread is a worker: its wait for the server, to begin and to leave. Costs next to nothing otherwise."""
    if not POOLS:
        return None
    # Taken out, so that a wait within the wait (in a finaliser) does not count twice.
    pool = POOLS.pop(threading.get_ident(), None)
    return None if pool is None else WorkerWait(pool)


def forget_after_fork() -> None:
    """In a forked child: the parent's workers do not exist here."""
    POOLS.clear()
