"""Answers of models, as loose as they are, against what is read of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellurio_sync.backend.reading import answers
from tellurio_sync.backend.reading.answers import (
    BadAnswer,
    placeholders,
    read_feedback,
    read_improved,
    read_judgement,
    read_text,
)


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ('{"a": "x", "b": "y"}', {"a": "x", "b": "y"}),
        ('```json\n{"a": "x", "b": "y"}\n```', {"a": "x", "b": "y"}),
        ('  {"a": "x", "b": ""}\n', {"a": "x", "b": ""}),
        ('Here: {"a": "x", "b": "y"}. Done.', {"a": "x", "b": "y"}),
        ('{"a": "x", "b": "y", "c": "z"}', {"a": "x", "b": "y"}),
        ('{"A": "x", " b ": "y"}', {"a": "x", "b": "y"}),
        ('{"a": "x", "b": ["1", "2"]}', {"a": "x", "b": "1\n2"}),
        ('{"a": null, "b": 3}', {"a": "", "b": "3"}),
        ('{"a": {"feedback": "x"}, "b": {"k": 1, "l": [2]}}', {"a": "x", "b": '{"k": 1, "l": [2]}'}),
        ('{"feedback": {"a": "x", "b": "y"}}', {"a": "x", "b": "y"}),
        ('{"a": "Say "yes".", "b": "y"}', {"a": 'Say "yes".', "b": "y"}),
        ('{"a": "draft", "b": "draft"}\n{"a": "x", "b": "y"}', {"a": "x", "b": "y"}),
        ('{"a": "x", "b": "y"} as asked: {"a": "...", "b": "..."}', {"a": "x", "b": "y"}),
        ('{"a": "x", "b": "y"} {"note": 1}', {"a": "x", "b": "y"}),
        ('{"a": "x"}', "has no b"),
        ('{"a": "...", "b": "y"}', "has no a"),
        ('["a"]', "no complete JSON object"),
        ("", "no complete JSON object"),
        ("[" * 100_000, "no complete JSON object"),
        ('{"a": "x", "b": "y', "no complete JSON object"),
        ('{"a": "draft", "b": "draft"} better: {"a": "x", "b"', "no complete JSON object"),
        ("{" + " " * answers.MAX_CHARS + "}", "characters"),
    ],
)
def test_feedback(answer: str, result: Any) -> None:
    check(read_feedback(["a", "b"]), answer, result)


@pytest.mark.parametrize(
    ("current", "answer", "result"),
    [
        ("old", "Sure. <IMPROVED>\nnew\nlines\n</IMPROVED> Done.", "new\nlines"),
        ("old", "<improved>new</improved>", "new"),
        ("old", "<IMPROVED>3</IMPROVED>", "3"),
        (None, "<IMPROVED>new</IMPROVED>", "new"),
        (2, "<IMPROVED>3</IMPROVED>", 3),
        (2, "<IMPROVED>```json\n3\n```</IMPROVED>", 3),
        (["a"], '<IMPROVED>["b", "c"]</IMPROVED>', ["b", "c"]),
        # The last complete form counts, and no draft.
        ("old", "<IMPROVED>draft</IMPROVED> or <IMPROVED>new</IMPROVED>", "new"),
        ("old", "between <IMPROVED> and </IMPROVED> tags: <IMPROVED>new</IMPROVED>", "new"),
        ("old", "I open <IMPROVED> now: <IMPROVED>new</IMPROVED>", "new"),
        ("old", "<think><IMPROVED>draft</IMPROVED></think><IMPROVED>new</IMPROVED>", "new"),
        ("old", "<think>or <IMPROVED> it</think><IMPROVED>new</IMPROVED>", "new"),
        ("old", "<IMPROVED>draft</IMPROVED> hm</think><IMPROVED>new</IMPROVED>", "new"),
        ("old", "<IMPROVED>new</IMPROVED><think><IMPROVED>draft</IMPROVED></think>", "new"),
        ("old", "<IMPROVED>Think in <think> and </think>.</IMPROVED>", "Think in <think> and </think>."),
        ("old", "<IMPROVED>Close with </think>.</IMPROVED>", "Close with </think>."),
        ("old", "<IMPROVED>draft</IMPROVED> or <IMPROVED>new", "not followed by"),
        ("old", "<think><IMPROVED>draft</IMPROVED>", "no <IMPROVED>"),
        ("old", "<IMPROVED>draft</IMPROVED></think>", "no <IMPROVED>"),
        ("old", "<IMPROVED>say </IMPROVED> at the end</IMPROVED>", "too many"),
        # White space around is that of the old data.
        ("old\n", "<IMPROVED>\nnew\n</IMPROVED>", "new\n"),
        ("  old", "<IMPROVED>new</IMPROVED>", "  new"),
        ("  ", "<IMPROVED>new</IMPROVED>", "new"),
        # Fences.
        ("old", "<IMPROVED>\n```\nnew\nlines\n```\n</IMPROVED>", "new\nlines"),
        ("old", "<IMPROVED>```text\nnew\n```</IMPROVED>", "new"),
        ("old", "```\n<IMPROVED>new</IMPROVED>\n```", "new"),
        ("```\nold\n```", "<IMPROVED>```\nnew\n```</IMPROVED>", "```\nnew\n```"),
        ("old", "<IMPROVED>```\na\n```\nor\n```\nb\n```</IMPROVED>", "```\na\n```\nor\n```\nb\n```"),
        ("old", "<IMPROVED>Like\n```\na\n```</IMPROVED>", "Like\n```\na\n```"),
        # What would do harm.
        ("old", "<IMPROVED>  </IMPROVED>", "nothing between"),
        ("old", "<IMPROVED>```\n\n```</IMPROVED>", "is empty"),
        ("Answer: {question}", "<IMPROVED>Answer politely.</IMPROVED>", "lost {question}"),
        ("Answer: {question}", "<IMPROVED>Answer: {{question}}</IMPROVED>", "lost {question}"),
        ("Answer: {question}", "<IMPROVED>Kindly: {question}</IMPROVED>", "Kindly: {question}"),
        ("old", "<IMPROVED><DATA>\nnew\n</DATA></IMPROVED>", "holds <DATA>"),
        ("the <DATA> field", "<IMPROVED>a <DATA> field</IMPROVED>", "a <DATA> field"),
        ("old", f"<IMPROVED>{'x' * 20_001}</IMPROVED>", "over the limit of 20000"),
        ("o" * 10_000, f"<IMPROVED>{'x' * 40_000}</IMPROVED>", "x" * 40_000),
        # No form.
        ("old", "new", "no <IMPROVED>"),
        ("old", "<IMPROVED>new", "not followed by </IMPROVED>"),
        (2, "<IMPROVED>three</IMPROVED>", "not JSON"),
        (2, '<IMPROVED>"3"</IMPROVED>', "a number"),
        (2, "<IMPROVED>NaN</IMPROVED>", "not JSON"),
        (["a"], '<IMPROVED>["b", 1]</IMPROVED>', "must not mix"),
    ],
)
def test_improved(current: Any, answer: str, result: Any) -> None:
    check(read_improved(current, own_tags=("DATA",)), answer, result)


def test_another_tag_where_the_data_holds_the_usual_one() -> None:
    read = read_improved("Answer in <IMPROVED>x</IMPROVED>.", "IMPROVED_2")
    answer = "<IMPROVED_2>Answer kindly in <IMPROVED>x</IMPROVED>.</IMPROVED_2>"
    assert read(answer) == "Answer kindly in <IMPROVED>x</IMPROVED>."


@pytest.mark.parametrize(
    ("answer", "is_harmful"),
    [("<IMPROVED>short</IMPROVED>", True), ("<IMPROVED> </IMPROVED>", True), ("none", False), ("<IMPROVED>x", False)],
)
def test_what_would_do_harm_is_told_from_a_wrong_form(answer: str, is_harmful: bool) -> None:
    with pytest.raises(BadAnswer) as caught:
        read_improved("{x}")(answer)
    assert caught.value.is_harmful == is_harmful


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{a} and {b_2} and {a}", ["{a}", "{b_2}"]),
        ("{{a}} {a", []),
        ("{{{a}}}", []),
        ("{{a} {b}}", ["{a}", "{b}"]),
        ('{"a": 1} {} { a } {a,b} {3} \\d{2}', []),
        ("{first name} {x.y} {é}", ["{first name}", "{x.y}", "{é}"]),
        ("{a\n}", []),
        ("{" * 5, []),
    ],
)
def test_placeholders(text: str, found: list[str]) -> None:
    assert placeholders(text) == found


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ('{"score": 1, "explanation": "x"}', (1, "x")),
        ('{"score": 0.5, "explanation": "x", "more": []}', (0.5, "x")),
        ('{"score": "4", "explanation": "x"}', (4, "x")),
        ('{"score": " 0.8 ", "explanation": "x"}', (0.8, "x")),
        ('{"score": "-1", "explanation": ["x", "y"]}', (-1, "x\ny")),
        ('{"score": 1, "explanation": 2}', (1, "2")),
        ('{"score": true, "explanation": "x"}', "score is not a number but true"),
        ('{"score": "4/5", "explanation": "x"}', 'score is not a number but "4/5"'),
        ('{"score": "85%", "explanation": "x"}', 'score is not a number but "85%"'),
        ('{"score": "1_0", "explanation": "x"}', "not a number"),
        ('{"score": "nan", "explanation": "x"}', "not a number"),
        ('{"score": "１", "explanation": "x"}', "not a number"),
        ('{"score": "1e999", "explanation": "x"}', "not a number"),
        ('{"score": null, "explanation": "x"}', "not a number but null"),
        ('{"score": NaN, "explanation": "x"}', "no complete JSON object"),
        ('{"explanation": "x"}', "no score"),
    ],
)
def test_judgement(answer: str, result: Any) -> None:
    check(read_judgement, answer, result)


@pytest.mark.parametrize(("answer", "result"), [(" good \n", "good"), (" \n", "empty")])
def test_text(answer: str, result: str) -> None:
    check(read_text, answer, result)


texts = st.text(max_size=200) | st.lists(
    st.sampled_from(
        [
            "<IMPROVED>",
            "</IMPROVED>",
            "<think>",
            "</think>",
            "{x}",
            "{",
            "}",
            "```",
            "\n",
            '"a"',
            ":",
            ",",
            "new",
            '{"a": "x"}',
        ]
    ),
    max_size=30,
).map("".join)


@settings(deadline=None, max_examples=50)
@given(texts)
def test_nothing_is_adopted_that_is_not_in_the_last_pair_of_tags(answer: str) -> None:
    try:
        new = read_improved("old")(answer)
    except BadAnswer:
        return
    last = answer.upper().rindex("</IMPROVED>")
    first = answer.upper().rindex("<IMPROVED>", 0, last)
    assert new in answer[first:last]


@settings(deadline=None, max_examples=50)
@given(texts)
def test_feedback_is_read_or_refused_whatever_comes(answer: str) -> None:
    try:
        found = read_feedback(["a"])(answer)
    except BadAnswer:
        return
    assert found.keys() == {"a"}
    assert isinstance(found["a"], str)


def check(read: Any, answer: str, result: Any) -> None:
    """The result, or a part of the reason why the answer is refused."""
    try:
        found = read(answer)
    except BadAnswer as exc:
        reason = str(exc)
        found = result if result in reason else reason
    assert found == result
