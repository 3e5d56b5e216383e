"""What models think aloud, and how it is told from the answer."""

from __future__ import annotations

import re
from typing import NamedTuple

# What opens thoughts -> what closes them. No quantifier in any pattern made of these: matching is linear.
CLOSING = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<thoughts>": "</thoughts>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[think]": "[/think]",
    "◁think▷": "◁/think▷",
    "<|start_thinking|>": "<|end_thinking|>",
    "<|channel|>analysis<|message|>": "<|end|>",
    "<|channel|>commentary<|message|>": "<|end|>",
}
# What stands before the answer after thoughts, in the templates that have such a mark.
_FINAL_MARKS = (
    "<|start|>assistant<|channel|>final<|message|>",
    "<|channel|>final<|message|>",
    "<|start_response|>",
    "<|start|>assistant",
)

# "<|end|>" ends every message in its template, thoughts or not.
_CLOSING_MARKS = {closing for closing in CLOSING.values() if closing != "<|end|>"}
_TAG = re.compile(
    "|".join(re.escape(tag) for tag in sorted({*CLOSING, *_CLOSING_MARKS}, key=len, reverse=True)), re.IGNORECASE
)
_BLANKS = re.compile(r"\s*")
_QUOTES = ("`", '"', "'")


class Parted(NamedTuple):
    """A text without its thoughts.

    Attributes:
        thoughts: "" where there are none.
        answer: what is left, without white space around; the text itself where there are no thoughts.
        is_open: the thoughts never ended, so that there is no answer: it was cut off, or forgotten.
    """

    thoughts: str
    answer: str
    is_open: bool = False


class Tag(NamedTuple):
    """A mark of thoughts in a text: it opens or closes them."""

    start: int
    end: int
    closing: str | None
    """What closes the thoughts that it opens; None for one that closes them."""


def next_tag(text: str, start: int) -> Tag | None:
    """The first mark of thoughts at or after ``start``; a closing one in quotation marks is only spoken of."""
    for found in _TAG.finditer(text, start):
        closing = CLOSING.get(found[0].lower())
        if closing is not None or text[max(found.start() - 1, 0) : found.start()] not in _QUOTES:
            return Tag(found.start(), found.end(), closing)
    return None


def end_of_thoughts(text: str, closing: str, start: int) -> int | None:
    """Where the thoughts end that were opened before ``start``; None: they do not."""
    found = re.compile(re.escape(closing), re.IGNORECASE).search(text, start)
    return None if found is None else found.end()


def part(text: str) -> Parted:
    """The thoughts at the beginning of ``text``, and the rest.

    Thoughts stand at the beginning, in one block or several; or they end with a closing mark that nothing opened:
    some templates write the opening mark into the question.  Marks further behind are the answer's own.
    """
    at = _after_blanks(text, 0)
    thoughts: list[str] = []
    tag = next_tag(text, at)
    while tag is not None and tag.start == at and tag.closing is not None:
        end = end_of_thoughts(text, tag.closing, tag.end)
        if end is None:
            return Parted(_joined([*thoughts, text[tag.end :]]), "", is_open=True)
        thoughts.append(text[tag.end : end - len(tag.closing)])
        at = _after_final_mark(text, _after_blanks(text, end))
        tag = next_tag(text, at) if tag.end <= at else tag
    if not thoughts:
        if tag is None or tag.closing is not None:
            after = _after_final_mark(text, at)
            return Parted("", text if after == at else text[after:])
        thoughts.append(text[at : tag.start])
        at = _after_final_mark(text, _after_blanks(text, tag.end))
    return Parted(_joined(thoughts), text[at:].strip())


def _after_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    assert found is not None
    return found.end()


def _after_final_mark(text: str, at: int) -> int:
    begin = text[at : at + 80].lower()
    for mark in _FINAL_MARKS:
        if begin.startswith(mark):
            return at + len(mark)
    return at


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(filter(None, (thought.strip() for thought in thoughts)))
