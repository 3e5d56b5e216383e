"""The data of plots, reduced to what can be seen.

A page holds the data of its first plots. What is further down is fetched when a reader comes there: a page of many
metrics would else be made, sent and read for what nobody may look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..snapshot import Records
from ..store import Row
from .direction import is_lower_better
from .queries.metrics import count_of_values, last_values
from .queries.series import EVERYTHING, Line, line_of, thinned
from .queries.times import times
from .render import number

if TYPE_CHECKING:
    from .story import Marks

VALUES_IN_TABLE, _FEWEST_IN_TABLE = 50, 10
# Of all tables of a page together.
ROWS_IN_PAGE = 200

# Of all plots of a page together, and of those whose data is in the page: more is not seen at first.
_POINTS_PER_PAGE, POINTS_IN_PAGE = 12_000, 4_000
_MOST_COLUMNS, _FEWEST_COLUMNS = 500, 60


def plots(
    records: Records, run: Row, names: list[str], path: str, marks: Marks, *, is_whole: bool = False
) -> list[Row]:
    """One plot per metric of a run, with the versions of its prompts as marks and its last values as a table.

    ``is_whole``: with all data and all axes, for a page that cannot ask for more.
    """
    columns = columns_for(len(names))
    rows = min(max(ROWS_IN_PAGE // max(len(names), 1), _FEWEST_IN_TABLE), VALUES_IN_TABLE)
    found, points = [], 0
    for name in names:
        line = line_of(records, run["uuid"], name)
        size = min(len(line.values), 2 * columns)
        is_here = is_whole or points + size <= POINTS_IN_PAGE
        points += size if is_here else 0
        data: Row = {"name": name, "path": path}
        if is_here:
            data.update(drawn(records, run, line, marks, columns, axes=("t", "v") if is_whole else ()))
        else:
            data["runs"] = [{"label": run["name"]}]
        found.append(
            {
                "name": name,
                "rows": last_values(records, run["uuid"], name, rows),
                "total": count_of_values(records, run["uuid"], name),
                "is_thinned": len(line.values) > 2 * columns,
                "now": number(line.ends[1].value) if line.ends else "",
                "best": _best(name, line, marks),
                "in_words": in_words(name, line),
                "data": data if line.ends else None,
            }
        )
    return found


def columns_for(lines: int) -> int:
    """The number of spans to which each of this many lines is reduced."""
    return min(max(_POINTS_PER_PAGE // (2 * max(lines, 1)), _FEWEST_COLUMNS), _MOST_COLUMNS)


def drawn(
    records: Records,
    run: Row,
    line: Line,
    marks: Marks,
    columns: int,
    span: tuple[int, int] = EVERYTHING,
    axes: Sequence[str] = (),
) -> Row:
    """What the script needs to draw one metric of one run.

    ``axes``: what else may be along x: time ("t"), and the version of the prompt ("v"); None where that is not known.
    """
    points = thinned(line, columns, span)
    one = {"label": run["name"], "y": [None if point.value is None else rounded(point.value) for point in points]}
    one["marks"] = marks.on(points)
    if "t" in axes:
        one["t"] = times(records, run["uuid"], points)
    if "v" in axes:
        one["v"] = marks.axis(points) if points else None
    return {"x": [point.step for point in points], "runs": [one], "isThinned": len(line.values) > 2 * columns}


def _best(name: str, line: Line, marks: Marks) -> dict[str, Any] | None:
    """The first of the best values, and the versions of prompts that it belongs to; None where all are the same."""
    is_lower = is_lower_better(name)
    best = line.low if is_lower else line.high
    if best is None or line.low == line.high:
        return None
    place = line.place_of(best)
    return {
        "end": "lowest" if is_lower else "highest",
        "value": best,
        "step": line.steps[place],
        "versions": marks.in_force(line.number(place)),
    }


def rounded(value: float) -> float:
    """A number with one digit more than what a plot tells of it: all of them would be half of the page."""
    return float(f"{value:.6g}")


def in_words(name: str, line: Line) -> str:
    """The text for a line that a screen reader reads."""
    if not line.ends:
        return f"{name}: no numbers"
    first, last = line.ends
    return (
        f"{name}: {number(first.value)} at step {first.step}, {number(last.value)} at step {last.step}; "
        f"lowest {number(line.low)}, highest {number(line.high)}"
    )
