"""Endpoints off the norm: what is asked of them, how often, and what the user is told."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tellurio_sync.backend.lm import LanguageModels, again, exchange
from tellurio_sync.backend.objects import Model, Objects
from tellurio_sync.backend.progress import Progress
from tellurio_sync.backend.questions import Answer, Asked, Question, QuestionFailed
from tellurio_sync.backend.reading.answers import feedback_schema
from tellurio_sync.backend.scope import Scope
from tellurio_sync.backend.usage import zero_usage

from .lm_endpoint import LmEndpoint, Reply, completion
from .scripted import run


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of ours are short; those that an endpoint asks for are kept."""
    monkeypatch.setattr(again, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(again, "_LONGEST_PAUSE", 0.002)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


class Asking:
    """Asks one endpoint. ``told`` holds what was noted."""

    def __init__(self, url: str, **config: Any) -> None:
        self.model = Model("m", "openai", {"base_url": url, "api_key": "none", **config}, zero_usage())
        self.told: list[Asked] = []
        self.config = config

    def ask(
        self, count: int = 1, schema: Any = None, system: bool = False, **args: Any
    ) -> list[Answer | QuestionFailed]:
        """The answers to ``count`` questions at once, or what was raised instead."""
        messages = [{"role": "system", "content": "s"}] * system + [{"role": "user", "content": "u"}]
        question = Question("forward", messages, self.model, {"model": "gpt-4o", **args}, schema=schema)

        async def call(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("no function of a client")

        async def main() -> list[Any]:
            lm = LanguageModels()
            lm.on_question.append(self.told.append)
            try:
                return await asyncio.gather(*(lm.ask(question, call) for _ in range(count)), return_exceptions=True)
            finally:
                await lm.close()

        found = run(main())
        assert all(isinstance(one, (Answer, QuestionFailed)) for one in found), found
        return found

    def one(self, **args: Any) -> Answer:
        (found,) = self.ask(**args)
        assert isinstance(found, Answer), found
        return found

    def failure(self, **args: Any) -> QuestionFailed:
        (found,) = self.ask(**args)
        assert isinstance(found, QuestionFailed), found
        return found


def in_turn(*replies: Any) -> Any:
    """Each request gets the next of ``replies``, the last one for ever."""
    left = list(replies)
    lock = threading.Lock()

    def answer(request: dict[str, Any]) -> Any:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


def refusal(status: int, message: str, **error: Any) -> Reply:
    return Reply(status, {"error": {"message": message, **error}})


# --- time and size ----------------------------------------------------------------------------------


def test_an_answer_that_drips_ends_with_the_time_out_of_the_model() -> None:
    def drip() -> Iterator[bytes]:
        while not endpoint.closing.wait(0.02):
            yield b" "

    with LmEndpoint(lambda request: Reply(chunks=drip())) as endpoint:
        failure = Asking(endpoint.url, timeout=0.3).failure()
        assert failure.kind == "timeout"
        assert "within 0.3 s, the `timeout` of the model" in str(failure)
        assert len(endpoint.requests) == 1, "it is the time of the whole question, tries included"


def test_silence_ends_with_the_time_out_of_the_question() -> None:
    with LmEndpoint(lambda request: endpoint.closing.wait(60) and "late") as endpoint:
        assert Asking(endpoint.url).failure(timeout=0.2).kind == "timeout"


@pytest.mark.parametrize("is_packed", [True, False])
def test_an_answer_beyond_all_measure_is_not_read_to_its_end(is_packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWER_BYTES", 2**20)
    body = json.dumps(completion("x" * 50_000_000)).encode()
    headers = {"Content-Encoding": "gzip"} if is_packed else {}
    reply = Reply(body=gzip.compress(body, 1) if is_packed else body, headers=headers)
    with LmEndpoint(in_turn(reply)) as endpoint:
        failure = Asking(endpoint.url).failure()
        assert failure.kind == "too_big"
        assert "over the 1 MiB that are read" in str(failure)


def test_a_packed_answer_is_read() -> None:
    body = gzip.compress(json.dumps(completion("hello")).encode())
    with LmEndpoint(in_turn(Reply(body=body, headers={"Content-Encoding": "gzip"}))) as endpoint:
        assert Asking(endpoint.url).one().text == "hello"


def test_of_an_error_only_the_beginning_is_read() -> None:
    with LmEndpoint(in_turn(Reply(400, b"no! " * 10_000_000))) as endpoint:
        failure = Asking(endpoint.url).failure()
        assert failure.kind == "refused"
        assert "no! no!" in str(failure)
        assert len(str(failure)) < 1000


# --- tries and pauses -------------------------------------------------------------------------------


def test_what_may_pass_is_tried_again_and_counted() -> None:
    with LmEndpoint(in_turn(refusal(500, "down"), refusal(503, "down"), "hello")) as endpoint:
        asking = Asking(endpoint.url)
        assert asking.one().text == "hello"
        assert [asked.tries for asked in asking.told] == [3]


@pytest.mark.parametrize("reply", [refusal(500, "down"), Reply(raw=b""), completion(None)])
def test_after_so_many_tries_it_is_a_failure(reply: Any) -> None:
    with LmEndpoint(in_turn(reply)) as endpoint:
        Asking(endpoint.url, max_retries=1).failure()
        assert len(endpoint.requests) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_will_not_pass_is_asked_once(status: int) -> None:
    with LmEndpoint(in_turn(refusal(status, "no"))) as endpoint:
        Asking(endpoint.url).failure()
        assert len(endpoint.requests) == 1


def test_an_endpoint_that_takes_two_at_a_time_answers_a_batch_without_any_setting() -> None:
    lock, busy, worst = threading.Lock(), 0, 0

    def answer(request: dict[str, Any]) -> Any:
        nonlocal busy, worst
        with lock:
            busy += 1
            worst = max(worst, busy)
            is_too_much = busy > 2
        try:
            if is_too_much:
                return refusal(429, "two at a time")
            endpoint.closing.wait(0.01)
            return "hello"
        finally:
            with lock:
                busy -= 1

    with LmEndpoint(answer) as endpoint:
        found = Asking(endpoint.url).ask(count=30)
        assert [getattr(one, "text", one) for one in found] == ["hello"] * 30


def test_no_more_at_once_than_the_user_says() -> None:
    lock, busy, worst = threading.Lock(), 0, 0

    def answer(request: dict[str, Any]) -> Any:
        nonlocal busy, worst
        with lock:
            busy += 1
            worst = max(worst, busy)
        endpoint.closing.wait(0.01)
        with lock:
            busy -= 1
        return "hello"

    with LmEndpoint(answer) as endpoint:
        Asking(endpoint.url, max_concurrency=3).ask(count=20)
        assert worst <= 3


def test_the_pause_that_an_endpoint_asks_for_is_kept() -> None:
    times: list[float] = []

    def answer(request: dict[str, Any]) -> Any:
        times.append(time.monotonic())
        return Reply(429, {"error": {"message": "wait"}}, {"Retry-After": "0.3"}) if len(times) == 1 else "hello"

    with LmEndpoint(answer) as endpoint:
        assert Asking(endpoint.url).one().text == "hello"
        assert times[1] - times[0] >= 0.29


def test_a_pause_beyond_the_questions_time_fails_at_once() -> None:
    with LmEndpoint(in_turn(Reply(429, {"error": {"message": "tomorrow"}}, {"Retry-After": "86400"}))) as endpoint:
        failure = Asking(endpoint.url).failure()
        assert failure.kind == "rate"
        assert "tomorrow" in str(failure)
        assert len(endpoint.requests) == 1


def test_questions_leave_by_the_rate() -> None:
    with LmEndpoint(in_turn("hello")) as endpoint:
        asking = Asking(endpoint.url, requests_per_minute=600)
        asking.ask(count=4)
        assert max(asked.seconds for asked in asking.told) >= 0.29, "four questions, a tenth of a second between them"


def test_a_quota_that_is_used_up_is_not_waited_for() -> None:
    with LmEndpoint(in_turn(refusal(429, "You exceeded your quota", code="insufficient_quota"))) as endpoint:
        assert Asking(endpoint.url).failure().kind == "refused"
        assert len(endpoint.requests) == 1


# --- what endpoints do not take ---------------------------------------------------------------------


def test_a_template_without_system_role_is_learnt_once_for_all() -> None:
    def answer(request: dict[str, Any]) -> Any:
        if request["messages"][0]["role"] == "system":
            return refusal(400, "System role not supported")
        return "hello"

    with LmEndpoint(answer) as endpoint:
        asking = Asking(endpoint.url, max_concurrency=1)
        found = asking.ask(count=4, system=True)
        assert [getattr(one, "text", one) for one in found] == ["hello"] * 4
        assert len(endpoint.requests) == 5
        assert endpoint.requests[-1]["messages"] == [{"role": "user", "content": "s\n\nu"}]


def test_a_batch_that_finds_out_the_same_at_once_gets_through() -> None:
    barrier = threading.Barrier(4)

    def answer(request: dict[str, Any]) -> Any:
        if "max_tokens" in request:
            barrier.wait(30)
            message = "Unsupported parameter: 'max_tokens' is not supported with this model."
            return refusal(400, message, code="unsupported_parameter", param="max_tokens")
        return "hello"

    with LmEndpoint(answer) as endpoint:
        found = Asking(endpoint.url).ask(count=4, max_tokens=5)
        assert [getattr(one, "text", one) for one in found] == ["hello"] * 4
        assert [request.get("max_completion_tokens") for request in endpoint.requests[4:]] == [5] * 4


SCHEMA = feedback_schema(["variable_1"])
OBJECT = '{"variable_1": "x"}'


def test_an_object_is_asked_for_by_its_schema() -> None:
    with LmEndpoint(in_turn(OBJECT)) as endpoint:
        assert Asking(endpoint.url).one(schema=SCHEMA).text == OBJECT
        (request,) = endpoint.requests
        assert request["response_format"]["json_schema"]["schema"] == SCHEMA


def test_an_endpoint_without_schemas_is_asked_by_a_tool_and_that_is_remembered() -> None:
    def answer(request: dict[str, Any]) -> Any:
        if "response_format" in request:
            return refusal(400, "response_format is not supported")
        call = {"type": "function", "id": "1", "function": {"name": "give_answer", "arguments": OBJECT}}
        return completion(None, "tool_calls", tool_calls=[call]) if "tools" in request else "plain"

    with LmEndpoint(answer) as endpoint:
        asking = Asking(endpoint.url)
        found = asking.ask(count=5, schema=SCHEMA)
        assert [getattr(one, "text", one) for one in found] == [OBJECT] * 5
        assert ["tools" in request for request in endpoint.requests] == [False] + [True] * 5


def test_an_endpoint_with_neither_is_asked_in_words() -> None:
    def answer(request: dict[str, Any]) -> Any:
        return refusal(400, "unexpected field") if {"response_format", "tools"} & request.keys() else OBJECT

    with LmEndpoint(answer) as endpoint:
        found = Asking(endpoint.url).ask(count=3, schema=SCHEMA)
        assert [getattr(one, "text", one) for one in found] == [OBJECT] * 3
        assert len(endpoint.requests) == 5


def test_the_users_own_form_stays() -> None:
    with LmEndpoint(in_turn(OBJECT)) as endpoint:
        Asking(endpoint.url).one(schema=SCHEMA, response_format={"type": "json_object"})
        assert endpoint.requests[0]["response_format"] == {"type": "json_object"}


# --- what is sent, and what is said -----------------------------------------------------------------


def test_extra_headers_query_and_body_go_out() -> None:
    with LmEndpoint(in_turn("hello")) as endpoint:
        asking = Asking(endpoint.url, default_query={"api-version": "1"})
        asking.one(extra_headers={"X-A": "b"}, extra_query={"c": "d e"}, extra_body={"top_k": 5})
        assert endpoint.headers[0]["x-a"] == "b"
        assert endpoint.paths == ["/v1/chat/completions?api-version=1&c=d+e"]
        assert endpoint.requests[0]["top_k"] == 5
        assert "extra_body" not in endpoint.requests[0]
        (asked,) = asking.told
        assert "X-A" not in str(asked.completion_args)


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.0\r\n", "not_a_completion", "not HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "not_a_completion", "not HTTP"),
        (b"", "unreachable", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "unreachable", "broke"),
    ],
)
def test_what_is_no_http_is_said(raw: bytes, kind: str, words: str) -> None:
    with LmEndpoint(in_turn(Reply(raw=raw))) as endpoint:
        failure = Asking(endpoint.url, max_retries=0).failure()
        assert failure.kind == kind
        assert words in str(failure)
        assert endpoint.url in str(failure)


