"""Reading back: rows as tables, files and plots, and a metric as one line of text."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.studio.rows import Rows, plot
from tellurio_sync.studio.sparklines import sparkline


def rows_of(*rows: tuple[str, int, Any]) -> Rows:
    return Rows({"name": name, "step": step, "value": value} for name, step, value in rows)


ROWS = rows_of(
    ("loss", 0, 1.0),
    ("acc", 0, 1),
    ("loss", 2, math.nan),
    ("note", 2, 'a, "b"\nc'),
    ("loss", 1, math.inf),
    ("flag", 1, True),
    ("loss", 0, 0.5),
    ("box", 0, {"a": [1]}),
)


class Axes:
    """What ``plot`` uses of matplotlib's."""

    def __init__(self) -> None:
        self.lines: dict[str, tuple[list[int], list[float]]] = {}
        self.has_legend = False

    def plot(self, steps: list[int], values: list[float], label: str) -> None:
        self.lines[label] = (steps, values)

    def set_xlabel(self, text: str) -> None:
        assert text == "step"

    def set_title(self, text: str) -> None:
        self.title = text

    def legend(self) -> None:
        self.has_legend = True


def test_csv_has_a_line_for_each_value(tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "a.csv")
    with open(tmp_path / "a.csv", newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert read == [
        ["name", "step", "value"],
        ["loss", "0", "1.0"],
        ["acc", "0", "1"],
        ["loss", "2", "nan"],
        ["note", "2", 'a, "b"\nc'],
        ["loss", "1", "inf"],
        ["flag", "1", "true"],
        ["loss", "0", "0.5"],
        ["box", "0", '{"a": [1]}'],
    ]


def test_json_lines_hold_no_number_that_json_does_not_have(tmp_path: Path) -> None:
    ROWS.to_jsonl(tmp_path / "a.jsonl")

    def refuse(text: str) -> None:
        raise AssertionError(text)

    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    read = [json.loads(line, parse_constant=refuse) for line in lines]
    assert len(read) == len(ROWS)
    assert read[2] == {"name": "loss", "step": 2, "value": None, "not_finite": "nan"}
    assert read[4]["not_finite"] == "inf"
    assert read[7]["value"] == {"a": [1]}


def test_the_rows_of_some_metrics_and_their_numbers() -> None:
    assert [row["name"] for row in ROWS.of_metrics(("acc", "box"))] == ["acc", "box"]
    assert ROWS.of_metrics(()) is ROWS
    numbers = ROWS.numbers()
    assert list(numbers) == ["loss", "acc"]
    assert numbers["acc"] == [(0, 1.0)]
    assert [step for step, _ in numbers["loss"]] == [0, 2, 1, 0]


def test_pandas_has_a_row_for_each_step_and_the_last_of_its_values() -> None:
    pytest.importorskip("pandas", reason="pandas is not among what the tests need")
    frame = ROWS.to_pandas()
    assert list(frame.index) == [0, 1, 2]
    assert set(frame.columns) == {"loss", "acc"}
    assert frame["loss"][0] == 0.5
    assert math.isnan(frame["acc"][1])


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        ROWS.to_pandas()


def test_a_plot_has_a_line_for_each_metric_by_step_with_gaps() -> None:
    axes = Axes()
    assert plot(ROWS, (), axes, "my run") is axes
    steps, values = axes.lines["loss"]
    assert steps == [0, 0, 1, 2]
    assert values[:2] == [1.0, 0.5]
    assert all(map(math.isnan, values[2:])), "infinities are gaps, too"
    assert (set(axes.lines), axes.title, axes.has_legend) == ({"loss", "acc"}, "my run", True)
    only = Axes()
    plot(ROWS, ("acc",), only, "")
    assert set(only.lines) == {"acc"}
    empty = Axes()
    plot(Rows(), (), empty, "")
    assert not empty.has_legend


@pytest.mark.parametrize("name", ["los", "note"])
def test_a_plot_of_what_is_not_there(name: str) -> None:
    with pytest.raises(ValueError, match=f"no metric '{name}' with numbers; there are: loss, acc"):
        plot(ROWS, (name,), Axes(), "")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"tellurio_sync\[plot\]"):
        plot(ROWS, (), None, "")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([2.0, 2.0], "▁▁"),
        ([0.0, 1.0], "▁█"),
        ([0.0, math.nan, 1.0, math.inf], "▁ █ "),
        ([math.nan, -math.inf], "  "),
        ([float(value) for value in range(8)], "▁▂▃▄▅▆▇█"),
        ([-1.7e308, 1.7e308], "▁█"),
    ],
)
def test_a_metric_as_one_line(values: list[float], wanted: str) -> None:
    assert sparkline(values) == wanted


def test_of_many_values_the_line_shows_where_they_went() -> None:
    line = sparkline([float(value) for value in range(1000)], width=10)
    assert len(line) == 10
    assert line[-1] == "█"
    assert list(line) == sorted(line)
