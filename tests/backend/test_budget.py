"""Budgets: nothing is asked that could pass them; and answers on disk, which cost nothing."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.backend.lm import AnswerCache, Budget, LanguageModels
from tellurio_sync.backend.lm.budget import checked
from tellurio_sync.backend.lm.cache import FILE_NAME
from tellurio_sync.backend.objects import Model
from tellurio_sync.backend.questions import Answer, Asked, Question, QuestionFailed
from tellurio_sync.backend.usage import zero_usage

from .conftest import RunningBackend
from .lm_endpoint import LmEndpoint, Reply, completion
from .rpc_client import RpcClient, RpcError
from .scripted import run

USAGE = {"prompt_tokens": 10, "completion_tokens": 90, "total_tokens": 100}
PRICED = {**USAGE, "cost": 0.01}


async def no_function(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("no function of a client")


def ask_all(url: str, count: int, budget: Budget, at_once: int = 4, model: str = "gpt-4o", **args: Any) -> list[Any]:
    asked = Model("m", "openai", {"base_url": url, "api_key": "none", "max_concurrency": at_once}, zero_usage())
    messages = [{"role": "user", "content": "u"}]

    async def main() -> list[Any]:
        lm = LanguageModels()
        question = Question("forward", messages, asked, {"model": model, **args})
        try:
            tasks = (lm.ask(question, no_function, budgets=(budget,)) for _ in range(count))
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await lm.close()

    return run(main())


@pytest.mark.parametrize("at_once", [1, 4, 16])
@pytest.mark.parametrize("limit", [0, 99, 1000, 1050, 100_000])
def test_tokens_never_pass_the_limit(at_once: int, limit: int) -> None:
    with LmEndpoint(lambda request: completion("x", usage=USAGE)) as endpoint:
        budget = checked(None, limit)
        found = ask_all(endpoint.url, 20, budget, at_once, max_tokens=90)
        assert budget.spent_tokens == 100 * len(endpoint.requests) <= limit
        refused = [one for one in found if isinstance(one, QuestionFailed)]
        assert {one.kind for one in refused} <= {"budget"}
        assert len(refused) == 20 - len(endpoint.requests)
        assert len(endpoint.requests) >= min(20, limit // 100 - 1)


def test_dollars_never_pass_the_limit_even_where_the_endpoint_names_its_own_cost() -> None:
    with LmEndpoint(lambda request: completion("x", usage={**USAGE, "cost": 0.0009})) as endpoint:
        budget = checked(0.01, None)
        ask_all(endpoint.url, 30, budget, at_once=1, max_tokens=90)
        assert budget.spent_usd == pytest.approx(0.0009 * len(endpoint.requests))
        assert 0.008 < budget.spent_usd <= 0.01


@pytest.mark.parametrize("at_once", [1, 4, 16])
def test_questions_never_pass_the_limit_and_each_counts_once(at_once: int) -> None:
    # The first two requests fail in a way that may pass, and are tried again.
    failures = [Reply(503, {"error": {"message": "busy"}})] * 2

    def reply(request: Any) -> Any:
        return failures.pop() if failures else completion("x")

    with LmEndpoint(reply) as endpoint:
        budget = checked(None, None, 6)
        found = ask_all(endpoint.url, 10, budget, at_once)
        assert [type(one) for one in found].count(Answer) == budget.spent_questions == 6
        assert len(endpoint.requests) == 8
        assert {one.kind for one in found if isinstance(one, QuestionFailed)} == {"budget"}


def test_failures_that_are_paid_count_too() -> None:
    with LmEndpoint(lambda request: completion(None, "length", usage=USAGE)) as endpoint:
        budget = checked(None, 250)
        ask_all(endpoint.url, 5, budget, at_once=1, max_tokens=90)
        assert (budget.spent_tokens, len(endpoint.requests)) == (200, 2)


def test_dollars_of_a_model_without_price_cannot_be_limited() -> None:
    with LmEndpoint(lambda request: completion("x", usage=USAGE)) as endpoint:
        found = ask_all(endpoint.url, 3, checked(1.0, None), at_once=1, model="my-own-model")
        assert [type(one) for one in found] == [Answer, QuestionFailed, QuestionFailed]
        assert "price of the language model 'my-own-model' is not known" in str(found[1])


@pytest.mark.parametrize("limits", [(None, None), (-1, None), (None, "5"), (True, None), (float("nan"), None)])
def test_limits_that_are_none(limits: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError):
        checked(*limits)


def test_a_budget_over_the_wire(rpc: RpcClient) -> None:
    with LmEndpoint(lambda request: completion("x", usage=USAGE)) as endpoint:
        config = {"base_url": endpoint.url, "api_key": "none", "max_concurrency": 1}
        made = rpc.call("create_model", class_type="OpenAI", provider="openai", config=config, usage={})
        model = {"__model_client__": True, "model_id": made["model_id"]}
        opened = rpc.call("open_budget", usd=None, tokens=250)
        with pytest.raises(RpcError) as caught:
            rpc.run(
                "ChatCompletion",
                model,
                [{"role": "user", "content": ["{a}"]}],
                {"a": ["1"] * 5},
                model="m",
                max_tokens=90,
            )
        data = caught.value.error["data"]
        assert data["kind"] == "budget"
        assert sorted(data["results"], key=str) == [None, None, None, "x", "x"]
        closed = rpc.call("close_budget", budget_id=opened["budget_id"])
        assert (closed["tokens"], closed["usd"]) == (200, 0.0)
        assert rpc.run("ChatCompletion", model, [{"role": "user", "content": ["hi"]}], model="m")["data"] == "x"


@pytest.mark.parametrize("limits", [{}, {"usd": -1}, {"tokens": "many"}])
def test_wrong_limits_over_the_wire(rpc: RpcClient, limits: dict[str, Any]) -> None:
    with pytest.raises(RpcError):
        rpc.call("open_budget", **limits)
    with pytest.raises(RpcError) as caught:
        rpc.call("close_budget", budget_id="no such")
    assert "no such budget" in caught.value.text


# --- answers on disk --------------------------------------------------------------------------------


class Program:
    """One life of a backend with these answers on disk."""

    def __init__(self, directory: Path, url: str, caches_all: bool = False, **config: Any) -> None:
        self._directory, self._caches_all = directory, caches_all
        self.model = Model(
            "m", "openai", {"base_url": url, "api_key": "none", "max_retries": 0, **config}, zero_usage()
        )
        self.told: list[Asked] = []

    def ask(self, text: str = "u", **args: Any) -> Any:
        async def main() -> Any:
            lm = LanguageModels(cache=AnswerCache(self._directory), caches_all=self._caches_all)
            lm.on_question.append(self.told.append)
            question = Question("forward", [{"role": "user", "content": text}], self.model, {"model": "gpt-4o", **args})
            try:
                return await lm.ask(question, no_function)
            except QuestionFailed as exc:
                return exc
            finally:
                await lm.close()

        return run(main())


def test_a_question_that_was_asked_before_costs_nothing(tmp_path: Path) -> None:
    with LmEndpoint(lambda request: completion("<think>hm</think>x", usage=USAGE)) as endpoint:
        first = Program(tmp_path, endpoint.url, cache=True).ask()
        again = Program(tmp_path, endpoint.url, cache=True, api_key="another")
        answer = again.ask()
        assert (answer.text, answer.thoughts, answer.is_cached) == (first.text, first.thoughts, True)
        assert (first.is_cached, len(endpoint.requests)) == (False, 1)
        assert again.model.usage == zero_usage()
        assert (again.told[0].tries, again.told[0].cost) == (0, None)
        assert again.told[0].endpoint == endpoint.url
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("config", "args", "text"),
    [
        ({}, {"temperature": 1}, "u"),
        ({}, {"model": "other"}, "u"),
        ({}, {}, "v"),
        ({}, {"extra_body": {"top_k": 1}}, "u"),
    ],
)
def test_another_question_is_asked(tmp_path: Path, config: dict[str, Any], args: dict[str, Any], text: str) -> None:
    with LmEndpoint(lambda request: completion("x", usage=USAGE)) as endpoint:
        program = Program(tmp_path, endpoint.url, cache=True, **config)
        program.ask()
        program.ask(text, **args)
        assert len(endpoint.requests) == 2


@pytest.mark.parametrize("reply", [completion("half an ans", "length"), completion(None), {"error": "no"}])
def test_what_is_no_whole_answer_is_asked_for_again(tmp_path: Path, reply: Any) -> None:
    with LmEndpoint(lambda request: reply) as endpoint:
        program = Program(tmp_path, endpoint.url, cache=True)
        program.ask()
        program.ask()
        assert len(endpoint.requests) == 2


@pytest.mark.parametrize(("caches_all", "cache", "requests"), [(False, None, 2), (True, None, 1), (True, False, 2)])
def test_who_decides_what_is_kept(tmp_path: Path, caches_all: bool, cache: bool | None, requests: int) -> None:
    with LmEndpoint(lambda request: completion("x")) as endpoint:
        program = Program(tmp_path, endpoint.url, caches_all, cache=cache)
        program.ask()
        program.ask()
        assert len(endpoint.requests) == requests


def test_a_correction_is_not_kept(tmp_path: Path) -> None:
    """Where a model gave no usable answer in all its tries, the next run must not be given the same ones again."""
    question = Question("critic", [], None)
    assert not question.is_correction
    assert question.going_on({"role": "user", "content": "again"}).is_correction
    models = LanguageModels(cache=AnswerCache(tmp_path), caches_all=True)
    program = Program(tmp_path, "http://127.0.0.1:9/v1")
    settings = models._endpoint(program.model).settings
    around = {"extra_body": None}
    assert models._cache_key(question, settings, {}, around) is not None
    assert models._cache_key(question.going_on(), settings, {}, around) is None


@pytest.mark.parametrize("damage", ["no database at all", ""])
def test_a_file_that_cannot_be_read_costs_a_question_and_no_training(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    with LmEndpoint(lambda request: completion("x")) as endpoint:
        if damage:
            (tmp_path / FILE_NAME).write_text(damage * 100)
        else:
            (tmp_path / FILE_NAME).mkdir()
        assert Program(tmp_path, endpoint.url, cache=True).ask().text == "x"
    assert "could not be looked up" in caplog.text


def test_a_backend_keeps_answers_over_its_restart(
    tmp_path: Path, start_backend: Callable[..., RunningBackend], connect: Callable[..., RpcClient]
) -> None:
    with LmEndpoint(lambda request: completion("x", usage=PRICED)) as endpoint:
        for _ in range(2):
            backend = start_backend(data_dir=tmp_path, lm_cache=True)
            rpc = connect(backend)
            config = {"base_url": endpoint.url, "api_key": "none"}
            made = rpc.call("create_model", class_type="OpenAI", provider="openai", config=config, usage={})
            model = {"__model_client__": True, "model_id": made["model_id"]}
            assert rpc.run("ChatCompletion", model, [{"role": "user", "content": ["hi"]}], model="m")["data"] == "x"
            rpc.close()
            backend.stop()
        assert len(endpoint.requests) == 1
