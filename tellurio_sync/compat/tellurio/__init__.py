"""``afnio.tellurio``: for the current session."""

from __future__ import annotations

from ...client.client import TellurioWebSocketClient
from ...model.suppression import suppress_variable_notifications
from ...session.default import init, log, login
from ..logging_config import configure_logging
from . import project, run

__all__ = [
    "TellurioWebSocketClient",
    "configure_logging",
    "init",
    "log",
    "login",
    "project",
    "run",
    "suppress_variable_notifications",
]
