"""The Tellurio WebSocket client (``client``), and what the server may call here (``server_methods``)."""

from __future__ import annotations

from .client import LONG_RUNNING_METHODS, TellurioWebSocketClient

__all__ = ["LONG_RUNNING_METHODS", "TellurioWebSocketClient"]
