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
:class:`ScriptedBackend`.  The fixtures are in ``pytest_tellurio_sync``, which pytest imports in every run and which
imports nothing of this package until a test uses one.  A backend takes about a second to start, in the tests that use
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_tellurio_sync import tellurio_backend, tellurio_run, tellurio_session

    from .language_model import Failure, ScriptedModel
    from .scripted_backend import ScriptedBackend

__all__ = ["Failure", "ScriptedBackend", "ScriptedModel", "tellurio_backend", "tellurio_run", "tellurio_session"]

_HOMES = {
    "ScriptedBackend": "tellurio_sync.testing.scripted_backend",
    "Failure": "tellurio_sync.testing.language_model",
    "ScriptedModel": "tellurio_sync.testing.language_model",
    "tellurio_backend": "pytest_tellurio_sync",
    "tellurio_session": "pytest_tellurio_sync",
    "tellurio_run": "pytest_tellurio_sync",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
