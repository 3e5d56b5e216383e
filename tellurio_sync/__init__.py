"""The synchronous client of Tellurio Studio: optimise prompts from plain Python, without asyncio.

    import tellurio_sync as te

    te.login()
    with te.init("my-org", "Facility Support") as run:
        prompt = te.Parameter("Read the message ...", role="system prompt")
        ...

Importing it starts nothing: no thread, no connection, no file, no logging configuration.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from . import autodiff as autograd
from . import data, errors, optim, run_context
from ._version import __version__ as __version__
from .active_run import get_active_run, set_active_run
from .autodiff import functional
from .autodiff.backward_model import get_backward_model_client, set_backward_model_client
from .autodiff.backward_pass import backward
from .autodiff.grad_mode import is_grad_enabled, no_grad, set_grad_enabled
from .autodiff.messages import Message, MultiTurnMessages
from .client import TellurioWebSocketClient
from .client.client import LONG_RUNNING_METHODS
from .cognitive import Module
from .console import set_quiet
from .data import DataLoader, Dataset
from .errors import (
    BackendError,
    BatchFailed,
    CallCancelled,
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    InvalidAPIKeyError,
    NotConnected,
    RemoteError,
    SamplesFailed,
    TellurioError,
    UsageError,
)
from .events import Event, on_event
from .free_threading import check_interpreter
from .long_calls import CallProgress, on_progress, progress
from .model.batch.block import batch
from .model.batch.dataset import variables
from .model.data import JAGGED
from .model.graph import GradientEdge, Node
from .model.language import AsyncOpenAI, CallableModel, ChatCompletionModel, OpenAI
from .model.serialization import load, save
from .model.suppression import suppress_variable_notifications
from .model.variable import Parameter, Variable, is_scalar_variable
from .optim import TGD, Optimizer
from .parallel import map
from .session import Session
from .session.budget import budget
from .session.default import (
    close,
    current_session,
    default_session,
    finish,
    init,
    log,
    login,
    logout,
    runs,
    sync,
    whoami,
)
from .session.restore import Restored
from .tracing import trace
from .trainer import Trainer, Trials, evaluate, fit, search

if TYPE_CHECKING:
    from .studio.runs import Run, RunStatus

check_interpreter()


def __getattr__(name: str) -> Any:
    # Most programs get a run from ``init`` and never name its class; loading it takes as long as the rest together.
    if name in ("Run", "RunStatus"):
        from .studio import runs as module

        return getattr(module, name)
    text = f"module {__name__!r} has no attribute {name!r}"
    for place in (functional, optim, autograd, data, errors):
        if not name.startswith("_") and hasattr(place, name):
            text += f": it is te.{place.__name__.rpartition('.')[2].replace('autodiff', 'autograd')}.{name}"
            break
    raise AttributeError(text, name=name, obj=sys.modules[__name__])


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext tellurio_sync``: the magic ``%tellurio``, and short tracebacks; see ``notebook``."""
    from .notebook import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext tellurio_sync``."""
    from .notebook import unload

    unload(shell)


__all__ = [
    "JAGGED",
    "LONG_RUNNING_METHODS",
    "TGD",
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
]
