"""Answers of language models for the fuzzer: built of parts whose meaning is known, or mutated beyond all meaning.

What is built has one right reading: the last form outside of thoughts.  Of what is mutated only this is known: a reader
gives a result or a ``BadAnswer``, and new data for a parameter stood between two tags, to the letter.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from tellurio_sync.backend.reading.answers import BadAnswer, read_feedback, read_improved, read_judgement
from tellurio_sync.backend.reading.completion import read_completion
from tellurio_sync.backend.reading.loose_json import objects
from tellurio_sync.backend.reading.thoughts import part

NAMES = ("variable_1", "variable_2")
_PROSE = (
    "Sure! Here it is:\n",
    "\n\nHope this helps!",
    "Mind {name} and {{braces}}.\n",
    "```\n",
    " ",
    "\n\n",
    "é \U0001f600 ",
)
_BRICKS = (
    *(
        "<IMPROVED>",
        "</IMPROVED>",
        "<think>",
        "</think>",
        "<THINK>",
        "[THINK]",
        "<|channel|>analysis<|message|>",
        "<|end|>",
    ),
    *(
        "```json\n",
        "```",
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        ":",
        ",",
        "\\",
        "\\u",
        "\\ud83d",
        "//",
        "/*",
        "*/",
        "\n",
        "\0",
        "\ud800",
    ),
    *(
        '"variable_1"',
        '"variable_2"',
        '"score"',
        '"explanation"',
        "null",
        "True",
        "NaN",
        "1e999",
        "-",
        "4/5",
        "9" * 400,
        "...",
        "x",
    ),
)


def fuzz_answers(dice: random.Random, outcomes: Counter[str]) -> int:
    """Twenty answers, read by every reader."""
    for _ in range(20):
        if dice.random() < 0.4:
            _read_built(dice)
            outcomes["built, read as it must be"] += 1
        else:
            outcomes[_read_any(dice, _mutated(dice))] += 1
    return 20


# --- built --------------------------------------------------------------------------------------------


def _read_built(dice: random.Random) -> None:
    is_improved = dice.random() < 0.5
    forms = [_word(dice) for _ in range(dice.randrange(1, 4))]
    parts: list[str] = []
    if dice.random() < 0.3:
        parts.append(f"<think>{_prose(dice)}{_form(dice, is_improved, 'DRAFT')}{_prose(dice)}</think>")
    elif dice.random() < 0.2:
        parts.append(f"{_form(dice, is_improved, 'DRAFT')} hm</think>")
    for form in forms:
        parts += [_prose(dice), _form(dice, is_improved, form)]
    parts.append(_prose(dice))
    if dice.random() < 0.2:
        parts.append(f"<think>or {_form(dice, is_improved, 'DRAFT')}?</think>")
    answer = "".join(parts)
    expected: Any = forms[-1] if is_improved else {name: f"{forms[-1]} {name}" for name in NAMES}
    found: Any = read_improved("old")(answer) if is_improved else read_feedback(NAMES)(answer)
    assert found == expected, (answer, found, expected)
    assert "DRAFT" not in part(answer).answer or "<think>or" in answer, answer


def _form(dice: random.Random, is_improved: bool, word: str) -> str:
    if is_improved:
        inner = dice.choice((word, f"\n{word}\n", f"```\n{word}\n```", f"\n```text\n{word}\n```\n"))
        return f"<IMPROVED>{inner}</IMPROVED>"
    found: Any = {name: f"{word} {name}" for name in NAMES}
    if dice.random() < 0.3:
        found["note"] = {"more": [1, None, True]}
    if dice.random() < 0.2:
        found = {"feedback": found}
    text = json.dumps(found, indent=dice.choice((None, 2)), ensure_ascii=dice.random() < 0.5)
    if dice.random() < 0.2:
        text = text[:-1] + ",}"
    return dice.choice((text, f"```json\n{text}\n```", f"```\n{text}\n```\n"))


def _prose(dice: random.Random) -> str:
    return "".join(dice.choice(_PROSE) for _ in range(dice.randrange(3)))


def _word(dice: random.Random) -> str:
    return f"new {dice.randrange(10**9)} é"


# --- mutated ------------------------------------------------------------------------------------------


def _mutated(dice: random.Random) -> str:
    if dice.random() < 0.01:
        return dice.choice(_BRICKS) * dice.randrange(3000)
    text = "".join(
        dice.choice((_form(dice, dice.random() < 0.5, _word(dice)), *_BRICKS[:8])) for _ in range(dice.randrange(6))
    )
    for _ in range(dice.randrange(8)):
        at = dice.randrange(len(text) + 1)
        text = text[:at] + dice.choice(_BRICKS) + text[at + dice.choice((0, 0, 1, 9)) :]
    return text


def _read_any(dice: random.Random, answer: str) -> str:
    parted = part(answer)
    assert parted.answer in answer
    for inner_quotes in (False, True):
        assert all(isinstance(one, dict) for one in objects(answer, inner_quotes=inner_quotes))
    body = json.dumps(
        {"choices": [{"message": {"content": answer}, "finish_reason": dice.choice(("stop", "length", None))}]}
    )
    cut = dice.randrange(len(body) + 1) if dice.random() < 0.3 else len(body)
    read_completion(200, "", body[:cut].encode("utf-8", "surrogatepass")).text.encode()
    readings = 0
    for read in (read_feedback(NAMES), read_judgement):
        try:
            read(answer)
            readings += 1
        except BadAnswer:
            pass
    current = dice.choice(("old", "old {name}", None, 2, ["x"]))
    try:
        new = read_improved(current, own_tags=("DATA",))(answer)
        readings += 1
    except BadAnswer:
        new = None
    if isinstance(current, str) and new is not None:
        _check_between_tags(new, answer)
    return f"mutated, {'read by some' if readings else 'refused by all'}"


def _check_between_tags(new: str, answer: str) -> None:
    upper = answer.upper()
    at = answer.find(new)
    while at >= 0:
        opened = upper.rfind("<IMPROVED>", 0, at + 1)
        closed = upper.find("</IMPROVED>", at + len(new))
        if opened >= 0 and closed >= 0 and "</IMPROVED>" not in upper[opened:at]:
            return
        at = answer.find(new, at + 1)
    raise AssertionError((new, answer))
