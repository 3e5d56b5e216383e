"""One metric of a run, reduced for a plot in a way that keeps every extreme visible."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ...metrics import count_of, look_into, unpack, values_of
from ...snapshot import Records

# Beyond this, differences and ticks would leave the range of floating point numbers.
_MAX_NUMBER = 1e300

_EVERYTHING = (0, 2**63 - 1)


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


def series(
    records: Records, run_uuid: str, name: str, columns: int, span: tuple[int, int] = _EVERYTHING
) -> list[Point]:
    """The numbers of one metric in a ``span`` of steps, by step.

    Of many, the lowest and the highest in each of as many equal parts of the span as there are ``columns``.
    The first and the last are always among them, so that the plot begins and ends where the metric does.
    """
    found = records.read(
        "SELECT series.number, first_step, last_step, is_in_order FROM series JOIN runs ON runs.number = run"
        " WHERE uuid = ? AND series.name = ?",
        *(run_uuid, name),
    )
    if not found:
        return []
    low, high = max(span[0], found[0]["first_step"]), min(span[1], found[0]["last_step"])
    # Among those that are not packed there may be integers too large for that, which are drawn too.
    has_others = records.read("SELECT 1 FROM others WHERE series = ? LIMIT 1", found[0]["number"])
    is_simple = found[0]["is_in_order"] and not has_others
    if is_simple and count_of(records, run_uuid, name) > 2 * columns:
        rows = records.read("SELECT data FROM points WHERE series = ? ORDER BY number", found[0]["number"])
        parts: Iterable[list[Point]] = _parts((row["data"] for row in rows), low, high, columns)
    else:
        parts = [[point for point in points_of(values_of(records, run_uuid, name)) if low <= point.step <= high]]
    points = [point for part in parts for point in part]
    if len(points) <= 2 * columns:
        return points
    return [points[0], *_extremes(points[1:-1], low, high, columns), points[-1]]


def points_of(found: Iterable[Any]) -> Iterator[Point]:
    """The points among stored values."""
    for number, step, value in found:
        if is_number(value):
            yield Point(step, float(value), number)
        elif isinstance(value, float) and not math.isfinite(value):
            yield Point(step, None, number)


def _parts(packed: Iterable[bytes], low: int, high: int, columns: int) -> Iterator[list[Point]]:
    """The points of packed rows, in order: of what a row has in one column only the lowest and the highest.

    Values are looked at one by one only where a gap or the edge of the span is among them.
    """
    for data in packed:
        numbers, steps, doubles, *_ = look_into(data)
        if steps[-1] < low or steps[0] > high:
            continue
        if not (low < steps[0] and steps[-1] < high and math.isfinite(sum(doubles))):
            yield [point for point in points_of(unpack(data).values()) if low <= point.step <= high]
            continue
        begin, count = 0, len(doubles)
        while begin < count:
            end = _end_of_column(steps, begin, low, high, columns)
            part = doubles[begin:end]
            lowest, highest = min(part), max(part)
            places = sorted({begin + part.index(lowest), begin + part.index(highest)})
            yield [Point(steps[place], doubles[place], numbers[place]) for place in places if is_number(doubles[place])]
            begin = end


def _end_of_column(steps: Sequence[int], begin: int, low: int, high: int, columns: int) -> int:
    """The place after the last one that is in the column of ``begin``."""
    span = max(high - low, 1)
    column = _column(steps[begin], low, high, columns)
    first_of_next = low - (-(column + 1) * span // columns)
    return bisect_left(steps, first_of_next, begin) if steps[-1] >= first_of_next else len(steps)


def _column(step: int, low: int, high: int, columns: int) -> int:
    return (step - low) * columns // max(high - low, 1)


def _extremes(points: list[Point], low: int, high: int, columns: int) -> Iterator[Point]:
    """Of each column the lowest and the highest, and a gap if there is one, in the order of their steps."""
    column: list[Point] = []
    at = -1
    for point in points:
        place = _column(point.step, low, high, columns)
        if place != at and column:
            yield from _of_column(column)
            column = []
        at = place
        column.append(point)
    if column:
        yield from _of_column(column)


def _of_column(column: list[Point]) -> list[Point]:
    numbers = finite(column)
    gaps = [point for point in column if point.value is None][:1]
    if not numbers:
        return gaps
    lowest, highest = min(numbers, key=_value), max(numbers, key=_value)
    return sorted({lowest[0], highest[0], *gaps}, key=_place)


def _place(point: Point) -> tuple[int, int]:
    return point.step, point.number


def _value(pair: tuple[Point, float]) -> float:
    return pair[1]
