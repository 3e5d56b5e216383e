"""What a run has used of language models."""

from __future__ import annotations

from ...store import Row
from ..reader import Records


def usage(records: Records, run_uuid: str) -> list[Row]:
    """Per model and purpose: questions, tokens, US dollars, seconds; those with most questions first."""
    return records.read("SELECT * FROM usage WHERE run_uuid = ? ORDER BY questions DESC, model, purpose", run_uuid)
