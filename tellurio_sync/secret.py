"""A key that does not show itself, also where a server says it back."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Secret(str):
    """A text, but its ``repr`` hides it, and it is not pickled.

    Debuggers and error reporters show the variables of each frame of a traceback by their ``repr``.  So every variable
    of this package that holds a key holds a ``Secret``.  (In an f-string, and on the wire, it is the plain text.)
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce__(self) -> NoReturn:
        raise TypeError("A key is not pickled.")


class SecretBytes(bytes):
    """Bytes in the place of a key, which are refused: in the traceback of that, their ``repr`` hides them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "b'***'"


def hidden(value: T) -> T | Secret:
    """A text as a :class:`Secret`, bytes as :class:`SecretBytes`; any other value, which cannot be a key, unchanged."""
    if isinstance(value, (bytes, bytearray)):
        return SecretBytes(value)  # type: ignore[return-value]  # bytes, as it was
    return Secret(value) if isinstance(value, str) else value


_SHORTEST = 4  # characters: what is shorter is no secret, and stands in half of all words


def redact(text: str, *secrets: str | None) -> str:
    """The text with these keys blotted out. Before it is shortened: half a key is one, too."""
    for secret in secrets:
        if secret and len(secret) >= _SHORTEST:
            text = text.replace(secret, "***")
            escaped = str.__repr__(secret)[1:-1]  # as it stands in the ``repr`` of what holds it
            if escaped != secret:
                text = text.replace(escaped, "***")
    return text


def redact_json(value: Any, *secrets: str | None) -> Any:
    """The JSON value with these keys blotted out of all its texts; itself, if it is nested too deeply to be shown."""
    try:
        return _redact_json(value, secrets)
    except RecursionError:
        return value


def _redact_json(value: Any, secrets: tuple[str | None, ...]) -> Any:
    if isinstance(value, str):
        return redact(value, *secrets)
    if isinstance(value, list):
        return [_redact_json(item, secrets) for item in value]
    if isinstance(value, dict):
        return {redact(name, *secrets): _redact_json(item, secrets) for name, item in value.items()}
    return value
