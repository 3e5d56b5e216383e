"""The ledger of questions: sums, steps, differences, and how it is shown."""

from __future__ import annotations

import json

import pytest

from tellurio_sync.errors import HttpError
from tellurio_sync.ledger import Count, Ledger


def row(step: int | None, kind: str, asked: int, model: str = "", **more: float) -> dict[str, object]:
    return {"step": step, "kind": kind, "model": model, "asked": asked, **more}


ROWS = [
    row(1, "optimizer", 1, "big", prompt_tokens=100, completion_tokens=20, usd=0.5),
    row(1, "forward", 10, "small", prompt_tokens=30, completion_tokens=10, usd=0.25, cached=2),
    row(2, "forward", 10, "small", failed=1, not_asked=3, retries=4),
    row(2, "tasting", 1, unpriced=1),
]


def test_sums_by_kind_by_model_and_by_step() -> None:
    ledger = Ledger.from_rows(ROWS)
    assert ledger.asked == 22
    assert ledger.total == Count(22, 2, 1, 3, 4, 130, 30, 0.75, 1)
    assert ledger.total.tokens == 160
    assert {kind: count.asked for kind, count in ledger.by_kind.items()} == {
        "forward": 20,
        "optimizer": 1,
        "tasting": 1,
    }
    assert list(ledger.by_kind) == ["forward", "optimizer", "tasting"], "unknown kinds come last"
    assert {model: count.asked for model, count in ledger.by_model.items()} == {"big": 1, "small": 20, "": 1}
    assert {step: part.asked for step, part in ledger.steps.items()} == {1: 11, 2: 11}


def test_a_difference_is_what_was_asked_in_between() -> None:
    earlier, later = Ledger.from_rows(ROWS[:2]), Ledger.from_rows([*ROWS, row(1, "forward", 5, "small")])
    between = later - earlier
    assert (between.asked, between.total.cached, list(between.steps)) == (16, 0, [1, 2])
    assert (later - later).counts == {}


def test_rows_and_back_through_json() -> None:
    ledger = Ledger.from_rows([*ROWS, row(None, "forward", 2)])
    again = Ledger.from_rows(json.loads(json.dumps(ledger.rows())))
    assert again == ledger
    assert 2 not in [step for step, part in again.steps.items() if part.asked == 2], "without a step it is in none"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "0 questions"),
        ([row(1, "forward", 1)], "1 question (1 forward)"),
        (
            ROWS,
            "22 questions (20 forward, 1 optimizer, 1 tasting), 160 tokens, $0.7500, 2 cached, 1 failed, 3 not asked",
        ),
    ],
)
def test_how_it_is_shown(rows: list[dict[str, object]], text: str) -> None:
    assert str(Ledger.from_rows(rows)) == text
    assert repr(Ledger.from_rows(rows)) == f"<Ledger: {text}>"


def test_a_notebook_shows_a_table_in_which_nothing_is_markup() -> None:
    html = Ledger.from_rows([row(1, "<b>", 1234)])._repr_html_()
    assert "&lt;b&gt;" in html
    assert html.count("<b>") == 1, "the title"
    assert html.count("1,234") == 2, "the kind, and all"


@pytest.mark.parametrize("answer", [{}, {"questions": None}, {"questions": [{}]}, {"questions": [row("x", "f", 1)]}])  # type: ignore[arg-type]
def test_an_answer_of_another_form_is_an_error(answer: dict[str, object]) -> None:
    with pytest.raises(HttpError, match="questions"):
        Ledger.from_answer(answer)
