"""Answers of models: feedback, judgements, new data for a parameter."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..data import Data, normalised
from ..prompts import IMPROVED
from ..refused import Refused
from . import loose_json
from .thoughts import end_of_thoughts, next_tag

# Characters of an answer in which a form is searched: some ten times the longest answer of a model.
MAX_CHARS = 1_000_000

# Characters of new data: a prompt that grows without end does not get better, and costs money with each question.
MAX_NEW_CHARS = 20_000
MAX_GROWTH = 4

_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")

_PLACEHOLDER = re.compile(r"\{(\w[\w .\-]{0,79})\}")

# What stands in the example of the form in the question.
_EXAMPLES = ("...", "…")


class BadAnswer(Exception):
    """The answer cannot be used; the text says why, for the model that gave it.

    Attributes:
        is_harmful: it has the required form, but to adopt it would do harm.
    """

    def __init__(self, reason: str, *, is_harmful: bool = False) -> None:
        super().__init__(reason)
        self.is_harmful = is_harmful


def read_text(answer: str) -> str:
    """Plain text that is not empty."""
    if not answer.strip():
        raise BadAnswer("it is empty")
    return answer.strip()


# --- objects ------------------------------------------------------------------------------------


def read_feedback(names: Sequence[str]) -> Callable[[str], dict[str, str]]:
    """A reader of the last JSON object in an answer that has all these keys; their values become texts."""

    def read(answer: str) -> dict[str, str]:
        found = _last_object(answer, names, f"a JSON object with the keys {', '.join(names)}")
        return {name: _text(found[name]) for name in names}

    return read


def feedback_schema(names: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of what :func:`read_feedback` reads."""
    return _schema({name: {"type": "string"} for name in names})


def read_judgement(answer: str) -> tuple[float, str]:
    """The score and the explanation of a judge (protocol §G.2); a number in quotation marks is a number."""
    wanted = "one JSON object with `score`, a number, and `explanation`, a text"
    found = _last_object(answer, ("score", "explanation"), wanted)
    return _score(found["score"]), _text(found["explanation"])


def judgement_schema() -> dict[str, Any]:
    """The JSON schema of what :func:`read_judgement` reads."""
    return _schema({"score": {"type": "number"}, "explanation": {"type": "string"}})


def _schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _last_object(answer: str, names: Sequence[str], wanted: str) -> dict[str, Any]:
    """The last object with all of ``names``, under these names.

    Quotation marks inside strings are borne only where there is no complete object otherwise.
    """
    _check_length(answer)
    seen: list[dict[str, Any]] = []
    for inner_quotes in (False, True):
        found = loose_json.objects(answer, inner_quotes=inner_quotes)
        seen = seen or found
        for one in reversed(found):
            for inner in (one, *_wrapped(one)):
                named = _named(inner, names)
                if not _missing(named, names):
                    return named
    if not seen:
        raise BadAnswer(f"it holds no complete JSON object; give {wanted}")
    missing = ", ".join(_missing(_named(seen[-1], names), names))
    raise BadAnswer(f"the object has no {missing}; give {wanted}")


