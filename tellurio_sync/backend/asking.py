"""Asks a language model until an answer has the required form, with a bounded number of tries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .prompts import correction
from .questions import Answer, FailureKind, Question, QuestionFailed
from .reading.answers import BadAnswer

TRIES = 3

_LONG_CHARS = 20_000

T = TypeVar("T")
Ask = Callable[[Question], Awaitable[Answer]]


async def ask_for(ask: Ask, question: Question, read: Callable[[str], T]) -> T:
    """The result of ``read`` on the model's answer.

    An answer that ``read`` refuses goes back to the model with the reason, :data:`TRIES` times in all.

    Raises:
        QuestionFailed: no answer had the required form. Errors of ``ask`` are raised as they are, and not tried again.
    """
    for attempt in range(1, TRIES + 1):
        answer = await ask(question)
        try:
            return await _read(read, answer.text)
        except BadAnswer as exc:
            was_cut_off = answer.finish_reason == "length"
            if attempt == TRIES:
                raise _no_usable(answer, exc, was_cut_off) from None
            problem = f"it was cut off at the token limit, and {exc}; be brief" if was_cut_off else str(exc)
            question = question.going_on(
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": correction(problem)},
            )
    raise AssertionError("unreachable")


async def _read(read: Callable[[str], T], answer: str) -> T:
    # Readers are linear in time, but of a long answer that is long enough for others to wait.
    return await asyncio.to_thread(read, answer) if len(answer) > _LONG_CHARS else read(answer)


def _no_usable(answer: Answer, exc: BadAnswer, was_cut_off: bool) -> QuestionFailed:
    text = f"The language model gave no usable answer in {TRIES} tries: {exc}."
    if was_cut_off:
        text += " It was cut off at the token limit each time: raise `max_tokens` (or `max_completion_tokens`)."
    kind: FailureKind = "harmful" if exc.is_harmful else "cut_off" if was_cut_off else "form"
    return QuestionFailed(kind, text, f"Last answer: {answer.text!r}")
