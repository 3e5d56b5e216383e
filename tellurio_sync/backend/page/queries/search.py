"""A search in the texts of a run's questions, from the latest backwards, which ends after a while and can go on."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from ...snapshot import Records

# Seconds after which a search stops, and questions between two looks at the clock.
SEARCH_SECONDS = 0.2
QUESTIONS_AT_ONCE = 2000


class Found(NamedTuple):
    """What a search found.

    Attributes:
        numbers: of the questions, latest first.
        below: it goes on below this number of a question; 0: there is nothing more.
    """

    numbers: list[int]
    below: int


def search(
    records: Records, run_uuid: str, where: str, values: list[Any], text: str, *, limit: int, below: int
) -> Found:
    """The latest ``limit`` questions whose answer, error or messages hold ``text``; fewer if that takes too long.

    Capitals and small letters are the same.  Each text of a message is looked at once, also if many questions have it.

    Args:
        records: where to look.
        run_uuid: whose questions.
        where, values: the condition that they fulfil besides, and its values.
        text: what to look for.
        limit: how many are wanted.
        below: only questions with lower numbers; 0: all.
    """
    folded, wanted = ("lower", text.lower()) if text.isascii() else ("folded", text.casefold())
    end = time.monotonic() + SEARCH_SECONDS
    looked_at: set[int] = set()
    hits: set[int] = set()
    found: list[int] = []
    high = below or 2**62
    while True:
        (part,) = records.read(
            "SELECT min(number) AS low, count(*) AS count FROM (SELECT number FROM questions WHERE run_uuid = ?"
            " AND number < ? ORDER BY number DESC LIMIT ?)",
            *(run_uuid, high, QUESTIONS_AT_ONCE),
        )
        if not part["count"]:
            return Found(found, 0)
        low = part["low"]
        texts = {
            row["text"]
            for row in records.read(
                "SELECT DISTINCT text FROM question_texts WHERE question >= ? AND question < ?", low, high
            )
        }
        new = texts - looked_at
        looked_at |= new
        for row in records.read(
            "SELECT number FROM texts WHERE number IN (SELECT value FROM json_each(?))"
            f" AND instr({folded}(content), ?)",
            *(json.dumps(list(new)), wanted),
        ):
            hits.add(row["number"])
        # The plus keeps SQLite from looking for all questions of each text.
        rows = records.read(
            f"SELECT number FROM questions WHERE {where} AND number >= ? AND number < ?"
            f" AND (instr({folded}(coalesce(answer, '') || ' ' || coalesce(error, '')), ?) OR number IN"
            " (SELECT question FROM question_texts WHERE question >= ? AND question < ?"
            " AND +text IN (SELECT value FROM json_each(?)))) ORDER BY number DESC LIMIT ?",
            *(*values, low, high, wanted, low, high, json.dumps(list(texts & hits)), limit + 1 - len(found)),
        )
        found += [row["number"] for row in rows]
        if len(found) > limit:
            return Found(found[:limit], found[limit - 1])
        if part["count"] < QUESTIONS_AT_ONCE:
            return Found(found, 0)
        if time.monotonic() >= end:
            return Found(found, low)
        high = low
