"""An interpreter without the GIL is refused, in clear words, before anything could go wrong in it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import sys
sys._is_gil_enabled = lambda: {is_enabled}
try:
    {statement}
except ImportError as exc:
    print("refused:", exc)
else:
    print("imported")
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


@pytest.mark.parametrize("statement", ["import tellurio_sync", "from tellurio_sync.errors import TellurioError"])
def test_without_the_gil_the_import_says_what_to_do(statement: str) -> None:
    said = run(PROBE.format(is_enabled=False, statement=statement))
    assert said.startswith("refused: tellurio_sync does not support")
    assert "PYTHON_GIL=1" in said


def test_a_free_threaded_build_with_the_gil_switched_on_is_as_good_as_any() -> None:
    assert run(PROBE.format(is_enabled=True, statement="import tellurio_sync")) == "imported\n"


def test_before_3_13_there_is_nothing_to_ask() -> None:
    code = "import sys; vars(sys).pop('_is_gil_enabled', None); import tellurio_sync; print('imported')"
    assert run(code) == "imported\n"
