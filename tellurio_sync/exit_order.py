"""What ends first when the interpreter exits: the runs, the connections, then the local backends that they lead to.

The interpreter calls exit functions in the reverse order of their registration. With one for each module, the order
would be that in which a program happens to import, log in and make its first call. So there is one function for all,
and its steps have a fixed order.

It is registered with the first connection and with the first local backend, so that it is called before exit functions
that were there earlier: one that deletes the backend's data directory, say. (``studio.run_guard`` registers the step of
the runs by itself, too, with each run.)  And it is registered when the package is imported, because what is registered
while exit functions run already is never called: a signal handler may make the first call then.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_steps`` | modules, at their import | the thread that exits | one C call on a dict each | – |
| ``_in_use`` | any thread; a forked child | any thread | one C call each; to register twice does no harm | – |
"""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable

from . import forked

RUNS, NO_NEW_CONNECTIONS, CONNECTIONS, BACKENDS = range(4)
"""The steps. After the second no connection to a local backend is made, so that the third one finds all of them."""

_steps: dict[int, Callable[[], None]] = {}
_in_use: set[int] = set()


def add(step: int, end: Callable[[], None]) -> None:
    """Call ``end`` at exit, as this step, perhaps more than once. The others follow even if it raises."""
    _steps[step] = end


def use(step: int) -> None:
    """There is something now that this step will have to end. Thread-safe, does not block."""
    if step not in _in_use:
        _in_use.add(step)
        atexit.register(_end_all)


def _end_all() -> None:
    with contextlib.ExitStack() as steps:  # all of them, also if a signal handler raises in one
        for step in sorted(_steps, reverse=True):
            steps.callback(_steps[step])


# In a forked child: ``multiprocessing`` takes all exit functions from its children.
forked.renew_by(_in_use.clear)
atexit.register(_end_all)
