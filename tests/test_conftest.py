"""The house rules that ``conftest`` lays down for all tests."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import hypothesis
import pytest

from .conftest import FAILSAFE, Watchdog


def test_no_property_depends_on_how_fast_the_machine_is_nor_on_chance(request: pytest.FixtureRequest) -> None:
    settings = hypothesis.settings()
    assert settings.deadline is None
    assert hypothesis.HealthCheck.too_slow in settings.suppress_health_check
    assert settings.derandomize or request.config.getoption("--hypothesis-profile") == "exploring"


def test_no_property_brings_that_back() -> None:
    """A list of its own replaces that of all."""
    lists = [
        (path.name, found)
        for path in Path(__file__).parent.rglob("*.py")
        for found in re.findall(r"suppress_health_check=\[([^]]*)\]", path.read_text(encoding="utf-8"))
    ]
    assert len(lists) > 1
    assert [path for path, found in lists if "HealthCheck.too_slow" not in found] == []


def test_a_test_that_hangs_ends_the_run_with_the_stacks_of_all_threads() -> None:
    shown: list[str] = []
    ended = threading.Event()
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    watchdog = Watchdog(shown.append, 0.01, end)
    watchdog.start()
    watchdog.begin("tests/test_x.py::test_y")
    assert ended.wait(FAILSAFE)
    watchdog.join(FAILSAFE)
    assert codes == [1]
    assert shown[0].startswith("tests/test_x.py::test_y did not end within 0.01 s:\nMainThread:\n")
    assert "ended.wait(FAILSAFE)" in shown[0]


def test_after_the_last_test_the_watchdog_ends_and_says_nothing() -> None:
    shown: list[str] = []
    watchdog = Watchdog(shown.append, FAILSAFE, shown.append)  # type: ignore[arg-type]
    watchdog.start()
    watchdog.begin("a test")
    watchdog.stop()
    watchdog.join(FAILSAFE)
    assert not watchdog.is_alive()
    assert shown == []
