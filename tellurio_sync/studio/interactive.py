"""Whether a person is using this program interactively."""

from __future__ import annotations

import sys
from typing import Any


def at_prompt() -> bool:
    """Whether the program goes on after an unhandled exception: a Python prompt, IPython or a notebook."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive) or ipython() is not None


def can_ask() -> bool:
    """Whether ``input()`` reaches a person: a terminal, or a notebook."""
    shell = ipython()
    if shell is not None and hasattr(shell, "kernel"):
        return True
    try:
        return sys.stdin is not None and sys.stdin.isatty()
    except ValueError:  # stdin was closed
        return False


def ipython() -> Any:
    """The shell of IPython that this program runs in, None if it does not."""
    # If IPython runs, it is loaded already, so it need not be imported here.
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython() if callable(get_ipython) else None
