"""The thread that sends the journal of a run to the server while the run goes on.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``is_idle`` | the thread (True), one that logs (False) | both | one store each; a lost one costs an interval | – |
| ``_inbox`` | any thread, signal handlers | the thread | ``SimpleQueue``: ``put`` may interrupt itself | its type |
| ``_thread`` | ``start`` | ``stop`` | ``_start_lock``, held while it starts | – |
| ``_is_stopping`` | ``stop`` (True), ``start`` (False) | the same, the thread | one store each | – |
| ``last_error``, ``delivery``, ``is_unusable`` | the thread | any | one attribute store | – |
| ``_seen`` | the thread | the thread | ownership | an assert |

Signal handlers wait here, too.  So nothing that a waiting thread needs is guarded by a lock that ``log()`` takes.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from ..errors import TellurioError
from ..journal.folder import RunFolder
from .delivery import Busy, Delivery, Refusal, is_passing
from .rest import StudioRest

_log = logging.getLogger("tellurio_sync.studio.runs")

# Seconds. Values that come within this time travel together.
_LINGER = 0.15
# Seconds between two signs of life. In the same interval the thread looks for what other processes have logged.
_INTERVAL = 3.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 30.0
# The longest pause before another try while a thread waits for it.
_PAUSE_IF_WAITED_FOR = 0.2

# How long the end of a run waits for the next sign of progress from a server that has not failed.
FINISH_VARIABLE = "TELLURIO_FINISH_TIMEOUT"
_SLOW = 1.8

SEND_COMMAND = "tellurio-sync sync"


def _slow_patience() -> float:
    try:
        seconds = float(os.environ.get(FINISH_VARIABLE) or _SLOW)
    except ValueError:
        return _SLOW
    return seconds if seconds > 0 else _SLOW


class _Flush:
    """A thread waits until the server has all that was logged before."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.is_abandoned = False


class Shipper:
    """Ships one folder. Thread-safe. Not for use after a fork."""

    def __init__(self, folder: RunFolder, rest: StudioRest, on_refused: Callable[[Refusal], None]) -> None:
        self._folder = folder
        self._client = rest
        self._start_lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._inbox: SimpleQueue[_Flush | None] = SimpleQueue()
        self._is_stopping = False
        self.delivery: Delivery = Delivery(folder, rest, on_refused)
        self.is_idle: bool = False
        self.is_unusable: bool = False  # the server does not know this run, or refuses it
        self.last_error: Exception | None = None
        self.gives_signs = True
        self._seen: dict[str, int] = {}

    def start(self) -> bool:
        """Make sure that the thread runs; False: no thread can be started any more, because the program ends."""
        thread = self._thread
        if thread is not None and thread.is_alive() and not self._is_stopping:
            return True
        with self._start_lock:
            thread = self._thread
            if thread is not None and thread.is_alive():
                if not self._is_stopping:
                    return True
                thread.join()
            self._is_stopping = False
            self.is_idle = False
            self._thread = threading.Thread(target=self._main, name="tellurio-sync metrics", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                self._thread = None
                return False
            return True

    def wake(self) -> None:
        """Something was logged. To be called where ``is_idle``."""
        self.is_idle = False
        self._inbox.put(None)

    def flush(self, timeout: float, *, patience: float | None = None) -> bool:
        """Wait until the server has all that was logged before; False: it did not have it in time.

        Args:
            timeout: seconds.
            patience: seconds without any progress after which it gives up earlier; None: it does not.
        """
        if self.is_unusable or not self.start():
            return False
        request = _Flush()
        self._inbox.put(request)
        end = time.monotonic() + timeout
        progress, since = self.delivery.acknowledged, time.monotonic()
        while not request.done.wait(max(0.0, min(0.05, end - time.monotonic()))):
            now = time.monotonic()
            if self.delivery.acknowledged != progress or self._client.is_starting:
                progress, since = self.delivery.acknowledged, now
            if now >= end or self.is_unusable or (patience is not None and now - since >= self._limit(patience)):
                request.is_abandoned = True
                return request.done.is_set()
        return True

    def _limit(self, patience: float) -> float:
        """Seconds without progress: longer for a server that has not failed yet, and may only be slow."""
        return patience if self.last_error is not None or patience < 1.0 else max(patience, _slow_patience())

    def stop(self, timeout: float = 1.0) -> None:
        """Let the thread end, and wait at most ``timeout`` seconds for it, unless it is this thread."""
        self._is_stopping = True
        self._inbox.put(None)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    # --- the thread ------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._ship()
        finally:
            self._client.release()

    def _ship(self) -> None:
        assert threading.current_thread() is self._thread
        waiting: list[_Flush] = []
        pause = _FIRST_PAUSE
        is_away = False
        while True:
            waiting = [request for request in waiting if not request.is_abandoned]
            try:
                # Before the folder is read: what is read serves all that have asked before.
                waiting += self._take_all()
                self._seen = self._sizes()
                self.delivery.run()
                if self.gives_signs and not self._folder.end():
                    self.delivery.sign_of_life()
            except (TellurioError, OSError, ValueError, KeyError, TypeError) as exc:
                self.last_error = exc
                if isinstance(exc, TellurioError) and not is_passing(exc):
                    self._give_up(exc)
                    return
                if not is_away and not isinstance(exc, Busy):
                    is_away = True
                    _log.warning(
                        "The server takes no metrics at present. They are kept in %s and sent as soon as it does. (%s)",
                        *(self._folder.path, exc),
                    )
                seconds = min(pause, _PAUSE_IF_WAITED_FOR) if waiting else pause
                pause = min(2 * pause, _LONGEST_PAUSE)
                if self._is_stopping:
                    return
                self._wait(random.uniform(seconds / 2, seconds), waiting)
                continue
            self.last_error = None
            pause = _FIRST_PAUSE
            if is_away:
                is_away = False
                _log.warning("The server takes metrics again, and has all that were kept.")
            for request in waiting:
                request.done.set()
            waiting = []
            if self._is_stopping:
                return
            self._rest(waiting)

    def _rest(self, waiting: list[_Flush]) -> None:
        """Wait until there is something to do; then a little longer, unless a thread waits for it."""
        self.is_idle = True
        if self._sizes() == self._seen and self._inbox.empty():
            self._wait(_INTERVAL, waiting)
        self.is_idle = False
        if not waiting and not self._is_stopping:
            self._wait(_LINGER, waiting)

    def _sizes(self) -> dict[str, int]:
        sizes = {writer: self._folder.size(writer) for writer in self._folder.writers()}
        return {**sizes, "end": len(self._folder.end())}

    def _wait(self, seconds: float, waiting: list[_Flush]) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._is_stopping:
            try:
                request = self._inbox.get(timeout=left)
            except Empty:
                return
            if request is not None:
                waiting.append(request)
                return
            if seconds == _INTERVAL:
                return  # something was logged

    def _take_all(self) -> list[_Flush]:
        taken: list[_Flush] = []
        while True:
            try:
                request = self._inbox.get_nowait()
            except Empty:
                return taken
            if request is not None:
                taken.append(request)

    def _give_up(self, exc: TellurioError) -> None:
        self.is_unusable = True
        _log.warning(
            "The server does not take the metrics of this run. They are kept in %s. (%s)", self._folder.path, exc
        )
