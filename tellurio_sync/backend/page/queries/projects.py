"""The projects, newest first."""

from __future__ import annotations

from ...snapshot import Records
from ...store import Row


def projects(records: Records, limit: int) -> list[Row]:
    """The latest projects, each with how many ``runs`` it has."""
    return records.read(
        "SELECT *, (SELECT count(*) FROM runs WHERE project_uuid = projects.uuid) AS runs"
        " FROM projects ORDER BY date_created DESC, rowid DESC LIMIT ?",
        limit,
    )


def count_of_projects(records: Records) -> int:
    """How many projects there are."""
    return int(records.read("SELECT count(*) AS count FROM projects")[0]["count"])


def project(records: Records, namespace: str, slug: str) -> Row | None:
    """The project with this slug."""
    rows = records.read("SELECT * FROM projects WHERE namespace = ? AND slug = ?", namespace, slug)
    return rows[0] if rows else None
