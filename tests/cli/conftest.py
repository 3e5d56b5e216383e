"""A user at a command line: an empty home directory, nothing set, nobody at the terminal."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tellurio_sync import cli

from ..backend.conftest import RunningBackend, a_backend

KEY = "te-0123456789-secret"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in list(os.environ):
        if name.startswith(("TELLURIO_", "KEYRING_", "OPENAI_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    logger = logging.getLogger("tellurio_sync")
    level = logger.level
    yield tmp_path
    logger.setLevel(level)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command: its exit code, output and errors, in which no key is."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(arguments)
        out, err = capsys.readouterr()
        assert KEY not in out + err
        return code, out, err

    return run_command


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[RunningBackend]:
    yield from a_backend(api_key=KEY, data_dir=tmp_path / "data")


@pytest.fixture
def settings(backend: RunningBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user of this backend."""
    for channel, scheme in (("HTTP", "http"), ("WS", "ws")):
        monkeypatch.setenv(f"TELLURIO_BACKEND_{channel}_BASE_URL", f"{scheme}://127.0.0.1")
        monkeypatch.setenv(f"TELLURIO_BACKEND_{channel}_PORT", str(backend.port))
    monkeypatch.setenv("TELLURIO_API_KEY", KEY)
