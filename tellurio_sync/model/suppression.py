"""Changes of Variables that the server is not told of (protocol §F.5), per thread and context."""

from __future__ import annotations

from contextvars import ContextVar

_suppressed: ContextVar[bool] = ContextVar("tellurio_sync_suppressed", default=False)


def is_suppressed() -> bool:
    """Whether Variables made or changed here, in this thread and context, are kept from the server."""
    return _suppressed.get()


class suppress_variable_notifications:
    """Context manager: inside it, new Variables are not shared and changes are not sent, in this thread only.

    A Variable made inside has no id and is never shared later: it can hold data (a dataset's samples), but
    cannot be an argument of a function.  Where a change of the same attribute is queued in a ``batch``, that one wins
    when it is sent.  May be nested and reused.
    """

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> suppress_variable_notifications:
        self._before.append(_suppressed.get())
        _suppressed.set(True)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _suppressed.set(self._before.pop())