def _wrapped(found: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """What is in ``found``, where that is an object in an object."""
    return [value for value in found.values() if isinstance(value, dict)] if len(found) == 1 else []


def _named(found: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The values for ``names``: keys may differ in capitals and in blanks around."""
    loose = {key.strip().lower(): value for key, value in found.items()}
    return {name: found[name] if name in found else loose[name] for name in names if name in found or name in loose}


def _missing(found: dict[str, Any], names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in found or found[name] in _EXAMPLES]


def _text(value: Any) -> str:
    """A value where a text was asked for: a list is its items in lines, an object with one text is this text."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return "\n".join(_text(item) for item in value)
    if isinstance(value, dict) and len(value) == 1:
        return _text(next(iter(value.values())))
    return json.dumps(value, ensure_ascii=False)


def _score(value: Any) -> float:
    if isinstance(value, str) and len(value) < 100 and _NUMBER.fullmatch(value.strip()):
        number = float(value)
        value = int(number) if number.is_integer() and value.strip().lstrip("+-").isdigit() else number
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadAnswer(f"the score is not a number but {_shown(value)}; write a number alone")
    return value


def _shown(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) < 40 else f"{shown[:40]}..."


# --- new data -----------------------------------------------------------------------------------


def read_improved(current: Data, tag: str = IMPROVED, own_tags: Sequence[str] = ()) -> Callable[[str], Data]:
    """A reader of new data of the same kind as ``current``: text as it stands, numbers and lists as JSON.

    The last complete block counts.  A fence around the data is removed if the old data had none; the white space around
    the data becomes that of the old data.

    Args:
        current: the old data.
        tag: the tag of the block.
        own_tags: further tags of the question, which must not be in the data.
    """

    def read(answer: str) -> Data:
        new = _last_block(answer, tag)
        if not isinstance(current, str):
            new = _unfenced(new, "").strip()
            return new if current is None else _same_kind(new, current)
        new = _unfenced(new, current).strip()
        _check_harmless(new, current, (tag, *own_tags))
        if not current.strip():
            return new
        begin, end = len(current) - len(current.lstrip()), len(current.rstrip())
        return f"{current[:begin]}{new}{current[end:]}"

    return read


def _last_block(answer: str, tag: str) -> str:
    """What is between the last pair of tags that is in no thoughts."""
    _check_length(answer)
    mark = re.compile(f"<(/?){re.escape(tag)}>", re.IGNORECASE)
    found: str | None = None
    opened, is_odd = None, False
    at = 0
    tags, thoughts = mark.search(answer), next_tag(answer, 0)
    while tags is not None or (opened is None and thoughts is not None):
        if opened is None and thoughts is not None and (tags is None or thoughts.start < tags.start()):
            if thoughts.closing is None:
                found, is_odd, at = None, False, thoughts.end
            else:
                end = end_of_thoughts(answer, thoughts.closing, thoughts.end)
                if end is None:
                    break
                at = end
        else:
            assert tags is not None
            at = tags.end()
            if not tags[1]:
                opened = at
            elif opened is not None:
                found, opened = answer[opened : tags.start()], None
            else:
                is_odd = True
        if tags is not None and tags.start() < at:
            tags = mark.search(answer, at)
        if thoughts is not None and thoughts.start < at:
            thoughts = next_tag(answer, at)
    if opened is not None:
        raise BadAnswer(f"the last <{tag}> is not followed by </{tag}>")
    if is_odd and found is not None:
        reason = f"there is a </{tag}> too many; write <{tag}> and </{tag}> once, around the new data"
        raise BadAnswer(reason, is_harmful=True)
    if found is None:
        raise BadAnswer(f"there is no <{tag}>...</{tag}> in it")
    if not found.strip():
        raise BadAnswer(f"there is nothing between <{tag}> and </{tag}>", is_harmful=True)
    return found


def _unfenced(text: str, current: str) -> str:
    """``text`` without the one fence around all of it, unless ``current`` begins with one too."""
    lines = text.strip().split("\n")
    if current.lstrip().startswith(("```", "~~~")) or len(lines) < 2:
        return text
    fence = lines[0][:3]
    if fence not in ("```", "~~~") or lines[-1].strip() != fence or " " in lines[0].strip():
        return text
    if sum(line.lstrip().startswith(fence) for line in lines) != 2:
        return text
    return "\n".join(lines[1:-1])


def _check_harmless(new: str, current: str, tags: Sequence[str]) -> None:
    """Return if ``new`` may take the place of ``current``.

    Raises:
        BadAnswer: it is empty or far longer, lost a placeholder, or holds tags of the question.
    """
    if not new:
        raise BadAnswer("the new data is empty", is_harmful=True)
    limit = max(MAX_NEW_CHARS, MAX_GROWTH * len(current))
    if len(new) > limit:
        reason = f"the new data has {len(new)} characters, over the limit of {limit}; write it shorter"
        raise BadAnswer(reason, is_harmful=True)
    marks = [mark for name in tags for mark in (f"<{name}>", f"</{name}>")]
    if own := [mark for mark in marks if mark in new and mark not in current]:
        reason = f"the new data holds {own[0]}, which is a tag of this question and not of the data"
        raise BadAnswer(reason, is_harmful=True)
    kept = placeholders(new)
    if lost := [name for name in placeholders(current) if name not in kept]:
        names = ", ".join(lost)
        reason = f"the new data lost {names}: values are filled in there, so write {names} in it exactly like this"
        raise BadAnswer(reason, is_harmful=True)


def placeholders(text: str) -> list[str]:
    """What inputs may fill in ``text``: names in single braces, such as ``{question}``; each once, with its braces.

    Not counted: doubled braces, which stay as they are, and numbers alone (``\\d{3}``).
    """
    return list(dict.fromkeys(found[0] for found in _PLACEHOLDER.finditer(text) if _is_filled(text, found)))


def _is_filled(text: str, found: re.Match[str]) -> bool:
    before, after = text[max(found.start() - 1, 0) : found.start()], text[found.end() : found.end() + 1]
    return not (before == "{" and after == "}") and not found[1].isdigit()


def _same_kind(text: str, current: Data) -> Data:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise BadAnswer(f"it is not JSON ({exc})") from None
    if isinstance(value, dict) or _kind(value) != _kind(current):
        raise BadAnswer(f"the new data must be JSON of the same kind as the old, {_kind(current)}")
    try:
        return normalised(value)
    except Refused as exc:
        raise BadAnswer(exc.text) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _kind(data: Any) -> str:
    if isinstance(data, list):
        return "a list"
    if isinstance(data, bool):
        return "true or false"
    return "a number" if isinstance(data, (int, float)) else "a text"


def _check_length(answer: str) -> None:
    if len(answer) > MAX_CHARS:
        raise BadAnswer(f"it has {len(answer)} characters, over the {MAX_CHARS} that are looked at", is_harmful=True)
