"""The keyring of the operating system, through the optional package ``keyring`` (protocol §J.2).

Nothing here fails because there is no keyring: the results have a reason instead.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import NamedTuple

from ..secret import redact
from . import config

# Backends that are no real keyrings: they refuse, forget, or hold keys of other people.
_UNUSABLE = ("keyring.backends.fail", "keyring.backends.null", "keyrings.gauth")


class Lookup(NamedTuple):
    """The key in the keyring; if there is none, ``reason`` says why."""

    key: str | None
    reason: str


class Stored(NamedTuple):
    """Whether the key was stored; if not, ``reason`` says why."""

    is_stored: bool
    reason: str


def lookup() -> Lookup:
    """The key of the last user. May block while the operating system asks for the keyring's password. Never raises."""
    username = config.username()
    if username is None:
        return Lookup(None, "no user has logged in on this machine yet")
    keyring, reason = _usable()
    if keyring is None:
        return Lookup(None, reason)
    try:
        key = keyring.get_password(_service(), username)
    except Exception as exc:  # noqa: BLE001  # backends raise what they like
        return Lookup(None, f"the keyring could not be read: {exc}")
    if not key or not key.strip():
        return Lookup(None, f"the keyring holds no key of {username!r}")
    return Lookup(key, "")


def store(key: str, username: str) -> Stored:
    """Store the key, and the name of its user. May block as :func:`lookup` does. Never raises."""
    keyring, reason = _usable()
    if keyring is None:
        return Stored(False, reason)
    try:
        keyring.set_password(_service(), username, key)
        config.save_username(username)
    except Exception as exc:  # noqa: BLE001  # backends raise what they like
        return Stored(False, f"the key could not be stored: {redact(str(exc), key)}")
    return Stored(True, "")


def _service() -> str:
    return os.environ.get("KEYRING_SERVICE_NAME") or "Tellurio"


def _usable() -> tuple[ModuleType | None, str]:
    """The package, or None and the reason."""
    try:
        import keyring
    except ImportError:
        return None, 'the package keyring is not installed (pip install "tellurio_sync[keyring]")'
    try:
        backend = type(keyring.get_keyring()).__module__
    except Exception as exc:  # noqa: BLE001  # backends raise what they like
        return None, f"the keyring does not work: {exc}"
    if backend.startswith(_UNUSABLE):
        return None, "this machine has no keyring"
    return keyring, ""
