"""The versions of a run's parameters, and the cause of each: what changed it, which feedback, at which step.

They are for people to look at, and their number is bounded; the values that a training uses are elsewhere.  Only the
event loop's thread uses this module.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Literal

from .data import Data, text
from .kept_out import KeptOut
from .store import Logged, Store

# How much is kept of the parameters of a run. A version that is longer than the limit is cut, and says so.
PARAMETERS_PER_RUN = 50
VERSIONS_PER_PARAMETER = 1000
CHARS_PER_VERSION = 200_000
CHARS_OF_FEEDBACK = 200_000

# Parameters whose last versions are at hand without asking the database.
_AT_HAND = 1000

Cause = Literal["begin", "step", "set"]
"""How a version came about: the parameter was new, an optimizer's step, or the user's own hand."""

TABLES = """
CREATE TABLE IF NOT EXISTS parameters (
    number INTEGER PRIMARY KEY,
    run_uuid TEXT NOT NULL REFERENCES runs (uuid) ON DELETE CASCADE,
    variable_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    content TEXT NOT NULL,
    date_created TEXT NOT NULL,
    UNIQUE (run_uuid, variable_id, version)
);
CREATE TABLE IF NOT EXISTS causes (
    parameter INTEGER PRIMARY KEY REFERENCES parameters (number) ON DELETE CASCADE,
    cause TEXT NOT NULL,
    feedback TEXT NOT NULL,
    value_count INTEGER NOT NULL
);
-- Versions that an optimizer made: which of the run's steps it was, from 1.
CREATE TABLE IF NOT EXISTS version_steps (
    parameter INTEGER PRIMARY KEY REFERENCES parameters (number) ON DELETE CASCADE,
    step INTEGER NOT NULL
);
"""


class Versions:
    """Keeps the versions of parameters in a store."""

    def __init__(self, store: Store, kept_out: KeptOut | None = None) -> None:
        """``kept_out``: the keys that stand in none of them."""
        self._store = store
        self._kept_out = kept_out or KeptOut()
        store.add_tables(TABLES)
        # (run, parameter) -> the content of its last version as stored, and its number.
        self._last: OrderedDict[tuple[str, str], tuple[str, int]] = OrderedDict()

    def note(
        self,
        run_uuid: str,
        variable_id: str,
        role: str,
        data: Data,
        cause: Cause = "set",
        feedback: Sequence[str] = (),
        step: int | None = None,
        logged: Logged | None = None,
    ) -> int | None:
        """Keep a value of a parameter, if it is another than the last; the number of its version.

        None where nothing is kept: for a run that does not exist, and for parameters after the first
        :data:`PARAMETERS_PER_RUN` of a run.  Of more versions than :data:`VERSIONS_PER_PARAMETER` the first and the
        last are kept.

        Args:
            run_uuid: the run in which it has this value.
            variable_id: which parameter.
            role: what it is for.
            data: what it holds.
            cause: why it is another than before; the first version always has the cause "begin".
            feedback: what the optimizer read.
            step: which of the run's steps of optimizers made it, from 1; None: none did.
            logged: how much of its journal the client had written before that; None: all that has come.
        """
        role, data = self._kept_out.clean(role), self._kept_out.clean_data(data)
        # As JSON, because SQLite takes no text that holds half a surrogate pair.
        value = text(data)
        # Beside the text that is read, what is no text as it is: for those who want it back.
        exact = [] if isinstance(data, str) or len(value) > CHARS_PER_VERSION else [data]
        content = json.dumps([role, _cut(value, CHARS_PER_VERSION), *exact])
        known, version = self._last_version(run_uuid, variable_id)
        if known == content:
            return version
        version += 1
        made = self._store.write(
            "INSERT INTO parameters (run_uuid, variable_id, version, content, date_created)"
            " SELECT uuid, ?2, ?3, ?4, ?5 FROM runs WHERE uuid = ?1 AND (?3 > 1 OR"
            " (SELECT count(DISTINCT variable_id) FROM parameters WHERE run_uuid = ?1) < ?6)",
            *(run_uuid, variable_id, version, content, datetime.now(timezone.utc).isoformat(), PARAMETERS_PER_RUN),
        )
        if not made.rowcount:
            return None
        self._remember((run_uuid, variable_id), (content, version))
        self._store.write(
            "INSERT INTO causes VALUES (?, ?, ?, ?)",
            made.lastrowid,
            "begin" if version == 1 else cause,
            json.dumps(_cut_all([self._kept_out.clean(one) for one in feedback])),
            self._store.value_count(run_uuid),
        )
        if logged is not None:
            # Values that were logged before may still be on their way.
            self._store.when_known(run_uuid, logged, _PlaceOf(self._store, made.lastrowid))
        if step is not None:
            self._store.write("INSERT INTO version_steps VALUES (?, ?)", made.lastrowid, step)
        self._store.write(
            "DELETE FROM parameters WHERE run_uuid = ? AND variable_id = ? AND version > 1 AND version <= ?",
            *(run_uuid, variable_id, version - VERSIONS_PER_PARAMETER + 1),
        )
        return version

    def _last_version(self, run_uuid: str, variable_id: str) -> tuple[str, int]:
        key = (run_uuid, variable_id)
        if key not in self._last:
            rows = self._store.read(
                "SELECT content, version FROM parameters WHERE run_uuid = ? AND variable_id = ?"
                " ORDER BY version DESC LIMIT 1",
                *key,
            )
            if not rows:
                return "", 0
            self._remember(key, (rows[0]["content"], rows[0]["version"]))
        self._last.move_to_end(key)
        return self._last[key]

    def _remember(self, key: tuple[str, str], last: tuple[str, int]) -> None:
        self._last[key] = last
        self._last.move_to_end(key)
        if len(self._last) > _AT_HAND:
            self._last.popitem(last=False)

    def forget_run(self, run_uuid: str) -> None:
        """The run is gone."""
        for key in [key for key in self._last if key[0] == run_uuid]:
            del self._last[key]


class _PlaceOf:
    """Corrects the place of a version among the values of its run."""

    def __init__(self, store: Store, parameter: int | None) -> None:
        self._store = store
        self._parameter = parameter

    def __call__(self, value_count: int) -> None:
        self._store.write("UPDATE causes SET value_count = ? WHERE parameter = ?", value_count, self._parameter)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text) - limit} more characters)"


def _cut_all(texts: Sequence[str]) -> list[str]:
    kept, left = [], CHARS_OF_FEEDBACK
    for one in texts:
        kept.append(_cut(one, left))
        left -= len(one)
        if left <= 0:
            break
    return kept
