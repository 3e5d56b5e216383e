"""Dates as the REST API writes them: ISO 8601 with ``Z`` or an offset (protocol §J)."""

from __future__ import annotations

import re
from datetime import datetime

_FRACTION = re.compile(r"\.(\d+)")


def parse_date(text: str) -> datetime:
    """The point in time, with its time zone.

    Raises:
        ValueError: not ISO 8601.
    """
    # Before Python 3.11, fromisoformat knows neither `Z` nor fractions other than of 3 or 6 digits.
    microseconds = _FRACTION.sub(lambda match: f".{match[1][:6]:0<6}", text.strip(), count=1)
    if microseconds[-1:] in ("Z", "z"):
        microseconds = f"{microseconds[:-1]}+00:00"
    return datetime.fromisoformat(microseconds)
