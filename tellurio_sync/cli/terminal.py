"""What the commands write: messages, tables and plots as text."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from ..console import one_line

PROGRAM = "tellurio-sync"
# Exit codes; 2, for wrong arguments, is click's.
FAILED, NO_KEY, UNREACHABLE, INTERRUPTED = 1, 4, 5, 130

# Of a plot with its labels; narrower terminals make it narrower.
_PLOT_WIDTH, _PLOT_HEIGHT = 74, 14
# The eight dots of a braille character, by column and row.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800


def say(text: str) -> None:
    """A message of the program itself."""
    click.echo(f"[{PROGRAM}] {text}")


def complain(text: str) -> None:
    """A message about what went wrong, on standard error."""
    click.echo(f"[{PROGRAM}] {text}", err=True)


def show_json(value: Any) -> None:
    """The value as JSON; NaN and infinities, which JSON does not have, as texts."""
    click.echo(json.dumps(_finite(value), indent=2, ensure_ascii=not _is_unicode()))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def columns_of_terminal() -> int | None:
    """How many characters a line of the terminal has; None: the output goes elsewhere, where lines may be long."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int | None = None) -> str:
    """The rows under their heads; columns from ``numbers_from`` on stand to the right."""
    lines = [[one_line(cell) for cell in line] for line in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    is_number = [numbers_from is not None and place >= numbers_from for place in range(len(widths))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in lines
    )


def short(value: Any) -> str:
    """A value of a metric in few characters."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 24 else f"{text[:21]}..."


def plot(name: str, points: Sequence[tuple[int, float]]) -> str:
    """The points, by step, as text; without those that are not finite."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if not finite:
        return f"{one_line(name)}: no finite numbers"
    steps, values = [step for step, _ in finite], [value for _, value in finite]
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    labels = [short(float(high)), short(float(low))]
    margin = max(map(len, labels))
    width = max(10, min(_PLOT_WIDTH, columns_of_terminal() or _PLOT_WIDTH) - margin - 2)
    columns, rows = (2, 4) if _is_unicode() else (1, 1)
    marks: dict[tuple[int, int], int] = {}
    for step, value in finite:
        x = _place(step, first, last, width * columns)
        y = _PLOT_HEIGHT * rows - 1 - _place(value, low, high, _PLOT_HEIGHT * rows)
        cell = (y // rows, x // columns)
        marks[cell] = marks.get(cell, 0) | _DOTS[x % columns][y % rows]
    lines = []
    for row in range(_PLOT_HEIGHT):
        label = labels[0] if row == 0 else labels[1] if row == _PLOT_HEIGHT - 1 else ""
        drawn = "".join(_sign(marks.get((row, column), 0)) for column in range(width)).rstrip()
        lines.append(f"{label:>{margin}} |{drawn}")
    axis = f"{first}{str(last).rjust(width - len(str(first)))}" if first != last else str(first)
    return "\n".join([f"{one_line(name)}  ({len(points)} values)", *lines, f"{'step':>{margin}}  {axis}"])


def _place(value: float, low: float, high: float, places: int) -> int:
    span = high / 2 - low / 2  # halves, because the difference of the two may be infinite
    if not span:
        return places // 2
    return min(places - 1, int((value / 2 - low / 2) / span * places))


def _sign(dots: int) -> str:
    if not dots:
        return " "
    return chr(_BRAILLE + dots) if _is_unicode() else "*"


def _is_unicode() -> bool:
    encoding = getattr(sys.stdout, "encoding", None) or ""
    return encoding.lower().replace("-", "") == "utf8"
