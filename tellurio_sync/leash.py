"""How a program joins a local backend that another one started, because both keep their data in the same directory.

A backend that has a data directory writes its address and its key into a file there, as long as it serves.  The key is
sent only where that backend must be: the file is this user's alone, it was written on this machine, the process that it
names is there, and some backend holds the lock of the directory, which no killed process does.

It ends with the program that started it, which holds its standard input.  A program that joins it holds the body of a
request that does not end: however that program ends, even by ``kill -9``, the operating system closes the connection.
The last one that lets go ends the backend.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``Leash._is_over`` | ``end``, any thread | any thread | – : set once | – |
| ``Leash._is_parents`` | a forked child, before other code runs | any thread | – | – |
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

from .errors import BackendError

# What both ends agree on: the file, the request, and how a backend tells what became of it.
FILE_NAME = "backend.json"
LOCK_NAME = "backend.lock"  # an SQLite database, locked as long as a backend uses the directory
PATH = "/leash/"
IN_USE_EXIT_CODE = 3
_NAMES = {"http_base_url", "http_port", "ws_base_url", "ws_port", "api_key", "username", "namespace", "pid", "machine"}
SERVES = "tellurio-sync backend: it serves."
GOES_ON = "tellurio-sync backend: other programs use this backend, so it goes on without the one that started it."


class DataDirectoryInUse(BackendError):
    """Another backend keeps its data in the directory."""


def exit_code(error: BackendError) -> int:
    """With which a backend's process ends that could not be started."""
    return IN_USE_EXIT_CODE if isinstance(error, DataDirectoryInUse) else 1


class Leash:
    """One program's hold on a backend that another program started. Thread-safe.

    Args:
        address: as the backend wrote it.
        timeout: seconds, > 0, until the backend must have answered.

    Attributes:
        pid: the id of the backend's process.
        last_lines: empty, the output of the backend goes to the program that started it.

    Raises:
        OSError, http.client.HTTPException: there is no such backend (any more).
    """

    def __init__(self, address: dict[str, Any], timeout: float) -> None:
        self.pid: int = int(address["pid"])
        self.last_lines: tuple[str, ...] = ()
        self._is_over = self._is_parents = False
        host = str(address["http_base_url"]).partition("://")[2].strip("[]")
        self._connection = http.client.HTTPConnection(host, int(address["http_port"]), timeout=timeout)
        try:
            self._connection.putrequest("POST", PATH)
            self._connection.putheader("Authorization", f"Api-Key {address['api_key']}")
            self._connection.putheader("Transfer-Encoding", "chunked")
            self._connection.endheaders()
            self._response = self._connection.getresponse()
            self._socket = self._connection.sock
            if self._response.status != 200 or self._socket is None:
                raise ConnectionRefusedError(f"the backend answered with {self._response.status}")
            self._socket.setblocking(False)
        except BaseException:
            self._connection.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the backend is there; in a forked child: whether it was at the fork."""
        if self._is_parents or self._is_over:
            return self._is_parents
        try:
            while self._socket.recv(100):
                pass
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def let_go(self) -> None:
        """Let go of the backend, which ends if nobody else uses it. Does not block."""
        self._response.close()
        self._connection.close()

    def end(self) -> None:
        """The same. Idempotent."""
        if not self._is_parents:
            self._is_over = True
            self.let_go()

    def hold_back(self) -> None:
        """At the end of the program: no connection is made to it any more."""
        self._is_over = True

    def on_fork_in_child(self) -> None:
        """In a forked child: the hold is the parent's, and ends with the parent."""
        self._is_parents = not self._is_over
        self.let_go()


def find_backend(directory: Path) -> dict[str, Any] | None:
    """The address of the backend that serves this data directory; None: there seems to be none.

    Raises:
        DataDirectoryInUse: the file there is not of a backend that this program can join; the text says why. Where no
            backend holds the directory, that does not matter.
    """
    file = directory / FILE_NAME
    try:
        # If others may write there, it may be anything: a FIFO would be waited for.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
        with open(os.open(file, flags), encoding="utf-8") as opened:
            _check_private(file, os.fstat(opened.fileno()))
            address = json.load(opened)
        if not address.keys() >= _NAMES:
            return None
        if address["machine"] != machine():
            raise DataDirectoryInUse(
                f"A backend on the machine {address['machine']!r} uses the data directory {directory}, and programs on "
                "other machines cannot join it. Stop it, or choose another directory."
            )
        if not str(address["http_base_url"]).startswith("http://"):
            raise DataDirectoryInUse(
                f"The backend that uses the data directory {directory} is reached by TLS only, so it is not joined by "
                f"itself. Log in to it by its address ({address['http_base_url']}:{address['http_port']}) and its key."
            )
        return address if is_running(int(address["pid"])) and _is_held(directory) else None
    except (OSError, ValueError, TypeError, AttributeError, OverflowError):
        return None


def machine() -> str:
    """The name of this machine, or of this container: addresses and process ids count only within it."""
    return socket.gethostname()


def _check_private(file: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file")
    if sys.platform == "win32":
        return  # there, the rights of the directory decide
    if status.st_uid != os.geteuid():
        whose = f"{file} belongs to another user (id {status.st_uid})"
    elif stat.S_IMODE(status.st_mode) & 0o077:
        whose = f"Other users of this machine can read or change {file}"
    else:
        return
    raise DataDirectoryInUse(
        f"{whose}, so it may lead to a backend of theirs. Choose a data directory that is yours alone (mode 0700)."
    )


def is_running(pid: int) -> bool:
    """Whether there is such a process: after a crash the file still names one, and its port may be another's now."""
    if sys.platform != "win32":  # there, this would end it
        with contextlib.suppress(PermissionError):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
    return True


def _is_held(directory: Path) -> bool:
    """Whether some process holds the lock of the directory: the id of one that was killed may be another's now."""
    import sqlite3

    uri = (directory.absolute() / LOCK_NAME).as_uri()
    try:
        with contextlib.closing(sqlite3.connect(f"{uri}?mode=ro", uri=True, timeout=0)) as lock:
            lock.execute("SELECT * FROM sqlite_master").fetchall()
    except sqlite3.OperationalError as exc:
        return "locked" in str(exc)
    return False
