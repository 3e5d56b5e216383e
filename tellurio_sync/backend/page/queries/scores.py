"""How right the answers were that a version of a prompt gave, and what a change of it broke and mended."""

from __future__ import annotations

from ...snapshot import Records
from ...store import Row

_SCORED = (
    "FROM question_prompts JOIN questions ON questions.number = question"
    " WHERE variable_id = ?1 AND run_uuid = ?2 AND score IS NOT NULL"
)


def scores_of_versions(records: Records, run_uuid: str, variable_id: str) -> dict[int, Row]:
    """Per version how many answers were evaluated (``count``), and their ``mean`` score."""
    rows = records.read(
        f"SELECT version, count(*) AS count, avg(score) AS mean {_SCORED} GROUP BY version", variable_id, run_uuid
    )
    return {row["version"]: row for row in rows}


def changed_samples(records: Records, run_uuid: str, variable_id: str, before: int, after: int) -> list[Row]:
    """The samples whose score is another under version ``after`` than under version ``before``.

    A sample need not have been asked under just these versions: what counts is its last answer up to ``before`` and
    its first one from ``after`` on.  ``was`` and ``now`` are the scores, ``was_question`` and ``now_question`` the
    questions, ``was_version`` and ``now_version`` their versions.  Those that
    were asked closest to the change come first.
    """
    return records.read(
        f"WITH earlier AS (SELECT sample_key, score, version, max(questions.number) AS number {_SCORED}"
        " AND version <= ?3 AND sample_key IS NOT NULL GROUP BY sample_key),"
        f" later AS (SELECT sample_key, score, version, min(questions.number) AS number {_SCORED}"
        " AND version >= ?4 AND sample_key IS NOT NULL GROUP BY sample_key)"
        " SELECT earlier.score AS was, later.score AS now, earlier.number AS was_question,"
        " later.number AS now_question, earlier.version AS was_version, later.version AS now_version"
        " FROM earlier JOIN later USING (sample_key) WHERE earlier.score != later.score"
        " ORDER BY later.version - earlier.version, later.number",
        *(variable_id, run_uuid, before, after),
    )
