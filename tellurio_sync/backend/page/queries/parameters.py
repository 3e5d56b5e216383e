"""The parameters of a run and their versions, with the cause of each."""

from __future__ import annotations

import json

from ...snapshot import Records
from ...store import Row
from .tables import has_table


def parameters(records: Records, run_uuid: str) -> list[Row]:
    """Each parameter of a run with its newest version, in the order of their first ones; ``count``: its versions."""
    rows = records.read(
        "SELECT variable_id, min(number) AS first, max(version) AS newest, count(*) AS count FROM parameters"
        " WHERE run_uuid = ? GROUP BY variable_id ORDER BY first",
        run_uuid,
    )
    return [{**_version(records, run_uuid, row["variable_id"], row["newest"]), "count": row["count"]} for row in rows]


def versions(records: Records, run_uuid: str, variable_id: str) -> list[Row]:
    """The versions of a parameter, oldest first, without their texts.

    ``value_count`` is how many values the run's metrics had when it came, ``cause`` how it came about, ``step`` which
    of the run's steps of optimizers made it, None for none.
    """
    rows = records.read(
        "SELECT number, version, date_created, coalesce(cause, '') AS cause, coalesce(value_count, 0) AS value_count"
        " FROM parameters LEFT JOIN causes ON parameter = number WHERE run_uuid = ? AND variable_id = ?"
        " ORDER BY version",
        run_uuid,
        variable_id,
    )
    steps = _steps(records, run_uuid, variable_id)
    return [{**row, "step": steps.get(row["number"])} for row in rows]


def _steps(records: Records, run_uuid: str, variable_id: str) -> dict[int, int]:
    if not has_table(records, "version_steps"):
        return {}
    rows = records.read(
        "SELECT parameter, step FROM version_steps JOIN parameters ON parameter = number"
        " WHERE run_uuid = ? AND variable_id = ?",
        *(run_uuid, variable_id),
    )
    return {row["parameter"]: row["step"] for row in rows}


def version(records: Records, run_uuid: str, variable_id: str, number: int) -> Row | None:
    """One version of a parameter, with its ``role``, ``value`` as text, ``data`` as it was, and the ``feedback``."""
    rows = records.read(
        "SELECT parameters.*, cause, feedback, value_count FROM parameters LEFT JOIN causes ON parameter = number"
        " WHERE run_uuid = ? AND variable_id = ? AND version = ?",
        *(run_uuid, variable_id, number),
    )
    if not rows:
        return None
    role, value, *exact = json.loads(rows[0]["content"])
    data = exact[0] if exact else value
    return {**rows[0], "role": role, "value": value, "data": data, "feedback": json.loads(rows[0]["feedback"] or "[]")}


def version_before(records: Records, run_uuid: str, variable_id: str, number: int) -> Row | None:
    """The version before one; of long histories some are not kept."""
    rows = records.read(
        "SELECT max(version) AS version FROM parameters WHERE run_uuid = ? AND variable_id = ? AND version < ?",
        *(run_uuid, variable_id, number),
    )
    before = rows[0]["version"]
    return None if before is None else version(records, run_uuid, variable_id, before)


def _version(records: Records, run_uuid: str, variable_id: str, number: int) -> Row:
    found = version(records, run_uuid, variable_id, number)
    assert found is not None
    return found
