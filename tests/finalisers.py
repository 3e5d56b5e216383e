"""Finalisers that do something, wherever the garbage collector can run."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator


class Circle:
    """Found by the garbage collector only; its finaliser does something."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.do = do
        self.itself = self

    def __del__(self) -> None:
        self.do()


class Finaliser:
    """Does something, but not within itself on the same thread. Its errors, which go nowhere, are in ``failures``."""

    def __init__(self, do: Callable[[], object]) -> None:
        self.failures: list[BaseException] = []
        self._do = do
        self._here = threading.local()

    def __call__(self) -> None:
        if getattr(self._here, "is_in", False):
            return
        self._here.is_in = True
        try:
            self._do()
        except BaseException as exc:  # noqa: BLE001 - the test looks at it
            self.failures.append(exc)
        finally:
            self._here.is_in = False


@contextlib.contextmanager
def collected_always() -> Iterator[None]:
    """The collector runs at every allocation that it may run at, in all threads, and once more at the end."""
    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(1, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
