"""A pytest plugin: test your own training loop against a real local backend, without a network or a language model.

pytest loads it automatically if ``tellurio_sync[local]`` is installed::

    def test_the_prompt_is_improved(tellurio_session, tellurio_backend):
        tellurio_backend.lm.answers("positive", "The tone is angry.", '{"variable_1": "Mind the tone."}',
                                    "<IMPROVED>Mind the tone of the message.</IMPROVED>")
        prompt = my_package.train(epochs=1)
        assert prompt == "Mind the tone of the message."
        assert "angry" in str(tellurio_backend.lm.prompts)

    def test_training_survives_a_lost_connection(tellurio_session, tellurio_backend):
        tellurio_backend.drop_connections()
        ...

Each test has its own backend.  To share one in a whole module, write your own fixture around
:class:`ScriptedBackend`.  pytest imports this module in every run, so it imports nothing until a fixture is used.
A backend takes about a second to start, in the tests that use one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..session import Session
    from ..studio import Run
    from .language_model import Failure, ScriptedModel
    from .scripted_backend import ScriptedBackend

__all__ = ["Failure", "ScriptedBackend", "ScriptedModel", "tellurio_backend", "tellurio_run", "tellurio_session"]


def __getattr__(name: str) -> Any:
    if name == "ScriptedBackend":
        from .scripted_backend import ScriptedBackend

        return ScriptedBackend
    if name in ("Failure", "ScriptedModel"):
        from . import language_model

        return getattr(language_model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@pytest.fixture
def tellurio_backend(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ScriptedBackend]:
    """A local backend on a free port, with a temporary directory: see :class:`ScriptedBackend`.

    During the test the environment points to it: ``login()`` connects to it, ``OpenAI()`` has a key and asks the
    scripted language model, and no key is stored in your keyring.
    """
    from ..studio import keystore
    from .scripted_backend import ScriptedBackend

    with ScriptedBackend(tmp_path_factory.mktemp("tellurio")) as backend:
        monkeypatch.delenv("TELLURIO_MODE", raising=False)
        for name, value in backend.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(keystore, "_usable", lambda: (None, "a test keeps no key"))
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
