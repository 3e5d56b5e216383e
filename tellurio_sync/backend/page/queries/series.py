"""One metric of a run, thinned out for a plot such that every extreme is still seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ...metrics import values_of
from ..reader import Records

# Beyond this, differences and ticks would leave the range of floating point numbers.
_MAX_NUMBER = 1e300


class Point(NamedTuple):
    """A value of a metric that is a number."""

    step: int
    value: float


def is_number(value: Any) -> bool:
    """Whether a value can be plotted."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MAX_NUMBER < value < _MAX_NUMBER


def series(records: Records, run_uuid: str, name: str, columns: int) -> list[Point]:
    """The numbers of one metric, by step; of many, the lowest and the highest in each of ``columns`` equal spans.

    The first and the last are always among them, so that the plot begins and ends where the metric does.
    """
    values = values_of(records, run_uuid, name)
    points = [Point(step, float(value)) for _, step, value in values if is_number(value)]
    return points if len(points) <= 2 * columns else list(_extremes(points, columns))


def _extremes(points: list[Point], columns: int) -> Iterator[Point]:
    first, last = points[0], points[-1]
    yield first
    inner = points[1:-1]
    for column in _columns(inner, first.step, last.step, columns):
        low, high = min(column, key=_value), max(column, key=_value)
        # In the order of their steps; one point serves where all values are equal.
        yield from dict.fromkeys(sorted((low, high)))
    yield last


def _columns(points: Iterable[Point], first: int, last: int, columns: int) -> Iterator[list[Point]]:
    span = max(last - first, 1)
    column: list[Point] = []
    at = -1
    for point in points:
        place = (point.step - first) * columns // span
        if place != at and column:
            yield column
            column = []
        at = place
        column.append(point)
    if column:
        yield column


def _value(point: Point) -> float:
    return point.value
