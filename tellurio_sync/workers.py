"""How the worker processes of a program find its local backend: spawned, forkserver's, loky's and Dask's.

The program writes where its backend keeps its data into a small file, and its workers join the backend of that folder
(``leash``), which checks that it is this user's own.  The file is named after the key that ``multiprocessing`` gives to
all processes of one program, before any code of the user runs in them, and to no others (``Process.authkey``).  A
forked worker needs none of this: it has what its parent had.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_told``, the file | who logs in, or stops a backend | the same | ``_lock`` | only the functions here use them |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from . import forked
from .leash import is_running
from .ownership import is_held

_log = logging.getLogger(__name__)

_MADE_UP_KEY_BYTES = 32  # of a key of multiprocessing's own; one that the user has set may be that of many programs


@dataclass(frozen=True)
class Told:
    """What a program tells its workers.

    Attributes:
        pid: of the program.
        data_dir: the absolute path of the folder of its local backend.
        is_kept: whether what is in there outlives the program.
        mode: what its default session is logged in to, ``"local"``; None: something else, or nothing.
    """

    pid: int
    data_dir: str
    is_kept: bool
    mode: str | None = None


def tell(data_dir: str | os.PathLike[str], *, is_kept: bool) -> None:
    """Tell the workers of this program where its local backend is. Thread-safe; never raises.

    A worker tells nothing. Nor does a second process of the same program.
    """
    with _lock:
        mode = None if _told is None else _told.mode
        _write_locked(Told(os.getpid(), os.path.abspath(data_dir), is_kept, mode))


def tell_mode(mode: str | None) -> None:
    """Tell them what the default session of this program is logged in to: ``"local"``, or None. Thread-safe."""
    with _lock:
        if _told is not None and _told.mode != mode:
            _write_locked(replace(_told, mode=mode))


def withdraw() -> None:
    """Tell them nothing any more: the backend was stopped. Thread-safe, idempotent."""
    global _told
    with _lock:
        if _told is not None:
            _told = None
            with contextlib.suppress(OSError, ValueError):
                _file().unlink(missing_ok=True)


def told() -> Told | None:
    """What the program that this process is a worker of tells it; None: nothing, or it is no worker. Thread-safe."""
    if "multiprocessing.process" not in sys.modules:
        return None  # no worker
    try:
        found = _read(_file())
    except (OSError, ValueError, TypeError):
        return None
    return None if found.pid == os.getpid() or not is_running(found.pid) else found


def _file() -> Path:
    """The file of this program. Raises ValueError: it has a key that may be other programs', too."""
    from multiprocessing.process import current_process

    key = bytes(current_process().authkey)
    if len(key) != _MADE_UP_KEY_BYTES:
        raise ValueError("a key of the user's own")
    return _folder() / hashlib.sha256(b"tellurio_sync" + key).hexdigest()[:32]


def _folder() -> Path:
    user = "" if sys.platform == "win32" else f"-{os.geteuid()}"
    return Path(tempfile.gettempdir(), f"tellurio-sync-workers{user}")


def _read(file: Path) -> Told:
    # Another user may have made the folder, before this one did: then it may hold anything, a FIFO, say.
    _check_private(file.parent)
    with open(file, encoding="utf-8") as opened:
        members: dict[str, Any] = json.load(opened)
    told = Told(**members)
    if not isinstance(told.pid, int) or not isinstance(told.data_dir, str):
        raise TypeError("not what this package writes")
    return told


def _check_private(folder: Path) -> None:
    status = os.lstat(folder)  # of a link that it may be, which all may use
    if sys.platform != "win32" and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
        raise ValueError("a folder of other users'")


def _write_locked(new: Told) -> None:
    assert is_held(_lock)
    global _told
    # Loaded late: it takes as long as all of this package, and here the backend has just been waited for.
    from multiprocessing.process import current_process

    if current_process().name != "MainProcess":
        return
    try:
        file = _file()
        file.parent.mkdir(mode=0o700, exist_ok=True)
        _check_private(file.parent)
        _remove_left(file)
        if file.exists() and _read(file).pid != new.pid:
            return  # of the process that this one was forked from
        temporary = file.with_name(f".{file.name}.{new.pid}")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
            json.dump(asdict(new), opened)
        os.replace(temporary, file)
    except (OSError, ValueError, TypeError) as exc:
        _log.debug("= spawned workers of this program will not find its local backend: %s", exc)
        return
    _told = new


def _remove_left(own: Path) -> None:
    """Remove what programs have left that were killed."""
    for file in own.parent.iterdir():
        try:
            is_left = not file.name.startswith(".") and not is_running(_read(file).pid)
        except (OSError, ValueError, TypeError):
            is_left = file == own
        if is_left:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)


_told: Told | None = None
_lock = threading.RLock()  # a signal handler may log in while its thread holds it


def _after_fork_in_child() -> None:
    global _lock, _told
    _lock = threading.RLock()  # a thread that does not exist here may have held it
    _told = None  # it is the parent's to withdraw


forked.renew_by(_after_fork_in_child)
