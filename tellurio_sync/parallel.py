"""Functions of the user on other processes and machines, by any ``concurrent.futures.Executor``.

Threads, processes, loky, ``dask.distributed`` (``client.get_executor()``), MPI (``mpi4py.futures``), ipyparallel: each
of them is an executor, so nothing of theirs is known here.  State is not shared: a function that runs elsewhere has its
own process, where it logs in by itself if it uses this package.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

T = TypeVar("T")
R = TypeVar("R")

_IN_FLIGHT = 64


def check_executor(executor: object) -> None:
    """Raises TypeError unless this has the ``submit`` of a ``concurrent.futures.Executor``."""
    if not callable(getattr(executor, "submit", None)):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor (for Dask: client.get_executor()), not "
            f"{type(executor).__name__}"
        )


def on_executor(function: Callable[..., R], executor: Executor | None) -> Callable[..., R]:
    """A function that runs ``function`` on the executor and waits for it; ``function`` itself if there is none.

    Raises:
        TypeError: not an executor.
    """
    if executor is None:
        return function
    check_executor(executor)

    @functools.wraps(function, updated=())
    def run(*args: Any, **kwargs: Any) -> R:
        return executor.submit(function, *args, **kwargs).result()

    return run


def map(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    executor: Executor,
    in_flight: int = _IN_FLIGHT,
    retries: int = 1,
    return_exceptions: bool = False,
) -> list[Any]:
    """``function`` of each item, on the executor; the results in the order of the items. Blocks until all are done.

    For sweeps: seeds, models, prompts. Items are taken one by one, and no more than ``in_flight`` wait on the executor.
    What an item did before its worker died is done again: so the function must bear that. (Runs are safe: what was
    logged stays, and ``te.init(..., resume=...)`` goes on.)

    Args:
        function: it and its results are pickled where the executor has other processes.
        items: any iterable, also one that never fits into memory.
        executor: a ``concurrent.futures.Executor``; its end is up to you.
        in_flight: > 0.
        retries: >= 0: how often an item is tried again after an exception.
        return_exceptions: put an exception in the place of its result, instead of raising the first one when all items
            are done.

    Raises:
        TypeError: not an executor, or not a function.
        ValueError: a number out of range.
        Exception: what the function raised in its last try.
    """
    check_executor(executor)
    if not callable(function):
        raise TypeError(f"map takes a function, not {type(function).__name__}")
    for name, number, least in (("in_flight", in_flight, 1), ("retries", retries, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or number < least:
            raise ValueError(f"{name} must be a whole number, at least {least}, not {number!r}")
    results: list[Any] = []
    waiting: deque[tuple[T, Future[R]]] = deque()

    def take() -> None:
        item, future = waiting.popleft()
        results.append(_outcome(function, item, future, executor, retries))

    try:
        for item in items:
            if len(waiting) >= in_flight:
                take()
            waiting.append((item, executor.submit(function, item)))
        while waiting:
            take()
    except BaseException:  # Ctrl-C, or the iterable of items failed
        for _, future in waiting:
            future.cancel()
        raise
    if not return_exceptions:
        for result in results:
            if isinstance(result, _Failed):
                raise result.error
    return [result.error if isinstance(result, _Failed) else result for result in results]


class _Failed:
    def __init__(self, error: Exception) -> None:
        self.error: Exception = error


def _outcome(function: Callable[[T], R], item: T, future: Future[R], executor: Executor, retries: int) -> Any:
    for tries_left in range(retries, -1, -1):
        try:
            return future.result()
        except Exception as exc:  # noqa: BLE001 - of the user's function, or of a worker that died
            if tries_left == 0:
                return _Failed(exc)
            try:
                future = executor.submit(function, item)
            except RuntimeError:  # the executor itself has ended, such as a pool of processes one of which was killed
                return _Failed(exc)
    raise AssertionError("unreachable")
