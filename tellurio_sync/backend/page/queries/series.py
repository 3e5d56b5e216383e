"""One metric of a run, reduced for a plot in a way that keeps every extreme visible."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ... import metrics
from ...metrics import values_of
from ...outlines import BUCKET, Outlines
from ...snapshot import Records, Row
from .tables import has_table

# From so many values on, not all are read.
_MANY = 1_000

# Beyond this, differences and ticks would leave the range of floating point numbers.
_MAX_NUMBER = 1e300

EVERYTHING = (0, 2**63 - 1)


class Point(NamedTuple):
    """A value of a metric that is a number; None where it is NaN or infinite: there, a line has a gap."""

    step: int
    value: float | None
    # Its place among all values of the run: what came before it, and what after.
    number: int


def is_number(value: Any) -> bool:
    """Whether a value can be plotted."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MAX_NUMBER < value < _MAX_NUMBER


def finite(points: Iterable[Point]) -> list[tuple[Point, float]]:
    """The points that have a value, each with it."""
    return [(point, point.value) for point in points if point.value is not None]


def values(records: Records, run_uuid: str, name: str) -> list[tuple[int, Any]]:
    """Step and value of everything that was logged under one name, by step."""
    return [(step, value) for _, step, value in values_of(records, run_uuid, name)]


@dataclass(frozen=True)
class Line:
    """What can be drawn of a metric of a run, by step.

    Attributes:
        steps: of the values, which never fall.
        values: numbers that can be drawn; NaN is a gap.
        low: the lowest; None without any.
        high: the highest.
        has_gaps: whether there are gaps.
        number: the number of the value at a place.
        outlines: of the values, where these are read as they are asked for.
        load: gives the same with all values at hand.
    """

    steps: Sequence[int]
    values: array[float] | metrics.LazyLine
    low: float | None
    high: float | None
    has_gaps: bool
    number: Callable[[int], int]
    outlines: Outlines | None = None
    load: Callable[[], Line] | None = None

    @property
    def ends(self) -> tuple[Point, Point] | None:
        """The first and the last point that are no gaps; None where all are."""
        places = range(len(self.values))
        first = next((place for place in places if not math.isnan(self.value(place))), None)
        if first is None:
            return None
        return self.point(first), self.point(next(at for at in reversed(places) if not math.isnan(self.value(at))))

    def value(self, place: int) -> float:
        """The value at a place; NaN is a gap."""
        return self.values.value(place) if isinstance(self.values, metrics.LazyLine) else self.values[place]

    def point(self, place: int) -> Point:
        """The value at a place."""
        value = self.value(place)
        return Point(self.steps[place], None if math.isnan(value) else value, self.number(place))

    def within(self, low: int, high: int) -> tuple[int, int]:
        """The places of the values from one step to another: the first one, and the one after the last."""
        begin = bisect_left(self.steps, low)
        return begin, bisect_right(self.steps, high, begin)

    def before(self, step: int, begin: int, end: int) -> int:
        """The first place from ``begin`` on whose step is not before this one; ``end`` at most."""
        return bisect_left(self.steps, step, begin, end)

    def extremes(self, begin: int, end: int) -> list[int]:
        """Of the values from one place up to another the places of the lowest, the highest, and the first gap."""
        if self.outlines is not None:
            first, last = self.outlines.whole(begin, end)
            if first < last:
                return self._outlined(self.outlines, begin, end, first, last)
        part = self.values[begin:end]
        if not part:
            return []
        if not self.has_gaps or math.isfinite(sum(part)):
            low, high = part.index(min(part)), part.index(max(part))
            return [begin + low] if low == high else [begin + min(low, high), begin + max(low, high)]
        numbers = [value for value in part if not math.isnan(value)]
        found = {next(place for place, value in enumerate(part, begin) if math.isnan(value))}
        if numbers:
            found |= {begin + part.index(min(numbers)), begin + part.index(max(numbers))}
        return sorted(found)

    def _outlined(self, outlines: Outlines, begin: int, end: int, first: int, last: int) -> list[int]:
        """The same, where the buckets from one up to another lie within: only what is beside these is looked at."""
        before, after = outlines.place(first), outlines.place(last)
        places = [
            *self.extremes(begin, before),
            *(found[1] for found in (outlines.low(first, last), outlines.high(first, last)) if found is not None),
            *self.extremes(after, end),
        ]
        values = [(self.value(place), place) for place in sorted(places)]
        numbers = [pair for pair in values if not math.isnan(pair[0])]
        gaps = [place for value, place in values if math.isnan(value)]
        gap = outlines.gap(first, last)
        if gap is not None:
            gaps.append(gap)
        found = {min(gaps)} if gaps else set()
        if numbers:
            found |= {min(numbers, key=_first)[1], max(numbers, key=_first)[1]}
        return sorted(found)

    def place_of(self, value: float) -> int:
        """The first place of the lowest value, or of the highest."""
        if self.outlines is None or not isinstance(self.values, metrics.LazyLine):
            return self.values[:].index(value)
        choose = self.outlines.low if value == self.low else self.outlines.high
        found = choose(*self.outlines.whole(0, self.outlines.count))
        assert found is not None
        return found[1]

    def near(self, columns: int, begin: int, end: int) -> Line:
        """The same, with all values at hand where that is quicker: for so many columns from one place up to another."""
        return self.load() if self.load is not None and end - begin < columns * _FEW else self


