"""JSON texts.  Strict in what is sent, tolerant in what is read.

Texts are written by orjson if it is installed (the extra ``speed``), else by the standard library;
``BACKEND`` says by which.  Both write the same values and refuse the same values: orjson handles only what it
is sure of.  Everything else goes to ``_write_plainly``, which decides and words the error.

Texts are read by the standard library alone.  orjson reads an integer over 64 bits as a float, and the
search for such integers costs more than orjson saves: a small reply takes 0.75 us instead of 0.95, but a reply
of 2,000 objects takes 1.7 ms instead of 1.1, and one long text takes the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ..errors import LocalProtocolError, shorten

try:
    import orjson
except ImportError:
    BACKEND = "json"
else:
    BACKEND = "orjson"
    # Its own error is a TypeError.
    _ORJSON_REFUSAL = (TypeError, UnicodeError, RecursionError)
    # Left to the plain writer: subclasses (of dict: they may keep their items elsewhere), dates, dataclasses.
    _ORJSON_OPTIONS = (
        orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
    )


_PIECE = 64 * 1024  # characters


class MalformedText(ValueError):
    """The text is not JSON that can be read here."""


def encode(message: Any) -> str:
    """The JSON text of ``message``, encodable as UTF-8.

    A ``uuid.UUID`` is written as its text, an ``enum.Enum`` as its value, and a tuple as an array.

    Raises:
        LocalProtocolError: it holds a value that JSON does not have (RFC 8259 §6: NaN and infinities
            are no numbers), a type that has no JSON form, or it is nested too deeply or in a circle.
    """
    return _write(message)


def decode(text: str | bytes) -> Any:
    """The value of a JSON text.

    ``NaN`` and infinities are read, although JSON has none: a reply that holds one must still reach
    the call that waits for it.

    Raises:
        MalformedText: not JSON, an integer beyond the interpreter's limit of digits, or nested too deeply.
    """
    try:
        value, end = _scan(text, 0)
    except (ValueError, RecursionError, StopIteration, TypeError):
        end = -1  # json.loads finds the error, skips the leading blanks, or reads bytes
    if end == len(text):
        return value
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise MalformedText(_why(exc)) from exc


# json.loads looks for a byte order mark and for blanks at both ends: 1.6 us a reply, and 0.95 us without. raw_decode
# only turns scan_once's StopIteration into an error of its own, for 0.1 us; it serves where there is no scan_once.
_decoder = json.JSONDecoder()
_scan: Callable[[Any, int], tuple[Any, int]] = getattr(_decoder, "scan_once", _decoder.raw_decode)


def _default(value: Any) -> Any:
    """The JSON form of UUIDs and enums: the two types that orjson always writes, whatever its options are."""
    from enum import Enum
    from uuid import UUID

    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# Compact (no blanks) and without the ASCII detour: half the size for most non-Latin text.
_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default).encode
_plain_ascii = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=_default).encode


def _write_plainly(message: Any) -> str:
    try:
        text = _plain(message)
        # A lone surrogate has no UTF-8 form, but an escape that every JSON reader understands.
        return text if text.isascii() or _is_unicode(text) else _plain_ascii(message)
    except (TypeError, ValueError, RecursionError) as exc:
        raise LocalProtocolError(f"cannot be sent as JSON: {_why(exc)}") from exc


def utf8_size(text: str) -> int:
    """The bytes of a text as UTF-8, without a second copy of all of it."""
    if text.isascii():
        return len(text)
    pieces = (text[start : start + _PIECE] for start in range(0, len(text), _PIECE))
    return sum(len(piece.encode("utf-8", "surrogatepass")) for piece in pieces)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _why(exc: BaseException) -> str:
    if isinstance(exc, RecursionError):
        return "nested too deeply"
    return shorten(str(exc))


def _write_with_orjson(message: Any) -> str:
    try:
        text: str = orjson.dumps(message, None, _ORJSON_OPTIONS).decode()
    except _ORJSON_REFUSAL:  # the plain writer decides; anything else is a signal handler's
        return _write_plainly(message)
    if "null" in text:  # looked for in bytes, it takes twice as long
        # orjson also writes NaN and infinities as null, which must be refused.
        return _write_plainly(message)
    return text


_write = _write_with_orjson if BACKEND == "orjson" else _write_plainly
