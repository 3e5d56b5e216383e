"""When the values of a run came."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from ...snapshot import Records
from .series import Point


def times(records: Records, run_uuid: str, points: Sequence[Point]) -> list[float] | None:
    """Seconds since 1970 per point, to about a second; None where that is not known, or they did not come by step."""
    rows = records.read(
        "SELECT clock.number, time FROM clock JOIN runs ON runs.number = run WHERE uuid = ? ORDER BY clock.number",
        run_uuid,
    )
    if not rows:
        return None
    numbers, known = [row["number"] for row in rows], [row["time"] for row in rows]
    found = []
    for point in points:
        at = bisect_right(numbers, point.number) - 1
        if at < 0:
            return None
        time = known[at]
        if at + 1 < len(known):
            share = (point.number - numbers[at]) / (numbers[at + 1] - numbers[at])
            time += share * (known[at + 1] - known[at])
        found.append(round(time, 2))
    return found if found == sorted(found) else None
