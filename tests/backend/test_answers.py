from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.backend.answers import BadAnswer, read_feedback, read_improved, read_judgement, read_text


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ('{"a": "x", "b": "y"}', {"a": "x", "b": "y"}),
        ('```json\n{"a": "x", "b": "y"}\n```', {"a": "x", "b": "y"}),
        ('  {"a": "x", "b": ""}\n', {"a": "x", "b": ""}),
        ('{"a": "x"}', "has no b"),
        ('{"a": "x", "b": "y", "c": "z"}', "no such variable: c"),
        ('{"a": "x", "b": ["y"]}', "b is not a string"),
        ('["a"]', "not a JSON object"),
        ('Here: {"a": "x", "b": "y"}', "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_feedback(answer: str, result: Any) -> None:
    check(read_feedback(["a", "b"]), answer, result)


@pytest.mark.parametrize(
    ("current", "answer", "result"),
    [
        ("old", "Sure. <IMPROVED>\nnew\nlines\n</IMPROVED> Done.", "new\nlines"),
        ("old", "<IMPROVED>say </IMPROVED> at the end</IMPROVED>", "say </IMPROVED> at the end"),
        ("old", "<IMPROVED>3</IMPROVED>", "3"),
        (None, "<IMPROVED>new</IMPROVED>", "new"),
        (2, "<IMPROVED>3</IMPROVED>", 3),
        (["a"], '<IMPROVED>["b", "c"]</IMPROVED>', ["b", "c"]),
        ("old", "new", "no <IMPROVED>"),
        ("old", "<IMPROVED>  </IMPROVED>", "nothing between"),
        (2, "<IMPROVED>three</IMPROVED>", "not JSON"),
        (2, '<IMPROVED>"3"</IMPROVED>', "a number"),
        (2, "<IMPROVED>NaN</IMPROVED>", "not JSON"),
        (["a"], '<IMPROVED>["b", 1]</IMPROVED>', "must not mix"),
    ],
)
def test_improved(current: Any, answer: str, result: Any) -> None:
    check(read_improved(current), answer, result)


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ('{"score": 1, "explanation": "x"}', (1, "x")),
        ('{"score": 0.5, "explanation": "x", "more": []}', (0.5, "x")),
        ('{"score": true, "explanation": "x"}', "score is not a number"),
        ('{"score": NaN, "explanation": "x"}', "not JSON"),
        ('{"explanation": "x"}', "no score"),
        ('{"score": 1, "explanation": 2}', "explanation is not a string"),
    ],
)
def test_judgement(answer: str, result: Any) -> None:
    check(read_judgement, answer, result)


@pytest.mark.parametrize(("answer", "result"), [(" good \n", "good"), (" \n", "empty")])
def test_text(answer: str, result: str) -> None:
    check(read_text, answer, result)


def check(read: Any, answer: str, result: Any) -> None:
    """The result, or a part of the reason why the answer is refused."""
    try:
        found = read(answer)
    except BadAnswer as exc:
        reason = str(exc)
        found = result if result in reason else reason
    assert found == result
