"""The same metric of several runs on one x axis: steps that all of them share, so that a plot is a small table.

Of lines with steps of their own a plot would make a table itself, with a row for each step of any of them: for a
hundred thinned ones that would be many times as large as what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Any

from ..outlines import BUCKET, Outlines
from ..store import Row
from .plots import rounded
from .queries.series import EVERYTHING, Line, column_begin

# Fewer columns than this share of those that were asked for are too coarse.
_COARSE = 0.75

# In the list of a run: it has no value at this step, and its line goes on. None is a gap.
_MISSING = False


def overlay(lines: Sequence[Line], columns: int, span: tuple[int, int] = EVERYTHING) -> Row:
    """The lines in a span of steps: common steps ``x``, and in ``ys`` per line its values, up to its last one.

    Where all steps together are more than twice the ``columns``, each line has the lowest and the highest value of
    each column, and a gap if there is one, in their order. What is in ``x`` then only says in which column that is, and
    ``columns`` is [begin of the first column, end of the last, number of columns, last step]; else it is None.
    """
    places = [line.within(*span) for line in lines]
    in_buckets = _in_buckets(lines, places, columns)
    if in_buckets is not None:
        return in_buckets
    lines = [line.near(columns, *place) for line, place in zip(lines, places)]
    if all(end - begin <= 2 * columns for begin, end in places):
        keys = [_keys(line.steps[begin:end]) for line, (begin, end) in zip(lines, places)]
        common = sorted(set(chain.from_iterable(keys)))
        if len(common) <= 2 * columns:
            found = [dict(zip(own, _drawn(line.values[slice(*at)]))) for own, line, at in zip(keys, lines, places)]
            ys = [_to_the_last([values.get(key, _MISSING) for key in common]) for values in found]
            return {"x": [step for step, _ in common], "ys": ys, "columns": None}
    return _in_columns(lines, places, columns)


def _keys(steps: Iterable[int]) -> list[tuple[int, int]]:
    """Each step, and how many of the same were before it."""
    keys: list[tuple[int, int]] = []
    for step in steps:
        keys.append((step, keys[-1][1] + 1 if keys and keys[-1][0] == step else 0))
    return keys


def _in_buckets(lines: Sequence[Line], places: list[tuple[int, int]], columns: int) -> Row | None:
    """The same in columns of whole buckets, where that is possible: the values need not be looked at then."""
    steps = next((line.steps for line in lines if len(line.steps)), None)
    if not isinstance(steps, range):
        return None
    outlines: list[Outlines | None] = []
    for line, place in zip(lines, places):
        if not len(line.steps):
            outlines.append(None)
            continue
        own = line.outlines
        is_alike = isinstance(line.steps, range) and line.steps[:2] == steps[:2]
        if own is None or not (is_alike and own.is_even and place == (0, own.count)) or own.has_gaps:
            return None
        outlines.append(own)
    buckets = max(len(own.lows) for own in outlines if own is not None)
    size = max(1, round(buckets / columns))
    count = -(-buckets // size)
    if count < columns * _COARSE:
        return None
    width = BUCKET * size * steps.step
    last = max(line.steps[-1] for line in lines if len(line.steps))
    x = [steps[0] + width * half / 2 for half in range(2 * count)]
    x[-1] = last
    ys = [
        [] if own is None else [rounded(value) for pair in own.in_columns(size) for value in pair] for own in outlines
    ]
    return {"x": x, "ys": ys, "columns": [steps[0], steps[0] + width * count, count, last]}


def _in_columns(lines: Sequence[Line], places: list[tuple[int, int]], columns: int) -> Row:
    ends = [(line.steps[begin], line.steps[end - 1]) for line, (begin, end) in zip(lines, places) if begin < end]
    low, high = min(first for first, _ in ends), max(last for _, last in ends)
    begins = [column_begin(column, low, high, columns) for column in range(1, columns)]
    known: dict[Any, list[int]] = {}
    parts = []
    for line, (begin, end) in zip(lines, places):
        # Runs that were made alike have the same steps.
        steps = line.steps if isinstance(line.steps, range) else id(line)
        edges = known.get((steps, begin, end))
        if edges is None:
            inner = [line.before(step, begin, end) for step in begins]
            edges = known[steps, begin, end] = [begin, *inner, end]
        parts.append([_extremes(line, *pair) for pair in pairwise(edges)])
    x: list[float] = []
    ys: list[list[Any]] = [[] for _ in lines]
    for column, found in enumerate(zip(*parts)):
        size = max(map(len, found))
        x += [low + (high - low) * (column + i / size) / columns for i in range(size)]
        for y, values in zip(ys, found):
            y += values
            y += [_MISSING] * (size - len(values))
    # So that the plot ends where the last metric does.
    x[-1] = max(x[-1], high)
    return {"x": x, "ys": [_to_the_last(y) for y in ys], "columns": [low, high, columns, high]}


def _extremes(line: Line, begin: int, end: int) -> list[float | None]:
    if line.has_gaps or begin == end or line.outlines is not None:
        return _drawn(line.value(place) for place in line.extremes(begin, end))
    # The same with less to do: it is done for each column of each run.
    part = line.values[begin:end]
    low, high = min(part), max(part)
    if low == high:
        return [rounded(low)]
    return [rounded(low), rounded(high)] if part.index(low) < part.index(high) else [rounded(high), rounded(low)]


def _drawn(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else rounded(value) for value in values]


def _to_the_last(values: list[Any]) -> list[Any]:
    end = len(values)
    while end and values[end - 1] is _MISSING:
        end -= 1
    return values[:end]
