"""Projects, runs, metrics and the values of parameters in SQLite.

Every change is committed before its method returns, in write-ahead mode, so everything that was confirmed to a client
survives a killed process.  One process uses a data directory, and in it one thread: the event loop's.

Some clients give signs of life for a run while its process lives (:meth:`Store.saw`).  If then none comes for
:data:`LOST_AFTER` seconds, the run is shown as CRASHED (:meth:`Store.mark_lost`), until one comes again.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from ..errors import BackendError
from ..journal.format import Decoder, MalformedJournal
from ..leash import LOCK_NAME, DataDirectoryInUse
from . import metrics
from .run_names import new_run_name
from .schema import prepare
from .snapshot import folded

# Seconds without a sign of life after which a run counts as lost. Clients give one every 3 s or more often.
LOST_AFTER = 9.0
LOST_REASON = "No sign of life came any more: its process was killed, or its connection is lost."

MAX_NAME_CHARS = 200
# How long to wait for another program that has locked the database. The event loop waits with it.
_LOCK_TIMEOUT = 0.25

Row = dict[str, Any]

# Of those that wait for a part of a journal, the latest.
_MOST_WAITING = 10_000


class Logged(NamedTuple):
    """How much a client had logged at a moment: the ``position`` in the journal of a ``writer``, in bytes."""

    writer: str
    position: int


class JournalGap(ValueError):
    """There is a gap between what is known of a journal and what was sent.

    Attributes:
        position: the byte from which it must be sent.
    """

    def __init__(self, position: int) -> None:
        super().__init__(f"Of this journal {position} bytes are known; send it from there on.")
        self.position = position


class Store:
    """The records of one data directory. Only the thread that made it may use it.

    Attributes:
        path: the database's file, for those that open it themselves.
    """

    def __init__(self, directory: Path) -> None:
        """Open the records in ``directory``, which is created if need be.

        Raises:
            BackendError: another backend uses the directory (DataDirectoryInUse), or it cannot be used at all.
        """
        try:
            # Other users of the machine must not read prompts and results.
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(directory)
            self.path: Path = directory / "tellurio.sqlite3"
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(self.path, timeout=_LOCK_TIMEOUT, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.create_function("folded", 1, folded, deterministic=True)
            self._db.execute("PRAGMA journal_mode = WAL")
            # A killed process loses nothing; a power cut may lose the last moments.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            prepare(self._db, self.path)
        except (OSError, sqlite3.Error) as exc:
            raise BackendError(f"The data directory {directory} cannot be used: {exc}") from exc
        # When each run gave its last sign of life, on the monotonic clock. A new backend waits for the first ones.
        rows = self._db.execute("SELECT uuid FROM runs WHERE status = 'RUNNING' AND seen IS NOT NULL")
        self._signs: dict[str, float] = dict.fromkeys((row["uuid"] for row in rows), time.monotonic())
        # (run, what of a journal must come) -> whom to tell how many values the run had up to there.
        self._waiting: dict[tuple[int, Logged], list[Callable[[int], None]]] = {}

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

    def create_run(
        self,
        project_uuid: str,
        name: str | None,
        description: str | None,
        status: str,
        *,
        config: Row | None = None,
        run_uuid: str | None = None,
        key: str | None = None,
    ) -> Row | None:
        """The new run; a name that is taken gets ``_1``, ``_2``, ... (protocol §J).

        Args:
            config: what the user wants to remember of it.
            run_uuid: the id that it is to get; None: a new one.
            key: of the request: where a run was made with it, that is the answer. None: always a new run.

        Returns:
            None: there is another run with this id.
        """
        if key is not None:
            made = self._one("SELECT * FROM runs WHERE creation_key = ?", key)
            if made is not None:
                return made
        now = _now()
        run_uuid = run_uuid or str(uuid4())
        if self._one("SELECT 1 FROM runs WHERE uuid = ?", run_uuid) is not None:
            return None
        self._db.execute(
            "INSERT INTO runs (uuid, project_uuid, name, description, status, date_created, date_updated, config,"
            " creation_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(run_uuid, project_uuid, self._free_name(project_uuid, name), description, status, now, now),
                *(None if config is None else json.dumps(config), key),
            ),
        )
        return self._one("SELECT * FROM runs WHERE uuid = ?", run_uuid)

    def _free_name(self, project_uuid: str, name: str | None) -> str:
        wanted = name or new_run_name()
        rows = self.read("SELECT name FROM runs WHERE project_uuid = ?", project_uuid)
        taken = {row["name"] for row in rows}
        free, number = wanted, 0
        while free in taken:
            number += 1
            free = f"{wanted}_{number}"
        return free

    def update_run(self, run_uuid: str, status: str, *, reason: str | None = None, config: Row | None = None) -> Row:
        """The run with its new status.

        Args:
            reason: why it has this status; None: none is known.
            config: added to what is kept, name by name; None: nothing is added.
        """
        if config is not None:
            (kept,) = self.read("SELECT config FROM runs WHERE uuid = ?", run_uuid)
            config = {**(json.loads(kept["config"]) if kept["config"] else {}), **config}
        self._db.execute(
            "UPDATE runs SET status = ?, reason = ?, is_lost = 0, date_updated = ?, config = coalesce(?, config)"
            " WHERE uuid = ?",
            (status, reason, _now(), None if config is None else json.dumps(config), run_uuid),
        )
        if status == "RUNNING":
            if run_uuid in self._signs:
                self._signs[run_uuid] = time.monotonic()
        else:
            self._signs.pop(run_uuid, None)
        return self.read("SELECT * FROM runs WHERE uuid = ?", run_uuid)[0]

    def saw(self, run_uuid: str) -> None:
        """The run gave a sign of life. One that counted as lost is RUNNING again."""
        if run_uuid not in self._signs:
            changed = self._db.execute(
                "UPDATE runs SET seen = ?, status = 'RUNNING', reason = NULL, is_lost = 0"
                " WHERE uuid = ? AND (status = 'RUNNING' OR is_lost)",
                (time.time(), run_uuid),
            )
            if not changed.rowcount:
                return  # it has ended
        self._signs[run_uuid] = time.monotonic()

    def mark_lost(self) -> list[str]:
        """Show the runs whose signs of life have stayed away as CRASHED; returns their ids. To be called regularly."""
        limit = time.monotonic() - LOST_AFTER
        lost = [run_uuid for run_uuid, seen in self._signs.items() if seen < limit]
        for run_uuid in lost:
            self._db.execute(
                "UPDATE runs SET status = 'CRASHED', reason = ?, is_lost = 1, date_updated = ? WHERE uuid = ?",
                (LOST_REASON, _now(), run_uuid),
            )
            del self._signs[run_uuid]
        return lost

    # --- metrics --------------------------------------------------------------------------------
    # NaN and infinities are floats here, as in Python.

    def metrics(self, run_uuid: str) -> list[Row]:
        """The metrics of this run, in the order in which they came."""
        return [
            {"name": name, "value": value, "step": step} for name, value, step in metrics.all_values(self, run_uuid)
        ]

    def add_metric(self, run_uuid: str, name: str, value: Any, step: int | None, *, key: str | None = None) -> Row:
        """The new metric; without a step it gets the one after the highest of its name, the first is 0.

        Args:
            key: of the request: a value that came with it already is not added again. None: it is always added.
        """
        run = self._number(run_uuid)
        with self.transaction():
            if key is not None:
                known = self._one("SELECT step FROM value_keys WHERE run = ? AND key = ?", run, key)
                if known is not None:
                    return {"name": name, "value": value, "step": known["step"]}
            (step,) = metrics.add_values(self._db, run, [(name, value, step)], time.time())
            if key is not None:
                self._db.execute("INSERT INTO value_keys VALUES (?, ?, ?)", (run, key, step))
        return {"name": name, "value": value, "step": step}

    def add_journal(self, run_uuid: str, writer: str, position: int, data: bytes) -> Row:
        """Add what a part of a writer's journal holds (``journal.format``), each record once however often it comes.

        Args:
            position: where in the journal ``data`` begins. What is known of it already is passed over.

        Returns:
            ``position``: up to where the journal is known now, a record that has not ended left out. ``refused``:
            values that cannot be kept, with ``name``, ``step`` and ``detail``. ``malformed``: why the journal cannot
            be read further, or None.

        Raises:
            JournalGap: ``data`` begins after what is known.
        """
        run = self._number(run_uuid)
        with self.transaction():
            known = self._one("SELECT position, state FROM writers WHERE run = ? AND writer = ?", run, writer)
            begin = known["position"] if known is not None else 0
            if position > begin:
                raise JournalGap(begin)
            decoder = Decoder(json.loads(known["state"]) if known is not None else None, begin)
            malformed = None
            try:
                read = decoder.read(data[begin - position :])
            except MalformedJournal as exc:
                read, malformed = exc.columns, str(exc)
            problems = {name: problem for name in set(read.names) if (problem := _problem(name)) is not None}
            refused = []
            if problems:
                refused = [
                    {"name": name[:MAX_NAME_CHARS], "step": step, "detail": problems[name]}
                    for name, step in zip(read.names, read.steps)
                    if name in problems
                ]
                read = read.without(problems)
            before = self.value_count(run_uuid)
            if read.names:
                metrics.add_columns(self._db, run, read.names, read.values, read.steps, time.time())
            self._tell_waiting(run, writer, decoder.position, before, read.ends)
            if decoder.position > begin:
                self._db.execute(
                    "INSERT OR REPLACE INTO writers VALUES (?, ?, ?, ?)",
                    (run, writer, decoder.position, json.dumps(decoder.state())),
                )
        return {"position": decoder.position, "refused": refused, "malformed": malformed}

    def when_known(self, run_uuid: str, logged: Logged, tell: Callable[[int], None]) -> None:
        """Call ``tell`` with how many values the run had after this much of a journal, once that has come.

        At once where it is known already; and never, if it does not come while this backend runs.
        """
        run = self._number(run_uuid)
        known = self._one("SELECT position FROM writers WHERE run = ? AND writer = ?", run, logged.writer)
        if known is not None and known["position"] >= logged.position:
            tell(self.value_count(run_uuid))
            return
        self._waiting.setdefault((run, logged), []).append(tell)
        if len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]

    def _tell_waiting(self, run: int, writer: str, position: int, before: int, ends: list[int]) -> None:
        """Tell those that wait for this part of a journal; ``ends``: of each new value where its record ends."""
        for key in [key for key in self._waiting if key[0] == run and key[1].writer == writer]:
            if key[1].position <= position:
                for tell in self._waiting.pop(key):
                    tell(before + bisect_right(ends, key[1].position))

    def value_count(self, run_uuid: str) -> int:
        """How many values the metrics of a run have in all."""
        row = self._one("SELECT value_count FROM runs WHERE uuid = ?", run_uuid)
        return 0 if row is None else int(row["value_count"])

    # --- helpers --------------------------------------------------------------------------------

    def read(self, sql: str, *values: Any) -> list[Row]:
        """The rows that a SELECT gives. For the modules of ``page/queries``, which hold the pages' own questions."""
        return [dict(row) for row in self._db.execute(sql, values)]

    def write(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Change records at once; this cannot be undone."""
        return self._db.execute(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Inside, everything is changed or nothing. A block inside another is part of the outer one."""
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
        """Make the tables of a module that has tables of its own, unless they exist."""
        self._db.executescript(sql)

    def _number(self, run_uuid: str) -> int:
        row = self._one("SELECT number FROM runs WHERE uuid = ?", run_uuid)
        return -1 if row is None else int(row["number"])

    def _one(self, sql: str, *values: Any) -> Row | None:
        rows = self.read(sql, *values)
        return rows[0] if rows else None

    def _count(self, where: str, *values: Any) -> int:
        return int(self.read(f"SELECT count(*) AS count FROM {where}", *values)[0]["count"])


def _lock(directory: Path) -> sqlite3.Connection:
    """Hold the directory until the connection is closed or the process ends, however it ends."""
    # Those who only look whether it is held, hold it themselves for a moment.
    lock = sqlite3.connect(directory / LOCK_NAME, timeout=_LOCK_TIMEOUT, isolation_level=None)
    try:
        # SQLite's locks are locks of the operating system on every platform: no lock outlives its process.
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as exc:
        lock.close()
        if "locked" not in str(exc):
            raise  # a full disk, say: there may be no other backend
        raise DataDirectoryInUse(
            f"Another backend uses the data directory {directory}. te.login(mode='local', data_dir=...) joins it; "
            "to start one of your own, stop it (a `tellurio-sync backend`, or the program that started it), or choose "
            "another directory."
        ) from exc
    return lock


def _problem(name: str) -> str | None:
    """Why values from a journal cannot be kept under this name, or None."""
    if not name.strip():
        return "The name is empty."
    if len(name) > MAX_NAME_CHARS:
        return f"The name is over {MAX_NAME_CHARS} characters."
    try:
        name.encode()
    except UnicodeEncodeError:
        return "The name holds half a surrogate pair."
    return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
