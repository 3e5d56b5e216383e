"""Vectors for texts, from the embeddings interface of an endpoint: plain calls, which take no part in a graph.

A request is sent again after a failure that may pass, as a question is (``again``), within the model's ``timeout``.
What it used is added to the usage of the model and to the budgets; it is not kept among the questions of a run, because
there is no question.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import usage
from ..objects import Model
from ..questions import QuestionFailed
from ..reading.completion import Completion, read_completion
from .again import Again, Patience, failure_of
from .budget import Budget, count_question
from .exchange import Exchanges, Response, Unreachable
from .lingering import Lingering
from .pace import Pace
from .settings import Settings

ARGUMENTS = frozenset({"model", "dimensions", "user"})
"""What the interface takes beside the texts. Anything else goes by ``extra_body``."""

# Vectors have no answer tokens: the least that a budget sets aside for one.
_LEAST_ANSWER = {"max_tokens": 1}


class Embedding:
    """One request for vectors, from its first try to its last.

    Args:
        exchanges, lingering: of all models.
        settings: of the model, as for chats.
        paces: whose turns, and rates, it waits for.
        model: whose usage grows.
        budgets: all of them must allow it.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        lingering: Lingering,
        settings: Settings,
        paces: tuple[Pace, Pace],
        model: Model,
        budgets: Sequence[Budget],
    ) -> None:
        self._exchanges, self._lingering = exchanges, lingering
        self._settings = replace(settings, url=f"{settings.address.rstrip('/')}/embeddings")
        self._pace, self._pace_of_all = paces
        self._model, self._budgets = model, budgets

    async def vectors(
        self, name: str, texts: Sequence[str], args: Mapping[str, Any], around: Mapping[str, Any]
    ) -> list[list[float]]:
        """A vector for each text.

        Args:
            name: of the model.
            texts: at least one.
            args: some of ``ARGUMENTS``.
            around: ``extra_headers``, ``extra_query``, ``extra_body``, ``timeout``, checked; each may be None.

        Raises:
            QuestionFailed: there are none.
        """
        count_question(self._budgets)
        body = {"input": list(texts), "encoding_format": "float", **args, **(around["extra_body"] or {})}
        timeout = float(around["timeout"] or self._settings.timeout)
        clock = asyncio.get_running_loop().time
        deadline: float | None = None
        patience = Patience(self._pace, self._settings.max_retries)
        while True:
            try:
                async with self._pace.turn(), self._pace_of_all.turn():
                    # Its time begins with its turn.
                    deadline = clock() + timeout if deadline is None else deadline
                    await self._pace.wait_for_rate()
                    await self._pace_of_all.wait_for_rate()
                    request = self._request(name, texts, body, around, deadline - clock())
                    # What was sent is paid: its usage is still awaited where the call is cancelled.
                    vectors = await self._lingering.see_through(request, lambda: lambda: None)
                self._pace.answered()
                return vectors
            except Again as again:
                assert deadline is not None  # it had its turn
                await patience.wait(again, deadline - clock())

    async def _request(
        self, name: str, texts: Sequence[str], body: Mapping[str, Any], around: Mapping[str, Any], left: float
    ) -> list[list[float]]:
        headers = {str(k): str(v) for k, v in (around["extra_headers"] or {}).items()}
        query = {str(k): str(v) for k, v in (around["extra_query"] or {}).items()}
        try:
            encoded = json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as exc:
            raise QuestionFailed("settings", f"its arguments cannot be sent as JSON ({exc}).") from None
        if left <= 0:
            raise QuestionFailed("timeout", "it gave no whole answer within the `timeout` of the model.")
        with contextlib.ExitStack() as reserved:
            messages = [{"role": "user", "content": text} for text in texts]
            used = [reserved.enter_context(budget.request(name, messages, _LEAST_ANSWER)) for budget in self._budgets]
            try:
                response = await self._exchanges.post(self._settings, headers, query, encoded, left)
            except Unreachable as exc:
                raise (Again(exc.failure) if exc.may_pass else exc.failure) from None
            said = await asyncio.to_thread(read_completion, response.status, response.content_type, response.body)
            spent = self._book(name, said, said.cost if said.cost is not None else response.cost)
            for one in used:
                one.prompt_tokens = one.tokens = usage.tokens(said.usage.get("prompt_tokens"))
                one.usd = spent
            return await asyncio.to_thread(_vectors_in, response, said, len(texts))

    def _book(self, name: str, said: Completion, cost: float | None) -> float | None:
        if not said.usage and cost is None:
            return 0.0
        return usage.add(self._model.usage, said.usage, name, cost)


def _vectors_in(response: Response, said: Completion, count: int) -> list[list[float]]:
    problem = said.problem
    if problem is not None and problem.kind != "not_a_completion":
        raise failure_of(problem, response)
    try:
        items = json.loads(response.body)["data"]
        by_index = {item["index"]: [_number(one) for one in item["embedding"]] for item in items}
        return [by_index[index] for index in range(count)]
    except (ValueError, TypeError, KeyError, RecursionError):
        text = f"it answered without a vector for each of the {count} texts. Is the model one for embeddings?"
        raise QuestionFailed("not_a_completion", text) from None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(value)
    return float(value)
