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
_TEXTS = ("organization", "project", "base_url", "websocket_base_url")
_MAPPINGS = ("default_headers", "default_query")
_KNOWN = frozenset({"api_key", "timeout", "max_retries", *_TEXTS, *_MAPPINGS})
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
        ValueError: a number out of range.
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
    config = ModelConfig(api_key=api_key, max_retries=_check_retries(given.get("max_retries", _DEFAULT_MAX_RETRIES)))
    for name in _TEXTS:
        if name in given:
            config[name] = _check_text(name, given[name])
    for name in _MAPPINGS:
        if name in given:
            config[name] = _plain_mapping(name, given[name])
    if "timeout" in given:
        config["timeout"] = _check_seconds("timeout", given["timeout"])
    return config


def _check_text(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, not {text!r}")
    return text


def _check_retries(max_retries: object) -> int:
    if not isinstance(max_retries, int) or isinstance(max_retries, bool):
        raise TypeError(f"max_retries must be an int, not {max_retries!r}")
    if max_retries < 0:
        raise ValueError(f"max_retries must be >= 0, not {max_retries}")
    return max_retries


def _check_seconds(name: str, seconds: object) -> float:
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise TypeError(f"{name} must be a number of seconds, not {seconds!r}")
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"{name} must be a positive, finite number of seconds, not {seconds!r}")
    return seconds


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
