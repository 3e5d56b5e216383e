"""From measured values to the printed table: medians, ratios inside each round, and whether a target is reached."""

from __future__ import annotations

import statistics

from .rows import Row, Target

Values = dict[str, list[float]]
"""Of one row: peer to its values, one for each round."""


def ratio(ours: list[float], other: list[float]) -> tuple[float, float]:
    """The median of the rounds' ratios, and half the distance of their quartiles."""
    ratios = [a / b for a, b in zip(ours, other) if b]
    if len(ratios) < 2:
        return (ratios or [float("nan")])[0], 0.0
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), (high - low) / 2


def lines(row: Row, values: Values, *, is_judged: bool = True) -> list[str]:
    """The printed lines of one row: the figures, then, if it ``is_judged``, a line for each target."""
    figures = [
        f"{peer} {_figure(statistics.median(numbers) * row.scale)}" for peer, numbers in values.items() if numbers
    ]
    text = [f"{row.title} [{row.unit}]", f"    {' · '.join(figures)}"]
    for target in row.targets if is_judged else ():
        verdicts = [verdict for peer in row.judged if (verdict := _verdict(row, target, peer, values))]
        versus = "" if target.versus is None else f"/ {target.versus}: "
        if target.versus is not None and not values.get(target.versus):
            text.append(f"    {versus}not measured")
        elif verdicts:
            text.append(f"    {versus}{' · '.join(verdicts)}")
    return text


def _verdict(row: Row, target: Target, peer: str, values: Values) -> str:
    numbers = values.get(peer)
    if not numbers:
        return ""
    spread = ""
    if target.versus is None:
        reached = statistics.median(numbers) * row.scale
    elif not values.get(target.versus):
        return ""
    else:
        reached, half = ratio(numbers, values[target.versus])
        spread = f" ±{half:.2f}" if half else ""
    limit = target.limit_of(peer)
    is_reached = reached >= limit if row.is_rate else reached <= limit
    sign = ">=" if row.is_rate else "<="
    return f"{peer} {reached:.3g}{spread} ({sign} {limit:.3g} {'reached' if is_reached else 'MISSED'})"


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
