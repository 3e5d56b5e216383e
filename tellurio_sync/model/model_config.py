"""The configuration of a language model, as it is sent to the server (protocol §H.2): checked, and without secrets in
its ``repr``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from ..errors import UsageError
from ..secret import hidden

_SECRETS = frozenset({"api_key", "default_headers", "default_query"})
_TEXTS = ("organization", "project", "base_url", "websocket_base_url", "ca_bundle")
_MAPPINGS = ("default_headers", "default_query")
_NUMBERS = ("timeout", "max_concurrency", "requests_per_minute")
_FLAGS = ("allow_insecure", "cache")
_KNOWN = frozenset({"api_key", "max_retries", *_TEXTS, *_MAPPINGS, *_NUMBERS, *_FLAGS})
_DEFAULT_MAX_RETRIES = 2


def without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the key, and without headers and query, which may hold one."""
    return {name: value for name, value in config.items() if name not in _SECRETS}


class ModelConfig(dict[str, Any]):
    """The settings with which the server calls a provider. Neither the ``repr`` nor a pickle holds secrets.

    Each secret in it hides itself in its own ``repr`` as well, because error reporters show the variables of frames.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        super().__init__({**(given or {}), **more})
        for name in _SECRETS & self.keys():
            value = self[name]
            self[name] = _HiddenDict(value) if isinstance(value, Mapping) else hidden(value)

    def __repr__(self) -> str:
        return repr({name: "..." if name in _SECRETS else value for name, value in self.items()})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (without_secrets(self),)


class _HiddenDict(dict[Any, Any]):
    """Headers or a query; any value in it may be a key."""

    def __repr__(self) -> str:
        return "{...}"


def openai_config(arguments: Mapping[str, Any]) -> ModelConfig:
    """The configuration for the arguments of ``OpenAI``; an argument that is None counts as absent.

    Raises:
        UsageError: there is no key, neither here nor in ``OPENAI_API_KEY``.
        TypeError: an unknown argument, or a value that cannot be sent.
        ValueError: a number out of range, or an address without http:// or https://.
    """
    unknown = set(arguments) - _KNOWN
    if unknown:
        raise TypeError(f"OpenAI does not take {sorted(unknown)}; it takes {sorted(_KNOWN)}")
    given = ModelConfig({name: value for name, value in arguments.items() if value is not None})
    api_key = given.get("api_key") or hidden(os.environ.get("OPENAI_API_KEY"))
    if not api_key:
        raise UsageError("No API key for the language model: pass api_key=..., or set OPENAI_API_KEY.")
    if not isinstance(api_key, str):
        raise TypeError(f"api_key must be a str, not {type(api_key).__name__}")
    api_key = _cleaned(api_key)
    config = ModelConfig(api_key=api_key, max_retries=_check_retries(given.get("max_retries", _DEFAULT_MAX_RETRIES)))
    for name in _TEXTS:
        if name in given:
            config[name] = _check_text(name, given[name])
            if name == "base_url":
                _check_address(config[name])
    for name in _MAPPINGS:
        if name in given:
            config[name] = _plain_mapping(name, given[name])
    # The key and the address of the environment belong together: both are those of this process, not of the server's.
    if "base_url" not in config and (base_url := os.environ.get("OPENAI_BASE_URL", "").strip()):
        config["base_url"] = base_url
    for name in _NUMBERS:
        if name in given:
            config[name] = _check_positive(name, given[name])
    if not isinstance(config.get("max_concurrency", 1), int):
        raise TypeError(f"max_concurrency must be an int, not {given['max_concurrency']!r}")
    for name in _FLAGS:
        if name in given:
            config[name] = _check_flag(name, given[name])
    return config


def _cleaned(api_key: str) -> str:
    """A key without the white space around it that files and clipboards add. No text shows it."""
    stripped = hidden(api_key.strip())
    if not stripped or not all("!" <= char <= "~" for char in stripped):
        raise UsageError(
            "The API key of the language model cannot be sent: it is empty, or a blank, a line break or another sign "
            "that no key has is in it. Was it copied whole, and from the right place?"
        )
    return stripped


def _check_flag(name: str, flag: object) -> bool:
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be True or False, not {type(flag).__name__}")
    return flag


def _check_text(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, not {text!r}")
    return text


def _check_address(address: str) -> None:
    if address.partition("://")[0].lower() not in ("http", "https") or "://" not in address:
        # Not shown: it may hold a key.
        raise ValueError("base_url must begin with http:// or https://, such as http://127.0.0.1:11434/v1.")


def _check_retries(max_retries: object) -> int:
    if not isinstance(max_retries, int) or isinstance(max_retries, bool):
        raise TypeError(f"max_retries must be an int, not {max_retries!r}")
    if max_retries < 0:
        raise ValueError(f"max_retries must be >= 0, not {max_retries}")
    return max_retries


def _check_positive(name: str, number: object) -> float:
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        raise TypeError(f"{name} must be a number, not {number!r}")
    if not math.isfinite(number) or number <= 0:
        raise ValueError(f"{name} must be a positive, finite number, not {number!r}")
    return number


def _plain_mapping(name: str, mapping: object) -> dict[str, Any]:
    # Errors show types only: headers may carry a key.
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{name} must be a mapping, not {type(mapping).__name__}")
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise TypeError(f"{name} must have str keys, not {type(key).__name__}")
        value = hidden(value)
        if not isinstance(value, (str, int, float, bool, type(None), list, dict)):
            raise TypeError(f"{name}[{key!r}] cannot be sent as JSON: it is a {type(value).__name__}")
    return _HiddenDict(mapping)
