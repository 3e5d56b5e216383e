"""The metrics of a run: their names, in the order of their begin, and of each the last, lowest and highest value."""

from __future__ import annotations

import json
from typing import Any

from ...store import Row
from ..reader import Records

# Finds each name by a jump in the index: takes as long as there are metrics, not values.
_NAMES = (
    "WITH RECURSIVE names (name) AS (SELECT min(name) FROM metrics WHERE run_uuid = ?1 UNION ALL"
    " SELECT (SELECT min(name) FROM metrics WHERE run_uuid = ?1 AND name > names.name) FROM names"
    " WHERE names.name IS NOT NULL)"
    " SELECT name, (SELECT number FROM metrics WHERE run_uuid = ?1 AND metrics.name = names.name"
    " ORDER BY step, number LIMIT 1) AS first FROM names WHERE name IS NOT NULL ORDER BY first"
)
_LAST = "SELECT step, value FROM metrics WHERE run_uuid = ? AND name = ? ORDER BY step DESC, number DESC LIMIT ?"


def names_of_metrics(records: Records, run_uuid: str) -> list[str]:
    """The names of all metrics of a run, in the order of their begin."""
    return [row["name"] for row in records.read(_NAMES, run_uuid)]


def last_values(records: Records, run_uuid: str, name: str, limit: int) -> list[Row]:
    """The last ``step``s and ``value``s of one metric, latest first."""
    return [{**row, "value": json.loads(row["value"])} for row in records.read(_LAST, run_uuid, name, limit)]


def last_value(records: Records, run_uuid: str, name: str) -> Any:
    """The value at the last step of a metric; None where there is none."""
    rows = last_values(records, run_uuid, name, 1)
    return rows[0]["value"] if rows else None


def count_of_values(records: Records, run_uuid: str, name: str) -> int:
    """How many values one metric has."""
    return int(
        records.read("SELECT count(*) AS count FROM metrics WHERE run_uuid = ? AND name = ?", run_uuid, name)[0][
            "count"
        ]
    )
