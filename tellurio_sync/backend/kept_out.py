"""What must not stand in the records: the keys of language models and of this backend.

For the event loop's thread only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from .data import Data
from .key_names import INSTEAD
from .lm.settings import NO_KEYS, names_key

# Shorter texts are words rather than keys, and would be found in every text. At most this many keys are searched for.
_SHORTEST = 8
_MOST = 1000


class KeptOut:
    """Texts that are replaced wherever they would be kept."""

    def __init__(self) -> None:
        self._texts: dict[str, None] = {}

    def add(self, config: Mapping[str, Any]) -> None:
        """Note the keys in a language model's configuration: in its settings, its headers and its address."""
        found = [config.get("api_key"), *_in_address(config.get("base_url"))]
        for name in ("default_headers", "extra_headers", "default_query", "extra_query"):
            pairs = config.get(name)
            # Not all: a title or a version stands in many texts, and prompts are kept with what is found here replaced.
            found += _keys_in(pairs.items()) if isinstance(pairs, Mapping) else ()
        for secret in found:
            # "Bearer KEY" holds a key, too.
            for part in (secret, *secret.split()[1:]) if isinstance(secret, str) else ():
                if len(part) >= _SHORTEST and part.lower() not in NO_KEYS:
                    # Also as it stands in the ``repr`` of what holds it.
                    self._texts |= {part: None, repr(part)[1:-1]: None}
        while len(self._texts) > _MOST:
            del self._texts[next(iter(self._texts))]

    def clean(self, text: str) -> str:
        """A text without them. To be used before it is cut: half a key would not be found."""
        for secret in self._texts:
            if secret in text:
                text = text.replace(secret, INSTEAD)
        return text

    def clean_data(self, data: Data) -> Data:
        """The data of a Variable without them."""
        if isinstance(data, str):
            return self.clean(data)
        if isinstance(data, list):
            return [self.clean_data(one) for one in data]
        return data


def _in_address(url: object) -> list[str]:
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
    except ValueError:
        return []
    if parts is None:
        return []
    return [unquote(parts.password or ""), *_keys_in(parse_qsl(parts.query))]


def _keys_in(pairs: Iterable[tuple[Any, Any]]) -> list[Any]:
    return [value for name, value in pairs if isinstance(name, str) and names_key(name)]
