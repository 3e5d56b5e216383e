"""Whether a person is using this program interactively."""

from __future__ import annotations

import sys

from ..console import ipython


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
