"""Which tables there are: a report may be made of data that no backend has brought up to date."""

from __future__ import annotations

from ...snapshot import Records


def has_table(records: Records, name: str) -> bool:
    """Whether the database has this table."""
    return bool(records.read("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", name))
