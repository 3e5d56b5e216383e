"""The file ``~/.tellurio_config.json``: the last user, and what the user has allowed (protocol §J.2).

It holds no secret, but only its owner may read it.  Reading never fails: an unreadable file counts as empty (§J.2).
Writing replaces the whole file, so a reader never sees half of it; if two processes write at the same time, the later
one wins.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

NAME = "~/.tellurio_config.json"
_USERNAME = "username"
_CONSENT = "allow_api_key_sharing"


def username() -> str | None:
    """The user of the last login, None if there was none."""
    value = _read().get(_USERNAME)
    return value if isinstance(value, str) and value else None


def consent() -> bool | None:
    """Whether language-model keys may be shared with the server; None: not decided for good."""
    value = _read().get(_CONSENT)
    return value if isinstance(value, bool) else None


def save_username(name: str) -> None:
    """Store the user of a login. If it is another user than before, what that one has allowed is dropped.

    Raises:
        OSError: the file cannot be written.
    """
    entries = _read()
    _write(entries | {_USERNAME: name} if entries.get(_USERNAME) == name else {_USERNAME: name})


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
        entries = json.loads(_path().read_text(encoding="utf-8"))
        if isinstance(entries, dict):
            return entries
        problem = "it holds no JSON object"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RuntimeError) as exc:  # RuntimeError: there is no home directory
        problem = str(exc)
    _log.warning("The file %s is taken as empty: %s", NAME, problem)
    return {}


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
