"""The records as they are at one moment, from the database's file: a backend may use it meanwhile, or none."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from ..errors import BackendError
from .schema import VERSION

Row = dict[str, Any]

DATABASE = "tellurio.sqlite3"
LATEST = "latest"


class Records(Protocol):
    """Where rows come from: a reader's connection, or the store itself."""

    def read(self, sql: str, *values: Any) -> list[Row]:
        """The rows that a SELECT gives."""
        ...


def folded(text: str | None) -> str | None:
    """A text in which capitals and small letters are the same: SQLite's own ``lower`` knows those of ASCII only."""
    return None if text is None else text.casefold()


class Snapshot:
    """The records as they are at one moment. Of the thread that made it."""

    def __init__(self, path: Path) -> None:
        address = f"file:{quote(str(path.absolute()))}?mode=ro"
        # Closed by another thread, once this one has ended.
        self.db = sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)
        self.db.row_factory = sqlite3.Row
        self.db.create_function("folded", 1, folded, deterministic=True)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.db.close()

    def read(self, sql: str, *values: Any) -> list[Row]:
        """The rows that a SELECT gives."""
        return [dict(row) for row in self.db.execute(sql, values)]


@contextlib.contextmanager
def records_of(data_dir: Path) -> Iterator[Snapshot]:
    """The records in a backend's data directory, which is not changed.

    Raises:
        BackendError: there are none, they are of another version, or they cannot be read; also inside of the block.
    """
    database = data_dir / DATABASE
    if not database.exists():
        raise BackendError(f"There is no {DATABASE} in {data_dir.absolute()}. Name the directory by --data-dir.")
    update = "Start a backend on it once (tellurio-sync backend --data-dir ...), which brings it up to date."
    try:
        with Snapshot(database) as records:
            found = records.read("PRAGMA user_version")[0]["user_version"]
            if found > VERSION:
                raise BackendError(
                    f"The data in {data_dir} has the schema {found}: it was written by a later version of this "
                    f"package, and this one reads {VERSION} at most. Update the package."
                )
            if found != VERSION:
                text = f"The data in {data_dir} has the schema {found}, this version reads {VERSION}. {update}"
                raise BackendError(text)
            records.db.execute("BEGIN")  # all that is read is of one moment
            yield records
    except sqlite3.Error as exc:
        raise BackendError(f"The data in {data_dir} cannot be read: {exc}. {update}") from exc


def find_run(records: Records, run: str) -> Row:
    """The run of this name, of this id or the beginning of it, or the "latest".

    Raises:
        BackendError: there is none, or it is not clear which.
    """
    which = "TRUE" if run == LATEST else "name = ?1 OR uuid = ?1"
    values = () if run == LATEST else (run,)
    rows = records.read(f"SELECT * FROM runs WHERE {which} ORDER BY number DESC LIMIT 2", *values)
    if not rows and len(run) >= 4:
        rows = records.read("SELECT * FROM runs WHERE substr(uuid, 1, length(?1)) = ?1 LIMIT 2", run)
    if not rows:
        latest = records.read("SELECT name FROM runs ORDER BY number DESC LIMIT 5")
        names = ", ".join(row["name"] for row in latest) or "none"
        raise BackendError(f"There is no run {run!r}. The latest runs: {names}.")
    if len(rows) > 1 and run != LATEST:
        ids = " or ".join(row["uuid"] for row in rows)
        raise BackendError(f"There are several runs {run!r}. Name one by its id: {ids}.")
    return rows[0]
