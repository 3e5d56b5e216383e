"""Checks of results: which members must be there, and which must come back as they were sent (protocol §C)."""

from __future__ import annotations

from typing import Any

from ..errors import RemoteProtocolError, shorten


def member(method: str, result: Any, key: str) -> Any:
    """The member ``key`` of ``result``.

    Raises:
        RemoteProtocolError: it is not there.
    """
    if not isinstance(result, dict) or key not in result:
        raise RemoteProtocolError(f"The reply to {method!r} has no {key!r}.", received=repr(result))
    return result[key]


def id_member(method: str, result: Any, key: str) -> str:
    """The member ``key`` of ``result``, an id.

    Raises:
        RemoteProtocolError: it is missing, empty, or not a string.
    """
    id_ = member(method, result, key)
    if not isinstance(id_, str) or not id_:
        raise RemoteProtocolError(f"The reply to {method!r} has no usable {key!r}.", received=repr(result))
    return id_


def check_echo(method: str, result: Any, sent: dict[str, Any]) -> None:
    """Check that ``result`` holds every member of ``sent`` unchanged.

    The JSON forms are compared (protocol §C.2): a tuple comes back as a list.

    Raises:
        RemoteProtocolError: one is absent or different.
    """
    for key, value in sent.items():
        echoed = member(method, result, key)
        if echoed != value and echoed != json_form(value):
            text = f"Server response mismatch: {method} sent {key}={_shown(value)} and got {_shown(echoed)} back."
            raise RemoteProtocolError(text, received=repr(result))


def check_message(method: str, result: Any, expected: str) -> None:
    """Check that the server reports success with this text (protocol §C).

    Raises:
        RemoteProtocolError: it says something else.
    """
    message = member(method, result, "message")
    if message != expected:
        text = f"Server response mismatch: {method} answered {_shown(message)} instead of {expected!r}."
        raise RemoteProtocolError(text, received=repr(result))


def json_form(value: Any) -> Any:
    """``value`` as it looks after a trip through JSON: tuples as lists, keys as strings."""
    if isinstance(value, (list, tuple)):
        return [json_form(item) for item in value]
    if isinstance(value, dict):
        return {_json_key(key): json_form(item) for key, item in value.items()}
    return value


def _json_key(key: Any) -> Any:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    return str(key) if isinstance(key, (int, float)) else key


def _shown(value: Any) -> str:
    return shorten(repr(value), 80)
