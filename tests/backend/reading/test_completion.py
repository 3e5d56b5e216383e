"""What endpoints answer, from public reports, against what the user gets of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellurio_sync.backend.reading.completion import Completion, read_completion, well_formed

JSON = "application/json"


def body(content: Any = "positive", finish_reason: Any = "stop", **message: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **message}
    return {
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}],
        "usage": {"prompt_tokens": 3},
    }


def read(value: Any, status: int = 200, content_type: str = JSON) -> Completion:
    return read_completion(status, content_type, value if isinstance(value, bytes) else json.dumps(value).encode())


@pytest.mark.parametrize(
    ("value", "text", "thoughts"),
    [
        (body(), "positive", ""),
        (body(""), "", ""),
        (body("<think>hm</think>positive"), "positive", "hm"),
        (body("positive", reasoning_content="hm"), "positive", "hm"),
        (body("positive", reasoning="hm"), "positive", "hm"),
        (body([{"type": "text", "text": "posi"}, {"type": "text", "text": "tive"}]), "positive", ""),
        (
            body(
                [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "positive"},
                ]
            ),
            "positive",
            "hm",
        ),
        (
            body([{"type": "reasoning", "summary": [{"text": "hm"}]}, {"type": "output_text", "text": "positive"}]),
            "positive",
            "hm",
        ),
        (body(["posi", "tive"]), "positive", ""),
        (body("positive", finish_reason="length"), "positive", ""),
        (body("positive", finish_reason=None), "positive", ""),
        (json.dumps(body("@")).replace("@", "\\ud83d").encode(), "\ufffd", ""),
        (json.dumps(body("@")).replace("@", "\\ud83d\\ude00").encode(), "\U0001f600", ""),
    ],
)
def test_an_answer(value: Any, text: str, thoughts: str) -> None:
    found = read(value)
    assert (found.text, found.thoughts, found.problem) == (text, thoughts, None)
    assert found.usage == {"prompt_tokens": 3}


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (body(None, "length", reasoning_content="hm"), "cut_off", "thinking used up all tokens"),
        (body("", "length", reasoning_content="hm"), "cut_off", "Raise `max_tokens`"),
        (body("<think>hm", "length"), "cut_off", "thinking used up all tokens"),
        (body("", "length"), "cut_off", "the answer is empty"),
        (body("<think>hm"), "no_text", "thought aloud and then gave no answer"),
        (body(None), "no_text", "without a text"),
        (body([]), "no_text", "without a text"),
        (body([{"type": "image_url"}]), "no_text", "without a text"),
        (
            body(None, "tool_calls", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]),
            "no_text",
            "a call of a tool",
        ),
        (body(None, "function_call", function_call={"name": "f", "arguments": "{}"}), "no_text", "a call of a tool"),
        (body(None, refusal="I will not."), "blocked", "I will not."),
        (body("half an", "content_filter"), "blocked", "content filter"),
        (body(None, "content_filter"), "blocked", "content filter"),
        ({"choices": [{"message": None, "finish_reason": "stop"}]}, "no_text", "`message` is null"),
        ({"choices": [{"message": "text"}]}, "no_text", "`message` is no object"),
        ({"choices": []}, "not_a_completion", "JSON without `choices`"),
        ({"choices": None}, "not_a_completion", "JSON without `choices`"),
        ({"choices": ["x"]}, "not_a_completion", "JSON without `choices`"),
        ({"message": {"content": "hi"}, "done": True}, "not_a_completion", "OpenAI-compatible"),
        ({"error": {"message": "Not enough credits.", "code": 402}}, "refused", "Not enough credits."),
        ({"error": {"message": "Slow down.", "code": 429}}, "rate", "Slow down."),
        ({"error": {"message": "Overloaded.", "code": "503"}, "choices": []}, "server", "Overloaded."),
        ({"error": "flagged"}, "refused", "flagged"),
        ({"error": {"status": 401, "detail": "bad key"}}, "key", "bad key"),
        ({"error": {"weird": [1]}}, "refused", '{"weird": [1]}'),
        ({"detail": [{"msg": "field required"}]}, "refused", "field required"),
        ({"object": "error", "message": "no such model"}, "refused", "no such model"),
        (
            {"choices": [{"error": {"message": "upstream", "code": 502}, "message": {"content": ""}}]},
            "server",
            "upstream",
        ),
        (["x"], "not_a_completion", "JSON that is no object"),
        (b"", "not_a_completion", "empty body"),
        (b"<!doctype html><title>x", "not_a_completion", "a web page"),
        (b'data: {"choices": []}\n\n', "not_a_completion", "a stream"),
        (b"OK", "not_a_completion", "no JSON"),
        (b"\xff\xfe\x00", "not_a_completion", "no JSON"),
        (b"[" * 100_000, "not_a_completion", "no JSON"),
    ],
)
def test_what_is_no_answer_is_named(value: Any, kind: str, words: str) -> None:
    found = read(value)
    assert found.problem is not None
    assert found.problem.kind == kind
    assert words in f"{found.problem.text} {found.problem.said}"


@pytest.mark.parametrize(
    ("status", "value", "kind", "may_pass", "words"),
    [
        (400, {"error": {"message": "Too long."}}, "refused", False, "Too long."),
        (401, {"error": {"message": "Bad key."}}, "key", False, "Bad key."),
        (404, {"error": "no such model"}, "refused", False, "no such model"),
        (404, b"404 page not found", "refused", False, "404 page not found"),
        (429, {"error": {"message": "Slow down."}}, "rate", True, "max_concurrency"),
        (429, {"error": {"message": "x", "code": "insufficient_quota"}}, "refused", False, "quota"),
        (500, b"", "server", True, "status 500"),
        (503, b"<html>busy</html>", "server", True, "busy"),
        (529, {"type": "error", "error": {"message": "Overloaded"}}, "rate", True, "Overloaded"),
        (302, b"", "refused", False, "another address"),
        (204, b"", "not_a_completion", True, "empty body"),
    ],
)
def test_a_status(status: int, value: Any, kind: str, may_pass: bool, words: str) -> None:
    problem = read(value, status).problem
    assert problem is not None
    assert (problem.kind, problem.may_pass) == (kind, may_pass)
    assert words in f"{problem.text} {problem.said}"


def test_the_code_and_the_parameter_of_an_error() -> None:
    error = {"message": "x", "code": "unsupported_parameter", "param": "max_tokens", "type": "invalid_request_error"}
    problem = read({"error": error}, 400).problem
    assert problem is not None
    assert (problem.code, problem.param) == ("unsupported_parameter", "max_tokens")


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 3.5}, 3.5),
        ({"total_cost": 0}, 0.0),
        ({}, None),
        ({"cost": "1"}, None),
        ({"cost": True}, None),
        ({"cost": -1}, None),
    ],
)
def test_the_cost_that_the_endpoint_reports(usage: dict[str, Any], cost: float | None) -> None:
    assert read({**body(), "usage": usage}).cost == cost


def test_tokens_count_although_there_is_no_answer() -> None:
    assert read(body(None, "length")).usage == {"prompt_tokens": 3}
    assert read({"error": "x", "usage": {"prompt_tokens": 2}}).usage == {"prompt_tokens": 2}
    assert read({**body(), "usage": [1]}).usage == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "error",
                    "usage",
                    "text",
                    "type",
                    "finish_reason",
                    "tool_calls",
                    "code",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@settings(deadline=None, max_examples=150)
@given(
    json_values | st.binary(max_size=200),
    st.sampled_from([200, 204, 302, 400, 401, 429, 500, 599]),
    st.text(max_size=20),
)
def test_whatever_comes_there_is_an_answer_or_a_problem_in_words(value: Any, status: int, content_type: str) -> None:
    found = read(value, status, content_type)
    assert (found.problem is None) == (status == 200 and found.problem is None)
    assert found.problem is None or found.problem.text
    found.text.encode()


@settings(deadline=None, max_examples=100)
@given(
    st.text(st.characters())
    | st.lists(st.integers(0xD7F0, 0xE010), max_size=8).map(lambda codes: "".join(map(chr, codes)))
)
def test_every_text_becomes_one_that_can_be_sent(text: str) -> None:
    found = well_formed(text)
    found.encode()
    if not any(0xD800 <= ord(char) < 0xE000 for char in text):
        assert found == text
