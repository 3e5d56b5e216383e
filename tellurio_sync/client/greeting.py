"""Opening a connection to the Tellurio backend: the key, the greeting, and the error when it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ConnectFailed, InvalidAPIKeyError, shorten
from ..jsonrpc import encode, notification
from ..transport.base import DialFailed


def checked_key(api_key: str) -> str:
    """``api_key``, if it can be one; raises ValueError if not."""
    # The key goes into a header line: a line break in it would be another header.
    if not isinstance(api_key, str) or not api_key or not api_key.isascii() or not api_key.isprintable():
        raise ValueError("The API key must be a non-empty text of printable ASCII characters.")
    return api_key


@dataclass(frozen=True)
class Greeting:
    """What the server says about itself when a connection opens.

    Attributes:
        session_id: the id of the session on the server.
        extensions: the names of the optional extensions that it knows (protocol §K.1).
        max_message_size: bytes of the longest message that it takes; None: it does not say.
    """

    session_id: str
    extensions: frozenset[str] = frozenset()
    max_message_size: int | None = None


def read_greeting(envelope: Any) -> Greeting:
    """The server's first message (protocol §A.2). Only the session id must be there."""
    if "error" in envelope:
        raise ValueError(f"the server greeted with an error: {shorten(repr(envelope['error']))}")
    result = envelope.get("result")
    session_id = result.get("session_id") if isinstance(result, dict) else None
    if not isinstance(session_id, str) or not session_id:
        raise ValueError(f"the greeting holds no session id: {shorten(repr(envelope))}")
    # A server is free to put anything there: a value of another form means nothing.
    extensions, size = result.get("extensions"), result.get("max_message_size")
    known = [name for name in extensions if isinstance(name, str)] if isinstance(extensions, list) else []
    is_size = isinstance(size, int) and not isinstance(size, bool) and size > 0
    return Greeting(session_id, frozenset(known), size if is_size else None)


CANCEL = "cancel"
"""The extension of servers that want to know of calls for which nobody waits any more (protocol §K.2)."""


def cancellation(greeting: Any, request_id: str) -> str | None:
    """The message that a call was given up; None for a server that does not know it."""
    if not (isinstance(greeting, Greeting) and CANCEL in greeting.extensions):
        return None
    return encode(notification(CANCEL, {"id": request_id}))


def connect_failed(ws_url: str, is_loopback: bool, failure: DialFailed) -> ConnectFailed:
    """The error for the user when no connection could be made."""
    details: dict[str, Any] = {
        "stage": failure.stage,
        "url": ws_url,
        "attempts": failure.attempts,
        "status": failure.status,
    }
    if failure.status in (401, 403):
        return InvalidAPIKeyError(
            f"Failed to connect to WebSocket: {ws_url} refused the API key (HTTP {failure.status}). "
            "It was not tried again; check the key.",
            **details,
        )
    text = (
        f"Failed to connect to WebSocket after multiple attempts. {ws_url}: {failure} "
        f"(stage: {failure.stage}, attempts: {failure.attempts})."
    )
    if is_loopback and failure.stage == "TCP":
        text += " No backend is running there; start one with: tellurio-sync backend"
    return ConnectFailed(text, **details)
