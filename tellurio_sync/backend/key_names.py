"""Settings that are keys by their name, which must not stand in the records: in the configuration of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

INSTEAD = "***"

_NAMES_OF_KEYS = re.compile(
    r"(?:^|[^a-z])(?:api_?keys?|secret(?:_?key)?|pass(?:word|wd|phrase)|(?:access|auth|api|bearer|refresh|hf|github)_token"
    r"|authorization|credentials?)$|^token$"
)


def without_keys(config: Any) -> Any:
    """A configuration of a run in which the values of settings that are keys by their name are replaced."""
    if isinstance(config, Mapping):
        return {name: _instead(value) if _is_key(name) else without_keys(value) for name, value in config.items()}
    return [without_keys(value) for value in config] if isinstance(config, list) else config


def _is_key(name: str) -> bool:
    # "lmApiKey" and "LM-API-KEY" are "lm_api_key".
    return bool(_NAMES_OF_KEYS.search(re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower().replace("-", "_")))


def _instead(value: Any) -> Any:
    # Whether there was one may be told.
    return INSTEAD if value not in (None, "", False, True) else value
