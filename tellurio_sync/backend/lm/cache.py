"""Answers on disk, so that the same question is not paid for twice.

Two questions are the same if address, model, messages and all other arguments are the same.  Only whole answers are
kept: no failures, no answer that was cut off, and none that had to be asked for again because its form was wrong.

They are in one SQLite file beside the backend's other data, which only its owner can read.  If something fails here, a
question is asked again; the training goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..questions import Answer

logger: logging.Logger = logging.getLogger(__name__)

FILE_NAME = "answers.sqlite3"

# The oldest ones beyond are dropped.
MOST_ANSWERS = 200_000
_CHECKED_EVERY = 1000


class AnswerCache:
    """Event loop's thread only. Opened at the first use."""

    def __init__(self, directory: Path | None) -> None:
        """``directory``: None: nothing is kept."""
        self._directory = directory
        self._db: sqlite3.Connection | None = None
        self._kept = 0

    @staticmethod
    def key(address: str, body: Mapping[str, Any]) -> bytes:
        """The same for the same question, and different for another one. It holds no API key."""
        text = json.dumps([address, body], sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()

    def get(self, key: bytes) -> Answer | None:
        """The answer that was kept; None: there is none."""
        try:
            db = self._opened()
            row = None if db is None else db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
            return None if row is None else Answer(**json.loads(row[0]), is_cached=True)
        except (sqlite3.Error, OSError, ValueError, TypeError) as exc:
            logger.warning("! an answer could not be looked up on disk: %s", exc)
            return None

    def put(self, key: bytes, answer: Answer) -> None:
        """Keep an answer."""
        fields = {
            "text": answer.text,
            "thoughts": answer.thoughts,
            "finish_reason": answer.finish_reason,
            "usage": answer.usage,
            "cost": answer.cost,
        }
        try:
            db = self._opened()
            if db is None:
                return
            with db:
                db.execute(
                    "INSERT OR REPLACE INTO answers (key, at, answer) VALUES (?, ?, ?)",
                    (key, time.time(), json.dumps(fields)),
                )
                self._kept += 1
                if self._kept % _CHECKED_EVERY == 0:
                    last = "SELECT at FROM answers ORDER BY at DESC LIMIT 1 OFFSET ?"
                    db.execute(f"DELETE FROM answers WHERE at <= ({last})", (MOST_ANSWERS,))
        except (sqlite3.Error, OSError, ValueError, TypeError) as exc:
            logger.warning("! an answer could not be kept on disk: %s", exc)

    def _opened(self) -> sqlite3.Connection | None:
        if self._db is None and self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / FILE_NAME
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            db = sqlite3.connect(path)
            try:
                _prepare(db)
            except sqlite3.Error:
                db.close()
                raise
            self._db = db
        return self._db

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, at REAL NOT NULL, answer TEXT NOT NULL)")
    db.execute("CREATE INDEX IF NOT EXISTS answers_by_age ON answers (at)")
