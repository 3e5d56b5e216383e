"""Log records of the receive thread, handed to a thread of their own: a handler is foreign code.

It may raise, take its time, or call the client, whose replies only the receive thread can deliver.  So a record is made
on the thread where it belongs and put into a bounded queue, and a thread that does nothing else gives it to the
handlers.  Whatever a handler does, at most its record is lost.  Records that find the queue full are counted, and the
number is logged.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the queue; ``_dropped``, a rough number | any thread | the thread of the records | one C call on a deque each | – |
| ``_thread`` | any thread | any thread | ``_lock``, never held while a record is handled | only this module has it |
| ``_is_handling`` | the thread of the records | any thread | one store | – |
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any

from .. import forked
from ..speedups import make_semaphore

MOST_RECORDS = 1000
_IDLE = 1.0  # seconds after which the thread ends


class QueuedLog:
    """A logger whose records are handled on another thread. Thread-safe, never blocks, raises nothing.

    Args:
        name: of the logger.
        most: records, > 0, that wait at most.
    """

    def __init__(self, name: str, most: int = MOST_RECORDS) -> None:
        self._logger = logging.getLogger(name)
        self._most = most
        self._records: deque[logging.LogRecord] = deque()
        self._start_afresh()
        forked.renew(self)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()
        self._came = make_semaphore()
        self._thread: threading.Thread | None = None
        self._is_handling = False
        self._dropped = 0

    def renew_after_fork(self) -> None:
        """In a forked child: the waiting records are the parent's."""
        self._records.clear()
        self._start_afresh()

    def debug(self, text: str, *args: object, exc_info: bool = False) -> None:
        """See ``logging.Logger.debug``."""
        self.log(logging.DEBUG, text, *args, exc_info=exc_info)

    def info(self, text: str, *args: object) -> None:
        """See ``logging.Logger.info``."""
        self.log(logging.INFO, text, *args)

    def warning(self, text: str, *args: object) -> None:
        """See ``logging.Logger.warning``."""
        self.log(logging.WARNING, text, *args)

    def exception(self, text: str, *args: object) -> None:
        """See ``logging.Logger.exception``."""
        self.log(logging.ERROR, text, *args, exc_info=True)

    def log(self, level: int, text: str, *args: object, exc_info: bool = False) -> None:
        """See ``logging.Logger.log``."""
        if not self._logger.isEnabledFor(level):
            return
        if len(self._records) >= self._most:
            self._dropped += 1
            return
        info: Any = sys.exc_info() if exc_info else None
        record = self._logger.makeRecord(self._logger.name, level, __file__, 0, text, args, info)
        self._records.append(record)
        self._came.release()
        if self._thread is None:
            self._start()

    def flush(self, timeout: float) -> None:
        """Wait until the waiting records have been handled, at most ``timeout`` seconds."""
        end = time.monotonic() + timeout
        while (self._records or self._is_handling) and self._thread is not None and time.monotonic() < end:
            time.sleep(0.001)

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="tellurio-sync log", daemon=True)
        with self._lock:
            if self._thread is not None:
                return
            self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down, or the system has no thread left
            self._thread = None

    def _run(self) -> None:
        while True:
            self._is_handling = True
            while self._records:
                self._handle(self._records.popleft())
                dropped, self._dropped = self._dropped, 0
                if dropped:
                    text = "%d log records were dropped: the handlers take longer than new ones come"
                    args = (dropped,)
                    self._handle(
                        self._logger.makeRecord(self._logger.name, logging.WARNING, __file__, 0, text, args, None)
                    )
            self._is_handling = False
            if not self._came.acquire(True, _IDLE) and not self._records:
                with self._lock:
                    self._thread = None
                if not self._records:  # else one came meanwhile, and saw this thread
                    return
                with self._lock:
                    if self._thread is not None:
                        return
                    self._thread = threading.current_thread()

    def _handle(self, record: logging.LogRecord) -> None:
        try:
            self._logger.handle(record)
        except Exception:  # noqa: BLE001 - the user's handler, of which logging says this much
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()


log: QueuedLog = QueuedLog("tellurio_sync.peer")
"""That of this package, but for the workers, which are threads for foreign code anyway."""
