"""One backend for all tests of a module: starting one costs more than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tellurio_sync.studio import Run
from tellurio_sync.testing import ScriptedBackend


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedBackend]:
    with ScriptedBackend(tmp_path_factory.mktemp("tellurio")) as backend:
        yield backend


@pytest.fixture
def run(backend: ScriptedBackend) -> Iterator[Run]:
    """An active run of a session of its own, which is the current one of the test's thread."""
    with backend.session() as session:
        session.login(backend.api_key)
        with session.init(project_display_name="Tests") as run:
            yield run


__all__ = ["backend", "run"]
