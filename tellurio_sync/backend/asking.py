"""Asking until an answer has the required form, with a bounded number of tries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from .answers import BadAnswer
from .prompts import correction
from .questions import Answer, Question, QuestionFailed

TRIES = 3

T = TypeVar("T")
Ask = Callable[[Question], Awaitable[Answer]]


async def ask_for(ask: Ask, question: Question, read: Callable[[str], T]) -> T:
    """What ``read`` makes of the model's answer.

    An answer that ``read`` refuses goes back to the model with the reason, :data:`TRIES` times in all.

    Raises:
        QuestionFailed: no answer was of the required form; or whatever ``ask`` raises: that is not tried again here.
    """
    for attempt in range(1, TRIES + 1):
        answer = await ask(question)
        try:
            return read(answer.text)
        except BadAnswer as exc:
            if attempt == TRIES:
                text = f"The language model gave no usable answer in {TRIES} tries: {exc}."
                raise QuestionFailed("form", text, f"Last answer: {answer.text!r}") from None
            question = question.going_on(
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": correction(str(exc))},
            )
    raise AssertionError("unreachable")
