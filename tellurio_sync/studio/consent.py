"""Consent to give the user's language-model key to the server, which calls the model with it (protocol §H.5)."""

from __future__ import annotations

import os

from ..errors import UsageError
from . import config
from .interactive import can_ask

_VARIABLE = "ALLOW_API_KEY_SHARING"
_REFUSED = "Consent to share your LM API key was not given. Aborting operation."
_QUESTION = (
    "The server calls the language model for you, and needs your LM API key for it. Share the key with the server?\n"
    "[yes: this time / always: and note it in {file} / anything else: no] "
)


def check_consent() -> None:
    """Return if the user allows it: by ``ALLOW_API_KEY_SHARING``, by the configuration file, or when asked.

    An explicit ``false`` in either place decides (§H.5); the environment counts before the file. Blocks while it asks,
    which it does only at a terminal or in a notebook.

    Raises:
        UsageError: the user does not, or cannot be asked. Also a RuntimeError.
        ValueError: the variable is neither true nor false.
    """
    allowed = _from_environment()
    place = f"{_VARIABLE}=false"
    if allowed is None:
        allowed = config.consent()
        place = f'"allow_api_key_sharing": false in {config.NAME}'
    if allowed:
        return
    if allowed is False:
        raise UsageError(f"{_REFUSED} ({place} refuses it.)")
    if not can_ask():
        raise UsageError(
            "Consent to share your API key with the server is required, but no consent was found and the environment "
            f"is non-interactive. Set {_VARIABLE}=True or update {config.NAME} to allow "
            '("allow_api_key_sharing": true).'
        )
    answer = _ask()
    if answer == "always":
        config.save_consent()
    elif answer != "yes":
        raise UsageError(_REFUSED)


def _from_environment() -> bool | None:
    text = os.environ.get(_VARIABLE, "").strip().lower()
    if text not in ("", "true", "false"):
        raise ValueError(f"{_VARIABLE} must be true or false, not {text!r}")
    return None if not text else text == "true"


def _ask() -> str:
    try:
        return input(_QUESTION.format(file=config.NAME)).strip().lower()
    except EOFError:
        return ""
