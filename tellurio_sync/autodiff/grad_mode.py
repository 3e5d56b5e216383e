"""Whether functions record what they compute (protocol §F.8), per thread and context."""

from __future__ import annotations

from contextlib import ContextDecorator
from contextvars import ContextVar

_enabled: ContextVar[bool] = ContextVar("tellurio_sync_grad_enabled", default=True)


def is_grad_enabled() -> bool:
    """Whether functions called here, in this thread and context, record the graph."""
    return _enabled.get()


def set_grad_enabled(mode: bool) -> None:
    """Switch recording on or off, in this thread and context.

    Raises:
        TypeError: ``mode`` is no bool.
    """
    if not isinstance(mode, bool):
        raise TypeError(f"set_grad_enabled takes a bool, not {mode!r}")
    _enabled.set(mode)


class no_grad(ContextDecorator):
    """Context manager and decorator: inside it nothing is recorded; afterwards the former mode applies again.

    It may be nested and reused; one object must not be used by several threads at once.
    """

    def __init__(self) -> None:
        self._before: list[bool] = []

    def _recreate_cm(self) -> no_grad:
        # ContextDecorator calls this for each call of the decorated function, which may run in many threads.
        return type(self)()

    def __enter__(self) -> None:
        self._before.append(_enabled.get())
        _enabled.set(False)

    def __exit__(self, *exc_info: object) -> None:
        _enabled.set(self._before.pop())
