"""Vectors for texts, by an endpoint on this machine (protocol §K.16)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.backend.lm import again

from .conftest import KEY, RunningBackend
from .lm_endpoint import LmEndpoint, Reply
from .rpc_client import RpcClient, RpcError


def vector_of(text: str) -> list[float]:
    return [len(text), 0.5]


def vectors(request: dict[str, Any]) -> Any:
    items = [{"index": n, "object": "embedding", "embedding": vector_of(t)} for n, t in enumerate(request["input"])]
    # In any order: each has its index.
    return {"object": "list", "data": items[::-1], "usage": {"prompt_tokens": 7, "total_tokens": 7}}


@pytest.fixture
def endpoint() -> Iterator[LmEndpoint]:
    with LmEndpoint(vectors) as endpoint:
        yield endpoint


@pytest.fixture
def embed(rpc: RpcClient, endpoint: LmEndpoint) -> Callable[..., Any]:
    """A function that asks for the vectors of these texts, with a model that is configured so."""

    def embed(texts: Any, config: dict[str, Any] | None = None, **args: Any) -> Any:
        config = {"base_url": endpoint.url, "api_key": "sk-secret-key", "max_retries": 2, **(config or {})}
        made = rpc.call("create_model", class_type="OpenAI", provider="openai", config=config, usage={})
        return rpc.call("embed", model_id=made["model_id"], texts=texts, completion_args={"model": "small", **args})

    return embed


def test_a_vector_for_each_text_in_their_order(rpc: RpcClient, endpoint: LmEndpoint, embed: Any) -> None:
    result = embed(["a", "abc", ""], dimensions=2, extra_body={"truncate": True}, extra_headers={"X-Own": "1"})
    assert result["vectors"] == [[1, 0.5], [3, 0.5], [0, 0.5]]
    sent = {"model": "small", "input": ["a", "abc", ""], "dimensions": 2, "truncate": True, "encoding_format": "float"}
    assert endpoint.requests == [sent]
    assert endpoint.paths == ["/v1/embeddings"]
    assert (endpoint.headers[0]["authorization"], endpoint.headers[0]["x-own"]) == ("Bearer sk-secret-key", "1")
    assert rpc.pushes() == ["heartbeat", "update_model", "reply"]
    (usage,) = rpc.pushed("update_model")
    assert (usage["value"]["prompt_tokens"], usage["value"]["completion_tokens"]) == (7, 0)


def test_what_may_pass_is_tried_again(endpoint: LmEndpoint, embed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "_FIRST_PAUSE", 0.001)
    replies = [Reply(status=500, body={"error": "busy"}), Reply(status=429, headers={"Retry-After": "0"})]
    endpoint.answer = lambda request: replies.pop(0) if replies else vectors(request)
    assert embed(["a"])["vectors"] == [[1, 0.5]]
    assert len(endpoint.requests) == 3


def test_an_endpoint_that_takes_no_more_is_waited_for_longer_than_failures(endpoint: LmEndpoint, embed: Any) -> None:
    """As with questions: a rate says nothing of the request."""
    replies = [Reply(status=429, headers={"Retry-After": "0"}) for _ in range(6)]
    endpoint.answer = lambda request: replies.pop(0) if replies else vectors(request)
    assert embed(["a"])["vectors"] == [[1, 0.5]]
    assert len(endpoint.requests) == 7


@pytest.mark.parametrize(
    ("reply", "tries", "text"),
    [
        (Reply(status=500, body={"error": {"message": "down"}}), 3, "status 500"),
        (Reply(status=401, body={"error": {"message": "no sk-secret-key"}}), 1, "status 401"),
        (Reply(status=404, body={"error": {"message": "no such model"}}), 1, "no such model"),
        (Reply(body=b"<html>"), 1, "without a vector for each"),
        (Reply(body={"data": []}), 1, "without a vector for each of the 1 texts"),
        (Reply(body={"data": [{"index": 0, "embedding": ["x"]}]}), 1, "without a vector for each"),
        (Reply(body={"data": [{"index": 0, "embedding": "AAAA"}]}), 1, "without a vector for each"),
        (Reply(body={"data": {"index": 0}}), 1, "without a vector for each"),
    ],
)
def test_what_fails_says_why(
    endpoint: LmEndpoint, embed: Any, monkeypatch: pytest.MonkeyPatch, reply: Reply, tries: int, text: str
) -> None:
    monkeypatch.setattr(again, "_FIRST_PAUSE", 0.001)
    endpoint.answer = lambda request: reply
    with pytest.raises(RpcError) as failed:
        embed(["a"])
    assert text in failed.value.text
    assert "'small' at http://127.0.0.1" in failed.value.text
    assert "sk-secret-key" not in str(failed.value.error)
    assert len(endpoint.requests) == tries


@pytest.mark.parametrize("texts", [[], ["a", 1], [None]])
def test_bad_texts(endpoint: LmEndpoint, embed: Any, texts: Any) -> None:
    with pytest.raises(RpcError, match="list of texts"):
        embed(texts)
    assert endpoint.requests == []


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"model": ""}, "No model name"),
        ({"temperature": 1}, "Embeddings take no argument 'temperature'"),
        ({"extra_body": 1}, "`extra_body` must be an object"),
        ({"timeout": -1}, "`timeout` must be"),
    ],
)
def test_bad_arguments(endpoint: LmEndpoint, embed: Any, args: dict[str, Any], text: str) -> None:
    with pytest.raises(RpcError, match=text):
        embed(["a"], **args)
    assert endpoint.requests == []


def test_a_budget_counts_it(rpc: RpcClient, endpoint: LmEndpoint, embed: Any) -> None:
    budget = rpc.call("open_budget", usd=None, tokens=None, questions=1)["budget_id"]
    embed(["a", "b"])
    with pytest.raises(RpcError, match="questions"):
        embed(["a"])
    assert len(endpoint.requests) == 1
    spent = rpc.call("close_budget", budget_id=budget)
    assert (spent["questions"], spent["tokens"]) == (1, 7)


def test_a_function_of_the_client_is_not_asked(rpc: RpcClient, model: dict[str, Any]) -> None:
    with pytest.raises(RpcError, match="function of the client"):
        rpc.call("embed", model_id=model["model_id"], texts=["a"], completion_args={"model": "m"})


def test_from_a_program(backend: RunningBackend, endpoint: LmEndpoint) -> None:
    local = {"http_base_url": "http://127.0.0.1", "http_port": backend.port}
    with te.Session(**local, ws_base_url="ws://127.0.0.1", ws_port=backend.port) as session:
        session.login(KEY)
        with session.init(None, "Vectors"):
            lm = te.OpenAI(base_url=endpoint.url, api_key="k")
            assert lm.embed("abc", model="small") == [3, 0.5]
            assert lm.embed(["a"] * 101, model="small") == [[1, 0.5]] * 101
            assert lm.get_usage()["prompt_tokens"] == 21
