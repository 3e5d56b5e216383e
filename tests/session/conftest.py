"""A backend for each test, and sessions with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync import run_context

from ..backend.conftest import RunningBackend, a_backend

KEY = "key-of-this-test"

MakeSession = Callable[..., te.Session]


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[RunningBackend]:
    yield from a_backend(api_key=KEY, data_dir=tmp_path / "data", namespaces=("local", "my-org"))


@pytest.fixture
def make_session(backend: RunningBackend) -> Iterator[MakeSession]:
    """Makes sessions with this backend, and closes them after the test."""
    sessions = []

    def make(**options: Any) -> te.Session:
        addresses = {"http_base_url": "http://127.0.0.1", "ws_base_url": "ws://127.0.0.1"}
        ports = {"http_port": backend.port, "ws_port": backend.port}
        session = te.Session(**{**addresses, **ports, **options})
        sessions.append(session)
        return session

    # For a test that looks at what is left of one.
    make.forget = sessions.remove  # type: ignore[attr-defined]
    yield make
    for session in sessions:
        session.close()
    run_context.set_active_run(None)


@pytest.fixture
def session(make_session: MakeSession) -> Iterator[te.Session]:
    """Logged in, with a run, and current."""
    session = make_session()
    session.login(KEY)
    with session.use(), session.init(None, "Test"):
        yield session
