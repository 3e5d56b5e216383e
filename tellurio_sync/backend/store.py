"""Projects, runs, metrics and the values of parameters in SQLite.

Every change is committed before its method returns, in write-ahead mode, so everything that was confirmed to a client
survives a killed process.  One process uses a data directory, and in it one thread: the event loop's.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import BackendError
from .run_names import new_run_name

_SCHEMA = """
CREATE TABLE IF NOT EXISTS projects (
    uuid TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    slug TEXT NOT NULL,
    display_name TEXT NOT NULL,
    visibility TEXT NOT NULL,
    date_created TEXT NOT NULL,
    UNIQUE (namespace, slug)
);
CREATE TABLE IF NOT EXISTS runs (
    number INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    project_uuid TEXT NOT NULL REFERENCES projects (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL,
    date_created TEXT NOT NULL,
    date_updated TEXT NOT NULL,
    UNIQUE (project_uuid, name)
);
CREATE TABLE IF NOT EXISTS run_notes (
    run_uuid TEXT PRIMARY KEY REFERENCES runs (uuid) ON DELETE CASCADE,
    tags TEXT NOT NULL,
    notes TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS metrics (
    number INTEGER PRIMARY KEY,
    run_uuid TEXT NOT NULL REFERENCES runs (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    step INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS metrics_by_run ON metrics (run_uuid, name, step);
"""

Row = dict[str, Any]


class Store:
    """The records of one data directory. Only the thread that made it may use it.

    Attributes:
        path: the database's file, for readers of their own.
    """

    def __init__(self, directory: Path) -> None:
        """Open the records in ``directory``, which is created if need be.

        Raises:
            BackendError: another backend uses the directory, or it cannot be used at all.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(directory)
            self.path = directory / "tellurio.sqlite3"
            self._db = sqlite3.connect(self.path, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing; a power cut may lose the last moments.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as exc:
            raise BackendError(f"The data directory {directory} cannot be used: {exc}") from exc

    def close(self) -> None:
        """Close the records and let go of the directory."""
        self._db.close()
        self._lock.close()

    @property
    def revision(self) -> int:
        """A number that changes with every change of the data."""
        return self._db.total_changes

    # --- projects -------------------------------------------------------------------------------

    def project(self, namespace: str, slug: str) -> Row | None:
        """The project with this slug, with the date of its last run, or None."""
        return self._one(
            "SELECT *, (SELECT max(date_created) FROM runs WHERE project_uuid = projects.uuid) AS last_run_date"
            " FROM projects WHERE namespace = ? AND slug = ?",
            namespace,
            slug,
        )

    def projects(self) -> list[Row]:
        """All projects, in the order of their creation."""
        return self.read("SELECT * FROM projects ORDER BY date_created, rowid")

    def create_project(self, namespace: str, slug: str, display_name: str, visibility: str) -> Row | None:
        """The new project, or None if there is one with this slug."""
        made = self._db.execute(
            "INSERT OR IGNORE INTO projects VALUES (?, ?, ?, ?, ?, ?)",
            (str(uuid4()), namespace, slug, display_name, visibility, _now()),
        )
        return self.project(namespace, slug) if made.rowcount else None

    def delete_project(self, namespace: str, slug: str) -> bool:
        """Delete the project with its runs and metrics; False if there is none."""
        done = self._db.execute("DELETE FROM projects WHERE namespace = ? AND slug = ?", (namespace, slug))
        return done.rowcount > 0

    # --- runs -----------------------------------------------------------------------------------

    def run(self, project_uuid: str, run_uuid: str) -> Row | None:
        """The run of this project, or None."""
        return self._one("SELECT * FROM runs WHERE project_uuid = ? AND uuid = ?", project_uuid, run_uuid)

    def runs(self, project_uuid: str) -> list[Row]:
        """The runs of this project, oldest first."""
        return self.read("SELECT * FROM runs WHERE project_uuid = ? ORDER BY number", project_uuid)

    def latest_runs(self, project_uuid: str, limit: int) -> list[Row]:
        """The last runs of this project, newest first."""
        sql = "SELECT * FROM runs WHERE project_uuid = ? ORDER BY number DESC LIMIT ?"
        return self.read(sql, project_uuid, limit)

    def run_count(self, project_uuid: str) -> int:
        """How many runs this project has."""
        return self._count("runs WHERE project_uuid = ?", project_uuid)

    def create_run(self, project_uuid: str, name: str | None, description: str | None, status: str) -> Row:
        """The new run; a name that is taken gets ``_1``, ``_2``, ... (protocol §J)."""
        run_uuid, now = str(uuid4()), _now()
        self._db.execute(
            "INSERT INTO runs (uuid, project_uuid, name, description, status, date_created, date_updated)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (run_uuid, project_uuid, self._free_name(project_uuid, name), description, status, now, now),
        )
        return self.read("SELECT * FROM runs WHERE uuid = ?", run_uuid)[0]

    def _free_name(self, project_uuid: str, name: str | None) -> str:
        wanted = name or new_run_name()
        rows = self.read("SELECT name FROM runs WHERE project_uuid = ?", project_uuid)
        taken = {row["name"] for row in rows}
        free, number = wanted, 0
        while free in taken:
            number += 1
            free = f"{wanted}_{number}"
        return free

    def update_run(self, run_uuid: str, status: str) -> Row:
        """The run with its new status."""
        self._db.execute("UPDATE runs SET status = ?, date_updated = ? WHERE uuid = ?", (status, _now(), run_uuid))
        return self.read("SELECT * FROM runs WHERE uuid = ?", run_uuid)[0]

    # --- metrics --------------------------------------------------------------------------------

    def metrics(self, run_uuid: str) -> list[Row]:
        """The metrics of this run, in the order in which they came."""
        rows = self.read("SELECT name, value, step FROM metrics WHERE run_uuid = ? ORDER BY number", run_uuid)
        return [{**row, "value": json.loads(row["value"])} for row in rows]

    def add_metric(self, run_uuid: str, name: str, value: Any, step: int | None) -> Row:
        """The new metric; without a step it gets the one after the last of its name, the first is 0."""
        self._db.execute(
            "INSERT INTO metrics (run_uuid, name, value, step) VALUES (?1, ?2, ?3, coalesce(?4,"
            " (SELECT max(step) + 1 FROM metrics WHERE run_uuid = ?1 AND name = ?2), 0))",
            (run_uuid, name, json.dumps(value, allow_nan=False), step),
        )
        (row,) = self.read("SELECT name, value, step FROM metrics WHERE number = last_insert_rowid()")
        return {**row, "value": json.loads(row["value"])}

    def value_count(self, run_uuid: str) -> int:
        """How many values the metrics of a run have in all."""
        return int(self.read("SELECT coalesce(max(number) + 1, 0) AS count FROM metrics")[0]["count"])

    def metric_summaries(self, run_uuid: str, limit: int) -> list[Row]:
        """``name`` and ``last`` value of ``limit`` metrics of this run at most, in the order of their begin.

        Takes as long as there are metrics, not values: each is found by a jump in the index.
        """
        rows = self.read(
            "WITH RECURSIVE names (name) AS (SELECT min(name) FROM metrics WHERE run_uuid = ?1 UNION ALL"
            " SELECT (SELECT min(name) FROM metrics WHERE run_uuid = ?1 AND name > names.name) FROM names"
            " WHERE names.name IS NOT NULL)"
            " SELECT name, (SELECT value FROM metrics WHERE run_uuid = ?1 AND metrics.name = names.name"
            " ORDER BY step DESC, number DESC LIMIT 1) AS last, (SELECT number FROM metrics WHERE run_uuid = ?1"
            " AND metrics.name = names.name ORDER BY step, number LIMIT 1) AS first"
            # Not before the order: the names come alphabetically, and the first of them are not the first to begin.
            " FROM names WHERE name IS NOT NULL ORDER BY first LIMIT ?2",
            run_uuid,
            limit,
        )
        return [{"name": row["name"], "last": json.loads(row["last"])} for row in rows]

    def metric_count(self, run_uuid: str, name: str) -> int:
        """How many values one metric has."""
        return self._count("metrics WHERE run_uuid = ? AND name = ?", run_uuid, name)

    def latest_metrics(self, run_uuid: str, name: str, limit: int) -> list[Row]:
        """The last ``limit`` values of one metric, in the order of their steps."""
        rows = self.read(
            "SELECT value, step FROM metrics WHERE run_uuid = ? AND name = ? ORDER BY step DESC, number DESC LIMIT ?",
            run_uuid,
            name,
            limit,
        )
        return [{**row, "value": json.loads(row["value"])} for row in reversed(rows)]

    # --- helpers --------------------------------------------------------------------------------

    def read(self, sql: str, *values: Any) -> list[Row]:
        """The rows that a SELECT gives. For the modules of ``page/queries``, which hold the pages' own questions."""
        return [dict(row) for row in self._db.execute(sql, values)]

    def write(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Change records, at once and for good."""
        return self._db.execute(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Inside, everything is changed or nothing. One inside another is part of that."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            # On some errors, such as a full disk, SQLite has ended it itself.
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def add_tables(self, sql: str) -> None:
        """Make the tables of a module that keeps its own, unless they are there."""
        self._db.executescript(sql)

    def _one(self, sql: str, *values: Any) -> Row | None:
        rows = self.read(sql, *values)
        return rows[0] if rows else None

    def _count(self, where: str, *values: Any) -> int:
        return int(self.read(f"SELECT count(*) AS count FROM {where}", *values)[0]["count"])


def _lock(directory: Path) -> sqlite3.Connection:
    """Hold the directory until the connection is closed or the process ends, however it ends."""
    lock = sqlite3.connect(directory / "backend.lock", timeout=0, isolation_level=None)
    try:
        # SQLite's locks are locks of the operating system on every platform: no lock outlives its process.
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as exc:
        lock.close()
        raise BackendError(
            f"Another backend uses the data directory {directory}. Stop it, or choose another directory."
        ) from exc
    return lock


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
