"""The difference between two texts, word by word."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

# A word with the blanks behind it would hide that only a line end changed.
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")

# Comparing takes the product of the two lengths; beyond this, all is taken as another.
_MOST_STEPS = 4_000_000


class Piece(NamedTuple):
    """A part of a text, or of the one before it."""

    kind: Literal["same", "new", "gone"]
    text: str


Difference = Callable[[Sequence[str], Sequence[str]], Iterator[Piece]]


def compare(before: str, after: str) -> list[Piece]:
    """The pieces of both texts in order: without the gone ones they make ``after``, without the new ones ``before``."""
    return list(_joined(_compare(before.splitlines(keepends=True), after.splitlines(keepends=True), _lines)))


def only_new(pieces: Sequence[Piece]) -> list[Piece]:
    """Only the later text, with its new parts marked."""
    return [piece for piece in pieces if piece.kind != "gone"]


def _lines(before: Sequence[str], after: Sequence[str]) -> Iterator[Piece]:
    """Line by line, and word by word in lines that became others: so a new line is one, not the halves of two."""
    for is_same, old, new in _blocks(before, after):
        if is_same:
            yield Piece("same", "".join(new))
        else:
            yield from _compare(_TOKEN.findall("".join(old)), _TOKEN.findall("".join(new)), _words)


def _words(before: Sequence[str], after: Sequence[str]) -> Iterator[Piece]:
    for is_same, old, new in _blocks(before, after):
        if is_same:
            yield Piece("same", "".join(new))
        else:
            yield from (Piece("gone", "".join(old)), Piece("new", "".join(new)))


def _blocks(before: Sequence[str], after: Sequence[str]) -> Iterator[tuple[bool, Sequence[str], Sequence[str]]]:
    if len(before) * len(after) > _MOST_STEPS:
        yield False, before, after
        return
    for tag, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        yield tag == "equal", before[i:j], after[k:m]


def _compare(before: Sequence[str], after: Sequence[str], difference: Difference) -> Iterator[Piece]:
    """What both have at their ends is taken off first: it is most of a text, and quickly found."""
    head = _common(before, after)
    tail = _common(before[head:][::-1], after[head:][::-1])
    yield Piece("same", "".join(after[:head]))
    yield from difference(before[head : len(before) - tail], after[head : len(after) - tail])
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
