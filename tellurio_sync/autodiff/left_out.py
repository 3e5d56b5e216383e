"""Samples of a batch that fail: whether they are left out, and telling the user of those that were."""

from __future__ import annotations

from typing import Any

from ..errors import SamplesLeftOut, sample_failures
from ..model.told import tell

ON_ERROR = "on_error"
"""The extension of servers that can leave failed samples out, and let a backward pass do so."""

RAISE, SKIP = "raise", "skip"


def check_on_error(on_error: object) -> str:
    """``on_error``, if it is "raise" or "skip"; raises ValueError if not."""
    if on_error not in (RAISE, SKIP):
        raise ValueError(f"on_error must be {RAISE!r} or {SKIP!r}, not {on_error!r:.50}")
    return str(on_error)


def check_share(max_failed: object) -> float | None:
    """``max_failed``, if it is None or a number from 0 to 1; raises ValueError or TypeError if not."""
    if max_failed is None:
        return None
    if isinstance(max_failed, bool) or not isinstance(max_failed, (int, float)):
        raise TypeError(f"max_failed must be a number from 0 to 1, not {type(max_failed).__name__}")
    if not 0 <= max_failed <= 1:
        raise ValueError(f"max_failed must be a share, from 0 to 1, not {max_failed}")
    return float(max_failed)


def warn_of_left_out(result: Any) -> None:
    """Give a warning for each batch that the server went on with, without some of its samples.

    ``result`` is that of ``run_function`` or ``run_backward``; other servers than our backend tell nothing.
    """
    reports = result.get("left_out") if isinstance(result, dict) else None
    for report in reports if isinstance(reports, list) else ():
        if isinstance(report, dict) and isinstance(report.get("text"), str) and isinstance(report.get("size"), int):
            failures = sample_failures(report.get("failures")) or ()
            tell(SamplesLeftOut(report["text"], report["size"], failures))
