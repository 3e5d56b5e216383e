"""What is said to a person at the screen: where, and whether at all.

A line goes to the output of the cell in a notebook, and to the standard error output in a terminal. A program whose
output goes to a file or to another program is told nothing, and neither is anyone in quiet mode (:func:`set_quiet`,
``TELLURIO_QUIET=1``). Nothing here ever raises because of a screen.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| whether it is quiet: ``_is_quiet`` | any thread | any thread | one store | – |
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, Literal

QUIET_VARIABLE = "TELLURIO_QUIET"

Place = Literal["notebook", "terminal", "nowhere"]

_is_quiet: bool | None = None


def set_quiet(quiet: bool = True) -> None:
    """Say nothing from now on in this process: no line with the link of a run, no progress. False: say it again.

    What the program is told (warnings, exceptions, log records) is not changed. Thread-safe; does not block.

    Raises:
        TypeError: not a bool.
    """
    global _is_quiet
    if not isinstance(quiet, bool):
        raise TypeError(f"set_quiet takes True or False, not {quiet!r}")
    _is_quiet = quiet


def is_quiet() -> bool:
    """Whether nothing is to be said: as set last, else as ``TELLURIO_QUIET`` says (empty and ``0``: not quiet)."""
    if _is_quiet is not None:
        return _is_quiet
    return os.environ.get(QUIET_VARIABLE, "") not in ("", "0")


def where_to_show() -> Place:
    """Where a person looks at this program."""
    if is_quiet():
        return "nowhere"
    shell = ipython()
    if shell is not None and hasattr(shell, "kernel"):
        return "notebook"
    try:
        return "terminal" if sys.stderr is not None and sys.stderr.isatty() else "nowhere"
    except (AttributeError, ValueError, OSError):  # replaced by something else, or closed
        return "nowhere"


def say(text: str) -> None:
    """Print this where a person looks, if anybody does."""
    place = where_to_show()
    if place == "nowhere":
        return
    with contextlib.suppress(OSError, ValueError):  # a screen that has gone is no reason to end a training
        print(text, file=sys.stdout if place == "notebook" else sys.stderr, flush=True)


def one_line(text: str) -> str:
    """Without what could move the cursor, change colours, or begin a new line: names come from other people."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def columns() -> int:
    """How many characters a line has where :func:`say` prints; 80 where that cannot be told."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (AttributeError, ValueError, OSError):  # replaced by something else, or no terminal
        return 80


def ipython() -> Any:
    """The shell of IPython that this program runs in, None if it does not."""
    # If IPython runs, it is loaded already, so it need not be imported here.
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython() if callable(get_ipython) else None
