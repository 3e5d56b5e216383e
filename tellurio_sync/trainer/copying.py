"""Long passages of training data in a new prompt.

A prompt that holds samples word for word shows them to everybody who sees the prompt, and holds their answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..model.variable import Variable

LONG = 60
"""Characters, runs of white space counted as one: passages that are longer are not there by chance."""


class CopiedTrainingData(UserWarning):
    """A new text of a parameter repeats long passages of the samples that it was learnt from. The text quotes none.

    Attributes:
        characters: how many of the text, white space left aside.
    """

    def __init__(self, text: str, characters: int = 0) -> None:
        super().__init__(text)
        self.characters = characters


def copied_characters(new: str, old: str, samples: Iterable[str]) -> int:
    """How many characters of ``new`` stand in passages of more than ``LONG`` that are in ``samples``, not in ``old``.

    Takes a time proportional to the length of all texts.
    """
    text = _plain(new)
    known = _plain(old)
    places: dict[str, list[int]] = {}
    for place in range(len(text) - LONG):
        passage = text[place : place + LONG + 1]
        if passage not in known:
            places.setdefault(passage, []).append(place)
    if not places:
        return 0
    copied: set[int] = set()
    for sample in samples:
        plain = _plain(sample)
        for start in range(len(plain) - LONG):
            for place in places.get(plain[start : start + LONG + 1], ()):
                copied.update(range(place, place + LONG + 1))
    return len(copied)


def copied_text(role: str | None, characters: int, note: str) -> str:
    """The text of a warning."""
    return (
        f"After {note} the parameter with the role {role!r} holds {characters:,} characters that stand word for word "
        "in the training data. Whoever sees the prompt sees them, and it may have learnt samples by heart. A "
        "constraint can forbid that: TGD(..., constraints=['Do not quote the samples.'])."
    )


def texts_in(value: Any) -> Iterator[str]:
    """All texts in a batch, however deep in lists, tuples, dicts, Variables and objects with fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Variable):
        yield from texts_in(value.data)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_in(item)
    elif hasattr(value, "__dict__"):
        for item in vars(value).values():
            if isinstance(item, (str, list, tuple)):
                yield from texts_in(item)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)
