"""A bounded pool of daemon threads for code of the user.

``concurrent.futures.ThreadPoolExecutor`` is not used, because its queue has no bound, and because the interpreter joins
its threads at exit: one callable that never returns would keep the process alive.

| State | Written by | Guarded by |
|---|---|---|
| queue, counts | any thread | ``_lock``, never held while a task runs or a thread is started |
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger("tellurio_sync.peer")

Task = Callable[[], None]


class WorkerPool:
    """Runs tasks on at most ``max_workers`` threads, which are started when they are needed.

    Args:
        max_workers: threads, > 0. Enough for callables that call the server and are called back meanwhile.
        max_queue: tasks, >= 0, that may wait for a thread.
    """

    def __init__(self, max_workers: int = 32, max_queue: int = 1000) -> None:
        self._max_workers = max_workers
        self._max_queue = max_queue
        self._lock = threading.Lock()
        self._has_task = threading.Condition(self._lock)
        self._tasks: deque[Task] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._is_closed = False

    def submit(self, task: Task, *, must_run: bool = False) -> bool:
        """Run ``task`` soon, on a worker. Thread-safe, never blocks.

        Args:
            task: an exception that it raises is logged.
            must_run: queue it even if the queue is full or the pool closed (for tasks whose number is bounded
                elsewhere).

        Returns:
            False if it will not run: the queue is full, or the pool closed.
        """
        with self._lock:
            if not must_run and (self._is_closed or len(self._tasks) >= self._max_queue):
                return False
            self._tasks.append(task)
            needs_thread = self._idle < len(self._tasks) and len(self._threads) < self._max_workers
            if not needs_thread:
                self._has_task.notify()
                return True
            thread = threading.Thread(target=self._run, name="tellurio-sync worker", daemon=True)
            self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is shutting down, or the system has no thread left. Other workers may still run the task.
            with self._lock:
                self._threads.discard(thread)
                if self._threads or task not in self._tasks:
                    return True
                self._tasks.remove(task)
            return False
        return True

    def close(self, timeout: float = 0.0) -> None:
        """Take no more tasks; threads end when the queue is empty. Waits for that at most ``timeout`` seconds."""
        end = time.monotonic() + timeout
        with self._lock:
            self._is_closed = True
            self._has_task.notify_all()
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
                while not self._tasks and not self._is_closed:
                    self._has_task.wait()
                self._idle -= 1
                if not self._tasks:
                    self._threads.discard(threading.current_thread())
                    return
                task = self._tasks.popleft()
            try:
                task()
            except BaseException:  # a worker goes on after a task that fails
                log.exception("a task on a worker thread failed")
            del task  # an idle worker must not keep the objects of its last task alive
