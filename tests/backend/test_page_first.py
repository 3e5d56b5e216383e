"""The first page of a backend's life comes as soon as the others: what it needs is prepared when nobody waits."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.backend import server
from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.backend.page import handlers, render

from .conftest import RunningBackend
from .rpc_client import FAILSAFE
from .watched_run import Browser, WatchedRun


@pytest.fixture
def fresh_templates() -> None:
    render.environment.cache_clear()


def test_what_is_prepared_is_all_that_the_first_pages_need(
    backend: RunningBackend, fresh_templates: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "_PREPARE_AFTER", 0.0)
    asyncio.run_coroutine_threadsafe(backend._backend.prepare_pages(), backend._loop).result(FAILSAFE)

    def refuse(environment: Any, template: str) -> Any:
        raise AssertionError(f"{template} was not prepared")

    monkeypatch.setattr(render.environment().loader, "get_source", refuse)
    run = WatchedRun(backend)
    run.log("loss", 0.5)
    run.log("loss", 0.25)
    with Browser(backend) as browser:
        for path in ("/", run.path.partition("runs/")[0], run.path):
            assert browser.look(path).status_code == 200
    run.close()


def test_a_backend_prepares_its_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program of its own does, and ends although it is at it."""
    prepared = []

    async def prepare(backend: server.Backend) -> None:
        prepared.append(backend)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.setattr(server.Backend, "prepare_pages", prepare)
    failsafe = threading.Timer(FAILSAFE, os.kill, (os.getpid(), signal.SIGTERM))
    failsafe.start()
    try:
        assert server.serve(BackendOptions(data_dir=tmp_path, port=0)) == 0
    finally:
        failsafe.cancel()
        failsafe.join()
    assert len(prepared) == 1
