"""A metric as one line of text, for the end of a run in a terminal."""

from __future__ import annotations

import math
from pathlib import Path

from ..console import one_line
from ..journal.folder import RunFolder
from .rows import numbers_of_folder

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_LEAST_NAME, _NUMBER = 16, 12  # characters for a name, if it has so many, and for a number
_MOST = 20
# Journals with more than that are not read for it: some 700,000 values, which take a second or two.
_MOST_BYTES = 8 * 2**20


def sparkline(values: list[float], width: int = _WIDTH) -> str:
    """The values as bars, from the lowest to the highest; a gap where there is no finite number."""
    if len(values) > width:
        # Of each equal part the last: what a reader wants to know is where it went.
        values = [values[(place + 1) * len(values) // width - 1] for place in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return " " * len(values)
    low, high = min(finite), max(finite)
    span = high / 2 - low / 2  # halves, because the difference of the two may be infinite
    return "".join(
        (_BARS[0] if not span else _BARS[min(7, int((value / 2 - low / 2) / span * 8))])
        if math.isfinite(value)
        else " "
        for value in values
    )


def summary(folder: Path, columns: int) -> list[str]:
    """A line for each metric of a run that has numbers, from what is in its journals here.

    Args:
        columns: what a line has room for; below 46, lines may be longer.
    """
    run = RunFolder(folder)
    if sum(map(run.size, run.writers())) > _MOST_BYTES:
        return ["  (too many values to draw here; `tellurio-sync show` draws them)"]
    numbers = numbers_of_folder(folder)
    shown = [(one_line(name), values) for name, values in list(numbers.items())[:_MOST]]
    longest = max((len(name) for name, _ in shown), default=0)
    room = columns - _NUMBER - 6  # six blanks between
    width = max(10, min(_WIDTH, room - min(longest, _LEAST_NAME)))
    widest = max(min(longest, room - width), min(longest, _LEAST_NAME))
    lines = [
        f"  {_cut(name, widest):<{widest}}  {sparkline(values, width)}  {values[-1]:.6g}" for name, values in shown
    ]
    return lines if len(numbers) <= _MOST else [*lines, f"  and {len(numbers) - _MOST} more"]


def _cut(name: str, width: int) -> str:
    """The begin and the end of a name: both tell metrics apart."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"
