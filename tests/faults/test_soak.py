"""Short runs of the soak and the fuzzer, so that they never rot; ``make soak`` and ``make fuzz`` run them for long."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .fuzz import TARGETS
from .test_process import ROOT

pytestmark = pytest.mark.slow

LIMIT = 300.0
"""Seconds: how long a run may take before it counts as hanging."""


def run(*arguments: str) -> str:
    outcome = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


@pytest.mark.parametrize("link", [[], ["--tls"]], ids=["tcp", "tls"])
def test_under_random_faults_nothing_is_lost(link: list[str]) -> None:
    report = run("tests.faults.soak", "--seconds", "5", "--seed", "1", "--busy", *link)
    assert "nothing was lost" in report


def test_sessions_and_a_backend_hold_no_more_than_they_need() -> None:
    report = run("tests.faults.soak", "--backend", "--seconds", "12", "--sessions", "20", "--kills", "3", "--busy")
    assert "memory and descriptors are where they were" in report
    assert "nothing was lost" in report


def test_killed_trainings_lose_nothing() -> None:
    report = run("tests.faults.soak", "--trainings", "--kills", "3", "--seed", "1")
    assert "0 lost, 0 doubled, 0 torn" in report


def test_random_and_mutated_input_is_survived() -> None:
    report = run("tests.faults.fuzz", "--frames", "10000", "--seed", "1")
    assert "every receive thread survived" in report


@pytest.mark.parametrize("target", TARGETS)
def test_a_single_case_can_be_run_again(target: str) -> None:
    run("tests.faults.fuzz", "--seed", "1", "--target", target, "--case", "3")
