from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from tellurio_sync.studio.dates import parse_date


@pytest.mark.parametrize(
    ("text", "microsecond", "offset_h"),
    [
        ("2025-03-01T12:30:15Z", 0, 0),
        ("2025-03-01T12:30:15.5Z", 500_000, 0),
        ("2025-03-01T12:30:15.123456789Z", 123_456, 0),
        ("2025-03-01T12:30:15.123456+02:00", 123_456, 2),
        ("2025-03-01 12:30:15+00:00", 0, 0),
    ],
)
def test_dates(text, microsecond, offset_h):
    expected = datetime(2025, 3, 1, 12, 30, 15, microsecond, timezone(timedelta(hours=offset_h)))
    assert parse_date(text) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2025-13-01T00:00:00Z"])
def test_what_is_no_date_is_refused(text):
    with pytest.raises(ValueError):
        parse_date(text)
