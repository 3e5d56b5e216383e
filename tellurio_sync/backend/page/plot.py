"""A line plot as inline SVG, with axes, ticks and labels; colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .markup import Html, join, tag
from .queries.series import Point

WIDTH, HEIGHT = 520, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 40

# With more points than this, dots would hide the line.
_MAX_DOTS = 80

# Values closer than this are one value: their differences leave the range of floating point numbers.
_NO_SPAN = 1e-300


class Scale(NamedTuple):
    """From values to places on an axis, with the values at which it has ticks."""

    low: float
    high: float
    ticks: list[float]

    def share(self, value: float) -> float:
        """Where ``value`` is between the ends: 0 to 1."""
        return (value - self.low) / (self.high - self.low)


def line_plot(points: Sequence[Point], label: str) -> Html:
    """The plot of at least one point, in the order of their steps; ``label`` is what a screen reader says."""
    steps, values = [p.step for p in points], [p.value for p in points]
    across = _steps_scale(min(steps), max(steps))
    up = values_scale(min(values), max(values))
    places = [(_x(across, p.step), _y(up, p.value)) for p in points]
    line = tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_="line")
    return tag(
        "svg",
        tag("title", label),
        _horizontal_lines(up),
        _steps_axis(across),
        line if len(points) > 1 else None,
        _dots(points, places),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="plot",
    )


def _horizontal_lines(up: Scale) -> Html:
    lines = []
    for value, label in zip(up.ticks, tick_labels(up.ticks)):
        y = f"{_y(up, value):.1f}"
        lines.append(tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        lines.append(tag("text", label, x=_LEFT - 8, y=y, dy="0.35em", text_anchor="end"))
    return tag("g", *lines, aria_hidden="true")


def _steps_axis(across: Scale) -> Html:
    bottom = HEIGHT - _BOTTOM
    parts = [tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=bottom, y2=bottom, class_="axis")]
    for value, label in zip(across.ticks, tick_labels(across.ticks)):
        x = f"{_x(across, value):.1f}"
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(tag("text", label, x=x, y=bottom + 17, text_anchor="middle"))
    parts.append(tag("text", "step", x=(_LEFT + WIDTH - _RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle"))
    return tag("g", *parts, aria_hidden="true")


def _dots(points: Sequence[Point], places: Sequence[tuple[float, float]]) -> Html:
    shown = list(zip(points, places))
    if len(shown) > _MAX_DOTS:
        # The last one is what people look for.
        shown = shown[-1:]
    return join(*(_dot(point, x, y, is_last=point is points[-1]) for point, (x, y) in shown))


def _dot(point: Point, x: float, y: float, *, is_last: bool) -> Html:
    where = f"translate({x:.1f} {y:.1f})"
    # The wide ring is not seen; it makes the tooltip easy to hit.
    hit = tag("circle", r=9, class_="hit")
    seen = tag("circle", r=4 if is_last else 2.5, class_="dot")
    return tag("g", tag("title", f"step {point.step}: {number(point.value)}"), hit, seen, transform=where)


def _x(across: Scale, step: float) -> float:
    return _LEFT + across.share(step) * (WIDTH - _LEFT - _RIGHT)


def _y(up: Scale, value: float) -> float:
    return HEIGHT - _BOTTOM - up.share(value) * (HEIGHT - _BOTTOM - _TOP)


# --- scales -------------------------------------------------------------------------------------


def values_scale(low: float, high: float) -> Scale:
    """A scale whose ends are ticks, three to seven of them, at round values."""
    if high - low < _NO_SPAN:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [i * step for i in range(first, last + 1)]
    if len(ticks) < 2 or ticks[0] >= ticks[-1]:
        # The values differ by less than numbers of this size can.
        return Scale(low, high, [low])
    return Scale(ticks[0], ticks[-1], ticks)


def _steps_scale(low: int, high: int) -> Scale:
    if high == low:
        return Scale(low - 1, high + 1, [low])
    step = max(1, round(_round_step((high - low) / 6)))
    first = -(-low // step)
    return Scale(low, high, [float(i * step) for i in range(first, high // step + 1)])


def _round_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


# --- numbers ------------------------------------------------------------------------------------


def number(value: float) -> str:
    """A value as text: at most five significant digits, no trailing zeros, a real minus sign."""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):d}".replace("-", "−")
    return f"{value:.5g}".replace("-", "−")


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The labels of an axis, all with the same number of decimals; thousands and more by suffix."""
    largest = max(map(abs, ticks))
    if largest >= 1e15 or 0 < largest < 1e-4:
        return [f"{tick:.3g}".replace("-", "−") for tick in ticks]
    unit, suffix = next(
        ((u, s) for u, s in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")) if largest >= u), (1.0, "")
    )
    if suffix == "k":
        unit = 1e3
    gap = (ticks[1] - ticks[0]) / unit if len(ticks) > 1 else abs(ticks[0]) / unit or 1.0
    scaled = [tick / unit for tick in ticks]
    decimals = next((d for d in range(8) if all(abs(s - round(s, d)) < gap * 1e-3 for s in scaled)), 8)
    return [f"{s:.{decimals}f}".replace("-", "−") + (suffix if s else "") for s in scaled]
