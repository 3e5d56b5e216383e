"""Locks are taken in the order of the table in ``docs/architecture.md``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tellurio_sync

from .child import ROOT

PAGE = Path(tellurio_sync.__file__).parent / "docs" / "architecture.md"
LIMIT = 120.0


def ranks() -> dict[tuple[str, str], int]:
    """The row of each lock in the table."""
    table = PAGE.read_text(encoding="utf-8").partition("\n## Locks\n")[2].partition("\n## ")[0]
    found = {}
    for number, line in enumerate(line for line in table.splitlines() if line.startswith("| `")):
        names, modules = line.split("|")[1:3]
        for module in re.findall(r"`([\w/]+\.py)`", modules):
            for name in re.findall(r"`(\w+)`", names):
                found[module, name] = number
    return found


@pytest.mark.slow
def test_locks_are_taken_in_the_order_of_the_page() -> None:
    """In a training with batches in four threads, callables, and a connection that is lost."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.processes.lock_order"], capture_output=True, text=True, timeout=LIMIT, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    observed = json.loads(done.stdout)
    taken = {tuple(site) for site in observed["taken"]}
    pairs = {(tuple(held), tuple(later)) for held, later in observed["pairs"]}
    rank = ranks()
    assert taken - rank.keys() == set(), "these locks are not in the table"
    assert len(taken) >= 12
    assert len(pairs) >= 8
    assert {(held, later) for held, later in pairs if rank[held] >= rank[later]} == set()
