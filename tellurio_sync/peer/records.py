"""Log records of the receive thread, handed to a thread of their own: a handler is foreign code.

It may raise, take its time, or call the client, whose replies only the receive thread can deliver.  So a record is made
on the thread where it belongs and put into a bounded queue (see ``queued``), and a thread that does nothing else gives
it to the handlers.  Whatever a handler does, at most its record is lost.  Records that find the queue full are counted,
and the number is logged.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from typing import Any

from ..queued import Queued

MOST_RECORDS = 1000


class QueuedLog:
    """A logger whose records are handled on another thread. Thread-safe, never blocks, raises nothing.

    Args:
        name: of the logger.
        most: records, > 0, that wait at most.
    """

    def __init__(self, name: str, most: int = MOST_RECORDS) -> None:
        self._logger = logging.getLogger(name)
        self._queue: Queued[logging.LogRecord] = Queued(
            self._handle,
            lambda run: threading.Thread(target=run, name="tellurio-sync log", daemon=True),
            self._tell_dropped,
            most,
        )

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
        if not self._logger.isEnabledFor(level) or not self._queue.has_room():
            return
        info: Any = sys.exc_info() if exc_info else None
        self._queue.put(self._logger.makeRecord(self._logger.name, level, __file__, 0, text, args, info))

    def flush(self, timeout: float) -> None:
        """Wait until the waiting records have been handled, at most ``timeout`` seconds."""
        self._queue.flush(timeout)

    def _tell_dropped(self, dropped: int) -> None:
        text = "%d log records were dropped: the handlers take longer than new ones come"
        self._handle(self._logger.makeRecord(self._logger.name, logging.WARNING, __file__, 0, text, (dropped,), None))

    def _handle(self, record: logging.LogRecord) -> None:
        try:
            self._logger.handle(record)
        except Exception:  # noqa: BLE001 - the user's handler, of which logging says this much
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()


log: QueuedLog = QueuedLog("tellurio_sync.peer")
"""That of this package, but for the workers, which are threads for foreign code anyway."""
