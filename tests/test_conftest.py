"""The house rules that ``conftest`` lays down for all tests."""

from __future__ import annotations

import hypothesis


def test_no_property_depends_on_how_fast_the_machine_is() -> None:
    settings = hypothesis.settings()
    assert settings.deadline is None
    assert hypothesis.HealthCheck.too_slow in settings.suppress_health_check
