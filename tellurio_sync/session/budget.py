"""A limit for what language models may cost, for a part of a program."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import InvalidParams, MethodNotFound, TellurioError, UsageError
from ..model.reply_checks import id_member, member
from .default import current_session

log: logging.Logger = logging.getLogger(__name__)


class Spent:
    """What was spent within a budget. None until its block has ended, and if the server has forgotten it.

    Attributes:
        usd: US dollars; without the tokens whose price is not known.
        tokens: all tokens.
        questions: those that were asked, also of functions in the place of models; None too where the server does not
            count them.
    """

    def __init__(self) -> None:
        self.usd: float | None = None
        self.tokens: int | None = None
        self.questions: int | None = None

    def __repr__(self) -> str:
        return f"Spent(usd={self.usd!r}, tokens={self.tokens!r}, questions={self.questions!r})"


@contextmanager
def budget(*, usd: float | None = None, tokens: int | None = None, questions: int | None = None) -> Iterator[Spent]:
    """Let the language models of this session spend no more than this inside the block.

    ::

        with te.budget(usd=2.50) as spent:
            train()
        print(spent.usd)

    Before each question the server checks whether it could exceed the limit, together with the questions that are under
    way.  Such a question is not asked, and the call that needed it raises
    :class:`~tellurio_sync.errors.BudgetExceeded`, whose ``results`` hold the answers that were paid for already.  The
    limit holds for all calls of the session while the block is open, on any thread; blocks inside each other all count.
    Functions in the place of models cost neither tokens nor money; they do use questions.

    Args:
        usd: US dollars, >= 0; None: no limit. Needs the prices of the models: see the extra ``prices``.
        tokens: >= 0, of questions and answers; None: no limit.
        questions: >= 0; None: no limit. A question counts once, however often it is tried; one that is answered from
            a cache does not count.

    One round trip at the beginning and one at the end.

    Raises:
        ValueError: there is no limit, or it is not a number.
        UsageError: this server keeps no budgets; the local backend does.
    """
    limits: dict[str, Any] = {"usd": usd, "tokens": tokens}
    if questions is not None:
        limits["questions"] = questions
    if all(limit is None for limit in limits.values()):
        raise ValueError("A budget needs a limit: budget(usd=...), budget(tokens=...) or budget(questions=...).")
    for name, limit in limits.items():
        if limit is not None and not _is_limit(limit):
            raise ValueError(f"{name} must be a number of at least 0, not {limit!r}")
    session = current_session()
    try:
        opened = session.request("open_budget", limits)
    except MethodNotFound:
        text = "This server keeps no budgets, so what models spend there cannot be limited from here."
        raise UsageError(text) from None
    except InvalidParams as exc:
        if questions is None:
            raise
        # What does not know the member asks for one of the others.
        raise UsageError(f"This server keeps no budgets of questions: {exc}") from None
    budget_id = id_member("open_budget", opened, "budget_id")
    spent = Spent()
    try:
        yield spent
    finally:
        try:
            closed = session.request("close_budget", {"budget_id": budget_id})
            spent.usd, spent.tokens = member("close_budget", closed, "usd"), member("close_budget", closed, "tokens")
            spent.questions = closed.get("questions")
        except TellurioError as exc:
            # Nothing more can be spent within it. What ended the block must not be hidden by this.
            log.warning("! what was spent within a budget is not known: %s", exc)


def _is_limit(limit: object) -> bool:
    return isinstance(limit, (int, float)) and not isinstance(limit, bool) and math.isfinite(limit) and limit >= 0
