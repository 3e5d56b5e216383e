"""The last backward passes of a run."""

from __future__ import annotations

from ...snapshot import Records
from ...store import Row


def passes(records: Records, run_uuid: str) -> list[Row]:
    """Number and date of the passes that are kept, latest first."""
    return records.read("SELECT number, date_created FROM passes WHERE run_uuid = ? ORDER BY number DESC", run_uuid)


def backward_pass(records: Records, run_uuid: str, number: int) -> Row | None:
    """One of them, with its ``graph`` as JSON."""
    rows = records.read("SELECT * FROM passes WHERE run_uuid = ? AND number = ?", run_uuid, number)
    return rows[0] if rows else None
