"""Importing the package is cheap and silent."""

from __future__ import annotations

import subprocess
import sys

import tellurio_sync


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


# Each costs a user milliseconds before the first line of a program, and is imported by the function that needs it.
NOT_IMPORTED = [
    *("aiohttp", "IPython", "keyring", "matplotlib", "openai", "pytest", "requests", "slugify"),
    *("argparse", "asyncio", "ctypes", "email", "getpass", "html", "http.client", "http.server", "multiprocessing"),
    *("importlib.metadata", "sqlite3", "tempfile", "unittest", "urllib.request", "xml"),
    *("concurrent.futures.process", "concurrent.futures.thread"),
    *(f"tellurio_sync.{name}" for name in ("backend", "cli", "examples", "local", "studio", "testing")),
]


def test_import_starts_nothing_and_loads_nothing_heavy() -> None:
    code = f"""
import logging, os, sys, threading
environment = dict(os.environ)
before = set(sys.modules)
import tellurio_sync
assert threading.active_count() == 1, threading.enumerate()
print(sorted(set({NOT_IMPORTED!r}) & (set(sys.modules) - before)))
assert dict(os.environ) == environment
assert logging.getLogger().handlers == []
assert logging.getLogger("tellurio_sync").handlers == []
assert logging.getLogger("tellurio_sync").level == logging.NOTSET
"""
    assert run_python(code) == "[]"


def test_every_public_name_exists_and_says_what_it_is() -> None:
    for name in tellurio_sync.__all__:
        value = getattr(tellurio_sync, name)
        assert name in ("JAGGED", "LONG_RUNNING_METHODS") or value.__doc__, f"{name} has no docstring"


def test_no_public_name_is_listed_twice() -> None:
    assert len(set(tellurio_sync.__all__)) == len(tellurio_sync.__all__)
