"""Reading what language models answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from .data import Data, normalised
from .prompts import IMPROVED
from .refused import Refused

_FENCED = re.compile(r"```(?:json)?\s*\n(.*)\n\s*```", re.DOTALL | re.IGNORECASE)
_IMPROVED = re.compile(f"<{IMPROVED}>(.*)</{IMPROVED}>", re.DOTALL)


class BadAnswer(Exception):
    """The answer is not of the required form; the text says in what, for the model that gave it."""


def read_text(answer: str) -> str:
    """Plain text that is not empty."""
    if not answer.strip():
        raise BadAnswer("it is empty")
    return answer.strip()


def read_feedback(names: Sequence[str]) -> Callable[[str], dict[str, str]]:
    """A reader of one JSON object with exactly these keys and strings as values."""

    def read(answer: str) -> dict[str, str]:
        found = _read_object(answer)
        if missing := [name for name in names if name not in found]:
            raise BadAnswer(f"the object has no {', '.join(missing)}")
        if unknown := [key for key in found if key not in names]:
            raise BadAnswer(f"no such variable: {', '.join(unknown)}")
        for name in names:
            if not isinstance(found[name], str):
                raise BadAnswer(f"the value of {name} is not a string")
        return found

    return read


def read_judgement(answer: str) -> tuple[float, str]:
    """The score and the explanation of a judge (protocol §G.2)."""
    found = _read_object(answer)
    for key in ("score", "explanation"):
        if key not in found:
            raise BadAnswer(f"the object has no {key}; give one JSON object with `score` and `explanation`")
    score, explanation = found["score"], found["explanation"]
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise BadAnswer("the score is not a number")
    if not isinstance(explanation, str):
        raise BadAnswer("the explanation is not a string")
    return score, explanation


def read_improved(current: Data) -> Callable[[str], Data]:
    """A reader of new data of the same kind as ``current``: text as it stands, numbers and lists as JSON."""

    def read(answer: str) -> Data:
        found = _IMPROVED.search(answer)
        if found is None:
            raise BadAnswer(f"there is no <{IMPROVED}>...</{IMPROVED}> in it")
        new = found[1].strip()
        if not new:
            raise BadAnswer(f"there is nothing between <{IMPROVED}> and </{IMPROVED}>")
        if current is None or isinstance(current, str):
            return new
        value = _read_json(new)
        if isinstance(value, dict) or _kind(value) != _kind(current):
            raise BadAnswer(f"the new data must be JSON of the same kind as the old, {_kind(current)}")
        try:
            return normalised(value)
        except Refused as exc:
            raise BadAnswer(exc.text) from None

    return read


def _kind(data: Any) -> str:
    if isinstance(data, list):
        return "a list"
    if isinstance(data, bool):
        return "true or false"
    return "a number" if isinstance(data, (int, float)) else "a text"


def _read_object(answer: str) -> dict[str, Any]:
    fenced = _FENCED.fullmatch(answer.strip())
    found = _read_json(fenced[1] if fenced else answer)
    if not isinstance(found, dict):
        raise BadAnswer("it is not a JSON object")
    return found


def _read_json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BadAnswer(f"it is not JSON ({exc})") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
