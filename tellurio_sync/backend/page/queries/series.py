"""One metric of a run, reduced for a plot in a way that keeps every extreme visible."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ...metrics import count_of, unpack, values_of
from ..reader import Records

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
        parts = [[point for point in _points(values_of(records, run_uuid, name)) if low <= point.step <= high]]
    points = [point for part in parts for point in part]
    if len(points) <= 2 * columns:
        return points
    return [points[0], *_extremes(points[1:-1], low, high, columns), points[-1]]


def _points(found: Iterable[Any]) -> Iterator[Point]:
    for number, step, value in found:
        if is_number(value):
            yield Point(step, float(value), number)
        elif isinstance(value, float) and not math.isfinite(value):
            yield Point(step, None, number)


def _parts(packed: Iterable[bytes], low: int, high: int, columns: int) -> Iterator[list[Point]]:
    """The points of packed rows in order; of a row that is all in one column only its extremes.

    A row holds hundreds of numbers, so that of a million only thousands are ever looked at one by one.
    """
    for data in packed:
        block = unpack(data)
        first, last = block.steps[0], block.steps[-1]
        if last < low or first > high:
            continue
        at, until = _column(first, low, high, columns), _column(last, low, high, columns)
        is_inside = low < first and last < high
        if at == until and is_inside and is_number(sum(map(abs, block.doubles))):
            places = {block.doubles.index(min(block.doubles)), block.doubles.index(max(block.doubles))}
            yield [Point(block.steps[place], block.doubles[place], block.numbers[place]) for place in sorted(places)]
        else:
            yield [point for point in _points(block.values()) if low <= point.step <= high]


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
