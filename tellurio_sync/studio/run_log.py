"""What a run logs in this process: into its journal at once, and to the server in the background.

``log()`` never waits for the network, and never raises for what a server or a disk does.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_writer``, ``_folder`` | first use, ``close``, fork | any thread | ``_lock`` to make one, else none | – |
| ``_shipper`` | the same | any thread | the same | – |
| ``lost``, ``_lost_before``, ``_complained`` | any thread that logs | any | the interpreter: single operations | – |
| ``_next_attempt``, ``_problem`` | first use | threads that log | ``_lock`` to write, else one store | – |
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import forked
from ..errors import TellurioError
from ..journal.folder import RunFolder, usable_base
from ..journal.writer import JournalWriter
from .delivery import Refusal
from .rest import StudioRest
from .shipping import SEND_COMMAND, Shipper
from .values import plain, plain_step

if TYPE_CHECKING:
    from .projects import Project

# Under the name that users know.
_log = logging.getLogger("tellurio_sync.studio.runs")

# The end of a run waits for a server that does not answer only for so many seconds without progress.
PATIENCE = 1.5
# Seconds from a failed attempt to make a journal to the next attempt.
_PAUSE = 1.0
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class RunLog:
    """The log of one run in one process. Thread-safe; a signal handler may use it; a forked child has its own journal.

    Args:
        about: what the run is, for its folder: ``uuid``, ``remote_uuid``, ``namespace``, ``slug``, ``project``,
            ``name``, ``server``; see ``journal.folder`` and ``delivery``.
        rest: to which it is sent; without a key it stays in the folder, for another process to send.
        folder: of a run that has one already; None: a new one below :func:`usable_base`.

    Attributes:
        lost: how many values could not be kept (a full disk).
        is_offline: nothing is sent from here.
    """

    def __init__(self, about: dict[str, Any], rest: StudioRest, folder: Path | None = None) -> None:
        self._about = about
        self._rest = rest
        self._given_folder = folder
        self.is_offline = False
        self.lost: int = 0
        self._lost_before = 0
        self._complained: set[str] = set()
        self._next_attempt = 0.0
        self._problem: OSError | None = None
        self._last_error: Exception | None = None
        self._made: tuple[Project, dict[str, Any]] | None = None
        self._renew()
        forked.renew(self)

    def _renew(self) -> None:
        self._lock = threading.RLock()
        self._writer: JournalWriter | None = None
        self._shipper: Shipper | None = None
        self._folder: RunFolder | None = None

    @property
    def run_uuid(self) -> str:
        """The id of the run at the server."""
        return str(self._about.get("remote_uuid") or self._about["uuid"])

    @property
    def folder(self) -> Path | None:
        """Where the journals are; None before anything was kept."""
        return self._folder.path if self._folder is not None else self._given_folder

    @property
    def about(self) -> dict[str, Any]:
        """What the run is; with what the server made of it, once it knows it."""
        folder = self._folder
        return {**self._about, **(folder.about() if folder is not None else {})}

    # --- logging ---------------------------------------------------------------------------------------

    def log(self, name: str, value: Any, step: int | None = None, *, strict: bool = False) -> None:
        """Keep one value. Does not wait for the server.

        Raises:
            TypeError, ValueError: only with ``strict``: it cannot be logged.
        """
        writer = self._writer
        # The usual case takes a few steps; everything else takes the long way, which checks everything.
        if (
            writer is not None
            and type(value) is float
            and type(name) is str
            and (step is None or (type(step) is int and 0 <= step < 0x7FFFFFFFFFFFFFFF))
            and not self._complained
            and name
        ):
            try:
                writer.number(name, value, step)
            except (OSError, ValueError):
                self._again({name: value}, step)
            shipper = self._shipper
            if shipper is not None and shipper.is_idle:
                shipper.wake()
            return
        self.log_many({name: value}, step, strict=strict)

    def log_many(self, values: Mapping[str, Any], step: int | None = None, *, strict: bool = False) -> None:
        """Keep several values as one record: all of them, or none. Otherwise as :meth:`log`."""
        try:
            number = plain_step(step)
        except (TypeError, ValueError) as exc:
            self._complain(f"step of {', '.join(map(repr, values))}", step, f"step {step!r}: {exc}", strict, exc)
            return
        taken: dict[str, Any] = {}
        for name, value in values.items():
            if not isinstance(name, str) or not name.strip():
                why = f"The name of a metric must be a text that is not empty, not {name!r}"
                self._complain(f"name {name!r}", step, why, strict, TypeError(why))
                continue
            try:
                taken[str(name)] = plain(value)
            except Exception as exc:  # noqa: BLE001 - whatever tolist() of a foreign type raises
                self._complain(name, step, f"{type(exc).__name__}: {exc}", strict, exc)
        if taken:
            self._keep(taken, number)

    def _keep(self, values: dict[str, Any], step: int | None) -> None:
        writer = self._writer or self.open()
        if writer is None:
            self._count_lost(len(values), None)
            return
        try:
            if len(values) == 1 and type(value := next(iter(values.values()))) is float:
                writer.number(next(iter(values)), value, step)
            else:
                writer.values(values, step)
        except (OSError, ValueError):
            self._again(values, step)
        else:
            self._found_again()
        shipper = self._shipper
        if shipper is not None and shipper.is_idle:
            shipper.wake()

    def _again(self, values: dict[str, Any], step: int | None) -> None:
        """A value could not be written: try once more, in another file if this one cannot be used any more."""
        writer = self._writer
        if writer is not None and not writer.is_usable:
            with self._lock:
                if self._writer is writer:
                    self._writer = None
            writer.close()
        writer = self._writer or self.open()
        try:
            if writer is None:
                raise self._problem or OSError("the journal cannot be made")
            writer.values(values, step)
        except (OSError, ValueError) as exc:
            self._count_lost(len(values), exc)
        else:
            self._found_again()

    def _count_lost(self, count: int, exc: Exception | None) -> None:
        self.lost += count
        if "disk" not in self._complained:
            self._complained.add("disk")
            self._problem = exc if isinstance(exc, OSError) else self._problem
            _log.warning(
                "Values of metrics cannot be kept and are lost, from now on until it works again: %s. "
                "(TELLURIO_JOURNAL_DIR names another place for them.)",
                exc or self._problem,
            )

    def _found_again(self) -> None:
        if "disk" in self._complained:
            self._complained.discard("disk")
            lost, self._lost_before = self.lost - self._lost_before, self.lost
            _log.warning("Values of metrics are kept again; %d were lost.", lost)

    def _complain(self, subject: str, step: Any, why: str, strict: bool, exc: Exception) -> None:
        if strict:
            raise exc
        if subject in self._complained:
            return
        self._complained.add(subject)
        at = f" at step {step}" if step is not None else ""
        _log.warning("Not logged: %s%s (%s). %s. This is said once.", subject, at, _caller(), why)

    def _on_refused(self, refusal: Refusal) -> None:
        key = f"refused {refusal.name}"
        if key in self._complained:
            return
        self._complained.add(key)
        at = f" at step {refusal.step}" if refusal.step is not None else ""
        _log.warning(
            "The server does not take the metric %r%s: %s It is kept in %s. Said once for this metric.",
            *(refusal.name, at, refusal.why, self.folder),
        )

    # --- the folder, the writer, the thread ----------------------------------------------------------

    def open(self) -> JournalWriter | None:
        """The journal of this process, made at the first use; None: it cannot be made."""
        with self._lock:
            if self._writer is not None:
                return self._writer
            if time.monotonic() < self._next_attempt:
                return None
            try:
                folder = self.make_folder()
                self._writer = folder.new_writer()
            except OSError as exc:
                self._problem = exc
                self._next_attempt = time.monotonic() + _PAUSE
                return None
            self.start()
            return self._writer

    def logged(self) -> list[str | int] | None:
        """The name of this process's journal, and its bytes so far; None: it has none. Does not block."""
        writer = self._writer
        return None if writer is None else [writer.path.stem, writer.size_bytes]

    def make_folder(self) -> RunFolder:
        """The run's folder; makes it if it is missing. Raises OSError."""
        with self._lock:
            folder = self._folder
            if folder is None:
                path = self._given_folder or usable_base() / self._about["uuid"]
                folder = RunFolder(path)
            folder.create(self._about)
            self._folder = folder
            return folder

    def start(self) -> None:
        """Begin to send, and to give signs of life."""
        with self._lock:
            if self.is_offline or not self._rest.has_api_key:
                return
            if self._shipper is None:
                try:
                    folder = self.make_folder()
                except OSError as exc:
                    self._problem = exc
                    return
                self._shipper = Shipper(folder, self._rest, self._on_refused)
                self._rest.attach(self)
            self._shipper.start()

    def flush(self, timeout: float, *, patience: float | None = None) -> bool:
        """Wait until the server has what was logged for this run, by other processes of this machine too.

        Returns:
            False: the server did not have it within ``timeout`` seconds, or there was no progress for ``patience``
            seconds; or it is not sent from here.
        """
        shipper = self._shipper
        if shipper is None:
            if not self.has_unsent:
                return True
            self.start()
            shipper = self._shipper
        return shipper is not None and shipper.flush(timeout, patience=patience)

    @property
    def made(self) -> tuple[Project, dict[str, Any]] | None:
        """What the server made of a run that it did not know, once it has been sent from here; see ``Delivery``."""
        shipper = self._shipper
        return self._made if shipper is None else shipper.delivery.made or self._made

    @property
    def has_unsent(self) -> bool:
        """Whether the server does not have everything of this run yet, as far as this machine knows."""
        folder = self._folder
        return folder is not None and (folder.unsent_bytes > 0 or (bool(folder.end()) and not folder.end()["is_sent"]))

    @property
    def last_error(self) -> Exception | None:
        """Why the last attempt to send failed; None: it did not."""
        return self._shipper.last_error if self._shipper is not None else self._last_error

    def pause(self) -> None:
        """Send what there is, as long as that makes progress. Then end the thread until something else is logged."""
        shipper = self._shipper
        if shipper is None:
            return
        if self.has_unsent:
            shipper.flush(float("inf"), patience=PATIENCE)
        writer = None
        with self._lock:
            if self._shipper is shipper:  # else another thread ends it, too
                self._shipper, self._made = None, shipper.delivery.made or self._made
                writer, self._writer = self._writer, None
        shipper.stop()
        if writer is not None:
            writer.close()

    # --- the end ---------------------------------------------------------------------------------------

    def go_on(self) -> None:
        """The run goes on: forget an end that was noted on this machine before, sent or not."""
        if self._folder is None and self._given_folder is None:
            path = usable_base() / self._about["uuid"]
            if path.is_dir():
                RunFolder(path).unset_end()

    def end(self, status: str, reason: str | None, *, patience: float = PATIENCE) -> bool:
        """Note how the run ended, and wait until the server knows it and all that was logged.

        Returns:
            False: it was not sent in time. It is in the folder then, for :data:`SEND_COMMAND`.
        """
        if "disk" in self._complained:
            _log.warning(
                "%d values of metrics of this run could not be kept and are lost: %s.", self.lost, self._problem
            )
        try:
            self.make_folder().set_end(status, reason)
        except OSError as exc:
            self._problem = exc
            return self._end_without_note(status, reason, patience)
        self.start()
        return self.flush(float("inf"), patience=patience)

    def _end_without_note(self, status: str, reason: str | None, patience: float) -> bool:
        """The folder does not take the end (a full disk): send what there is, then tell the server from here."""
        about = self.about
        namespace, slug, uuid = (about.get(key) for key in ("namespace", "slug", "remote_uuid"))
        if self.is_offline or not self._rest.has_api_key or not (namespace and slug and uuid):
            _log.warning("The end of the run could not be noted: %s", self._problem)
            return False
        is_sent = not self.has_unsent or self.flush(float("inf"), patience=patience)
        try:
            self._rest.update_run(namespace, slug, uuid, status, reason=reason, timeout=patience)
        except TellurioError as exc:
            self._last_error = exc
            _log.warning(
                "The end of the run could neither be noted (%s) nor told to the server (%s).", self._problem, exc
            )
            return False
        return is_sent

    def close(self) -> None:
        """Nothing is logged here any more. Delete the folder if the server has everything."""
        with self._lock:
            shipper, self._shipper = self._shipper, None
            writer, self._writer = self._writer, None
            folder = self._folder
        if shipper is not None:
            self._last_error, self._made = shipper.last_error, shipper.delivery.made or self._made
            shipper.stop()
        if writer is not None:
            writer.close()
        if folder is not None and not self.has_unsent and not folder.has_refused:
            folder.remove()

    @property
    def send_command(self) -> str:
        """What a user types to send what is left."""
        return SEND_COMMAND

    def renew_after_fork(self) -> None:
        """In a forked child: it gets another journal in the same folder."""
        writer = self._writer
        self._given_folder = self.folder
        self._renew()
        if writer is not None:
            writer.abandon_after_fork()


def _caller() -> str:
    """File and line of the first caller outside of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(_PACKAGE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
