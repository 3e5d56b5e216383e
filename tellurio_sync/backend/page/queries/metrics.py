"""The metrics of a run: their names, in the order in which they began, and the last values of each."""

from __future__ import annotations

from typing import Any

from ... import metrics
from ...snapshot import Records
from ...store import Row


def names_of_metrics(records: Records, run_uuid: str) -> list[str]:
    """The names of all metrics of a run, in the order in which they began."""
    return [row["name"] for row in metrics.summaries(records, run_uuid)]


def last_values(records: Records, run_uuid: str, name: str, limit: int) -> list[Row]:
    """The last ``step``s and ``value``s of one metric, latest first."""
    return [{"step": step, "value": value} for _, step, value in metrics.last_values(records, run_uuid, name, limit)]


def last_values_of_run(records: Records, run_uuid: str) -> dict[str, Any]:
    """For each metric of a run, in the order in which they began, the value at its last step."""
    return {row["name"]: row["last"] for row in metrics.summaries(records, run_uuid)}


def highest(records: Records, run_uuid: str, name: str) -> float | None:
    """The highest number of a metric; None where it has none."""
    rows = records.read(
        "SELECT high FROM series JOIN runs ON runs.number = run WHERE uuid = ? AND series.name = ?", run_uuid, name
    )
    return rows[0]["high"] if rows else None


def count_of_values(records: Records, run_uuid: str, name: str) -> int:
    """How many values one metric has."""
    return metrics.count_of(records, run_uuid, name)
