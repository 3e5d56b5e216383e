"""API keys: their form, and how they are sent without appearing anywhere else.

A key must not appear in a log line, an error, a ``repr`` or a pickle.  So one object keeps it and does not show it, and
texts that come from outside pass through ``secret.redact``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ..errors import InvalidAPIKeyError
from ..secret import Secret, redact

if TYPE_CHECKING:
    import requests


def clean_key(key: str) -> str:
    """The key without the blanks and line ends that pasting may add; may be empty.

    Raises:
        InvalidAPIKeyError: it holds characters that cannot stand in an HTTP header (RFC 9110 §5.5).
            Found here because the HTTP library's own error would quote the key.
    """
    stripped = Secret(key.strip())
    if not all("!" <= char <= "~" for char in stripped):
        raise InvalidAPIKeyError("The API key holds blanks or characters that no key has. Was it copied completely?")
    return stripped


class KeyHeader:
    """Puts the key into the ``Authorization`` header of a request, and shows it nowhere else.

    It is passed as ``auth`` to the HTTP library even if there is no key (None), because without ``auth`` that library
    would fill the header from ``~/.netrc``.
    """

    __slots__ = ("_key",)

    def __init__(self, key: str | None) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key is not None:
            request.headers["Authorization"] = f"Api-Key {self._key}"
        return request

    @property
    def is_set(self) -> bool:
        """Whether there is a key. (Not ``__bool__``: the HTTP library takes a false ``auth`` for none.)"""
        return self._key is not None

    def redact(self, text: str) -> str:
        """The text, with this key replaced by stars."""
        return redact(text, self._key)

    def __repr__(self) -> str:
        return "KeyHeader(***)" if self.is_set else "KeyHeader(None)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("An API key is not pickled.")
