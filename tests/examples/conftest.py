"""The mails that the examples are tested on."""

from __future__ import annotations

from pathlib import Path

import pytest

REAL_MAILS = Path(__file__).parents[2].parent / "shared" / "data" / "facility_support.json"


@pytest.fixture
def real_mails() -> Path:
    """The file with the 200 real mails."""
    if not REAL_MAILS.is_file():
        pytest.skip(f"the real mails are not on this machine: no file {REAL_MAILS}")
    return REAL_MAILS
