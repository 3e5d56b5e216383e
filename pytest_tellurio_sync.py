"""The pytest plugin of tellurio_sync: see ``tellurio_sync.testing``.

pytest imports this module in every run of an environment that has the package, so it stands outside of the package and
imports nothing of it until a test uses a fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tellurio_sync import Session
    from tellurio_sync.studio import Run
    from tellurio_sync.testing import ScriptedBackend


@pytest.fixture
def tellurio_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedBackend]:
    """A local backend on a free port, with a temporary directory: see :class:`ScriptedBackend`.

    During the test the environment points to it: ``login()`` connects to it, ``OpenAI()`` has a key and asks the
    scripted language model, and no key is stored in your keyring.
    """
    from tellurio_sync.testing import ScriptedBackend
    from tellurio_sync.testing.no_keyring import no_keyring

    with (
        ScriptedBackend(tmp_path_factory.mktemp("tellurio")) as backend,
        pytest.MonkeyPatch.context() as patch,
        no_keyring(),
    ):
        patch.delenv("TELLURIO_MODE", raising=False)
        for name, value in backend.environment().items():
            patch.setenv(name, value)
        yield backend


@pytest.fixture
def tellurio_session(tellurio_backend: ScriptedBackend) -> Iterator[Session]:
    """A session that is logged in to :func:`tellurio_backend`, and the current one in the test's thread."""
    with tellurio_backend.session() as session:
        session.login(tellurio_backend.api_key)
        yield session


@pytest.fixture
def tellurio_run(tellurio_session: Session) -> Iterator[Run]:
    """An active run of :func:`tellurio_session`, for tests of code that makes Variables but starts no run."""
    with tellurio_session.init(project_display_name="Tests") as run:
        yield run
