"""The run that calls are made for (protocol §A.4): every request carries its uuid.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the active run of the process: ``_active`` | any thread | any thread | one store | – |

A session that has a run of its own makes its calls for that one (``Session._run``).
"""

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
