"""The keyring of the operating system, through the optional package ``keyring`` (protocol §J.2).

Nothing here fails because there is no keyring: the results have a reason instead.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import NamedTuple, TypeVar

from ..secret import redact
from . import config

# Backends that are not real keyrings: they refuse, forget, or hold keys of other people.
_UNUSABLE = ("keyring.backends.fail", "keyring.backends.null", "keyrings.gauth")


# Seconds. A keyring that asks a person for its password needs some time; without a person it would wait for ever.
KEYRING_TIMEOUT = 10.0

T = TypeVar("T")


class Lookup(NamedTuple):
    """The key in the keyring; if there is none, ``reason`` says why."""

    key: str | None
    reason: str


class Stored(NamedTuple):
    """Whether the key was stored; if not, ``reason`` says why."""

    is_stored: bool
    reason: str


def lookup(server: str | None = None) -> Lookup:
    """The key of the last user of a server. Waits at most :data:`KEYRING_TIMEOUT` for the keyring. Never raises.

    Args:
        server: its address; None: the server of the last login.
    """
    username, is_general = config.user_of(server)
    if username is None:
        where = f" to {server}" if server is not None and config.username() is not None else ""
        return Lookup(None, f"no user has logged in{where} on this machine yet")

    def ask() -> Lookup:
        keyring, reason = _usable()
        if keyring is None:
            return Lookup(None, reason)
        key = keyring.get_password(_service(None if is_general else server), username)
        if not isinstance(key, str) or not key.strip():
            return Lookup(None, f"the keyring holds no key of {username!r}")
        return Lookup(key, "")

    try:
        return _in_time(ask)
    except Exception as exc:  # noqa: BLE001  # backends raise what they like
        return Lookup(None, f"the keyring could not be read: {exc}")


def store(key: str, username: str, server: str | None = None) -> Stored:
    """Store the key, and the name of its user. Waits as :func:`lookup` does. Never raises.

    The key is read back before it counts as stored: some keyrings accept a key and forget it.

    Args:
        server: whose key it is; the logins to other servers stay. None: the only one.
    """
    is_general = config.is_general(server)
    service = _service(None if is_general else server)

    def keep() -> Stored:
        keyring, reason = _usable()
        if keyring is None:
            return Stored(False, reason)
        keyring.set_password(service, username, key)
        if keyring.get_password(service, username) != key:
            return Stored(False, "the keyring took the key, but does not have it")
        return Stored(True, "")

    try:
        stored = _in_time(keep)
        if stored.is_stored:
            config.save_username(username, server)
        return stored
    except Exception as exc:  # noqa: BLE001  # backends raise what they like
        return Stored(False, f"the key could not be stored: {redact(str(exc), key)}")


def forget(server: str | None = None) -> Stored:
    """Delete the key of the last user of a server; ``is_stored``: whether it is still there. Never raises."""
    username, is_general = config.user_of(server)
    if username is None:
        return Stored(False, "no user has logged in on this machine")

    def delete() -> Stored:
        keyring, reason = _usable()
        if keyring is None:
            return Stored(False, reason)
        service = _service(None if is_general else server)
        if keyring.get_password(service, username) is not None:
            keyring.delete_password(service, username)
        return Stored(False, "")

    try:
        result = _in_time(delete)
        config.forget_user(server)
        return result
    except Exception as exc:  # noqa: BLE001  # backends raise what they like
        return Stored(True, f"the key could not be deleted: {exc}")


def _in_time(work: Callable[[], T]) -> T:
    """The result of ``work``, which runs on its own thread: a locked keyring may wait for a person for ever.

    Raises:
        TimeoutError: it did not answer within :data:`KEYRING_TIMEOUT`.
        What ``work`` raises.
    """
    outcome: SimpleQueue[tuple[T | None, Exception | None]] = SimpleQueue()

    def run() -> None:
        try:
            outcome.put((work(), None))
        except Exception as exc:  # noqa: BLE001  # raised in the caller's thread
            outcome.put((None, exc))

    try:
        threading.Thread(target=run, name="tellurio-sync keyring", daemon=True).start()
    except RuntimeError as exc:
        raise TimeoutError("the program is ending") from exc
    try:
        result, error = outcome.get(timeout=KEYRING_TIMEOUT)
    except Empty:
        raise TimeoutError(
            f"it did not answer within {KEYRING_TIMEOUT:g} s (is it locked?); TELLURIO_API_KEY does without it"
        ) from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _service(server: str | None) -> str:
    service = os.environ.get("KEYRING_SERVICE_NAME") or "Tellurio"
    return service if server is None else f"{service} {server}"


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
