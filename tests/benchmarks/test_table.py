"""What the benchmarks print of their numbers."""

from __future__ import annotations

import pytest

from .rows import OTHER, OURS, SPEED, Row, Target
from .table import lines, ratio

AFNIO = "afnio"
TIME = Row("a call", "call", (), "ms", 1e3, (), (Target(AFNIO, 0.5, 0.4),))
RATE = TIME._replace(unit="/s", scale=1, targets=(Target(AFNIO, 2, 3),), is_rate=True)
SIZES = TIME._replace(targets=(Target("1", 1.5),), judged=("100", "10,000"))


@pytest.mark.parametrize(
    ("row", "values", "printed"),
    [
        pytest.param(
            TIME,
            {OURS: [0.0045], SPEED: [0.0045], AFNIO: [0.01]},
            [
                "    tellurio_sync 4.5 · tellurio_sync + speed 4.5 · afnio 10",
                "    / afnio: tellurio_sync 0.45 (<= 0.5 reached) · tellurio_sync + speed 0.45 (<= 0.4 MISSED)",
            ],
            id="with orjson more is asked for",
        ),
        pytest.param(
            RATE,
            {OURS: [250.0], OTHER: [150.0], AFNIO: [100.0]},
            [
                "    tellurio_sync 250 · other tree 150 · afnio 100",
                "    / afnio: tellurio_sync 2.5 (>= 2 reached) · other tree 1.5 (>= 2 MISSED)",
            ],
            id="of a rate, more is better",
        ),
        pytest.param(
            TIME._replace(targets=(Target(None, 5),)),
            {OURS: [0.004]},
            ["    tellurio_sync 4", "    tellurio_sync 4 (<= 5 reached)"],
            id="a figure of its own, in the printed unit",
        ),
        pytest.param(
            TIME,
            {OURS: [0.004], AFNIO: []},
            ["    tellurio_sync 4", "    / afnio: not measured"],
            id="a peer is missing",
        ),
        pytest.param(
            SIZES,
            {"1": [0.002], "100": [0.002], "10,000": [0.006]},
            ["    1 2 · 100 2 · 10,000 6", "    / 1: 100 1 (<= 1.5 reached) · 10,000 3 (<= 1.5 MISSED)"],
            id="sizes, against the smallest",
        ),
    ],
)
def test_lines_of_a_row(row: Row, values: dict[str, list[float]], printed: list[str]) -> None:
    assert lines(row, values) == [f"a call [{row.unit}]", *printed]


def test_a_quick_run_is_not_judged() -> None:
    assert lines(TIME, {OURS: [0.004], AFNIO: [0.01]}, is_judged=False) == [
        "a call [ms]",
        "    tellurio_sync 4 · afnio 10",
    ]


def test_a_ratio_is_taken_inside_each_round() -> None:
    """A load that slows both down in one round changes nothing."""
    assert ratio([1.0, 10.0, 2.0], [2.0, 20.0, 4.0]) == (0.5, 0.0)
