"""The output of the demo: plain text tables, at most 90 columns wide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap

WIDTH = 90


def title(text: str) -> str:
    """A heading with a line under it."""
    return f"\n{text}\n{'-' * len(text)}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns under their heads: the first to the left, the others to the right."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "   ".join(
            cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(line, widths))
        )
        for line in lines
    )


def share(value: float) -> str:
    """A share as a percentage."""
    return f"{value:.1%}"


def gain(before: float, after: float) -> str:
    """The difference of two shares, in percentage points."""
    return f"{100 * (after - before):+.1f}"


def excerpt(text: str, lines: int = 30) -> str:
    """The first ``lines`` of a text, long ones broken at blanks, and how many lines were left out."""
    every = [part for line in text.splitlines() for part in wrap(line, WIDTH, subsequent_indent="  ") or [""]]
    shown = every[:lines]
    if len(every) > lines:
        shown.append(f"... and {len(every) - lines} more lines")
    return "\n".join(shown)
