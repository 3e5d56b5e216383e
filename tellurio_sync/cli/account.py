"""``login``, ``logout`` and ``whoami``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..errors import HttpUnreachable, InvalidAPIKeyError, TellurioError
from .terminal import FAILED, NO_KEY, PROGRAM, UNREACHABLE, complain, say, show_json

if TYPE_CHECKING:
    from ..studio import KeySource

_TRIES = 3  # for a key that is typed


@click.command()
@click.option(
    "--api-key",
    metavar="KEY",
    help="The key; better left out, for it shows up in the list of processes: it is asked for, or read from a pipe.",
)
@click.option("--relogin", is_flag=True, help="Do not use the key in the keyring.")
def login(api_key: str | None, relogin: bool) -> int:
    """Check an API key and keep it in the local keyring."""
    # Protocol §J.3; unlike there, a failure is also one for the shell.
    from ..studio.auth import MissingAPIKey

    try:
        return _log_in(api_key, relogin)
    except MissingAPIKey:
        complain("Login failed: Missing API key. Please provide a valid API key.")
        return NO_KEY
    except InvalidAPIKeyError as exc:
        complain(_refused(exc))
        return NO_KEY
    except HttpUnreachable as exc:
        complain(f"Login failed: {exc}")
        return UNREACHABLE
    except TellurioError as exc:
        complain(f"Login failed: Failed to connect to the backend.\n{exc}")
    except ValueError as exc:
        complain(f"Login failed: {exc}")
    return FAILED


def _log_in(api_key: str | None, relogin: bool) -> int:
    from ..addresses import http_address
    from ..studio import KeySource, StudioRest, find_api_key, remember, verify

    server = http_address().url
    found = _find(api_key, relogin, server)
    # Who mistypes it is asked again; a program that pipes it would give the same one.
    for tries_left in range(_TRIES - 1 if found is None and sys.stdin.isatty() else 0, -1, -1):
        try:
            key, source = found or find_api_key(_ask_for_key(), relogin, server)
            rest = StudioRest(api_key=key)
            try:
                account = verify(rest, relogin)
            finally:
                rest.close()
            break
        except InvalidAPIKeyError as exc:
            if not tries_left:
                raise
            complain(_refused(exc))
    stored = remember(key, account.username, source, rest.url)
    where = f"{account.username!r} to {rest.address.short_url!r}"
    if not stored.is_stored and source is not KeySource.KEYRING:
        is_set = source is KeySource.ENVIRONMENT
        say(
            f"The API key is valid but was not stored: {stored.reason}. "
            f"{'It is in TELLURIO_API_KEY' if is_set else 'Set TELLURIO_API_KEY to use it'}: then programs are logged "
            f"in as {where}."
        )
        return 0
    if stored.is_stored:
        say("API key provided and stored securely in local keyring.")
    say(f"Currently logged in as {where}. Use `{PROGRAM} login --relogin` to force relogin.")
    return 0


def _refused(exc: InvalidAPIKeyError) -> str:
    """What the protocol wants to be said (§J.3), and what else the error says."""
    text = str(exc)
    for known in ("Login failed due to invalid API key. ", "Re-login failed due to invalid API key. "):
        text = text.removeprefix(known)
    return f"Login failed: Invalid API key. Please try again.\n{text}"


def _find(api_key: str | None, relogin: bool, server: str) -> tuple[str, KeySource] | None:
    from ..studio import KeySource, find_api_key
    from ..studio.auth import MissingAPIKey

    try:
        key, source = find_api_key(api_key, relogin, server)
    except MissingAPIKey:
        return None
    if source is KeySource.KEYRING:
        say("Using stored API key from local keyring.")
    return key, source


def _ask_for_key() -> str:
    """The key from the terminal, not shown while it is typed, or from a pipe on standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline()
    from getpass import getpass

    try:
        return getpass(f"[{PROGRAM}] Please enter your Tellurio API key and hit enter, or press ctrl+c to quit: ")
    except EOFError:
        return ""


@click.command()
def logout() -> int:
    """Forget the key in the local keyring."""
    from ..session import Session

    if Session().logout():
        say("The key in the local keyring is forgotten. A key in the environment stays.")
        return 0
    complain("The keyring could not delete the key.")
    return FAILED


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def whoami(as_json: bool) -> int:
    """Show the account that is logged in, and where."""
    from ..session import Session

    with Session() as session:
        session.login()
        answer = session.whoami()
    if as_json:
        show_json(answer)
    else:
        for name, value in answer.items():
            click.echo(f"{name:<10} {value}")
    return 0


COMMANDS = (login, logout, whoami)
