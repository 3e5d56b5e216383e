"""Error codes (JSON-RPC 2.0 §5.1), and the errors that a handler raises to send one of them."""

from __future__ import annotations

from typing import Any

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603


class RpcError(Exception):
    """Raised by a handler: becomes the error reply with exactly these members.

    Args:
        code: error code.
        message: one short sentence.
        data: any JSON value, None to leave it out.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class MissingParam(RpcError):
    """A required parameter is absent: -32602 in the form of protocol §B.1, with the plain key name."""

    def __init__(self, key: str) -> None:
        super().__init__(INVALID_PARAMS, f"Missing key: {key}", {"missing_key": key})
        self.key = key


def error_for(exc: BaseException) -> RpcError:
    """The error reply for an exception that a handler raised (protocol §B.1).

    A ``KeyError`` becomes a missing parameter; any other exception becomes an internal error with its text.
    """
    if isinstance(exc, RpcError):
        return exc
    if isinstance(exc, KeyError):
        return MissingParam(_text(exc.args[0]) if exc.args else "")
    return RpcError(INTERNAL_ERROR, "Internal error", {"exception": _text(exc) or type(exc).__name__})


def _text(value: object) -> str:
    """``str(value)``, or the name of its type if that fails: the ``__str__`` of a user's exception may raise."""
    try:
        return str(value)
    except BaseException:  # noqa: BLE001 - see above
        return type(value).__name__
