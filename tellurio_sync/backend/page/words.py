"""What changed between two texts, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

# A word with the blanks behind it would hide that only a line end changed.
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")

# Comparing takes the product of the two lengths; beyond this, lines are compared, and words in what is left.
_MOST_STEPS = 4_000_000


class Piece(NamedTuple):
    """A part of a text, or of the one before it."""

    kind: Literal["same", "new", "gone"]
    text: str


def compare(before: str, after: str) -> list[Piece]:
    """The pieces of both texts in order: without the gone ones they make ``after``, without the new ones ``before``."""
    return list(_joined(_compare(_TOKEN.findall(before), _TOKEN.findall(after))))


def only_new(pieces: Sequence[Piece]) -> list[Piece]:
    """The later text alone, with what is new in it."""
    return [piece for piece in pieces if piece.kind != "gone"]


def _compare(before: Sequence[str], after: Sequence[str]) -> Iterator[Piece]:
    head = _common(before, after)
    tail = _common(before[head:][::-1], after[head:][::-1])
    yield Piece("same", "".join(after[:head]))
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    if len(old) * len(new) > _MOST_STEPS:
        old, new = "".join(old).splitlines(keepends=True), "".join(new).splitlines(keepends=True)
    if len(old) * len(new) > _MOST_STEPS:
        yield from (Piece("gone", "".join(old)), Piece("new", "".join(new)))
    else:
        for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if tag == "equal":
                yield Piece("same", "".join(old[i:j]))
            else:
                yield from (Piece("gone", "".join(old[i:j])), Piece("new", "".join(new[k:m])))
    yield Piece("same", "".join(after[len(after) - tail :]))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    count = 0
    for a, b in zip(one, other):
        if a != b:
            break
        count += 1
    return count


def _joined(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Without empty pieces; a blank that stayed between two changes belongs to both, which is easier to read."""
    found = [piece for piece in pieces if piece.text]
    gone, new, same = "", "", ""
    for i, piece in enumerate(found):
        is_between = piece.kind == "same" and piece.text == " " and (gone or new) and i + 1 < len(found)
        if piece.kind == "gone":
            gone += piece.text
        elif piece.kind == "new":
            new += piece.text
        elif is_between:
            gone, new = gone + piece.text, new + piece.text
        else:
            yield from (Piece("gone", gone),) if gone else ()
            yield from (Piece("new", new),) if new else ()
            gone = new = ""
            same = piece.text
            yield Piece("same", same)
    yield from (Piece("gone", gone),) if gone else ()
    yield from (Piece("new", new),) if new else ()
