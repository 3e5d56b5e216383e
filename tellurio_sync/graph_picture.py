"""A computation as a picture: functions, the Variables that they take and give, feedback on the way back.

Plain values in, text out: SVG that needs nothing else, or DOT for Graphviz.  Nodes are in rows, each below everything
from which it was computed, and within a row close to the nodes to which it is connected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

_ROW, _GAP, _HEIGHT, _MARGIN = 108, 28, 46, 16
_CHAR_WIDTH, _MOST_CHARS, _LEAST_WIDTH = 7.4, 30, 84
_SWEEPS = 4


@dataclass(frozen=True)
class Box:
    """A node of the picture.

    Attributes:
        key: names it in arrows.
        kind: what it is.
        label: its first line.
        text: its second line, and all of it as the tooltip.
    """

    key: str
    kind: Literal["function", "parameter", "variable"]
    label: str
    text: str = ""


@dataclass(frozen=True)
class Arrow:
    """An arrow from what was given to what took it.

    Attributes:
        feedback: what came back along it, "" for nothing.
    """

    source: str
    target: str
    feedback: str = ""


@dataclass(frozen=True)
class Graph:
    """The picture of a computation. Shown by notebooks; ``str()`` is the SVG.

    Attributes:
        boxes: its nodes.
        arrows: between them; arrows to or from a missing node are left out.
        left_out: how many nodes the picture leaves out because they are too many.
    """

    boxes: Sequence[Box]
    arrows: Sequence[Arrow]
    left_out: int = 0

    @property
    def svg(self) -> str:
        """The picture as SVG, which takes the colour of the text around it."""
        return to_svg(self.boxes, self.arrows, self.left_out)

    @property
    def dot(self) -> str:
        """The graph in the language of Graphviz."""
        return to_dot(self.boxes, self.arrows)

    def __str__(self) -> str:
        return self.svg

    def _repr_svg_(self) -> str:
        return self.svg


def to_svg(boxes: Sequence[Box], arrows: Sequence[Arrow], left_out: int = 0) -> str:
    """The picture as SVG, without style sheets and scripts; feedback is written on the arrows."""
    boxes = list({box.key: box for box in boxes}.values())
    known = {box.key for box in boxes}
    arrows = [arrow for arrow in arrows if arrow.source in known and arrow.target in known]
    places, width, height = _places(boxes, arrows)
    parts = [_arrow(arrow, places) for arrow in arrows] + [_box(box, *places[box.key]) for box in boxes]
    if left_out:
        height += 24
        parts.append(f'<text x="{_MARGIN}" y="{height - 10:.0f}" font-size="12">… and {left_out} more nodes</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' width="{width:.0f}" height="{height:.0f}" role="img" aria-label="Graph of {len(boxes)} nodes"'
        ' font-family="system-ui, sans-serif" font-size="13" fill="currentColor">' + "".join(parts) + "</svg>"
    )


def to_dot(boxes: Sequence[Box], arrows: Sequence[Arrow]) -> str:
    """The graph in the language of Graphviz."""
    numbers = {box.key: f"n{i}" for i, box in enumerate({box.key: box for box in boxes}.values())}
    lines = ["digraph {", "  node [fontname=sans];"]
    shapes = {"function": "box, style=rounded", "parameter": "box, penwidth=2", "variable": "box"}
    for box in {box.key: box for box in boxes}.values():
        text = "\n".join(filter(None, (box.label, _short(box.text))))
        lines.append(f"  {numbers[box.key]} [label={_quoted(text)}, shape={shapes[box.kind]}];")
    for arrow in arrows:
        if arrow.source in numbers and arrow.target in numbers:
            label = f" [label={_quoted(_short(arrow.feedback))}]" if arrow.feedback else ""
            lines.append(f"  {numbers[arrow.source]} -> {numbers[arrow.target]}{label};")
    return "\n".join([*lines, "}", ""])


# --- where things stand -----------------------------------------------------------------------------


def _places(
    boxes: Sequence[Box], arrows: Sequence[Arrow]
) -> tuple[dict[str, tuple[float, float, float]], float, float]:
    """Per box its left edge, top and width; and the size of the picture."""
    if not boxes:
        return {}, 2.0 * _MARGIN, 2.0 * _MARGIN
    rows = _ordered_rows(_rows(boxes, arrows), arrows)
    widths = {box.key: _width(box) for box in boxes}
    lengths = [sum(widths[key] for key in row) + _GAP * (len(row) - 1) for row in rows]
    places = {}
    for i, row in enumerate(rows):
        x = _MARGIN + (max(lengths) - lengths[i]) / 2
        for key in row:
            places[key] = (x, float(_MARGIN + i * _ROW), widths[key])
            x += widths[key] + _GAP
    # The texts beside the arrows may reach beyond the last box of a row.
    beside = _CHAR_WIDTH * _MOST_CHARS / 2 if any(arrow.feedback for arrow in arrows) else 0
    return places, max(lengths) + 2 * _MARGIN + beside, (len(rows) - 1) * _ROW + _HEIGHT + 2.0 * _MARGIN


def _rows(boxes: Sequence[Box], arrows: Sequence[Arrow]) -> list[list[str]]:
    sources: dict[str, list[str]] = {box.key: [] for box in boxes}
    targets: dict[str, list[str]] = {box.key: [] for box in boxes}
    for arrow in arrows:
        sources[arrow.target].append(arrow.source)
        targets[arrow.source].append(arrow.target)
    depth = dict.fromkeys(sources, 0)
    waiting = {key: len(found) for key, found in sources.items()}
    ready = [key for key, count in waiting.items() if not count]
    done = []
    while ready:
        key = ready.pop()
        done.append(key)
        for target in targets[key]:
            depth[target] = max(depth[target], depth[key] + 1)
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    # What nothing leads to stands close to what takes it, not at the top.
    for key in reversed(done):
        if not sources[key] and targets[key]:
            depth[key] = min(depth[target] for target in targets[key]) - 1
    rows: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for key, row in depth.items():
        rows[row].append(key)
    return [row for row in rows if row]


def _ordered_rows(rows: list[list[str]], arrows: Sequence[Arrow]) -> list[list[str]]:
    """Sort each row by the mean place of the neighbours, a few times down and up, so that fewer arrows cross."""
    neighbours: dict[str, list[str]] = {}
    for arrow in arrows:
        neighbours.setdefault(arrow.source, []).append(arrow.target)
        neighbours.setdefault(arrow.target, []).append(arrow.source)
    place = {key: i / len(row) for row in rows for i, key in enumerate(row)}
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 else rows[::-1]:
            mean = {key: _mean([place[other] for other in neighbours.get(key, [key])]) for key in row}
            row.sort(key=mean.__getitem__)
            place.update({key: i / len(row) for i, key in enumerate(row)})
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _width(box: Box) -> float:
    return max(_LEAST_WIDTH, _CHAR_WIDTH * max(len(_short(box.label)), len(_short(box.text))) + 20)


# --- how they look ----------------------------------------------------------------------------------

_LOOKS: Mapping[str, str] = {
    "function": 'rx="22" fill="currentColor" fill-opacity="0.08" stroke="currentColor" stroke-opacity="0.45"',
    "parameter": 'rx="6" fill="#4f86e0" fill-opacity="0.16" stroke="#4f86e0" stroke-width="2"',
    "variable": 'rx="6" fill="none" stroke="currentColor" stroke-opacity="0.45"',
}


def _box(box: Box, x: float, y: float, width: float) -> str:
    middle = x + width / 2
    lines = [
        f'<text x="{middle:.1f}" y="{y + (19 if box.text else 28):.1f}" text-anchor="middle">{_text(box.label)}</text>'
    ]
    if box.text:
        lines.append(
            f'<text x="{middle:.1f}" y="{y + 36:.1f}" text-anchor="middle" font-size="11" fill-opacity="0.75">'
            f"{_text(box.text)}</text>"
        )
    title = f"<title>{escape(_visible('. '.join(filter(None, (box.label, box.text)))))}</title>"
    rect = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_HEIGHT}" {_LOOKS[box.kind]}/>'
    return f"<g>{title}{rect}{''.join(lines)}</g>"


def _arrow(arrow: Arrow, places: Mapping[str, tuple[float, float, float]]) -> str:
    x, y, width = places[arrow.source]
    to_x, to_y, to_width = places[arrow.target]
    x1, y1, x2, y2 = x + width / 2, y + _HEIGHT, to_x + to_width / 2, to_y
    bend = (y2 - y1) / 2
    line = (
        f'<path d="M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2 - 5:.1f}"'
        f' fill="none" stroke="currentColor" stroke-opacity="{0.85 if arrow.feedback else 0.4}"'
        f"{' stroke-width=' + quoteattr('1.6') if arrow.feedback else ''}/>"
        f'<path d="M{x2 - 4:.1f} {y2 - 8:.1f}L{x2:.1f} {y2:.1f}L{x2 + 4:.1f} {y2 - 8:.1f}z" fill-opacity="0.6"/>'
    )
    if not arrow.feedback:
        return line
    label = (
        f'<text x="{(x1 + x2) / 2 + 7:.1f}" y="{(y1 + y2) / 2 + 4:.1f}" font-size="11"'
        f' fill="#b3541e">↑ {_text(arrow.feedback)}</text>'
    )
    return f"<g><title>{escape(_visible(arrow.feedback))}</title>{line}{label}</g>"


def _text(text: str) -> str:
    return escape(_short(text))


def _short(text: str) -> str:
    line = " ".join(_visible(text).split())
    return line if len(line) <= _MOST_CHARS else f"{line[: _MOST_CHARS - 1]}…"


def _visible(text: str) -> str:
    """Without what XML cannot hold, and what turns the text around it."""
    return "".join("\N{REPLACEMENT CHARACTER}" if _is_unseen(ord(char)) else char for char in text)


def _is_unseen(code: int) -> bool:
    return (
        (code < 0x20 and code not in (9, 10, 13))
        or 0x7F <= code < 0xA0
        or 0xD800 <= code < 0xE000
        or code in (0x061C, 0x200E, 0x200F, 0xFEFF)
        or 0x202A <= code <= 0x202E
        or 0x2066 <= code <= 0x2069
        or code & 0xFFFE == 0xFFFE
    )


def _quoted(text: str) -> str:
    escaped = _visible(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "")
    return f'"{escaped}"'