def _first(pair: tuple[float, int]) -> float:
    return pair[0]


# Values per column, up to which their outlines do not help.
_FEW = 4 * BUCKET


def line_of(records: Records, run_uuid: str, name: str) -> Line:
    """All of one metric that can be drawn.

    Values are looked at one by one only where some are no numbers, are too large, or did not come by step.
    """
    found = records.read(
        "SELECT series.number, is_in_order, low, high, count FROM series JOIN runs ON runs.number = run"
        " WHERE uuid = ? AND series.name = ?",
        *(run_uuid, name),
    )
    if not found:
        return _line([])
    row = found[0]
    # Among those that are not packed there may be integers too large for that, which are drawn too.
    has_others = records.read("SELECT 1 FROM others WHERE series = ? LIMIT 1", row["number"])
    if has_others or not (row["is_in_order"] and is_number(row["low"]) and is_number(row["high"])):
        return _line(list(points_of(values_of(records, run_uuid, name))))
    if row["count"] >= _MANY and has_table(records, "outlines"):
        return _outlined_line(records, row)
    return _whole_line(records, row)


def _whole_line(records: Records, row: Row) -> Line:
    rows = records.read("SELECT data FROM points WHERE series = ? ORDER BY number", row["number"])
    packed = metrics.Line(one["data"] for one in rows)
    values, has_gaps = packed.doubles, not math.isfinite(sum(packed.doubles))
    if has_gaps:
        values = metrics.without_infinities(values)
    return Line(packed.steps, values, row["low"], row["high"], has_gaps, packed.number)


def _outlined_line(records: Records, row: Row) -> Line:
    rows = records.read(
        "SELECT points.number, outlines.data FROM points LEFT JOIN outlines ON point = points.number"
        " WHERE series = ? ORDER BY points.number",
        row["number"],
    )

    def read(index: int) -> bytes:
        found: bytes = records.read("SELECT data FROM points WHERE number = ?", rows[index]["number"])[0]["data"]
        return found

    outlines = Outlines(one["data"] or metrics.outline_of(read(index)) for index, one in enumerate(rows))
    if outlines.steps is None:
        return _whole_line(records, row)
    values = metrics.LazyLine(read, outlines.begins, outlines.count, has_gaps=outlines.has_gaps)
    return Line(
        *(outlines.steps, values, row["low"], row["high"], outlines.has_gaps, values.number),
        outlines=outlines,
        load=lambda: _whole_line(records, row),
    )


def _line(points: list[Point]) -> Line:
    values = array("d", [math.nan if point.value is None else point.value for point in points])
    steps = array("q", [point.step for point in points])
    numbers = [value for value in values if not math.isnan(value)]
    return Line(
        *(steps, values, min(numbers, default=None), max(numbers, default=None)),
        has_gaps=len(numbers) < len(values),
        number=lambda place: points[place].number,
    )


def series(records: Records, run_uuid: str, name: str, columns: int, span: tuple[int, int] = EVERYTHING) -> list[Point]:
    """The numbers of one metric in a ``span`` of steps, by step; see :func:`thinned`."""
    return thinned(line_of(records, run_uuid, name), columns, span)


def thinned(line: Line, columns: int, span: tuple[int, int] = EVERYTHING) -> list[Point]:
    """The points of a line in a ``span`` of steps.

    Of many, the lowest and the highest in each of as many equal parts of the span as there are ``columns``.
    The first and the last are always among them, so that the plot begins and ends where the metric does.
    """
    begin, end = line.within(*span)
    if end - begin <= 2 * columns:
        return [line.point(place) for place in range(begin, end)]
    line = line.near(columns, begin, end)
    low, high = max(span[0], line.steps[0]), min(span[1], line.steps[-1])
    places = [begin]
    at = begin + 1
    for column in range(columns + 1):
        # The last of all stands alone.
        until = line.before(column_begin(column + 1, low, high, columns), at, end - 1)
        places += line.extremes(at, until)
        at = until
    return [line.point(place) for place in (*places, end - 1)]


def column_begin(column: int, low: int, high: int, columns: int) -> int:
    """The first step of a column; that of the one after the last is ``high``."""
    return low - (-column * max(high - low, 1) // columns)


def points_of(found: Iterable[Any]) -> Iterator[Point]:
    """The points among stored values."""
    for number, step, value in found:
        if is_number(value):
            yield Point(step, float(value), number)
        elif isinstance(value, float) and not math.isfinite(value):
            yield Point(step, None, number)
