"""What is noted of each question, and which clients are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tellurio_sync.backend.lm import LanguageModels
from tellurio_sync.backend.objects import Model
from tellurio_sync.backend.questions import Asked, Question, QuestionFailed
from tellurio_sync.backend.refused import Refused
from tellurio_sync.backend.usage import zero_usage

from .scripted import run


def function_model() -> Model:
    return Model("m", "callable", {"callable_id": "f"}, zero_usage())


def question(**more: Any) -> Question:
    messages = [{"role": "user", "content": "hello"}]
    return Question("critic", messages, function_model(), {"extra_headers": {"X-Key": "secret"}, "seed": 1}, **more)


def told_of(call: Any) -> tuple[Any, list[Asked]]:
    """What asking gives or raises, and what was told of it."""
    models, told = LanguageModels(), []
    models.on_question.append(told.append)

    async def ask() -> Any:
        try:
            return await models.ask(question(sample=3), call, "run-1")
        except Exception as exc:  # noqa: BLE001 - compared by the test
            return exc

    return run(ask()), told


def test_an_answer_is_noted_with_its_question() -> None:
    async def call(function: Any, messages: Any, **args: Any) -> str:
        return "fine"

    answer, (asked,) = told_of(call)
    assert (answer.text, answer.cost) == ("fine", None)
    assert asked.answer is answer
    assert (asked.purpose, asked.sample, asked.run_uuid, asked.model_id) == ("critic", 3, "run-1", "m")
    assert (asked.error, asked.error_kind, asked.endpoint) == (None, None, "")
    assert asked.completion_args == {"seed": 1}, "headers may hold a key"
    assert asked.messages == [{"role": "user", "content": "hello"}]
    assert asked.seconds >= 0


def test_a_failure_is_noted_with_its_kind() -> None:
    async def call(function: Any, messages: Any, **args: Any) -> str:
        raise Refused("ZeroDivisionError: by zero")

    failure, (asked,) = told_of(call)
    assert isinstance(failure, QuestionFailed)
    assert failure.data == {"exception": "ZeroDivisionError: by zero", "kind": "function"}
    assert (asked.answer, asked.error, asked.error_kind) == (None, "ZeroDivisionError: by zero", "function")


def test_an_answer_that_is_no_text_is_a_failure() -> None:
    async def call(function: Any, messages: Any, **args: Any) -> Any:
        return 3

    failure, _ = told_of(call)
    assert str(failure) == "The function of a CallableModel must return a text, not int."


def test_a_question_that_was_given_up_is_noted() -> None:
    async def main() -> list[Asked]:
        models, told = LanguageModels(), []
        models.on_question.append(told.append)
        asking = asyncio.Event()

        async def call(function: Any, messages: Any, **args: Any) -> str:
            asking.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        task = asyncio.ensure_future(models.ask(question(), call))
        await asking.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return told

    (asked,) = run(main())
    assert (asked.answer, asked.error_kind) == (None, None)
    assert asked.error is not None
    assert "given up" in asked.error.lower()


def test_who_cannot_note_a_question_does_not_lose_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def call(function: Any, messages: Any, **args: Any) -> str:
        return "fine"

    models = LanguageModels()
    told: list[Asked] = []

    def full_disk(asked: Asked) -> None:
        raise OSError("no space left")

    models.on_question += [full_disk, told.append]
    assert run(models.ask(question(), call)).text == "fine"
    assert len(told) == 1
    assert "no space left" in caplog.text


def test_a_failure_says_its_part_and_what_was_said_shortened() -> None:
    failure = QuestionFailed("form", "No usable answer.", "x" * 10_000)
    assert failure.text == "No usable answer."
    assert str(failure).startswith("No usable answer. xxx")
    assert len(str(failure)) < 2000


def test_going_on_leaves_the_question_as_it_was() -> None:
    first = question()
    second = first.going_on({"role": "assistant", "content": "?"})
    assert (len(first.messages), len(second.messages)) == (1, 2)
    assert second.purpose == "critic"
