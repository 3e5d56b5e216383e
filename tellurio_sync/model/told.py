"""Warnings about single samples and parameters, which a training can also count.

Each is given by :func:`tell`, and noted for the ``with collected()`` block that this thread or context is in.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PACKAGE = __name__.partition(".")[0]

_collected: ContextVar[list[Warning] | None] = ContextVar("tellurio_sync_told", default=None)


@contextmanager
def collected() -> Iterator[list[Warning]]:
    """Inside, what this thread or context tells is also appended to the list; of blocks in each other to the inner."""
    told: list[Warning] = []
    token = _collected.set(told)
    try:
        yield told
    finally:
        _collected.reset(token)


def tell(warning: Warning) -> None:
    """Give a warning, at the line of the first caller outside of this package."""
    told = _collected.get()
    if told is not None:
        told.append(warning)  # before: a filter may make an exception of it
    warnings.warn(warning, stacklevel=level_outside_package())


def level_outside_package() -> int:
    """The ``stacklevel``, as seen from our caller, of the first frame outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE:
        frame = frame.f_back
        level += 1
    return level
