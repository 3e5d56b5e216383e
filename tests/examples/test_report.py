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
    text = "\n".join(f"line {i}" for i in range(30))
    assert excerpt(text, lines=2).splitlines() == ["line 0", "line 1", "... and 28 more lines"]
    assert excerpt("all of it\n\nand more") == "all of it\n\nand more"


def test_an_excerpt_breaks_long_lines_at_blanks_and_indents_the_rest() -> None:
    lines = excerpt("- words: " + "one two three " * 20).splitlines()
    assert len(lines) > 2
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[0].startswith("- words: one")
    assert all(line.startswith("  ") and line.strip().split()[0] in ("one", "two", "three") for line in lines[1:])
