"""The same question at the same time is asked once, and nobody pays or fails for another."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tellurio_sync.backend.lm import LanguageModels
from tellurio_sync.backend.lm.in_flight import InFlight
from tellurio_sync.backend.objects import Model
from tellurio_sync.backend.questions import Answer, Asked, Question, QuestionFailed
from tellurio_sync.backend.usage import zero_usage

from .lm_endpoint import LmEndpoint
from .scripted import run

KEY = ("model", b"question")


class Asking:
    """Answers when it is told to, and counts."""

    def __init__(self, *outcomes: str | Exception) -> None:
        self.count = 0
        self._outcomes = outcomes
        self.may_answer = asyncio.Event()

    async def __call__(self) -> Answer:
        outcome = self._outcomes[self.count]
        self.count += 1
        await self.may_answer.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return Answer(outcome)


async def started(*tasks: asyncio.Task[Any]) -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_all_get_the_one_answer_and_one_of_them_pays() -> None:
    async def main() -> list[Answer]:
        in_flight, asking = InFlight(), Asking("yes")
        tasks = [asyncio.ensure_future(in_flight.answer(KEY, asking)) for _ in range(5)]
        await started(*tasks)
        asking.may_answer.set()
        found = await asyncio.gather(*tasks)
        assert asking.count == 1
        return found

    answers = run(main())
    assert [answer.text for answer in answers] == ["yes"] * 5
    assert [answer.is_cached for answer in answers] == [False, True, True, True, True]


def test_afterwards_it_is_asked_again() -> None:
    async def main() -> int:
        in_flight, asking = InFlight(), Asking("yes", "no")
        asking.may_answer.set()
        assert [(await in_flight.answer(KEY, asking)).text for _ in range(2)] == ["yes", "no"]
        return asking.count

    assert run(main()) == 2


def test_where_the_one_that_asks_is_given_up_another_asks() -> None:
    async def main() -> None:
        in_flight, asking = InFlight(), Asking("lost", "yes")
        tasks = [asyncio.ensure_future(in_flight.answer(KEY, asking)) for _ in range(3)]
        await started(*tasks)
        tasks[0].cancel()
        await started(*tasks)
        asking.may_answer.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(found[0], asyncio.CancelledError)
        assert [one.text for one in found[1:] if isinstance(one, Answer)] == ["yes", "yes"]
        assert asking.count == 2

    run(main())


def test_one_that_waits_may_be_given_up_without_harm_to_the_others() -> None:
    async def main() -> None:
        in_flight, asking = InFlight(), Asking("yes")
        tasks = [asyncio.ensure_future(in_flight.answer(KEY, asking)) for _ in range(3)]
        await started(*tasks)
        tasks[1].cancel()
        await started(*tasks)
        asking.may_answer.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one).__name__ for one in found] == ["Answer", "CancelledError", "Answer"]

    run(main())


def test_a_failure_is_that_of_all_each_with_an_error_of_its_own() -> None:
    async def main() -> list[Any]:
        in_flight, asking = InFlight(), Asking(QuestionFailed("server", "down", "said"))
        tasks = [asyncio.ensure_future(in_flight.answer(KEY, asking)) for _ in range(3)]
        await started(*tasks)
        asking.may_answer.set()
        assert asking.count == 1
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = run(main())
    assert [(one.kind, one.text, one.said) for one in found] == [("server", "down", "said")] * 3
    assert len({id(one) for one in found}) == 3


def test_a_budget_is_ones_own() -> None:
    async def main() -> None:
        in_flight, asking = InFlight(), Asking(QuestionFailed("budget", "used up"), "yes")
        tasks = [asyncio.ensure_future(in_flight.answer(KEY, asking)) for _ in range(2)]
        await started(*tasks)
        asking.may_answer.set()
        first, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(first, QuestionFailed)
        assert second == Answer("yes")

    run(main())


@pytest.mark.parametrize(
    ("args", "config", "asked"),
    [
        ({"temperature": 0}, {}, 1),
        ({"temperature": 0.0}, {}, 1),
        ({}, {}, 4),
        ({"temperature": 0.5}, {}, 4),
        ({"temperature": False}, {}, 4),
        ({}, {"cache": True}, 1),
        ({"temperature": 0, "extra_headers": {"x": "y"}}, {}, 4),
    ],
)
def test_only_where_the_answer_would_be_the_same_or_the_user_agrees(
    args: dict[str, Any], config: dict[str, Any], asked: int
) -> None:
    all_there = threading.Barrier(asked)

    def answer(request: Any) -> str:
        all_there.wait(30)
        return "yes"

    with LmEndpoint(answer) as endpoint:
        bill = ask_all(endpoint.url, [{"messages": "u", **args}] * 4, config)
        assert len(endpoint.requests) == asked
    assert sum(one.answer is not None and one.answer.is_cached for one in bill) == 4 - asked
    assert sum(one.tries for one in bill) == asked


def test_other_questions_are_other_questions() -> None:
    cold = {"temperature": 0}
    different = [{"messages": "a", **cold}, {"messages": "b", **cold}, {"messages": "a", **cold, "seed": 1}]
    with LmEndpoint(lambda request: "yes") as endpoint:
        ask_all(endpoint.url, different, {})
        assert len(endpoint.requests) == 3


def ask_all(url: str, questions: list[dict[str, Any]], config: dict[str, Any]) -> list[Asked]:
    model = Model("m", "openai", {"base_url": url, "api_key": "none", **config}, zero_usage())
    bill: list[Asked] = []

    async def no_function(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("no function of a client")

    async def ask(lm: LanguageModels, messages: str, **args: Any) -> Answer:
        question = Question("forward", [{"role": "user", "content": messages}], model, {"model": "small", **args})
        return await lm.ask(question, no_function)

    async def main() -> None:
        lm = LanguageModels()
        lm.on_question.append(bill.append)
        try:
            found = await asyncio.gather(*(ask(lm, **one) for one in questions))
            assert [one.text for one in found] == ["yes"] * len(questions)
        finally:
            await lm.close()

    run(main())
    return bill
