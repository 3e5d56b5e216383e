"""``te.budget``: a training ends before it is overspent, and nothing that was paid for is lost."""

from __future__ import annotations

import logging

import pytest

import tellurio_sync as te
from tests.backend.lm_endpoint import LmEndpoint, completion

USAGE = {"prompt_tokens": 10, "completion_tokens": 90, "total_tokens": 100, "cost": 0.01}


def ask(url: str, count: int) -> list[str]:
    model = te.OpenAI(base_url=url, api_key="none", max_concurrency=1)
    chat = [{"role": "user", "content": [te.Variable("{n}", role="number")]}]
    numbers = [str(number) for number in range(count)]
    answer = te.functional.chat_completion(model, chat, inputs={"n": numbers}, model="m", max_tokens=90)
    return list(answer.data)


def test_what_was_answered_before_the_budget_ended_is_in_the_error(session: te.Session) -> None:
    with LmEndpoint(lambda request: completion("x", usage=USAGE)) as endpoint:
        with te.budget(tokens=350) as spent, pytest.raises(te.errors.BudgetExceeded) as caught:
            ask(endpoint.url, 5)
        assert len(caught.value.results) == 5
        assert [answer for answer in caught.value.results if answer is not None] == ["x", "x", "x"]
        assert "budget" in str(caught.value)
        assert (spent.tokens, spent.usd) == (300, pytest.approx(0.03))
        assert ask(endpoint.url, 2) == ["x", "x"], "it is over with its block"


def test_dollars_and_blocks_in_each_other(session: te.Session) -> None:
    with LmEndpoint(lambda request: completion("x", usage=USAGE)) as endpoint, te.budget(usd=1) as outer:
        with te.budget(usd=0.5) as inner:
            ask(endpoint.url, 2)
        ask(endpoint.url, 1)
    assert (inner.usd, outer.usd) == (pytest.approx(0.02), pytest.approx(0.03))


def test_questions_are_counted_also_of_functions(session: te.Session) -> None:
    asked: list[str] = []

    def model(messages: list[dict[str, str]], **options: object) -> str:
        asked.append(messages[0]["content"])
        return "x"

    chat = [{"role": "user", "content": [te.Variable("{n}", role="number")]}]
    lm = te.CallableModel(model)
    with te.budget(questions=3) as spent, pytest.raises(te.errors.BudgetExceeded) as caught:
        te.functional.chat_completion(lm, chat, inputs={"n": [str(number) for number in range(5)]})
    assert "3 of 3 questions are asked" in str(caught.value)
    assert [answer for answer in caught.value.results if answer is not None] == ["x"] * 3
    assert (spent.questions, len(asked)) == (3, 3)


def test_what_ended_the_block_is_not_hidden(session: te.Session, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    seen = []

    def block() -> None:
        with te.budget(tokens=5) as spent:
            seen.append(spent)
            session.close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert seen[0].tokens is None
    assert "is not known" in caplog.text


@pytest.mark.parametrize("limits", [{}, {"usd": -1}, {"usd": float("inf")}, {"tokens": True}, {"questions": -1}])
def test_limits_that_are_none(session: te.Session, limits: dict[str, object]) -> None:
    with pytest.raises(ValueError), te.budget(**limits):  # type: ignore[arg-type]
        raise AssertionError("the block was entered")


def test_a_cost_that_is_not_known_is_none_and_not_nothing(session: te.Session) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 90, "total_tokens": 100}
    with LmEndpoint(lambda request: completion("x", usage=usage)) as endpoint:
        model = te.OpenAI(base_url=endpoint.url, api_key="none")
        chat = [{"role": "user", "content": [te.Variable("hi", role="mail")]}]
        assert model.get_usage()["cost"] == {"amount": 0.0, "currency": "USD"}
        te.functional.chat_completion(model, chat, model="gpt-4o")
        known = model.get_usage()["cost"]["amount"]
        assert known > 0
        te.functional.chat_completion(model, chat, model="my-own-model")
        cost = model.get_usage()["cost"]
        assert (cost["amount"], cost["known"], cost["unpriced_tokens"]) == (None, known, 100)
        model.clear_usage()
        assert model.get_usage()["cost"] == {"amount": 0.0, "currency": "USD"}
