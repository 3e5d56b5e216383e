"""How values of metrics are kept, whatever they are."""

from __future__ import annotations

import math
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tellurio_sync.backend import metrics as table
from tellurio_sync.backend import schema
from tellurio_sync.backend.metrics import is_packed
from tellurio_sync.errors import BackendError

NUMBERS = st.floats() | st.integers(-(2**53), 2**53)
OTHERS = st.none() | st.booleans() | st.text(max_size=4) | st.integers(-(2**70), 2**70) | st.lists(st.integers())
CALLS = st.lists(
    st.tuples(st.sampled_from("abc"), NUMBERS | OTHERS, st.none() | st.integers(0, 5) | st.integers(0, 2**63 - 1)),
    max_size=40,
)


def comparable(value: Any) -> Any:
    return struct.pack("<d", value) if type(value) is float else (type(value), value)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.prepare(connection, Path("memory"))
    connection.execute("INSERT INTO projects VALUES ('p', 'local', 'p', 'P', 'TEAM', '')")
    yield connection
    connection.close()


class Metrics:
    """The metrics of one database, by the number of a run."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def read(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        cursor = self._db.execute(sql, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor]

    def add(self, run: int, values: Any) -> list[int]:
        return table.add_values(self._db, run, values)

    def all(self, run: int) -> list[tuple[str, Any, int]]:
        return table.all_values(self, self._uuid(run))

    def values(self, run: int, name: str) -> list[table.Value]:
        values = table.values_of(self, self._uuid(run), name)
        for limit in (1, 3, 1000):
            last = table.last_values(self, self._uuid(run), name, limit)
            assert repr(last) == repr(values[::-1][:limit])
        return values

    def summaries(self, run: int) -> list[dict[str, Any]]:
        return table.summaries(self, self._uuid(run))

    def count(self, run: int, name: str) -> int:
        return table.count_of(self, self._uuid(run), name)

    def _uuid(self, run: int) -> str:
        uuid: str = self._db.execute("SELECT uuid FROM runs WHERE number = ?", (run,)).fetchone()[0]
        return uuid


def new_run(db: sqlite3.Connection) -> int:
    (count,) = db.execute("SELECT count(*) FROM runs").fetchone()
    sql = (
        "INSERT INTO runs (uuid, project_uuid, name, status, date_created, date_updated) VALUES (?, 'p', ?, '', '', '')"
    )
    number = db.execute(sql, (str(count), str(count))).lastrowid
    assert number is not None
    return number


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(CALLS, max_size=5))
def test_what_is_added_is_read(db: sqlite3.Connection, batches: list[Any]) -> None:
    metrics, run = Metrics(db), new_run(db)
    expected: list[tuple[str, Any, int]] = []
    for batch in batches:
        steps = metrics.add(run, batch)
        for (name, value, step), given_step in zip(batch, steps):
            highest = max((one[2] for one in expected if one[0] == name), default=-1)
            assert given_step == (min(highest + 1, 2**63 - 1) if step is None else step)
            expected.append((name, value, given_step))
    found = metrics.all(run)
    assert [(name, comparable(value), step) for name, value, step in found] == [
        (name, comparable(value), step) for name, value, step in expected
    ]
    for name in "abc":
        own = [(value, step) for one, value, step in expected if one == name]
        assert metrics.count(run, name) == len(own)
        by_step = sorted(own, key=lambda pair: pair[1])
        assert [(comparable(v.value), v.step) for v in metrics.values(run, name)] == [
            (comparable(value), step) for value, step in by_step
        ]
        summary = next((one for one in metrics.summaries(run) if one["name"] == name), None)
        if own:
            assert summary is not None
            # JSON texts: all NaNs are one.
            assert repr(summary["last"]) == repr(by_step[-1][0])
            finite = [value for value, _ in own if is_packed(value) and math.isfinite(value)]
            assert (summary["low"], summary["high"]) == ((min(finite), max(finite)) if finite else (None, None))


# So many values of so many metrics in turn, of one kind, at steps that far apart; None: without steps.
STRETCHES = st.lists(
    st.tuples(
        st.integers(1, 250),
        st.integers(1, 3),
        st.sampled_from(["float", "integer", "both", "other", "special"]),
        st.sampled_from([None, 0, 1, 7, 2**40, "uneven", "back"]),
    ),
    min_size=1,
    max_size=2,
)


def stretch(count: int, names: int, kind: str, gap: Any, step: int = 20) -> list[tuple[str, Any, int | None]]:
    made: list[tuple[str, Any, int | None]] = []
    for place in range(count):
        value: Any = place / 7
        if kind == "integer" or (kind == "both" and place % 5 == 0):
            value = place
        elif kind == "other" and place % 9 == 0:
            value = ["text", None, True, 2**60][place % 4]
        elif kind == "special" and place % 9 == 0:
            value = [math.nan, math.inf, -math.inf, -0.0][place % 4]
        made.append(("abc"[place % names], value, None if gap is None else step))
        if gap == "uneven":
            step += 1 + (place % 3 == 0)
        elif gap == "back":
            step = max(0, step + (5 if place % 4 else -13))
        else:
            step += gap or 0
    return made


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(STRETCHES, min_size=1, max_size=2), st.integers(0, 2**33))
def test_many_values_are_kept_as_if_they_had_come_one_by_one(
    db: sqlite3.Connection, batches: list[Any], missing: int
) -> None:
    metrics, together, alone = Metrics(db), new_run(db), new_run(db)
    for batch in batches:
        values = [value for drawn in batch for value in stretch(*drawn)]
        assert metrics.add(together, values) == [step for value in values for step in metrics.add(alone, [value])]
        # As if so many values of another metric had come in between: numbers of more than 32 bits.
        db.execute("UPDATE runs SET value_count = value_count + ?", (missing,))
    assert repr(metrics.all(together)) == repr(metrics.all(alone))
    columns = "name, count, first_step, first_number, last_step, last_value, last_number, low, high, is_in_order"
    rows = [metrics.read(f"SELECT {columns} FROM series WHERE run = ? ORDER BY name", run) for run in (together, alone)]
    assert repr(rows[0]) == repr(rows[1])
    sizes = [row["size"] for row in metrics.read("SELECT length(data) AS size FROM points")]
    assert max(sizes, default=0) <= table._PACKED_BYTES


@pytest.mark.parametrize(
    ("gap", "kind", "each"),
    [(1, "float", 8), (None, "float", 8), (0, "integer", 9), (7, "both", 9), ("uneven", "float", 16)],
)
@pytest.mark.parametrize("together", [1, 10, 10_000])
def test_rows_are_filled(db: sqlite3.Connection, gap: Any, kind: str, each: int, together: int) -> None:
    """Whether values come one by one or by thousands."""
    metrics, run = Metrics(db), new_run(db)
    values = stretch(700, 1, kind, gap)
    for begin in range(0, len(values), together):
        metrics.add(run, values[begin : begin + together])
    (found,) = metrics.read("SELECT count(*) AS rows, sum(length(data)) AS size FROM points")
    assert found["size"] <= 700 * each + 31 * found["rows"]
    assert found["rows"] <= -(-700 * each // (table._PACKED_BYTES - 50))


def test_thousands_of_values_come_back_in_order_from_single_and_large_additions(db: sqlite3.Connection) -> None:
    metrics, run = Metrics(db), new_run(db)
    expected = []
    for step in range(0, 3_000, 100):
        batch = [("even" if number % 2 else "odd", number / 7, number) for number in range(step, step + 100)]
        metrics.add(run, batch)
        metrics.add(run, [("odd", step, step * 3)])
        expected += [*batch, ("odd", step, step * 3)]
    assert metrics.all(run) == expected


@pytest.mark.parametrize("second", [[5, 7], [5, 6], [6, 7], [4, 8], [6, 6]])
def test_steps_that_repeat_between_two_additions_stay_what_they_are(db: sqlite3.Connection, second: list[int]) -> None:
    metrics, run = Metrics(db), new_run(db)
    for steps in ([4, 5], second):
        metrics.add(run, [("loss", step / 2, step) for step in steps])
    assert [step for _, _, step in metrics.all(run)] == [4, 5, *second]


def test_a_number_takes_at_most_24_bytes(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite3"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    schema.prepare(connection, path)
    connection.execute("INSERT INTO projects VALUES ('p', 'local', 'p', 'P', 'TEAM', '')")
    metrics, run = Metrics(connection), new_run(connection)
    empty = path.stat().st_size
    count = 0
    for begin in range(0, 20_000, 50):
        batch = [
            (f"m{name}", step / 3, step * (1 + name % 2)) for step in range(begin, begin + 50) for name in range(5)
        ]
        connection.execute("BEGIN")
        metrics.add(run, batch)
        connection.execute("COMMIT")
        count += len(batch)
    connection.close()
    assert (path.stat().st_size - empty) / count <= 24


# --- versions -----------------------------------------------------------------------------------

OLD = """
CREATE TABLE projects (uuid TEXT PRIMARY KEY, namespace TEXT NOT NULL, slug TEXT NOT NULL, display_name TEXT NOT NULL,
    visibility TEXT NOT NULL, date_created TEXT NOT NULL, UNIQUE (namespace, slug));
