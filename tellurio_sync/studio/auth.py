"""The key at a login: where it comes from, whether it is valid, and whether it is stored (protocol §A.6, §J.2)."""

from __future__ import annotations

import os
from enum import Enum
from typing import NamedTuple

from ..errors import InvalidAPIKeyError
from ..secret import hidden
from . import keystore
from .keys import clean_key
from .rest import StudioRest


class MissingAPIKey(ValueError):
    """No API key was given, and none is stored."""


class KeySource(str, Enum):
    """Where an API key came from."""

    ARGUMENT = "argument"
    ENVIRONMENT = "environment"
    KEYRING = "keyring"

    __str__ = str.__str__


class Account(NamedTuple):
    """The account that a key belongs to."""

    email: str
    username: str


def find_api_key(api_key: str | None = None, relogin: bool = False, server: str | None = None) -> tuple[str, KeySource]:
    """The API key: the argument, else ``TELLURIO_API_KEY``, else the one in the keyring.

    Thread-safe. May block while the operating system asks for the keyring's password.

    Args:
        relogin: do not look into the keyring.

    Raises:
        MissingAPIKey: there is none.
        InvalidAPIKeyError: it holds characters that no key has.
    """
    for given, source in (
        (hidden(api_key), KeySource.ARGUMENT),
        (hidden(os.environ.get("TELLURIO_API_KEY")), KeySource.ENVIRONMENT),
    ):
        if key := _cleaned(given, relogin):
            return key, source
    if relogin:
        raise MissingAPIKey("API key is required for re-login. Pass api_key=..., or set TELLURIO_API_KEY.")
    stored = keystore.lookup(server)
    if key := _cleaned(stored.key, relogin):
        return key, KeySource.KEYRING
    raise MissingAPIKey(
        "API key is required for the first login. Pass api_key=..., set TELLURIO_API_KEY, or run `tellurio-sync login` "
        f"once. (No stored key: {stored.reason}.) Without an account: login(mode='local')."
    )


def verify(rest: StudioRest, relogin: bool = False) -> Account:
    """The account that the key of ``rest`` belongs to. Blocks for one request. Thread-safe.

    Args:
        relogin: only changes the text of the error.

    Raises:
        InvalidAPIKeyError: the server refused the key (401, 403).
        HttpUnreachable, HttpStatusError, HttpError: as :class:`StudioRest`; whether the key is valid is not known.
    """
    account = rest.verify_api_key()
    if account is None:
        raise InvalidAPIKeyError(
            f"{_failed(relogin)} {rest.url} does not accept it. Get a valid one from your account there, "
            "or check that this is the backend you mean.",
            stage="handshake",
            url=rest.url,
        )
    return Account(str(account.get("email", "unknown user")), str(account.get("username", "unknown user")))


def remember(key: str, username: str, source: KeySource, server: str | None = None) -> keystore.Stored:
    """Keep a verified key in the keyring, unless it came from there. Never raises; the result says why not.

    Thread-safe. May block while the operating system asks for the keyring's password.
    """
    if source is KeySource.KEYRING:
        return keystore.Stored(False, "it comes from the keyring")
    return keystore.store(key, username, server)


def forget(server: str | None = None) -> keystore.Stored:
    """Delete the stored key of a server; ``is_stored``: it could not be deleted. Never raises. Thread-safe."""
    return keystore.forget(server)


def ask_for_key(server: str) -> str:
    """Ask for the key, at the terminal or in the notebook; what is typed is not shown. Blocks. Empty: none."""
    from getpass import getpass

    try:
        return getpass(f"API key for {server} (it is not shown): ")
    except EOFError:
        return ""


def _cleaned(key: str | None, relogin: bool) -> str:
    try:
        return clean_key(key) if key else ""
    except InvalidAPIKeyError as exc:
        raise InvalidAPIKeyError(f"{_failed(relogin)} {exc}") from exc


def _failed(relogin: bool) -> str:
    return "Re-login failed due to invalid API key." if relogin else "Login failed due to invalid API key."
