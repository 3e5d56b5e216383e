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
from ...snapshot import Records

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
    """

    steps: Sequence[int]
    values: array[float]
    low: float | None
    high: float | None
    has_gaps: bool
    number: Callable[[int], int]

    @property
    def ends(self) -> tuple[Point, Point] | None:
        """The first and the last point that are no gaps; None where all are."""
        places = range(len(self.values))
        first = next((place for place in places if not math.isnan(self.values[place])), None)
        if first is None:
            return None
        return self.point(first), self.point(next(at for at in reversed(places) if not math.isnan(self.values[at])))

    def point(self, place: int) -> Point:
        """The value at a place."""
        value = self.values[place]
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
        part = self.values[begin:end]
        if not part:
            return []
        if not self.has_gaps or math.isfinite(sum(part)):
            low, high = part.index(min(part)), part.index(max(part))
            return [begin + low] if low == high else [begin + min(low, high), begin + max(low, high)]
        places = [place for place, value in enumerate(part, begin) if not math.isnan(value)]
        found = {next(place for place, value in enumerate(part, begin) if math.isnan(value))}
        if places:
            found |= {min(places, key=self.values.__getitem__), max(places, key=self.values.__getitem__)}
        return sorted(found)


def line_of(records: Records, run_uuid: str, name: str) -> Line:
    """All of one metric that can be drawn.

    Values are looked at one by one only where some are no numbers, are too large, or did not come by step.
    """
    found = records.read(
        "SELECT series.number, is_in_order, low, high FROM series JOIN runs ON runs.number = run"
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
    rows = records.read("SELECT data FROM points WHERE series = ? ORDER BY number", row["number"])
    packed = metrics.Line(one["data"] for one in rows)
    values, has_gaps = packed.doubles, not math.isfinite(sum(packed.doubles))
    if has_gaps:
        values = array("d", [value if math.isfinite(value) else math.nan for value in values])
    return Line(packed.steps, values, row["low"], row["high"], has_gaps, packed.number)


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
