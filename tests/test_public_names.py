"""The public names: whoever adds or removes one changes this list, and the changelog."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

import tellurio_sync as te
from tellurio_sync.session.login import Mode

NAMES = {
    "AsyncOpenAI",
    "BackendError",
    "BatchFailed",
    "CallCancelled",
    "CallProgress",
    "CallTimeout",
    "CallableModel",
    "ChatCompletionModel",
    "ConnectFailed",
    "ConnectionLost",
    "DataLoader",
    "Dataset",
    "Event",
    "GradientEdge",
    "InvalidAPIKeyError",
    "JAGGED",
    "LONG_RUNNING_METHODS",
    "Message",
    "Module",
    "MultiTurnMessages",
    "Node",
    "NotConnected",
    "OpenAI",
    "Optimizer",
    "Parameter",
    "RemoteError",
    "Restored",
    "Run",
    "RunStatus",
    "SamplesFailed",
    "Session",
    "TGD",
    "TellurioError",
    "TellurioWebSocketClient",
    "Trainer",
    "Trials",
    "UsageError",
    "Variable",
    "autograd",
    "backward",
    "batch",
    "budget",
    "close",
    "current_session",
    "data",
    "default_session",
    "errors",
    "evaluate",
    "finish",
    "fit",
    "functional",
    "get_active_run",
    "get_backward_model_client",
    "init",
    "is_grad_enabled",
    "is_scalar_variable",
    "load",
    "log",
    "login",
    "logout",
    "map",
    "no_grad",
    "on_event",
    "on_progress",
    "optim",
    "progress",
    "run_context",
    "runs",
    "save",
    "search",
    "set_active_run",
    "set_backward_model_client",
    "set_grad_enabled",
    "set_quiet",
    "suppress_variable_notifications",
    "sync",
    "trace",
    "variables",
    "whoami",
}


def test_the_public_names_are_these() -> None:
    assert set(te.__all__) == NAMES
    assert len(te.__all__) == len(NAMES)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_public_name_can_be_imported(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from tellurio_sync import {name}", namespace)
    assert namespace[name] is getattr(te, name)


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'tellurio_sync' has no attribute 'Rnu'"):
        te.Rnu  # noqa: B018


def test_a_run_is_named_by_its_class_and_loaded_only_then() -> None:
    code = "import sys, tellurio_sync as te; print('tellurio_sync.studio' in sys.modules, te.RunStatus.RUNNING)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False RUNNING\n"


def test_the_modes_are_those_that_login_takes() -> None:
    for mode in get_args(Mode):
        assert te.Session()._login.chosen_mode(mode) == mode
    with pytest.raises(ValueError, match="must be 'online', 'local', 'offline' or 'auto', not 'ofline'"):
        te.login(mode="ofline")  # type: ignore[arg-type]
