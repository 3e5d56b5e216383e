"""The run that calls are made for (protocol §A.4): every request carries its uuid."""

from __future__ import annotations

from typing import Protocol


class HasUuid(Protocol):
    """Anything with a ``uuid``: a Run of this package, of another, or a stand-in in a test."""

    @property
    def uuid(self) -> str: ...


_active: HasUuid | None = None


def set_active_run(run: HasUuid | None) -> None:
    """Make ``run`` the active run in every thread of this process; None: there is no active run.

    Thread-safe, does not block.
    """
    global _active
    _active = run


def get_active_run() -> HasUuid:
    """The run that calls are made for. Thread-safe, does not block.

    Raises:
        ValueError: there is none; ``tellurio_sync.init(...)`` makes one.
    """
    if _active is None:
        raise ValueError("No active run is set. Call tellurio_sync.init(...) first: it starts one.")
    return _active
