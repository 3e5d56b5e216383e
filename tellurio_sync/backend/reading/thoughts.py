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
    rest = text.lstrip()
    thoughts: list[str] = []
    while (tag := next_tag(rest, 0)) is not None and tag.start == 0 and tag.closing is not None:
        end = end_of_thoughts(rest, tag.closing, tag.end)
        if end is None:
            return Parted(_joined([*thoughts, rest[tag.end :]]), "", is_open=True)
        thoughts.append(rest[tag.end : end - len(tag.closing)])
        rest = _without_final_mark(rest[end:].lstrip())
    if not thoughts:
        unopened = next_tag(rest, 0)
        if unopened is None or unopened.closing is not None:
            final = _without_final_mark(rest)
            return Parted("", text if final is rest else final)
        thoughts.append(rest[: unopened.start])
        rest = _without_final_mark(rest[unopened.end :].lstrip())
    return Parted(_joined(thoughts), rest.strip())


def _without_final_mark(text: str) -> str:
    lowered = text[:80].lower()
    for mark in _FINAL_MARKS:
        if lowered.startswith(mark):
            return text[len(mark) :]
    return text


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(filter(None, (thought.strip() for thought in thoughts)))
