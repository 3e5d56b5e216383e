"""What is kept of full packed rows beside them: the lowest and highest of every few values, and where they are.

With these a plot of a million values is made without a look at most of them.  Rows without an outline are read in full:
the last one of a metric, which still grows, and those that an earlier version wrote.  A row of ``outlines`` belongs to
one of ``points`` (metrics.py) and holds

    byte     flags: the steps are at equal distances (1)
    uint16   count of values
    int64    step of the first value, and the distance from one to the next; 0 unless they are equal
    double   the lowest finite value of each bucket; NaN: it has none.  A bucket is ``BUCKET`` values
    double   the highest of each
    byte     the places of the lowest values in their buckets
    byte     those of the highest
    byte     those of the first NaN or infinity; 255: it has none

All integers are little-endian.  The tables of a database with outlines are those of one without: whoever does not know
of them reads and writes as before.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

TABLE = """
CREATE TABLE IF NOT EXISTS outlines (
    point INTEGER PRIMARY KEY REFERENCES points (number) ON DELETE CASCADE,
    data BLOB NOT NULL
)"""

# Full rows of floats at equal steps hold five of them; small enough for a byte.
BUCKET = 46

_HEAD = struct.Struct("<BHqq")
_REGULAR_STEPS = 1
_NONE = b"\xff"


class Ends(NamedTuple):
    """The lowest and highest finite value of each bucket of some values, NaN where there is none."""

    buckets: list[list[float]]
    lows: list[float]
    highs: list[float]
    gaps: bytes

    @property
    def has_gaps(self) -> bool:
        """Whether there is a NaN or an infinity."""
        return self.gaps.count(_NONE) != len(self.gaps)


def ends_of(values: list[float]) -> Ends:
    """The ends of the values of a row."""
    buckets = [values[begin : begin + BUCKET] for begin in range(0, len(values), BUCKET)]
    # A sum is finite if all are, as a rule, and it is known sooner.
    if math.isfinite(sum(values)):
        return Ends(buckets, list(map(min, buckets)), list(map(max, buckets)), _NONE * len(buckets))
    finite = [list(filter(math.isfinite, part)) or [math.nan] for part in buckets]
    gaps = bytes(map(_first_gap, buckets))
    lows, highs = list(map(min, finite)), list(map(max, finite))
    # Where all are gaps, nobody asks for the place.
    return Ends([part if math.isfinite(low) else [low] for part, low in zip(buckets, lows)], lows, highs, gaps)


def outline(ends: Ends, count: int, first_step: int, step_distance: int | None) -> bytes:
    """The outline of a packed row; a distance of None: the steps are at different ones."""
    buckets, lows, highs, gaps = ends
    flags = 0 if step_distance is None else _REGULAR_STEPS
    places = bytes(map(list.index, buckets, lows)) + bytes(map(list.index, buckets, highs))
    head = _HEAD.pack(flags, count, first_step, step_distance or 0)
    return head + _bytes(array("d", lows + highs)) + places + gaps


def _first_gap(values: list[float]) -> int:
    return next((place for place, value in enumerate(values) if not math.isfinite(value)), _NONE[0])


class Outlines:
    """The outlines of rows that follow each other, as one.

    Attributes:
        begins: per row the place of its first value among those of all rows.
        count: of all values.
        steps: of all values; None unless they are at equal distances.
        has_gaps: whether there is a NaN or an infinity.
        is_even: whether all buckets but the last are of the same size.
    """

    def __init__(self, rows: Iterable[bytes]) -> None:
        self.begins: list[int] = []
        self.is_even: bool = True
        lows, highs, low_places, high_places, gaps = [], [], [], [], []
        starts: list[Sequence[int]] = []
        total = 0
        first, distance, is_regular = 0, 0, True
        for data in rows:
            flags, count, first_step, step_distance = _HEAD.unpack_from(data)
            if not self.begins:
                first, distance = first_step, step_distance
            elif distance == 0 and total == 1:
                distance = first_step - first
            is_regular = is_regular and (
                bool(flags & _REGULAR_STEPS)
                and first_step == first + total * distance
                and (count == 1 or step_distance == distance)
            )
            self.begins.append(total)
            self.is_even = self.is_even and total % BUCKET == 0
            starts.append(range(total, total + count, BUCKET))
            size = -(-count // BUCKET)
            at = _HEAD.size
            lows.append(data[at : at + 8 * size])
            highs.append(data[at + 8 * size : at + 16 * size])
            at += 16 * size
            low_places.append(data[at : at + size])
            high_places.append(data[at + size : at + 2 * size])
            gaps.append(data[at + 2 * size :])
            total += count
        self.count: int = total
        self.steps: range | None = None
        if is_regular and total and (distance or total == 1):
            self.steps = range(first, first + total * (distance or 1), distance or 1)
        self.lows: array[float] = _doubles(lows)
        self.highs: array[float] = _doubles(highs)
        self._low_places, self._high_places, self._gaps = map(b"".join, (low_places, high_places, gaps))
        self.has_gaps: bool = self._gaps.count(_NONE) != len(self._gaps)
        self._starts: Sequence[int] = range(0, total, BUCKET) if self.is_even else list(chain.from_iterable(starts))

    def whole(self, begin: int, end: int) -> tuple[int, int]:
        """Of the buckets that lie from one place up to another as a whole, the first, and the one after the last."""
        first = bisect_left(self._starts, begin)
        last = len(self._starts) if end >= self.count else bisect_right(self._starts, end) - 1
        return first, max(first, last)

    def place(self, bucket: int) -> int:
        """The place of the first value of a bucket; of the one after the last, that after the last value."""
        return self._starts[bucket] if bucket < len(self._starts) else self.count

    def low(self, first: int, last: int) -> tuple[float, int] | None:
        """The lowest value of these buckets, and its place; None without any."""
        found = self._end(self.lows[first:last], min)
        if found is None:
            return None
        bucket = first + found[1]
        return found[0], self._starts[bucket] + self._low_places[bucket]

    def high(self, first: int, last: int) -> tuple[float, int] | None:
        """The highest value of these buckets, and its place; None without any."""
        found = self._end(self.highs[first:last], max)
        if found is None:
            return None
        bucket = first + found[1]
        return found[0], self._starts[bucket] + self._high_places[bucket]

    def _end(self, part: array[float], choose: Callable[[Iterable[float]], float]) -> tuple[float, int] | None:
        numbers: Sequence[float] = [value for value in part if not math.isnan(value)] if self.has_gaps else part
        if not numbers:
            return None
        value = choose(numbers)
        return value, part.index(value)

    def in_columns(self, size: int) -> Iterator[tuple[float, float]]:
        """The lowest and the highest value of every so many buckets, in the order in which they came.

        For lines without gaps.
        """
        lows, highs = self.lows, self.highs
        for begin in range(0, len(lows), size):
            low_part, high_part = lows[begin : begin + size], highs[begin : begin + size]
            low, high = min(low_part), max(high_part)
            at_low, at_high = begin + low_part.index(low), begin + high_part.index(high)
            if (at_low, self._low_places[at_low]) <= (at_high, self._high_places[at_high]):
                yield low, high
            else:
                yield high, low

    def gap(self, first: int, last: int) -> int | None:
        """The place of the first NaN or infinity in these buckets; None without any."""
        if not self.has_gaps:
            return None
        for bucket in range(first, last):
            if self._gaps[bucket] != _NONE[0]:
                return self._starts[bucket] + self._gaps[bucket]
        return None


def _bytes(numbers: array[float]) -> bytes:
    if sys.byteorder == "big":
        numbers = array("d", numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _doubles(parts: list[bytes]) -> array[float]:
    numbers: array[float] = array("d")
    numbers.frombytes(b"".join(parts))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
