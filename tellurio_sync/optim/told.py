"""Telling the user what the server says of a step in addition to its result."""

from __future__ import annotations

import logging
from typing import Any

from ..model.told import tell

log: logging.Logger = logging.getLogger(__name__)


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
                tell(kind(text))


def rejected_in(result: Any) -> int:
    """How many parameters keep their data because the new data was no better; each is logged."""
    rejected = result.get("rejected") if isinstance(result, dict) else None
    texts = [text for text in rejected if isinstance(text, str)] if isinstance(rejected, list) else []
    for text in texts:
        log.info("= %s", text)
    return len(texts)
