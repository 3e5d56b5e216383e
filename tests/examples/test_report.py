from __future__ import annotations

import pytest

from tellurio_sync.examples.report import WIDTH, excerpt, gain, share, table


def test_a_table_has_its_columns_under_their_heads() -> None:
    assert table(["mails", "number"], [["test", "7"], ["validation", "123"]]).splitlines() == [
        "mails        number",
        "test              7",
        "validation      123",
    ]


def test_a_table_without_rows_is_its_heads() -> None:
    assert table(["a", "b"], []) == "a   b"


@pytest.mark.parametrize(("before", "after", "text"), [(0.5, 0.75, "+25.0"), (0.5, 0.4, "-10.0"), (0.3, 0.3, "+0.0")])
def test_a_gain_is_in_percentage_points(before: float, after: float, text: str) -> None:
    assert gain(before, after) == text


def test_a_share_is_a_percentage() -> None:
    assert share(2 / 3) == "66.7%"


def test_an_excerpt_is_short_and_says_what_it_left_out() -> None:
    text = "\n".join(["x" * 200, *(f"line {i}" for i in range(30))])
    lines = excerpt(text, lines=5).splitlines()
    assert lines[0] == "x" * (WIDTH - 3) + "..."
    assert lines[1:] == ["line 0", "line 1", "line 2", "line 3", "... and 26 more lines"]
    assert excerpt("all of it") == "all of it"
