"""What is kept beside packed rows shows what the rows show."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tellurio_sync.backend import metrics, outlines
from tellurio_sync.backend.page.overlay import overlay
from tellurio_sync.backend.page.plots import in_words
from tellurio_sync.backend.page.queries import series
from tellurio_sync.backend.page.queries.series import EVERYTHING, Line, line_of, thinned
from tellurio_sync.backend.store import Store


class Counting:
    """The records, with a count of the packed rows that were read."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.rows = 0

    def read(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        found = self._store.read(sql, *values)
        if "SELECT data FROM points" in sql:
            self.rows += len(found)
        return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def new_run(store: Store) -> str:
    project = store.project("local", "p") or store.create_project("local", "p", "P", "TEAM")
    assert project is not None
    run = store.create_run(project["uuid"], None, None, "RUNNING")
    assert run is not None
    uuid: str = run["uuid"]
    return uuid


def add(store: Store, run: str, values: list[Any], *, gap: int = 1, first: int = 0, others: int = 0) -> None:
    """As a program logs them, with ``others`` of another metric after each hundredth."""
    made: list[tuple[str, Any, int | None]] = []
    for place, value in enumerate(values):
        made.append(("loss", value, first + place * gap))
        if place % 100 == 99:
            made += [("other", 0.5, None)] * others
    for begin in range(0, len(made), 700):
        with store.transaction():
            number = store.read("SELECT number FROM runs WHERE uuid = ?", run)[0]["number"]
            metrics.add_values(store._db, number, made[begin : begin + 700])


def point(line: Line, place: int) -> str:
    # NaN is not itself.
    return repr(line.point(place))


values_of_a_metric = st.tuples(
    st.integers(1_000, 2_500),
    st.integers(0, 2**32),
    st.sampled_from(["floats", "integers", "both", "gaps", "a long gap", "all alike"]),
)


def drawn_values(count: int, seed: int, kind: str) -> list[Any]:
    rng = random.Random(seed)
    made: list[Any] = [rng.randrange(50) if kind == "integers" else rng.random() for _ in range(count)]
    for place in range(count):
        if kind == "both" and rng.random() < 0.1:
            made[place] = place
        elif kind == "gaps" and rng.random() < 0.05:
            made[place] = rng.choice([math.nan, math.inf, -math.inf])
        elif kind == "a long gap" and 100 < place < 900:
            made[place] = math.nan
        elif kind == "all alike":
            made[place] = 0.25
    return made


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(values_of_a_metric, st.sampled_from([1, 10]), st.integers(0, 3), st.sampled_from([0, 1, 3]), st.randoms())
def test_a_line_of_which_not_all_is_read_is_that_of_which_all_is(
    store: Store, made: Any, gap: int, others: int, old: int, rng: Any
) -> None:
    """Also where some rows, or all, were written by a version without outlines."""
    run, values = new_run(store), drawn_values(*made)
    add(store, run, values, gap=gap, others=others)
    if old:
        store.write("DELETE FROM outlines WHERE point % ? = 0", old)
    line = line_of(store, run, "loss")
    assert line.load is not None
    whole = line.load()
    assert line.outlines is not None
    assert whole.outlines is None
    assert isinstance(line.steps, range)
    assert list(line.steps) == list(whole.steps)
    assert (line.low, line.high, line.has_gaps) == (whole.low, whole.high, whole.has_gaps)
    assert repr(list(line.values[:])) == repr(list(whole.values[:]))
    assert in_words("loss", line) == in_words("loss", whole)
    if line.low is not None and line.high is not None:
        assert line.place_of(line.low) == whole.place_of(line.low)
        assert line.place_of(line.high) == whole.place_of(line.high)
    for _ in range(20):
        begin, end = sorted((rng.randrange(len(values) + 1), rng.randrange(len(values) + 1)))
        assert line.extremes(begin, end) == whole.extremes(begin, end)
        if begin < end:
            assert point(line, begin) == point(whole, begin)
        assert repr(list(line.values[begin:end])) == repr(list(whole.values[begin:end]))
    columns = rng.choice([1, 2, 5])
    for span in (EVERYTHING, (gap * 300, gap * 900)):
        assert repr(thinned(line, columns, span)) == repr(thinned(whole, columns, span))


def test_few_of_the_rows_of_a_long_metric_are_read(store: Store) -> None:
    run, records = new_run(store), Counting(store)
    add(store, run, [math.sin(step / 999) for step in range(30_000)])
    rows = store.read("SELECT count(*) AS count FROM points")[0]["count"]
    assert rows > 100
    assert store.read("SELECT count(*) AS count FROM outlines")[0]["count"] == rows - 1
    line = line_of(records, run, "loss")
    assert (line.low, line.high) == (min(line.values[:]), max(line.values[:]))

    records.rows = 0
    line = line_of(records, run, "loss")
    assert in_words("loss", line)
    assert line.high is not None
    line.place_of(line.high)
    assert records.rows <= 3, "the last one, which has no outline, and those at both ends"
    assert len(thinned(line, 5)) > 5
    assert records.rows < rows / 3


@pytest.mark.parametrize("jump", [0, 1, 500])
def test_steps_that_jump_between_rows_are_read(store: Store, jump: int) -> None:
    run = new_run(store)
    add(store, run, [0.5] * 230)
    add(store, run, [0.25] * 2_000, first=230 + jump)
    line = line_of(store, run, "loss")
    assert list(line.steps) == [*range(230), *range(230 + jump, 2_230 + jump)]
    assert (line.outlines is None) == (jump > 0)
    assert [point.value for point in thinned(line, 1_000, (229, 230 + jump))] == [0.5, 0.25]


@pytest.mark.parametrize("counts", [[10_000] * 3, [10_000, 5_011, 46, 0], [9_200, 9_201]])
@pytest.mark.parametrize("gap", [1, 7])
def test_runs_that_are_alike_share_columns_of_whole_buckets(store: Store, counts: list[int], gap: int) -> None:
    """Without a look at their values, and every extreme is where it belongs."""
    rng, runs = random.Random(1), []
    for count in counts:
        runs.append(new_run(store))
        # Short ones have to be long enough for outlines; a run without values is one without the metric.
        add(store, runs[-1], [rng.random() for _ in range(count)], gap=gap)
    records = Counting(store)
    lines = [line_of(records, run, "loss") for run in runs]
    is_alike = all(count >= 1000 or not count for count in counts)
    records.rows = 0
    found = overlay(lines, 125)
    assert (records.rows == 0) == is_alike
    low, end, count, last = found["columns"]
    x, width = found["x"], (end - low) / count
    assert 0.75 * 125 <= count <= 1.5 * 125
    assert last == x[-1] == (max(counts) - 1) * gap
    assert x == sorted(x)
    for line, y in zip(lines, found["ys"]):
        assert len(y) <= len(x)
        shown: dict[int, list[float]] = {}
        for at, value in zip(x, y):
            if value is not False:
                shown.setdefault(min(math.floor((at - low) / width + 1e-6), count - 1), []).append(value)
        wanted: dict[int, list[float]] = {}
        for step, value in zip(line.steps, line.values[:]):
            wanted.setdefault(min(math.floor((step - low) / width + 1e-6), count - 1), []).append(float(f"{value:.6g}"))
        assert shown.keys() == wanted.keys()
        for column, values in wanted.items():
            ends = (min(values), max(values))
            assert sorted(set(shown[column])) == sorted(set(ends))
            assert shown[column][0] == next(value for value in values if value in ends)


@pytest.mark.parametrize("change", ["a gap", "another step", "a zoom", "an older row"])
def test_runs_that_are_not_alike_are_looked_at(store: Store, change: str) -> None:
    runs = [new_run(store) for _ in range(2)]
    values = [float(step % 97) for step in range(10_000)]
    add(store, runs[0], values)
    add(store, runs[1], [math.nan, *values[1:]] if change == "a gap" else values, first=change == "another step")
    if change == "an older row":
        store.write("DELETE FROM outlines")
    span = (0, 9_000) if change == "a zoom" else EVERYTHING
    found = overlay([line_of(store, run, "loss") for run in runs], 125, span)
    is_whole = change == "an older row"
    assert (found["columns"][2] == 125) != is_whole


def test_outlines_go_with_what_they_are_of(store: Store) -> None:
    run = new_run(store)
    add(store, run, [0.5] * 2_000)
    assert store.read("SELECT count(*) AS count FROM outlines")[0]["count"] > 5
    store.delete_project("local", "p")
    assert store.read("SELECT count(*) AS count FROM outlines") == [{"count": 0}]


def test_a_database_of_a_version_without_outlines_shows_the_same(tmp_path: Path) -> None:
    """Before it is opened by this one (a report), and after; what comes then has outlines."""
    store = Store(tmp_path)
    run, values = new_run(store), [math.sin(step / 50) for step in range(3_000)]
    add(store, run, values)
    wanted = [series.series(store, run, "loss", columns) for columns in (3, 100, 5_000)]
    store.write("DROP TABLE outlines")
    assert [series.series(store, run, "loss", columns) for columns in (3, 100, 5_000)] == wanted
    store.close()
    store = Store(tmp_path)
    assert [series.series(store, run, "loss", columns) for columns in (3, 100, 5_000)] == wanted
    add(store, run, values, first=3_000)
    assert store.read("SELECT count(*) AS count FROM outlines")[0]["count"] > 5
    line = line_of(store, run, "loss")
    assert line.load is not None
    assert (list(line.values[:]), list(line.load().values[:])) == (values * 2, values * 2)
    store.close()


def test_an_outline_tells_where_the_ends_are() -> None:
    values = [float(value) for value in range(100)]
    values[50], values[7], values[60] = -1.0, math.inf, math.nan
    found = outlines.Outlines([outlines.outline(outlines.ends_of(values), 100, 5, 2)])
    size = outlines.BUCKET
    assert (found.count, found.steps, found.has_gaps) == (100, range(5, 205, 2), True)
    assert found.whole(0, 100) == (0, 3)
    assert found.whole(1, 99) == (1, 2)
    assert found.whole(1, size - 1) == (1, 1)
    assert found.low(0, 3) == (-1.0, 50)
    assert found.high(0, 3) == (99.0, 99)
    assert found.high(0, 1) == (45.0, 45)
    assert (found.gap(0, 3), found.gap(1, 3), found.gap(2, 3)) == (7, 60, None)
    nothing = outlines.Outlines([outlines.outline(outlines.ends_of([math.nan] * 100), 100, 0, 1)])
    assert (nothing.low(0, 3), nothing.high(0, 3), nothing.gap(0, 3)) == (None, None, 0)
