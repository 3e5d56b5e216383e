"""What the plots of a page get: several runs on common steps, and data in the page for what is seen first only."""

from __future__ import annotations

import itertools
import json
import math
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellurio_sync.backend import metrics
from tellurio_sync.backend.page import comparison, plots
from tellurio_sync.backend.page.overlay import overlay
from tellurio_sync.backend.page.queries.series import Line
from tellurio_sync.backend.page.queries.series import line_of as line_in_store
from tellurio_sync.backend.store import Store

from .conftest import RunningBackend
from .watched_run import Browser, WatchedRun


@pytest.fixture
def browser(backend: RunningBackend) -> Iterator[Browser]:
    with Browser(backend) as browser:
        yield browser


@pytest.fixture
def run(backend: RunningBackend) -> Iterator[WatchedRun]:
    run = WatchedRun(backend)
    yield run
    run.close()


def line_of(values: list[tuple[int, float]]) -> Line:
    numbers = [value for _, value in values if not math.isnan(value)]
    return Line(
        array("q", [step for step, _ in values]),
        array("d", [value for _, value in values]),
        *(min(numbers, default=None), max(numbers, default=None), len(numbers) < len(values)),
        number=lambda place: place,
    )


def drawn(x: list[float], y: list[Any]) -> list[tuple[float, float | None]]:
    """The values of a run, and where they stand."""
    return [(step, value) for step, value in zip(x, y) if value is not False]


some_values = st.integers(-1000, 1000).map(float) | st.just(math.nan)
some_lines = st.lists(
    st.lists(st.tuples(st.integers(0, 3), some_values), max_size=80).map(
        lambda found: list(zip(itertools.accumulate(gap for gap, _ in found), (value for _, value in found)))
    ),
    min_size=1,
    max_size=4,
)


