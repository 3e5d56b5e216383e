"""The drivers with their import lines changed, so that they run on this package alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import tellurio_sync
from tellurio_sync.testing import ScriptedBackend

DRIVERS = Path(__file__).parent / "drivers"
PACKAGE_ROOT = Path(tellurio_sync.__file__).parents[1]


def moved(line: str) -> str:
    """A line of a program for afnio, with afnio replaced if it is an import line."""
    return line.replace("from afnio", "from tellurio_sync.compat", 1) if line.startswith("from afnio") else line


def run_natively(
    name: str, backend: ScriptedBackend, home: Path, timeout: float, environment: dict[str, str], /, **arguments: Any
) -> Any:
    """What a driver observes when it runs here with its import lines changed.

    Args:
        name: of the driver.
        backend: what it connects to.
        home: an empty folder, where it runs.
        timeout: seconds.
        environment: further variables.
        arguments: the driver's.
    """
    for program in DRIVERS.glob("*.py"):
        lines = program.read_text(encoding="utf-8").splitlines()
        (home / program.name).write_text("\n".join(map(moved, lines)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(home / f"{name}.py"), json.dumps(arguments)],
        env={
            **{each: os.environ[each] for each in ("PATH", "LANG") if each in os.environ},
            **backend.environment(),
            "HOME": str(home),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            "PYTHONPATH": str(PACKAGE_ROOT),
            **environment,
        },
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.stdout, done.stderr[-2000:]
    outcome = json.loads(done.stdout)
    assert "failed" not in outcome, outcome
    return outcome["observed"]
