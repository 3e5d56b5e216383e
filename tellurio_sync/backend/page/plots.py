"""The data of plots, reduced to what can be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..snapshot import Records
from ..store import Row
from .direction import is_lower_better
from .queries.metrics import count_of_values, last_values
from .queries.series import Point, finite, series
from .queries.times import times
from .render import number

if TYPE_CHECKING:
    from .story import Marks

VALUES_IN_TABLE = 50

# Of all plots of a page together: more would make the page larger than what can be seen of it.
_POINTS_PER_PAGE = 12_000
_MOST_COLUMNS, _FEWEST_COLUMNS = 500, 60


def plots(records: Records, run: Row, names: list[str], path: str, marks: Marks) -> list[Row]:
    """One plot per metric of a run, with the versions of its prompts as marks and its last values as a table."""
    columns = columns_for(len(names))
    return [_plot(records, run, name, columns, path, marks) for name in names]


def columns_for(lines: int) -> int:
    """The number of spans to which each of this many lines is reduced."""
    return min(max(_POINTS_PER_PAGE // (2 * max(lines, 1)), _FEWEST_COLUMNS), _MOST_COLUMNS)


def _plot(records: Records, run: Row, name: str, columns: int, path: str, marks: Marks) -> Row:
    rows = last_values(records, run["uuid"], name, VALUES_IN_TABLE)
    total = count_of_values(records, run["uuid"], name)
    points = series(records, run["uuid"], name, columns)
    is_thinned = total > 2 * columns
    line = {**line_of(run["name"], points), "marks": marks.on(points)}
    data = {"name": name, "runs": [line], "isThinned": is_thinned, "path": path}
    return {
        "name": name,
        "rows": rows,
        "total": total,
        "is_thinned": is_thinned,
        "now": number(finite(points)[-1][1]) if finite(points) else "",
        "best": _best(name, points, marks),
        "in_words": in_words(name, points),
        "data": data if finite(points) else None,
    }


def _best(name: str, points: list[Point], marks: Marks) -> dict[str, Any] | None:
    """The first of the best values, and the versions of prompts that it belongs to; None where all are the same."""
    numbers = finite(points)
    if len({value for _, value in numbers}) < 2:
        return None
    is_lower = is_lower_better(name)
    best = (min if is_lower else max)(value for _, value in numbers)
    point = next(point for point, value in numbers if value == best)
    return {
        "end": "lowest" if is_lower else "highest",
        "value": best,
        "step": point.step,
        "versions": marks.in_force(point.number),
    }


def line_of(label: str, points: list[Point]) -> dict[str, Any]:
    """One line of a plot, as the script wants it."""
    return {"label": label, "x": [point.step for point in points], "y": [_rounded(point.value) for point in points]}


def axes_of(records: Records, run: Row, points: list[Point], marks: Marks) -> dict[str, Any]:
    """What else may be along the x axis: time ("t"), and the version of the prompt ("v"); None for neither."""
    return {"t": times(records, run["uuid"], points), "v": marks.axis(points) if points else None}


def _rounded(value: float | None) -> float | None:
    # More digits cannot be seen, and would be half of the page.
    return None if value is None else float(f"{value:.7g}")


def in_words(name: str, points: list[Point]) -> str:
    """The text for a line that a screen reader reads."""
    numbers = finite(points)
    if not numbers:
        return f"{name}: no numbers"
    values = [value for _, value in numbers]
    first, last = numbers[0][0], numbers[-1][0]
    return (
        f"{name}: {number(values[0])} at step {first.step}, {number(values[-1])} at step {last.step}; "
        f"lowest {number(min(values))}, highest {number(max(values))}"
    )