@given(values=some_lines, columns=st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_runs_on_common_steps_lose_no_extreme_and_no_gap(values: list[list[tuple[int, float]]], columns: int) -> None:
    found = overlay([line_of(one) for one in values], columns)
    x = found["x"]
    assert x == sorted(x)
    assert len(found["ys"]) == len(values)
    assert len(x) <= 3 * columns
    for one, y in zip(values, found["ys"]):
        assert len(y) <= len(x)
        wanted = [(step, None if math.isnan(value) else value) for step, value in one]
        if found["columns"] is None:
            assert drawn(x, y) == wanted
            continue
        low, high, count, last = found["columns"]
        assert x[-1] == high == last

        width = max(high - low, 1) / count
        for at in range(count):
            there = [value for step, value in wanted if column_of(step - low, width, count) == at]
            shown = [value for step, value in drawn(x, y) if column_of(step - low, width, count) == at]
            numbers = [value for value in there if value is not None]
            ends = {min(numbers), max(numbers)} if numbers else set()
            assert {value for value in shown if value is not None} == ends
            assert (None in shown) == (None in there)
            if None not in there and numbers:
                assert shown[0] == next(value for value in there if value in ends), "in the order in which they came"


def column_of(steps: float, width: float, count: int) -> int:
    return min(math.floor(steps / width + 1e-6), count - 1)


def test_runs_of_different_lengths_and_steps_keep_their_places() -> None:
    long, short, none = line_of([(0, 1.0), (1, 2.0), (2, 3.0)]), line_of([(1, 5.0), (1, 6.0)]), line_of([])
    found = overlay([long, short, none], 10)
    assert found == {
        "x": [0, 1, 1, 2],
        "ys": [[1.0, 2.0, False, 3.0], [False, 5.0, 6.0], []],
        "columns": None,
    }
    assert overlay([long, short, none], 10, (1, 1)) == {"x": [1, 1], "ys": [[2.0], [5.0, 6.0], []], "columns": None}
    assert overlay([none], 10) == {"x": [], "ys": [[]], "columns": None}


def test_a_hundred_long_runs_are_a_small_table() -> None:
    """Also where each has steps of its own."""
    lines = [line_of([(step * 100 + run, math.sin(step)) for step in range(500)]) for run in range(100)]
    found = overlay(lines, plots.columns_for(100))
    assert len(found["x"]) <= 3 * plots.columns_for(100)
    assert found["columns"] == [0, 499 * 100 + 99, plots.columns_for(100), 499 * 100 + 99]


def log_three(run: WatchedRun, count: int) -> None:
    """The metrics a, b and c: no two values of one are the same."""
    for name in ("a", "b", "c"):
        for step in range(count):
            run.log(name, step + 0.5)


def plots_of(page: str) -> list[dict[str, Any]]:
    return [json.loads(found) for found in re.findall('<script type="application/json">(.*?)</script>', page)]


def test_the_data_of_plots_further_down_comes_when_it_is_asked_for(
    browser: Browser, run: WatchedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "POINTS_IN_PAGE", 10)
    log_three(run, 4)
    page = browser.look(run.path).text
    found = plots_of(page)
    assert [plot.get("x") for plot in found] == [[0, 1, 2, 3], [0, 1, 2, 3], None]
    assert [plot["name"] for plot in found] == ["a", "b", "c"]
    # What is said of it in words is there all the same.
    assert 'aria-label="c: 0.5 at step 0, 3.5 at step 3; lowest 0.5, highest 3.5"' in page
    assert "highest <b>3.5</b> at step 3" in page
    later = browser.look(f"{run.path}series.json?metric=c").json()
    assert later.keys() == found[0].keys() - {"name", "path"}
    assert (later["x"], later["runs"][0]["y"]) == ([0, 1, 2, 3], [0.5, 1.5, 2.5, 3.5])


def test_of_many_plots_of_several_runs_the_first_have_their_data_in_the_page(
    browser: Browser, backend: RunningBackend, run: WatchedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "POINTS_IN_PAGE", 6)
    other = WatchedRun(backend)
    for name in ("a", "b", "c", "d"):
        for one in (run, other):
            one.log(name, 1)
            one.log(name, 2)
    path = f"{run.project_path}compare/?run={run.uuid}&run={other.uuid}"
    found = plots_of(browser.look(path).text)
    assert [plot.get("x") for plot in found] == [[0, 1], [0, 1], None, None]
    assert [[one["key"] for one in plot["runs"]] for plot in found] == [[run.uuid, other.uuid]] * 4
    later = browser.look(f"{run.path}series.json?metric=c&run={run.uuid}&run={other.uuid}").json()
    assert (later["x"], [one["y"] for one in later["runs"]]) == ([0, 1], [[1, 2], [1, 2]])
    other.close()


def test_steps_that_jump_between_two_packed_rows_stay_where_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    project = store.create_project("local", "p", "P", "TEAM")
    assert project is not None
    even, uneven = (store.create_run(project["uuid"], name, None, "RUNNING") for name in ("even", "uneven"))
    with store.transaction():
        for step in range(600):
            store.add_metric(even["uuid"], "loss", step / 2, step)
    first = store.read("SELECT data FROM points ORDER BY number LIMIT 1")[0]["data"]
    size = len(metrics.look_into(first).doubles)
    assert size < 600, "there are several rows"
    steps = [step + 1000 * (step >= size) for step in range(600)]
    with store.transaction():
        for step in steps:
            store.add_metric(uneven["uuid"], "loss", step / 2, step)
    line = line_in_store(store, uneven["uuid"], "loss")
    assert list(line.steps) == steps
    assert list(line.values) == [step / 2 for step in steps]
    assert isinstance(line_in_store(store, even["uuid"], "loss").steps, range)
    store.close()


def test_the_tables_of_many_metrics_are_short(
    browser: Browser, run: WatchedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "ROWS_IN_PAGE", 36)
    log_three(run, 13)
    page = browser.look(run.path).text
    assert page.count("The last 12 values") == 3
    assert page.count("<tr>") == 3 * (1 + 12)
