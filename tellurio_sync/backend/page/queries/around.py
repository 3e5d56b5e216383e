"""Of a metric the last value before a moment, and the first one after it."""

from __future__ import annotations

from bisect import bisect_right

from ...metrics import first_number_of, unpack
from ...snapshot import Records
from .series import Point, finite, points_of


def around(records: Records, run_uuid: str, name: str, number: int) -> tuple[Point | None, Point | None]:
    """The last number that came before value ``number`` of the run, and the first one from that on.

    Takes as long as there are packed rows, of which two are looked at.
    """
    rows = records.read(
        "SELECT points.number, substr(data, 1, 20) AS head FROM points JOIN series ON series.number = series"
        " JOIN runs ON runs.number = run WHERE uuid = ? AND series.name = ? ORDER BY points.number",
        *(run_uuid, name),
    )
    if not rows:
        return None, None
    at = max(bisect_right([first_number_of(row["head"]) for row in rows], number) - 1, 0)
    points: list[Point] = []
    for row in rows[max(at - 1, 0) : at + 2]:
        (found,) = records.read("SELECT data FROM points WHERE number = ?", row["number"])
        points += points_of(unpack(found["data"]).values())
    numbers = [point for point, _ in finite(points)]
    before = [point for point in numbers if point.number < number]
    after = [point for point in numbers if point.number >= number]
    return before[-1] if before else None, after[0] if after else None