CREATE TABLE runs (number INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE,
    project_uuid TEXT NOT NULL REFERENCES projects (uuid) ON DELETE CASCADE, name TEXT NOT NULL, description TEXT,
    status TEXT NOT NULL, date_created TEXT NOT NULL, date_updated TEXT NOT NULL, UNIQUE (project_uuid, name));
CREATE TABLE metrics (number INTEGER PRIMARY KEY, run_uuid TEXT NOT NULL REFERENCES runs (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL, value TEXT NOT NULL, step INTEGER NOT NULL);
CREATE INDEX metrics_by_run ON metrics (run_uuid, name, step);
INSERT INTO projects VALUES ('p', 'local', 'p', 'P', 'TEAM', '2026-01-01');
INSERT INTO runs VALUES (1, 'r1', 'p', 'first', NULL, 'COMPLETED', '2026-01-01', '2026-01-01');
INSERT INTO runs VALUES (2, 'r2', 'p', 'second', NULL, 'RUNNING', '2026-01-01', '2026-01-01');
INSERT INTO metrics (run_uuid, name, value, step) VALUES ('r2', 'loss', '0.5', 0), ('r1', 'loss', '1', 3),
    ('r2', 'note', '"x"', 0), ('r2', 'loss', '0.25', 1);
"""


def old(path: Path, *changes: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(OLD)
    for change in changes:
        connection.execute(change)
    return connection


@pytest.mark.parametrize("change", ["", "ALTER TABLE runs DROP COLUMN description"])
def test_an_older_database_is_brought_up_to_date(tmp_path: Path, change: str) -> None:
    db = old(tmp_path / "db", *filter(None, [change]))
    schema.prepare(db, tmp_path)
    schema.prepare(db, tmp_path)
    metrics = Metrics(db)
    assert metrics.all(1) == [("loss", 1, 3)]
    assert metrics.all(2) == [("loss", 0.5, 0), ("note", "x", 0), ("loss", 0.25, 1)]
    assert db.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    metrics.add(2, [("loss", 0.125, None)])
    assert metrics.all(2)[-1] == ("loss", 0.125, 2)
    db.close()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("PRAGMA user_version = 99", "later tellurio_sync"),
        ("ALTER TABLE projects DROP COLUMN visibility", "projects.visibility is missing"),
    ],
)
def test_what_cannot_be_brought_up_to_date_is_refused_unchanged(tmp_path: Path, change: str, text: str) -> None:
    db = old(tmp_path / "db", change)
    before = list(db.iterdump())
    with pytest.raises(BackendError, match=f"{text}.*Nothing was changed"):
        schema.prepare(db, tmp_path)
    assert list(db.iterdump()) == before
    db.close()
