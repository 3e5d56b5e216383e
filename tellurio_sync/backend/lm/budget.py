"""A limit for the cost of a session's questions.

Before each request the most that it may use is set aside.  If that would exceed the limit, the request is not sent.  So
a budget ends a training before too much is spent, even if many requests are under way.  When it is known what a request
has used, that replaces what was set aside for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..prices import price
from ..questions import QuestionFailed
from ..usage import tokens

# Characters of a question for one token, a cautious estimate: English has about four.
_CHARS_PER_TOKEN = 3

# Tokens that a chat template adds to each message.
_AROUND_MESSAGE = 12

# Tokens of an answer if nothing limits it and no answer has come yet.
_FIRST_ANSWER = 300


@dataclass
class Used:
    """What one request used; filled in as soon as it is known. ``usd`` is None if the price is not known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens: int = 0
    usd: float | None = 0.0


class Budget:
    """What may be spent, and what was spent. Event loop's thread only.

    Attributes:
        usd, tokens, questions: the limits; None: none.
        spent_usd, spent_tokens: what the requests that have ended used.
        spent_questions: those that were asked; each counts once, however often it was tried.
    """

    def __init__(self, usd: float | None, tokens: int | None, questions: int | None = None) -> None:
        self.usd, self.tokens, self.questions = usd, tokens, questions
        self.spent_usd, self.spent_tokens, self.spent_questions = 0.0, 0, 0
        self._reserved_usd, self._reserved_tokens = 0.0, 0
        # Later answers are expected to be as long as the longest one so far, counted in the model's own tokens.
        self._longest_answer = 0
        self._prompt_factor = 1.0
        self._unpriced = ""

    def check_question(self) -> None:
        """Check that one more question may be asked. Without a pause before ``count_question``, nothing comes between.

        Raises:
            QuestionFailed: it may not (``budget``).
        """
        if self.questions is not None and self.spent_questions >= self.questions:
            raise self._spent(f"{self.spent_questions:,} of {self.questions:,} questions are asked")

    def count_question(self) -> None:
        """One more question is asked."""
        self.spent_questions += 1

    @contextmanager
    def request(
        self, model_name: str, messages: Sequence[Mapping[str, str]], args: Mapping[str, Any]
    ) -> Iterator[Used]:
        """Set aside what a request may use, while it is under way.

        Raises:
            QuestionFailed: it may not be sent (``budget``).
        """
        chars = sum(len(message["content"]) for message in messages)
        expected = chars // _CHARS_PER_TOKEN + _AROUND_MESSAGE * len(messages)
        prompt = math.ceil(expected * self._prompt_factor)
        answer = tokens(args.get("max_completion_tokens") or args.get("max_tokens"))
        answer = answer or self._longest_answer or _FIRST_ANSWER
        dollars = price({"prompt_tokens": prompt, "completion_tokens": answer}, model_name) or 0.0
        self._check(dollars, prompt + answer, model_name)
        self._reserved_usd += dollars
        self._reserved_tokens += prompt + answer
        used = Used()
        try:
            yield used
            self._longest_answer = max(self._longest_answer, used.completion_tokens)
            self._prompt_factor = max(self._prompt_factor, used.prompt_tokens / expected)
        finally:
            self._reserved_usd -= dollars
            self._reserved_tokens -= prompt + answer
            self.spent_tokens += used.tokens
            if used.usd is None:
                self._unpriced = model_name
            else:
                self.spent_usd += used.usd

    def _check(self, dollars: float, count: int, model_name: str) -> None:
        if self.tokens is not None and self.spent_tokens + self._reserved_tokens + count > self.tokens:
            raise self._spent(f"{self.spent_tokens:,} of {self.tokens:,} tokens are used")
        if self.usd is None:
            return
        if self._unpriced:
            text = (
                f"The price of the language model {self._unpriced!r} is not known, so a budget in US dollars cannot be "
                'kept: give tokens=... instead, or install the table of prices: pip install "tellurio_sync[prices]"'
            )
            raise QuestionFailed("budget", text)
        if self.spent_usd + self._reserved_usd + dollars > self.usd:
            raise self._spent(f"{self.spent_usd:.4f} of {self.usd:.4f} US dollars are spent")

    def _spent(self, how: str) -> QuestionFailed:
        text = (
            f"The budget does not allow another question: {how}, and this one could pass the limit. It was not asked."
        )
        return QuestionFailed("budget", text)


def checked(usd: Any, tokens_: Any, questions: Any = None) -> Budget:
    """A budget with these limits.

    Raises:
        ValueError: none of them is a positive number, or one is something else.
    """
    for limit in (usd, tokens_, questions):
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit >= 0):
            raise ValueError("a limit of a budget must be a number of at least 0")
    if usd is None and tokens_ is None and questions is None:
        raise ValueError("a budget needs a limit: usd, tokens or questions")
    whole = (None if limit is None else int(limit) for limit in (tokens_, questions))
    return Budget(None if usd is None else float(usd), *whole)


def count_question(budgets: Sequence[Budget]) -> None:
    """A question is about to be asked: all budgets must allow it, and then it counts in all of them.

    Raises:
        QuestionFailed: one of them does not.
    """
    for budget in budgets:
        budget.check_question()
    for budget in budgets:
        budget.count_question()
