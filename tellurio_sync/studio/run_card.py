"""A run as a card in a notebook: its status, a small plot of each metric, and a link that opens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .. import cards
from ..errors import HttpError
from .rows import is_number, rows_of_folder

if TYPE_CHECKING:
    from .runs import Run

_MOST_PLOTS = 4


def card_of(run: Run) -> str:
    """The card. Blocks as ``Run.metrics`` where what was logged is not on this machine; never raises because of it."""
    rows = rows_of_folder(run.journal)
    problem = ""
    if not rows and not run.is_offline:
        try:
            rows = run.metrics()
        except HttpError as exc:
            problem = f"The metrics cannot be read: {exc}"
    numbers: dict[str, list[float]] = {}
    for row in rows:
        if is_number(row["value"]):
            numbers.setdefault(row["name"], []).append(_as_float(row["value"]))
    plots = [cards.plot(name, values) for name, values in list(numbers.items())[:_MOST_PLOTS]]
    more = f"and {len(numbers) - _MOST_PLOTS} more metrics" if len(numbers) > _MOST_PLOTS else ""
    about = f"{run.project.display_name} · {run.status}" + (f": {run.reason}" if run.reason else "")
    where = "kept on this machine until te.sync()" if run.is_offline else cards.link(run.shown_link, run.url)
    return cards.card(run.name, about, [f"<div>{''.join(plots)}</div>", f"<div>{where}</div>"], problem or more)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an int of three hundred digits
        return math.inf if value > 0 else -math.inf
