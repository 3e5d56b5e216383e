"""Whether this interpreter has what the package rests on: a global lock (GIL)."""

from __future__ import annotations

import sys

_TEXT = (
    "tellurio_sync does not support a Python that runs without the global interpreter lock (GIL): its threads hand "
    "over replies by the order of their stores, which only that lock guarantees. Start this Python with PYTHON_GIL=1 "
    "or -X gil=1, or use the ordinary build."
)


def check_interpreter() -> None:
    """Raise ImportError on an interpreter whose threads run without the GIL: a wait could hang there for ever."""
    # Python 3.13 and later; before, there is always one. Once on, it stays on.
    is_gil_enabled = getattr(sys, "_is_gil_enabled", None)
    if is_gil_enabled is not None and not is_gil_enabled():
        raise ImportError(_TEXT, name="tellurio_sync")
