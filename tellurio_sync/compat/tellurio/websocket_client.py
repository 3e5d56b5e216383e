"""``afnio.tellurio.websocket_client``."""

from __future__ import annotations

from ...client import LONG_RUNNING_METHODS, TellurioWebSocketClient

__all__ = ["LONG_RUNNING_METHODS", "TellurioWebSocketClient"]