def test_a_name_that_does_not_resolve_is_said() -> None:
    failure = Asking("https://no-such-host.invalid/v1", max_retries=0).failure()
    assert failure.kind == "unreachable"
    assert "'no-such-host.invalid' cannot be resolved" in str(failure)


def test_a_redirection_is_not_followed_with_the_key() -> None:
    with LmEndpoint(in_turn("stolen")) as other:
        with LmEndpoint(in_turn(Reply(307, b"", {"Location": other.url}))) as endpoint:
            failure = Asking(endpoint.url, api_key="sk-secret").failure()
        assert "another address" in str(failure)
        assert other.requests == []


def test_the_cost_that_an_endpoint_reports_counts() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": 0.125}
    with LmEndpoint(in_turn(completion("hello", usage=usage))) as endpoint:
        asking = Asking(endpoint.url)
        assert asking.one().cost == 0.125
        assert asking.model.usage["cost"] == {"amount": 0.125, "currency": "USD"}
        assert asking.told[0].cost == 0.125


def test_tokens_of_failures_are_booked_too() -> None:
    with LmEndpoint(in_turn(completion(None, "length"))) as endpoint:
        asking = Asking(endpoint.url)
        asking.failure()
        assert asking.model.usage["total_tokens"] == 15
        assert asking.told[0].cost == pytest.approx((10 * 2.5 + 5 * 10) / 1e6)


