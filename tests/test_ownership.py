"""The thread tables cannot lie: what they call guarded is checked by asserts, which are on in tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tellurio_sync
from tellurio_sync.model.registries import Registries
from tellurio_sync.ownership import is_held

from .conftest import FAILSAFE

PACKAGE = Path(tellurio_sync.__file__).parent

# Those that share state among threads: with a table, or with methods for callers that hold a lock.
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if re.search(r"\| State \||_locked\(", path.read_text(encoding="utf-8"))
)

COLUMNS = "| State | Written by | Read by | Guarded by | Enforced by |"


def in_another_thread(function: object) -> object:
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(function()))  # type: ignore[operator]
    thread.start()
    thread.join(FAILSAFE)
    return outcome[0]


@pytest.mark.parametrize("make", [threading.RLock, threading.Condition])
def test_a_lock_with_an_owner_is_held_by_that_thread_only(make: object) -> None:
    lock = make()  # type: ignore[operator]
    assert not is_held(lock)
    with lock:
        assert is_held(lock)
        assert not in_another_thread(lambda: is_held(lock))
    assert not is_held(lock)


def test_a_plain_lock_is_held_by_some_thread() -> None:
    lock = threading.Lock()
    assert not is_held(lock)
    with lock:
        assert is_held(lock)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_method_for_callers_with_the_lock_asserts_it_first(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_locked"):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            first = body[0]
            assert isinstance(first, ast.Assert), f"{node.name} does not begin with an assert"
            assert "is_held" in ast.unparse(first.test) or "lock" in ast.unparse(first.test)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_thread_table_says_what_enforces_it(path: Path) -> None:
    assert len(MODULES) >= 30
    tables = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| State |")]
    assert tables == [COLUMNS] * len(tables)


def test_a_method_without_its_lock_is_noticed() -> None:
    registries = Registries()
    with pytest.raises(AssertionError):
        registries._note_push_locked(object(), lambda: None)  # type: ignore[arg-type]
    with registries.lock:
        registries._note_push_locked(object(), lambda: None)  # type: ignore[arg-type]


def test_without_asserts_nothing_is_checked() -> None:
    code = """
from tellurio_sync.model.registries import Registries
Registries()._note_push_locked(object(), lambda: None)
print("good")
"""
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr
