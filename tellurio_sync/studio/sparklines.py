"""A metric as one line of text, for the end of a run in a terminal."""

from __future__ import annotations

import math
from pathlib import Path

from .rows import is_number, rows_of_folder

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_MOST = 20


def sparkline(values: list[float], width: int = _WIDTH) -> str:
    """The values as bars, from the lowest to the highest; a gap where there is no finite number."""
    if len(values) > width:
        # Of each equal part the last: what a reader wants to know is where it went.
        values = [values[(place + 1) * len(values) // width - 1] for place in range(width)]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return " " * len(values)
    low, high = min(finite), max(finite)
    span = high / 2 - low / 2  # halves, lest it be infinite
    return "".join(
        (_BARS[0] if not span else _BARS[min(7, int((value / 2 - low / 2) / span * 8))])
        if math.isfinite(value)
        else " "
        for value in values
    )


def summary(folder: Path) -> list[str]:
    """A line for each metric of a run that has numbers, from what is in its journals here."""
    numbers: dict[str, list[float]] = {}
    for row in rows_of_folder(folder):
        if is_number(row["value"]):
            numbers.setdefault(row["name"], []).append(float(row["value"]))
    widest = max((len(name) for name in numbers), default=0)
    lines = [
        f"  {name:<{widest}}  {sparkline(values)}  {values[-1]:.6g}" for name, values in list(numbers.items())[:_MOST]
    ]
    return lines if len(numbers) <= _MOST else [*lines, f"  and {len(numbers) - _MOST} more"]
