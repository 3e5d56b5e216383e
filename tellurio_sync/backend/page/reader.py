"""Reads the records for the pages, beside the backend's own work.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| a read-only connection: ``_here`` | the reading thread that opened it | the same | ``threading.local`` | its type |
| all of them: ``_snapshots`` | reading threads (append) | ``close``, after their end | one C call on a list each | – |

A page over a million values must not keep the event loop, and with it all clients, from their work.  In write-ahead
mode readers and the writer do not wait for each other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ..snapshot import Records, Snapshot

T = TypeVar("T")

_THREADS = 2


class Reader:
    """Runs questions to the records in separate threads. For the event loop's thread only."""

    def __init__(self, path: Path) -> None:
        """``path`` is the database's, which must exist once the first question is asked."""
        self._path = path
        self._here = threading.local()
        self._snapshots: list[Snapshot] = []
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="page reader")

    async def run(self, work: Callable[[Records], T]) -> T:
        """The result of ``work`` on the records, which do not change meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, work)

    def _run(self, work: Callable[[Records], T]) -> T:
        snapshot: Snapshot | None = getattr(self._here, "snapshot", None)
        if snapshot is None:
            snapshot = self._here.snapshot = Snapshot(self._path)
            self._snapshots.append(snapshot)
        snapshot.db.execute("BEGIN")
        try:
            return work(snapshot)
        finally:
            snapshot.db.execute("ROLLBACK")

    def close(self) -> None:
        """Wait for running work, and close the database."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for snapshot in self._snapshots:
            snapshot.db.close()
