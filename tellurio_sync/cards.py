"""Small pieces of HTML for notebooks: cards and plots, without scripts, in a light and a dark theme.

Plain values in, text out: nothing here waits, or knows what it shows. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

_BOX = "border:1px solid rgba(128,128,128,.4);border-radius:6px;padding:.5em .8em;max-width:46em"
_FAINT = "opacity:.65"
_TEXT = "white-space:pre-wrap;margin:.3em 0"
_CELL = "text-align:left;padding:0 1em 0 0;border:none;background:none"

_MOST_CHARS = 600
_MOST_ITEMS = 5
_WIDTH, _HEIGHT = 160, 36


def escape(text: object) -> str:
    """The text as HTML, with no character that ends an attribute or a comment."""
    from html import escape as escaped

    return escaped(str(text), quote=True)


def card(title: str, about: str, parts: Iterable[str], foot: str = "") -> str:
    """A box.

    Args:
        title, about, foot: plain texts; an empty one is left out.
        parts: pieces of HTML.
    """
    head = f"<b>{escape(title)}</b>" + (f' <span style="{_FAINT}">{escape(about)}</span>' if about else "")
    end = f'<div style="{_FAINT}">{escape(foot)}</div>' if foot else ""
    return f'<div style="{_BOX}">{head}{"".join(parts)}{end}</div>'


def text_block(data: object) -> str:
    """Data as a person reads it: of a long text the beginning, of a list the first five items."""
    if isinstance(data, (list, tuple)):
        items = "".join(f"<li>{escape(_short(item))}</li>" for item in data[:_MOST_ITEMS])
        left = len(data) - _MOST_ITEMS
        more = f'<div style="{_FAINT}">and {left:,} more</div>' if left > 0 else ""
        return f'<ol start="0" style="{_TEXT}">{items}</ol>{more}'
    return f'<div style="{_TEXT}">{escape(_short(data))}</div>'


def table(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values."""
    lines = "".join(
        f'<tr style="background:none"><td style="{_CELL};{_FAINT}">{escape(name)}</td>'
        f'<td style="{_CELL}">{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table style="margin:.3em 0;border:none">{lines}</table>'


def grid(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A table with a heading for each column; numbers stand at the right."""

    def cell(tag: str, value: object) -> str:
        style = f"{_CELL};text-align:right" if isinstance(value, (int, float)) else _CELL
        return f'<{tag} style="{style}">{escape(f"{value:,}" if isinstance(value, int) else value)}</{tag}>'

    first = "".join(cell("th", name) for name in head)
    lines = "".join(f'<tr style="background:none">{"".join(cell("td", one) for one in row)}</tr>' for row in rows)
    return f'<table style="margin:.3em 0;border:none"><tr style="{_FAINT}">{first}</tr>{lines}</table>'


def link(address: str, text: str = "") -> str:
    """A link that opens beside the notebook."""
    return f'<a href="{escape(address)}" target="_blank" rel="noopener">{escape(text or address)}</a>'


def plot(name: str, values: Sequence[float]) -> str:
    """The values over their order as a small line, with the last one beside it; NaN and infinities are gaps."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return f"<div>{escape(name)}: no number</div>"
    low, high = min(finite), max(finite)
    # Halves, so that the difference of the largest numbers is no infinity.
    span = high / 2 - low / 2
    pieces: list[list[str]] = [[]]
    for place, value in enumerate(values):
        if not math.isfinite(value):
            pieces.append([])
            continue
        x = 2 + (_WIDTH - 4) * place / max(1, len(values) - 1)
        y = _HEIGHT / 2 if not span else 2 + (_HEIGHT - 4) * (1 - (value / 2 - low / 2) / span)
        pieces[-1].append(f"{x:.1f},{y:.1f}")
    lines = "".join(
        f'<polyline points="{" ".join(points if len(points) > 1 else points * 2)}" fill="none" stroke="currentColor" '
        'stroke-width="1.5" stroke-linecap="round"/>'
        for points in pieces
        if points
    )
    title = f"{name}: {len(values)} values, from {low:.6g} to {high:.6g}"
    return (
        f'<div style="display:inline-block;margin:.3em 1em .3em 0"><svg width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{lines}</svg>'
        f"<div>{escape(name)} <b>{values[-1]:.6g}</b></div></div>"
    )


def _short(data: object) -> str:
    text = data if isinstance(data, str) else str(data)
    left = len(text) - _MOST_CHARS
    return text if left <= 0 else f"{text[:_MOST_CHARS]} … ({left:,} more characters)"
