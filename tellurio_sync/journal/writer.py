"""Appends records to one writer's file, each by one ``write(2)`` before the call returns.

What was written survives this process, however it ends: the operating system has it.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the encoder (names, current step), ``_fd`` | threads that log | the same | ``_lock``, for the one write | – |
| ``is_usable`` | threads that log, ``close`` | any thread | one store | – |
| ``_is_busy``: this thread is in the middle of a record | the same | the same | ``_lock`` | – |
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .format import MAGIC, Encoder

if os.name == "posix":
    import fcntl
else:
    fcntl = None  # type: ignore[assignment]

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class JournalWriter:
    """The journal of one process for one run. Thread-safe; a signal handler may log, too. Not for use after a fork.

    Args:
        path: of the new file.

    Attributes:
        is_usable: False if it is not known how the file ends: then another file must be begun.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_usable: bool = True
        self._encoder = Encoder()
        self._lock = threading.RLock()
        self._is_busy = False
        self._fd = os.open(path, _FLAGS, 0o600)
        try:
            if fcntl is not None:
                # Held until the file is closed, so that a process that cleans up sees that this one still writes here.
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(self._fd, MAGIC) != len(MAGIC):
                raise OSError("the begin of the journal could not be written")
        except BaseException:
            os.close(self._fd)
            os.unlink(path)
            raise

    def number(self, name: str, value: float, step: int | None) -> None:
        """Append one float.

        Raises:
            OSError: it could not be written (a full disk, say), and the file is as it was before.
        """
        with self._lock:
            if self._is_busy:
                self._aside({name: value}, step)
                return
            self._is_busy = True
            try:
                record = self._encoder.number(name, value, step)
                if (written := os.write(self._fd, record)) != len(record):
                    self._torn(written)
                self._encoder.written()
            except BaseException:
                self._encoder.forget()
                raise
            finally:
                self._is_busy = False

    def values(self, values: Mapping[str, Any], step: int | None) -> None:
        """Append several values of any kind as one record. Raises as :meth:`number`."""
        with self._lock:
            if self._is_busy:
                self._aside(values, step)
                return
            self._is_busy = True
            try:
                if set(map(type, values.values())) == {float}:
                    record = self._encoder.numbers(values, step)
                else:
                    record = self._encoder.any(values, step)
                if (written := os.write(self._fd, record)) != len(record):
                    self._torn(written)
                self._encoder.written()
            except BaseException:
                self._encoder.forget()
                raise
            finally:
                self._is_busy = False

    def _aside(self, values: Mapping[str, Any], step: int | None) -> None:
        # In a signal handler: this thread is in the middle of another record, whose state must stay as it is.
        record = self._encoder.any(values, step, aside=True)
        if (written := os.write(self._fd, record)) != len(record):
            self._torn(written)

    def _torn(self, written: int) -> None:
        """So many bytes of a record were written: take them back, and raise."""
        self.is_usable = False  # until that has been done
        os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
        self.is_usable = True
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @property
    def size_bytes(self) -> int:
        """The bytes of the file so far; 0 once it is closed. Thread-safe; does not wait for threads that log."""
        try:
            return os.fstat(self._fd).st_size
        except OSError:
            return 0

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self.is_usable = False
            if self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)

    def abandon_after_fork(self) -> None:
        """In a forked child: close the copy of the descriptor; the parent goes on with its own. Takes no lock."""
        self.is_usable = False
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
