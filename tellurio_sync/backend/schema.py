"""The form of the database, its version, and the way from older versions to this one.

Modules that have their own tables make them by ``Store.add_tables``; this module does not check those.
The version is SQLite's ``user_version``.  A database without a version was made before there were versions.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import BackendError
from . import outlines
from .metrics import add_values

VERSION = 2

_TABLES = """
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
    config TEXT,                            -- a JSON object
    reason TEXT,                            -- why it ended as it did
    seen REAL,                              -- last sign of life, seconds since 1970; NULL: it gives none
    is_lost INTEGER NOT NULL DEFAULT 0,     -- its status was set because no sign of life came
    value_count INTEGER NOT NULL DEFAULT 0, -- values of all its metrics, ever
    creation_key TEXT,                      -- the Idempotency-Key of the request that made it
    UNIQUE (project_uuid, name)
);
CREATE TABLE IF NOT EXISTS run_notes (
    run_uuid TEXT PRIMARY KEY REFERENCES runs (uuid) ON DELETE CASCADE,
    tags TEXT NOT NULL,
    notes TEXT NOT NULL
);
-- One row per metric of a run: what tables of runs show, without a look at the values.
CREATE TABLE IF NOT EXISTS series (
    number INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    name TEXT NOT NULL,
    count INTEGER NOT NULL DEFAULT 0,
    first_step INTEGER,                     -- the lowest step, and the number of the first value with it
    first_number INTEGER,
    last_step INTEGER,                      -- the highest step, and the last value with it
    last_value TEXT,                        -- as JSON; NaN and infinities as NaN, Infinity, -Infinity
    last_number REAL,                       -- the same, if it is a finite number: to sort runs by
    is_in_order INTEGER NOT NULL DEFAULT 1, -- no value has come with a step below that of an earlier one
    low REAL,                               -- of its finite numbers
    high REAL,
    UNIQUE (run, name)
);
-- Numbers, packed by hundreds (see metrics.py): 8 to 17 bytes each.
CREATE TABLE IF NOT EXISTS points (
    number INTEGER PRIMARY KEY,
    series INTEGER NOT NULL REFERENCES series (number) ON DELETE CASCADE,
    data BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS points_by_series ON points (series, number);
-- Values that are no numbers, as JSON.
CREATE TABLE IF NOT EXISTS others (
    series INTEGER NOT NULL REFERENCES series (number) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    step INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (series, number)
) WITHOUT ROWID;
-- When values came, at most once a second: the number of a value within the run, and seconds since 1970.
CREATE TABLE IF NOT EXISTS clock (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    time REAL NOT NULL,
    PRIMARY KEY (run, number)
) WITHOUT ROWID;
-- How much of each journal has been read, and what its reader had been told by then.
CREATE TABLE IF NOT EXISTS writers (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    writer TEXT NOT NULL,
    position INTEGER NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (run, writer)
) WITHOUT ROWID;
-- Values that came one by one with an Idempotency-Key.
CREATE TABLE IF NOT EXISTS value_keys (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    key TEXT NOT NULL,
    step INTEGER NOT NULL,
    PRIMARY KEY (run, key)
) WITHOUT ROWID;
"""
# After the columns of older databases have been added.
_INDEXES = "CREATE UNIQUE INDEX IF NOT EXISTS runs_by_creation_key ON runs (creation_key);"


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Bring the database to this version, in one transaction: it changes completely, or not at all.

    Raises:
        BackendError: it was made by a later version, or has another form than its version says.
        sqlite3.Error: it cannot be read or written.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise BackendError(
            f"The data in {path} was written by a later tellurio_sync (its schema is {version}, this one knows "
            f"{VERSION}). Nothing was changed. Update the package, or choose another directory."
        )
    if version < VERSION:
        db.execute("BEGIN IMMEDIATE")
        try:
            db.execute(outlines.TABLE)
            for step in _MIGRATIONS[version:]:
                step(db)
            db.execute(f"PRAGMA user_version = {VERSION}")
            _check(db, path)
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")
    else:
        _check(db, path)
        # Not of this version only: those that know nothing of it do without.
        db.execute(outlines.TABLE)


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Compare tables and columns with those that an empty database gets."""
    fresh = sqlite3.connect(":memory:")
    try:
        _create(fresh)
        wanted = _columns(fresh)
    finally:
        fresh.close()
    found = _columns(db)
    missing = sorted(f"{table}.{column}" for table, column in wanted - found)
    if missing:
        raise BackendError(
            f"The database {path} has another form than its version says: {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing. Nothing was changed. Choose another directory."
        )


def _columns(db: sqlite3.Connection) -> set[tuple[str, str]]:
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    return {(table, row[1]) for table in tables for row in db.execute(f"PRAGMA table_info({table})")}


def _create(db: sqlite3.Connection) -> None:
    # Not executescript(): it would commit the transaction that this is part of.
    for script in (_TABLES, _INDEXES):
        for statement in "\n".join(line.partition("--")[0] for line in script.splitlines()).split(";"):
            if statement.strip():
                db.execute(statement)


# --- migrations: from version n to n + 1 ------------------------------------------------------------


def _to_1(db: sqlite3.Connection) -> None:
    """Tables as they are now; where there were values, one row each, they are packed."""
    columns = {row[1] for row in db.execute("PRAGMA table_info(runs)")}
    if columns:
        for definition in (
            "description TEXT",
            "config TEXT",
            "reason TEXT",
            "seen REAL",
            "is_lost INTEGER NOT NULL DEFAULT 0",
            "value_count INTEGER NOT NULL DEFAULT 0",
            "creation_key TEXT",
        ):
            if definition.split()[0] not in columns:
                db.execute(f"ALTER TABLE runs ADD COLUMN {definition}")
    _create(db)
    if not db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'metrics'").fetchone():
        return
    for run in db.execute("SELECT number, uuid FROM runs ORDER BY number").fetchall():
        rows = db.execute("SELECT name, value, step FROM metrics WHERE run_uuid = ? ORDER BY number", (run[1],))
        while some := rows.fetchmany(10_000):
            values: list[tuple[str, Any, int | None]] = [(name, json.loads(text), step) for name, text, step in some]
            add_values(db, run[0], values)
    db.execute("DROP TABLE metrics")


def _to_2(db: sqlite3.Connection) -> None:
    """The clock; of values that are there already it is not known when they came."""
    _create(db)


_MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_to_1, _to_2)
assert len(_MIGRATIONS) == VERSION
