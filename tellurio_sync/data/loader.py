"""Batches of a data set, which a thread makes ahead.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the batches that are ready | the loader's thread | the thread that iterates | ``queue.SimpleQueue`` | its type |
| how many more may be made | the thread that iterates | the loader's thread | ``threading.Semaphore`` | its type |
| ``is_stopped`` | the thread that iterates, when it leaves the loop | the loader's | ``threading.Event`` | its type |
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from ..model.batch.block import batch
from ..model.suppression import suppress_variable_notifications
from .collate import collate
from .dataset import Samples, as_samples
from .sampler import RandomSampler, SequentialSampler

_LOOK_INTERVAL = 0.2
"""Seconds after which a thread that waits for the other one checks that it still exists."""

_END = object()


class DataLoader:
    """The batches of a data set. Iterate it once for each epoch.

    Samples are read without telling the server of their Variables; the Variables of a batch are made together, in one
    round trip. A thread reads and makes the next batches while you work on this one.

    Args:
        dataset: a list, an object with ``__getitem__`` and ``__len__``, a pandas DataFrame (rows are dicts), a
            Hugging Face dataset.
        batch_size: samples in a batch, >= 1; None: the samples themselves, one by one, uncollated.
        shuffle: whether each epoch has another order.
        sampler: gives the order itself: the numbers of the samples, for each epoch.
        drop_last: whether a last batch with fewer samples is left out.
        seed: the seed of the order with ``shuffle``; None: each process has another order.
        collate_fn: makes the batch of a list of samples.
        prefetch: how many batches at most are made ahead, >= 0; 0: none, without a thread.

    An iteration raises the exceptions of reading a sample, of ``collate_fn`` and of the server, at the batch where they
    happened. One iteration belongs to one thread; several threads may iterate the same loader independently.

    Raises:
        TypeError: a data set or an argument of another type.
        ValueError: a number out of range, or ``shuffle`` together with ``sampler``.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = False,
        sampler: Iterable[int] | None = None,
        drop_last: bool = False,
        seed: int | None = None,
        *,
        collate_fn: Callable[[Sequence[Any]], Any] | None = None,
        prefetch: int = 1,
    ) -> None:
        if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int)):
            raise TypeError(f"batch_size must be a whole number or None, not {batch_size!r}.")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        if batch_size is None and drop_last:
            raise ValueError("drop_last needs a batch_size.")
        if sampler is not None and shuffle:
            raise ValueError("shuffle and sampler are two orders: pass one of them.")
        if prefetch < 0:
            raise ValueError(f"prefetch must be 0 or more, not {prefetch}.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._samples: Samples = as_samples(dataset)
        if sampler is None:
            sampler = RandomSampler(self._samples, seed=seed) if shuffle else SequentialSampler(self._samples)
        self.sampler = sampler
        self._collate = collate_fn or collate
        self._prefetch = prefetch

    def __len__(self) -> int:
        """The number of batches of an epoch.

        Raises:
            TypeError: the sampler has no length.
        """
        count = len(self.sampler)  # type: ignore[arg-type]
        if self.batch_size is None:
            return count
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        # The order is drawn here, not by the thread: two loaders with one sampler get it in the order of the calls.
        batches = self._batches(iter(self.sampler))
        return _ahead(batches, self._prefetch) if self._prefetch else batches

    def _batches(self, order: Iterator[int]) -> Iterator[Any]:
        # Not map(): with that, a StopIteration out of a sample would end the epoch early, without a word.
        for numbers in self._numbers(order):
            yield self._made(numbers)

    def _numbers(self, order: Iterator[int]) -> Iterator[list[int]]:
        size = self.batch_size or 1
        chunk: list[int] = []
        for number in order:
            chunk.append(number)
            if len(chunk) == size:
                yield chunk
                chunk = []
        if chunk and not self.drop_last:
            yield chunk

    def _made(self, numbers: list[int]) -> Any:
        with suppress_variable_notifications():
            samples = [self._samples[number] for number in numbers]
        if self.batch_size is None:
            return samples[0]
        with batch():
            return self._collate(samples)

    def state_dict(self) -> dict[str, Any]:
        """The state of the order, to resume a training. Empty if the sampler keeps no state."""
        state_dict = getattr(self.sampler, "state_dict", None)
        return {} if state_dict is None else {"sampler": state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the order of the loader that gave this state."""
        if "sampler" in state and hasattr(self.sampler, "load_state_dict"):
            self.sampler.load_state_dict(state["sampler"])


def _ahead(batches: Iterator[Any], count: int) -> Generator[Any, None, None]:
    """The same batches, made by a thread that is up to ``count`` ahead.

    The thread ends when the loop is left: at once if it waits, else with the batch that it is making, which is dropped.
    """
    ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    room = threading.Semaphore(count + 1)  # one more: the first is not ahead of any
    is_stopped = threading.Event()

    def run() -> None:
        try:
            while room.acquire() and not is_stopped.is_set():
                made = next(batches, _END)
                ready.put((made, None))
                if made is _END:
                    return
        except BaseException as exc:  # noqa: BLE001 - it is raised in the thread that iterates
            ready.put((_END, exc))

    # In the context of the caller: its session, its suppression.
    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(run,), name="tellurio-sync data loader", daemon=True
    )
    thread.start()
    try:
        while True:
            try:
                item, failure = ready.get(timeout=_LOOK_INTERVAL)
            except queue.Empty:
                if not thread.is_alive() and ready.empty():
                    text = (
                        "The thread of this loop is not in this process: after a fork, iterate over the loader again."
                    )
                    raise RuntimeError(text) from None
                continue
            if failure is not None:
                raise failure
            if item is _END:
                return
            yield item
            room.release()
    finally:
        is_stopped.set()
        room.release()  # it may wait there
