"""The questions of a run: filtered, one page of them, or one of them whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...snapshot import Records
from ...store import Row
from .search import search


@dataclass(frozen=True)
class WantedSamples:
    """Which questions are wanted.

    Attributes:
        purpose: "forward", "judge", "critic", "propagator", "optimizer", or "" for all.
        state: "error", "right" (a score above 0), "wrong" (a score of 0 or less), or "" for all.
        version: of the parameter ``variable_id``; 0 for all.
        numbers: only these, if given.
    """

    purpose: str = ""
    state: str = ""
    variable_id: str = ""
    version: int = 0
    numbers: tuple[int, ...] | None = None


_STATES = {"error": "error IS NOT NULL", "right": "score > 0", "wrong": "score <= 0"}


def samples(records: Records, run_uuid: str, wanted: WantedSamples, *, limit: int, offset: int = 0) -> list[Row]:
    """The questions that are wanted, latest first; ``asked`` is the last message of each."""
    where, values = _where(run_uuid, wanted)
    rows = records.read(
        "SELECT questions.*, (SELECT content FROM question_texts JOIN texts ON texts.number = text"
        " WHERE question = questions.number ORDER BY position DESC LIMIT 1) AS asked"
        f" FROM questions WHERE {where} ORDER BY questions.number DESC LIMIT ? OFFSET ?",
        *(*values, limit, offset),
    )
    return [{**row, "asked": row["asked"] or ""} for row in rows]


def count_of_samples(records: Records, run_uuid: str, wanted: WantedSamples, most: int) -> int:
    """How many questions there are of those wanted; of more than ``most`` one more than that."""
    where, values = _where(run_uuid, wanted)
    sql = f"SELECT count(*) AS count FROM (SELECT 1 FROM questions WHERE {where} LIMIT ?)"
    return int(records.read(sql, *values, most + 1)[0]["count"])


def found_samples(
    records: Records, run_uuid: str, wanted: WantedSamples, text: str, *, limit: int, below: int
) -> tuple[list[Row], int]:
    """Of the questions wanted those that hold a text, latest first, and below which number the search goes on.

    0 is the end (see ``search``).
    """
    where, values = _where(run_uuid, wanted)
    found = search(records, run_uuid, where, values, text, limit=limit, below=below)
    chosen = WantedSamples(numbers=tuple(found.numbers))
    return samples(records, run_uuid, chosen, limit=limit), found.below


def sample(records: Records, run_uuid: str, number: int) -> Row | None:
    """One question with its ``messages`` and the versions of parameters (``prompts``) in them."""
    rows = records.read("SELECT * FROM questions WHERE run_uuid = ? AND number = ?", run_uuid, number)
    if not rows:
        return None
    messages = records.read(
        "SELECT role, content FROM question_texts JOIN texts ON number = text WHERE question = ? ORDER BY position",
        number,
    )
    prompts = records.read("SELECT variable_id, version FROM question_prompts WHERE question = ?", number)
    return {**rows[0], "messages": messages, "prompts": {row["variable_id"]: row["version"] for row in prompts}}


def with_answers(records: Records, run_uuid: str, changes: list[Row]) -> list[Row]:
    """Changed samples (see ``scores.changed_samples``) with what was ``asked``, ``was_answer`` and ``now_answer``."""
    found = []
    for change in changes:
        was = sample(records, run_uuid, change["was_question"])
        now = sample(records, run_uuid, change["now_question"])
        if was is not None and now is not None:
            asked = now["messages"][-1]["content"] if now["messages"] else ""
            answers = {"was_answer": was["answer"] or "", "now_answer": now["answer"] or ""}
            found.append({**change, **answers, "asked": asked})
    return found


def same_sample(records: Records, run_uuid: str, found: Row, limit: int) -> list[Row]:
    """What the same sample was answered at other times, oldest first, each with the ``version`` of its prompt."""
    if found["sample_key"] is None:
        return []
    return records.read(
        "SELECT number, answer, error, score, (SELECT max(version) FROM question_prompts WHERE question = number)"
        " AS version FROM questions WHERE run_uuid = ? AND sample_key = ? ORDER BY number DESC LIMIT ?",
        *(run_uuid, found["sample_key"], limit),
    )[::-1]


def _where(run_uuid: str, wanted: WantedSamples) -> tuple[str, list[Any]]:
    parts: list[str] = ["run_uuid = ?"]
    values: list[Any] = [run_uuid]
    if wanted.purpose:
        parts.append("purpose = ?")
        values.append(wanted.purpose)
    if wanted.state in _STATES:
        parts.append(_STATES[wanted.state])
    if wanted.version:
        parts.append("number IN (SELECT question FROM question_prompts WHERE variable_id = ? AND version = ?)")
        values += [wanted.variable_id, wanted.version]
    if wanted.numbers is not None:
        # Numbers, not texts of somebody's.
        parts.append(f"number IN ({','.join(map(str, map(int, wanted.numbers)))})")
    return " AND ".join(parts), values
