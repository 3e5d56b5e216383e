"""Functions of the user that use the server while it waits for them: over our client, and moved over here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.testing import ScriptedBackend

from .conftest import FAILSAFE, Drive
from .moving import run_natively
from .script import answer

ENDED = {str(number): {"value": [f"text {number} end", 1, 0.75, ["feedback to letters"]]} for number in range(3)}


def arguments(backend: ScriptedBackend) -> dict[str, Any]:
    backend.lm.always(answer)
    return {"namespace": backend.namespace, "base_url": backend.lm.base_url}


def test_they_may_over_our_client(drive: Drive, backend: ScriptedBackend, way: str) -> None:
    if way == "afnio's client":
        pytest.skip("it runs them where it listens, and waits for itself for ever")
    assert drive("nested", **arguments(backend)) == ENDED


def test_they_may_here(tmp_path: Path) -> None:
    with ScriptedBackend(username="alice", namespaces=["alice"]) as backend:
        assert run_natively("nested", backend, tmp_path, FAILSAFE, {}, **arguments(backend)) == ENDED
