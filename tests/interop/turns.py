"""A test and a driver take turns: the other end of ``harness.signal``."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turns(path: Path, parts: Sequence[Callable[[], object]]) -> Iterator[str]:
    """At each ``signal`` of the driver the next of ``parts`` is run, and the driver waits for it; gives the path."""
    for end in (".asked", ".done"):
        os.mkfifo(f"{path}{end}")

    def take() -> None:
        for part in parts:
            with open(f"{path}.asked") as asked:
                asked.read()
            part()
            with open(f"{path}.done", "w"):
                pass

    thread = threading.Thread(target=take, daemon=True)  # a driver that fails never asks
    thread.start()
    yield str(path)
    thread.join()
