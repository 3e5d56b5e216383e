"""JSON texts.  Strict in what is sent, tolerant in what is read."""

from __future__ import annotations

import json
from typing import Any

from ..errors import LocalProtocolError, shorten

# Compact (no blanks) and without the ASCII detour: half the size for most non-Latin text.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_encode_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode


class MalformedText(ValueError):
    """The text is not JSON that can be read here."""


def encode(message: Any) -> str:
    """The JSON text of ``message``, encodable as UTF-8.

    Raises:
        LocalProtocolError: it holds a value that JSON does not have (RFC 8259 §6: NaN and infinities
            are no numbers), a type that has no JSON form, or it is nested too deeply or in a circle.
    """
    try:
        text = _encode(message)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                # A lone surrogate has no UTF-8 form, but an escape that every JSON reader understands.
                text = _encode_ascii(message)
        return text
    except (TypeError, ValueError, RecursionError) as exc:
        raise LocalProtocolError(f"cannot be sent as JSON: {_why(exc)}") from exc


def decode(text: str | bytes) -> Any:
    """The value of a JSON text.

    ``NaN`` and infinities are read, although JSON has none: a reply that holds one must still reach
    the call that waits for it.

    Raises:
        MalformedText: not JSON, an integer beyond the interpreter's limit of digits, or nested too deeply.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise MalformedText(_why(exc)) from exc


def _why(exc: BaseException) -> str:
    if isinstance(exc, RecursionError):
        return "nested too deeply"
    return shorten(str(exc))
