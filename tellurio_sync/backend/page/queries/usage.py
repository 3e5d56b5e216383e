"""What a run has used of language models."""

from __future__ import annotations

from ...snapshot import Records
from ...store import Row
from .tables import has_table

# Steps of a long training that are shown: the last ones.
_STEPS_SHOWN = 50


def usage_by_step(records: Records, run_uuid: str) -> list[Row]:
    """The last steps of optimizers, latest first: ``kinds`` (questions asked for what, as a text), tokens, dollars."""
    if not has_table(records, "usage_by_step"):
        return []
    rows = records.read(
        "SELECT step, sum(asked) AS asked, sum(cached) AS cached, sum(failed) AS failed, sum(not_asked) AS not_asked,"
        " sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens, sum(cost) AS cost,"
        " sum(unpriced) AS unpriced, (SELECT ended FROM steps WHERE steps.run_uuid = usage_by_step.run_uuid) AS ended"
        " FROM usage_by_step WHERE run_uuid = ? GROUP BY step ORDER BY step DESC LIMIT ?",
        *(run_uuid, _STEPS_SHOWN),
    )
    kinds = records.read(
        "SELECT step, purpose, sum(asked) AS asked FROM usage_by_step WHERE run_uuid = ? AND asked > 0 AND step >= ?"
        " GROUP BY step, purpose ORDER BY asked DESC, purpose",
        *(run_uuid, rows[-1]["step"] if rows else 0),
    )
    return [
        {
            **row,
            "has_ended": row["step"] <= (row["ended"] or 0),
            "kinds": ", ".join(f"{one['asked']:,} {one['purpose']}" for one in kinds if one["step"] == row["step"]),
        }
        for row in rows
    ]


def usage(records: Records, run_uuid: str) -> list[Row]:
    """Per model and purpose: questions, tokens, US dollars, seconds; those with most questions first."""
    return records.read("SELECT * FROM usage WHERE run_uuid = ? ORDER BY questions DESC, model, purpose", run_uuid)