def test_thoughts_are_kept_beside_the_answer() -> None:
    with LmEndpoint(in_turn(completion("<think>hm</think>positive"))) as endpoint:
        answer = Asking(endpoint.url).one()
        assert (answer.text, answer.thoughts, answer.finish_reason) == ("positive", "hm", "stop")


def test_a_request_whose_progress_is_told_waits_for_another_try_of_each_question() -> None:
    class NoClient:
        def push(self, method: str, params: dict[str, Any]) -> None:
            pass

        async def call(self, method: str, params: dict[str, Any]) -> Any:
            raise AssertionError(method)

    notes: list[str] = []

    class Kept(Progress):
        def waits(self, number: int, note: str) -> None:
            super().waits(number, note)
            notes.append(self.told().get("note", ""))

    async def main(url: str) -> list[str]:
        model = Model("m", "openai", {"base_url": url, "api_key": "none"}, zero_usage())
        question = Question("forward", [{"role": "user", "content": "u"}], model, {"model": "gpt-4o"})
        lm = LanguageModels()
        scope = Scope(Objects(), NoClient(), lm, progress=Kept("token"))
        try:
            return [answer.text for answer in await asyncio.gather(scope.ask(question), scope.ask(question))]
        finally:
            await lm.close()

    with LmEndpoint(in_turn(refusal(503, "busy"), refusal(503, "busy"), "hello")) as endpoint:
        assert run(main(endpoint.url)) == ["hello", "hello"]
    assert any(note.startswith("waits 0 s: try ") for note in notes)
    assert notes[-1] == ""
