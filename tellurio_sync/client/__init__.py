"""The Tellurio WebSocket client: what is called on the server (``calls``), and what the server may call here
(``server_methods``).
"""

from __future__ import annotations

from .calls import LONG_RUNNING_METHODS
from .client import TellurioWebSocketClient

__all__ = ["LONG_RUNNING_METHODS", "TellurioWebSocketClient"]
