"""The file ``~/.tellurio_config.json``: the last user, and what the user has allowed (protocol §J.2).

It holds no secret, but only its owner may read it.  Reading never fails: an unreadable file counts as empty (§J.2).
Writing replaces the whole file, so a reader never sees half of it; if two processes write at the same time, the later
one wins.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

NAME = "~/.tellurio_config.json"
_USERNAME = "username"
_CONSENT = "allow_api_key_sharing"
_SERVER = "server"  # of the login under "username"
_SERVERS = "servers"  # user names, by the address of the server
_MOST_CHARS = 1_000_000


def username() -> str | None:
    """The user of the last login, None if there was none."""
    value = _read().get(_USERNAME)
    return value if isinstance(value, str) and value else None


def consent() -> bool | None:
    """Whether language-model keys may be shared with the server; None: not decided for good."""
    value = _read().get(_CONSENT)
    return value if isinstance(value, bool) else None


def user_of(server: str | None) -> tuple[str | None, bool]:
    """The user who logged in last to a server, None if there is none; and whether that is the general login.

    The general login is the first one, to any server; other clients of Tellurio know it, too. Logins to other servers
    are kept for each server.
    """
    entries = _read()
    own = _servers(entries).get(server) if server is not None else None
    if isinstance(own, str) and own:
        return own, False
    general = entries.get(_USERNAME)
    if isinstance(general, str) and general and entries.get(_SERVER, server) in (server, None):
        return general, True
    if server is None and isinstance(general, str) and general:
        return general, True
    return None, False


def is_general(server: str | None) -> bool:
    """Whether a login to this server is kept as the general one."""
    entries = _read()
    return server is None or not entries.get(_USERNAME) or entries.get(_SERVER) == server


def save_username(name: str, server: str | None = None) -> None:
    """Note the user who logged in, and the server. A new user drops what the former one had allowed.

    Raises:
        OSError: the file cannot be written.
    """
    entries = _read()
    if not is_general(server):
        _write(entries | {_SERVERS: _servers(entries) | {server: name}})
        return
    noted = {_USERNAME: name} if server is None else {_USERNAME: name, _SERVER: server}
    if entries.get(_USERNAME) != name:
        entries = {_SERVERS: entries[_SERVERS]} if _SERVERS in entries else {}
    _write(entries | noted)


def forget_user(server: str | None) -> None:
    """Note that no user is logged in to a server.

    Raises:
        OSError: the file cannot be written.
    """
    entries = _read()
    servers = _servers(entries)
    if server in servers:
        _write(entries | {_SERVERS: {name: user for name, user in servers.items() if name != server}})
    elif user_of(server)[1]:
        _write({name: value for name, value in entries.items() if name not in (_USERNAME, _SERVER)})


def save_consent() -> None:
    """Note that language-model keys may always be shared.

    Raises:
        OSError: the file cannot be written.
    """
    _write(_read() | {_CONSENT: True})


def _path() -> Path:
    return Path(NAME).expanduser()


def _read() -> dict[str, Any]:
    try:
        path = _path()
    except RuntimeError:  # a user without a home has no such file
        return {}
    try:
        entries = json.loads(_read_text(path))
        if isinstance(entries, dict):
            return entries
        problem = "it holds no JSON object"
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as exc:
        problem = str(exc)
    _log.warning("The file %s is taken as empty: %s", NAME, problem)
    return {}


def _read_text(path: Path) -> str:
    # Not blocking: opening a named pipe would wait for whoever writes to it.
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with open(fd, encoding="utf-8") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("it is no regular file")
        return file.read(_MOST_CHARS)


def _servers(entries: dict[str, Any]) -> dict[Any, Any]:
    servers = entries.get(_SERVERS)
    return servers if isinstance(servers, dict) else {}


def _write(entries: dict[str, Any]) -> None:
    try:
        # If the file is a link, as in collections of dotfiles, the file behind it is replaced.
        path = _path().resolve()
    except RuntimeError as exc:
        raise OSError(f"{NAME} cannot be written: {exc}") from exc
    handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # mode 0600
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(entries, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
