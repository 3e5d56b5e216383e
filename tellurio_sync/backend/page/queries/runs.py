"""The runs of a project for a table: searched, filtered, sorted, one page of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ...snapshot import Records
from ...store import Row
from ..direction import is_lower_better
from .metrics import names_of_metrics

# Of a project with thousands of runs, those whose metrics become columns that can be chosen.
_RUNS_LOOKED_AT = 50

_ORDERS = {
    "started": "runs.number",
    "name": "runs.name COLLATE NOCASE",
    "status": "runs.status",
    "duration": "CASE WHEN status = 'RUNNING' THEN julianday('now') ELSE julianday(date_updated) END"
    " - julianday(date_created)",
}
_LAST_NUMBER = "(SELECT last_number FROM series WHERE series.run = runs.number AND series.name = ?)"
_METRIC = "metric:"


@dataclass(frozen=True)
class Wanted:
    """The selection of runs, and their order.

    Attributes:
        search: part of a name, a description or a note.
        sort: "started", "name", "status", "duration", or "metric:" and a name.
        is_up: smallest first.
    """

    search: str = ""
    status: str = ""
    tag: str = ""
    sort: str = "started"
    is_up: bool = False


def count_of_runs(records: Records, project_uuid: str, wanted: Wanted) -> int:
    """How many runs the selection has."""
    where, values = _where(project_uuid, wanted)
    return int(records.read(f"SELECT count(*) AS count FROM {_FROM} WHERE {where}", *values)[0]["count"])


def runs(records: Records, project_uuid: str, wanted: Wanted, *, limit: int, offset: int = 0) -> list[Row]:
    """The selected runs, with their ``tags`` (a list) and ``notes``."""
    where, values = _where(project_uuid, wanted)
    order, order_values = _order(wanted)
    rows = records.read(
        f"SELECT runs.*, tags, notes FROM {_FROM} WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?",
        *values,
        *order_values,
        limit,
        offset,
    )
    return [_run(row) for row in rows]


def run(records: Records, project_uuid: str, run_uuid: str) -> Row | None:
    """The run of this project with this uuid."""
    rows = records.read(
        f"SELECT runs.*, tags, notes FROM {_FROM} WHERE project_uuid = ? AND uuid = ?", project_uuid, run_uuid
    )
    return _run(rows[0]) if rows else None


def tags_in_use(records: Records, project_uuid: str) -> list[str]:
    """All tags of a project's runs, in alphabetical order."""
    rows = records.read(
        "SELECT DISTINCT json_each.value AS tag FROM runs JOIN run_notes ON run_uuid = uuid, json_each(tags)"
        " WHERE project_uuid = ? ORDER BY tag",
        project_uuid,
    )
    return [row["tag"] for row in rows]


def metric_columns(records: Records, project_uuid: str) -> list[str]:
    """The names of metrics that the latest runs have, those that began first in front."""
    latest = records.read(
        "SELECT uuid FROM runs WHERE project_uuid = ? ORDER BY number DESC LIMIT ?", project_uuid, _RUNS_LOOKED_AT
    )
    return list(dict.fromkeys(name for row in latest for name in names_of_metrics(records, row["uuid"])))


def values_of(records: Records, project_uuid: str, rows: list[Row], columns: list[str]) -> dict[str, dict[str, Row]]:
    """Per run and column the metric's ``last`` value and its ``best`` number; without those that have none.

    ``end`` says which end counts as best, "highest" or "lowest", ``is_best`` whether no run of the project has a
    better one, and some has a worse one.
    """
    uuids, names = json.dumps([row["uuid"] for row in rows]), json.dumps(columns)
    of_project = {
        row["name"]: row
        for row in records.read(
            "SELECT name, min(low) AS least_low, max(low) AS most_low, min(high) AS least_high, max(high) AS most_high"
            " FROM series WHERE run IN (SELECT number FROM runs WHERE project_uuid = ?)"
            " AND name IN (SELECT value FROM json_each(?)) GROUP BY name",
            *(project_uuid, names),
        )
    }
    found: dict[str, dict[str, Row]] = {row["uuid"]: {} for row in rows}
    for row in records.read(
        "SELECT uuid, series.name, last_value, low, high FROM runs JOIN series ON series.run = runs.number"
        " WHERE uuid IN (SELECT value FROM json_each(?)) AND series.name IN (SELECT value FROM json_each(?))"
        " AND count > 0",
        *(uuids, names),
    ):
        is_lower = is_lower_better(row["name"])
        end, best = ("lowest", row["low"]) if is_lower else ("highest", row["high"])
        others = of_project[row["name"]]
        top, other_top = (
            (others["least_low"], others["most_low"]) if is_lower else (others["most_high"], others["least_high"])
        )
        found[row["uuid"]][row["name"]] = {
            "last": json.loads(row["last_value"]),
            "best": best,
            "end": end,
            "is_best": best is not None and best == top != other_top,
        }
    return found


_FROM = "runs LEFT JOIN run_notes ON run_notes.run_uuid = runs.uuid"


def _where(project_uuid: str, wanted: Wanted) -> tuple[str, list[Any]]:
    parts, values = ["project_uuid = ?"], [project_uuid]
    if wanted.search:
        parts.append("instr(folded(name || ' ' || coalesce(description, '') || ' ' || coalesce(notes, '')), ?) > 0")
        values.append(wanted.search.casefold())
    if wanted.status:
        parts.append("status = ?")
        values.append(wanted.status)
    if wanted.tag:
        parts.append("EXISTS (SELECT 1 FROM json_each(coalesce(tags, '[]')) WHERE json_each.value = ?)")
        values.append(wanted.tag)
    return " AND ".join(parts), values


def _order(wanted: Wanted) -> tuple[str, list[Any]]:
    direction = "ASC" if wanted.is_up else "DESC"
    if wanted.sort.startswith(_METRIC):
        # Runs without the metric come last in both directions.
        name = wanted.sort.removeprefix(_METRIC)
        return f"{_LAST_NUMBER} {direction} NULLS LAST, runs.number DESC", [name]
    order = _ORDERS.get(wanted.sort, _ORDERS["started"])
    return f"{order} {direction}, runs.number DESC", []


def _run(row: Row) -> Row:
    return {**row, "tags": json.loads(row["tags"] or "[]"), "notes": row["notes"] or ""}
