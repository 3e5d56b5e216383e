"""Running coroutines that never suspend, without an event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, in this thread, and return its result. Raises what it raises.

    Raises:
        RuntimeError: it waits for an event loop, and there is none.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    name = getattr(coroutine, "__qualname__", repr(coroutine))
    raise RuntimeError(f"{name} waits for an event loop; over tellurio_sync it has to end without one.")
