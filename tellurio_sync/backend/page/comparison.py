"""Several runs side by side: their curves in one plot, their last values, configurations and prompts."""

from __future__ import annotations

import json
from typing import Any

from ..snapshot import Records
from ..store import Row
from .direction import is_lower_better
from .overlay import overlay
from .plots import POINTS_IN_PAGE, columns_for, in_words
from .queries.metrics import highest, last_values_of_run
from .queries.parameters import parameters
from .queries.series import EVERYTHING, is_number, line_of
from .render import run_path, shown
from .words import compare

MOST_RUNS = 100
METRICS_SHOWN = 12
PROMPTS_SHOWN = 8
_LINE_COLOURS = 8
_RUNS_IN_WORDS = 10

# So that many noisy lines are a band, and not the zigzag of their columns.
_FEWEST_COLUMNS = 125


def comparison(
    records: Records, root: str, project: Row, rows: list[Row], chosen: list[str], *, only_different: bool
) -> Row:
    """The values of the page that compares ``rows``.

    Args:
        records: where to look.
        root: from this page, the address of all pages.
        project: the project of the runs.
        rows: the runs.
        chosen: names of the metrics that are drawn; none: the first.
        only_different: leave out the settings that are the same in all runs.
    """
    last = {row["uuid"]: last_values_of_run(records, row["uuid"]) for row in rows}
    names = list(dict.fromkeys(name for values in last.values() for name in values))
    drawn = [name for name in names if name in chosen] or names[:METRICS_SHOWN]
    lines = [{**row, "line": f"line-{i % _LINE_COLOURS + 1}"} for i, row in enumerate(rows)]
    return {
        "lines": lines,
        "names": names,
        "drawn": drawn,
        "plots": _plots(records, root, project, rows, drawn),
        "last": last,
        "best": {name: _best(name, [last[row["uuid"]].get(name) for row in rows]) for name in names},
        "configuration": configuration(rows, only_different=only_different),
        "prompts": _prompts(records, root, project, rows[:PROMPTS_SHOWN]),
        "only_different": only_different,
    }


def _plots(records: Records, root: str, project: Row, rows: list[Row], names: list[str]) -> list[Row]:
    """One plot per metric that has numbers; the data of the first ones is in the page."""
    found, points = [], 0
    for name in names:
        data: Row = {"name": name, "path": run_path(root, project, rows[0]), "isSpan": True}
        words = _in_words(records, rows, name)
        if not words:
            continue
        is_here = points < POINTS_IN_PAGE
        if is_here:
            data |= drawn_together(records, rows, name)
            points += sum(len(one["y"]) for one in data["runs"])
        else:
            data["runs"] = [{"label": row["name"], "key": row["uuid"]} for row in rows]
        found.append({"name": name, "in_words": ". ".join(words), "data": data})
    return found


def drawn_together(records: Records, rows: list[Row], name: str, span: tuple[int, int] = EVERYTHING) -> Row:
    """What the script needs to draw one metric of several runs in one plot."""
    columns = max(columns_for(len(rows)), _FEWEST_COLUMNS)
    found = overlay([line_of(records, row["uuid"], name) for row in rows], columns, span)
    runs = [{"label": row["name"], "key": row["uuid"], "y": y} for row, y in zip(rows, found["ys"])]
    return {"x": found["x"], "runs": runs, "columns": found["columns"], "isThinned": found["columns"] is not None}


def _in_words(records: Records, rows: list[Row], name: str) -> list[str]:
    """The first of the runs that have numbers, for a screen reader."""
    with_numbers = [row for row in rows if highest(records, row["uuid"], name) is not None][:_RUNS_IN_WORDS]
    return [f"{row['name']}, {in_words(name, line_of(records, row['uuid'], name))}" for row in with_numbers]


def _best(name: str, values: list[Any]) -> tuple[Any, str]:
    """The best of the numbers, if they differ, and which end that is."""
    numbers = [value for value in values if is_number(value)]
    choose, end = (min, "lowest") if is_lower_better(name) else (max, "highest")
    return (choose(numbers) if len(set(numbers)) > 1 else None), end


def configuration(rows: list[Row], *, only_different: bool) -> list[Row]:
    """For each setting its value in each run; nested settings by their path."""
    flat = [dict(_flattened(json.loads(row["config"]) if row.get("config") else {})) for row in rows]
    names = list(dict.fromkeys(name for one in flat for name in one))
    found = [{"name": name, "values": [one.get(name, "") for one in flat]} for name in names]
    return [row for row in found if len(set(row["values"])) > 1] if only_different else found


def _flattened(config: Any, path: str = "") -> list[tuple[str, str]]:
    if isinstance(config, dict) and config:
        parts = (_flattened(value, f"{path}.{name}" if path else name) for name, value in config.items())
        return [pair for part in parts for pair in part]
    return [(path, shown(config))] if path else []


def _prompts(records: Records, root: str, project: Row, rows: list[Row]) -> list[Row]:
    """For each place of a parameter the newest version in each run, and how it differs from that of the first run."""
    found = [parameters(records, row["uuid"]) for row in rows]
    prompts = []
    for place in range(max((len(one) for one in found), default=0)):
        first = next(one[place] for one in found if len(one) > place)
        texts = []
        for row, one in zip(rows, found):
            if len(one) > place:
                words = compare(first["value"], one[place]["value"])
                path = f"{run_path(root, project, row)}prompts/{place + 1}/"
                texts.append({"run": row["name"], "path": path, "version": one[place]["version"], "words": words})
        prompts.append({"role": first["role"], "texts": texts})
    return prompts
