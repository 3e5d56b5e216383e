"""Telling the user what the server says of a step in addition to its result."""

from __future__ import annotations

import sys
import warnings
from typing import Any

_PACKAGE = __name__.partition(".")[0]


class ParameterUnchanged(UserWarning):
    """A step left a parameter as it was: all that the language model offered would have done harm.

    The text says which parameter and what was wrong: a placeholder was lost, the data was empty or far too long, or
    held tags of the question.
    """


class SamplesNotShown(UserWarning):
    """A step did not show all samples to the language model: the question would be too long. Those that came out wrong
    are shown first."""


def warn_of_told(result: Any) -> None:
    """Give a warning for each parameter that a step did not change, and for samples that it did not show.

    Other servers than our backend tell nothing.
    """
    for name, kind in (("told", ParameterUnchanged), ("notes", SamplesNotShown)):
        told = result.get(name) if isinstance(result, dict) else None
        for text in told if isinstance(told, list) else ():
            if isinstance(text, str):
                warnings.warn(kind(text), stacklevel=_callers_level())


def _callers_level() -> int:
    """The ``stacklevel``, as seen from our caller, of the first frame outside of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE:
        frame = frame.f_back
        level += 1
    return level
