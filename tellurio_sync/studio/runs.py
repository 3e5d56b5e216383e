"""Runs and their metrics (protocol §J, §J.1)."""

from __future__ import annotations

import atexit
import logging
import operator
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from ..active_run import get_active_run, set_active_run
from ..errors import LocalProtocolError, TellurioError
from .interactive import at_prompt
from .projects import Project, get_or_create_project, optional_date, reading
from .rest import StudioRest

_log = logging.getLogger(__name__)

# An exit must not hang on a server that is away, so it waits shorter than a normal request.
_EXIT_TIMEOUT = 1.5


class RunStatus(str, Enum):
    """Where a run stands. Each is equal to its text: ``run.status == "COMPLETED"``."""

    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    CRASHED = "CRASHED"
    FAILED = "FAILED"

    __str__ = str.__str__


@dataclass(frozen=True)
class User:
    """The user that started a run."""

    uuid: str
    username: str
    slug: str


def _do_nothing(_: Run) -> None:
    pass


def clear_active_run(run: Run) -> None:
    """Let calls no longer be made for this run; nothing happens where another one is active."""
    try:
        active = get_active_run()
    except ValueError:
        return
    if active is run:
        set_active_run(None)


@dataclass(eq=False, repr=False)
class Run:
    """One training run: logs metrics, and has a status that ends as COMPLETED, CRASHED or FAILED.

    As a context manager it ends with the block: COMPLETED, or CRASHED if an exception leaves it
    (``sys.exit()`` without an error counts as completed).

    Thread-safe. All methods block until the server has answered, at most the timeout of ``rest``.

    Attributes:
        uuid: its id, part of every call made for it.
        name: the given one, or the one that the server made up.
        description: None: none.
        status: as last told to or by the server.
        project: what it belongs to.
        user: who started it; None where the server left it out.
        date_created, date_updated: as the server told them on creation.
        rest: what its changes are sent with.
        before_finish: called before the server is told of its end, for what is still to be done in it; but not at the
            end of the interpreter. The server is told also where it raises.
        on_finish: called when no more calls are to be made for it, perhaps more than once.
    """

    uuid: str
    name: str
    description: str | None
    status: RunStatus
    project: Project
    user: User | None
    date_created: datetime | None
    date_updated: datetime | None
    rest: StudioRest
    before_finish: Callable[[Run], None] = _do_nothing
    on_finish: Callable[[Run], None] = clear_active_run

    @staticmethod
    def from_answer(answer: dict[str, Any], project: Project, rest: StudioRest) -> Run:
        """The run in an answer of the server.

        Raises:
            HttpError: the answer lacks what every run has.
        """
        with reading("run"):
            user = answer.get("user")
            return Run(
                uuid=answer["uuid"],
                name=answer["name"],
                description=answer["description"],
                status=RunStatus(answer["status"]),
                project=project,
                user=None if user is None else User(user["uuid"], user["username"], user["slug"]),
                date_created=optional_date(answer, "date_created"),
                date_updated=optional_date(answer, "date_updated"),
                rest=rest,
            )

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {self.status}, {self.url})"

    @property
    def url(self) -> str:
        """Where a browser shows the run."""
        from slugify import slugify

        project = self.project
        return (
            f"{self.rest.address.short_url}/{project.namespace_slug}/projects/{project.slug}/runs/{slugify(self.name)}/"
        )

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, as far as this process knows."""
        return self.status is not RunStatus.RUNNING

    def log(self, name: str, value: Any, step: int | None = None) -> None:
        """Add one value to a metric.

        Args:
            name: of the metric.
            value: any JSON value; numbers and arrays of other libraries that have ``tolist()`` (NumPy, PyTorch) too.
            step: a whole number; None: the server counts, beginning with 0.

        Raises:
            TypeError: the step is not a whole number.
            LocalProtocolError: the value has no JSON form; NaN and infinities have none. Also a ValueError.
            HttpUnreachable, HttpStatusError: the server did not take it; the run goes on.
        """
        plain = value.tolist() if callable(getattr(value, "tolist", None)) else value
        try:
            self.rest.log_metric(
                self.project.namespace_slug,
                self.project.slug,
                self.uuid,
                name,
                plain,
                None if step is None else operator.index(step),
            )
        except LocalProtocolError as exc:
            raise LocalProtocolError(
                f"The metric {name!r} cannot be logged: its value has no JSON form. {exc}"
            ) from exc

    def finish(self, status: str = RunStatus.COMPLETED) -> None:
        """End the run with this status, and make it inactive. Repeating it does nothing; another status corrects it.

        Raises:
            ValueError: not a status that a run can end with.
            HttpUnreachable, HttpStatusError: the server did not take it; the run is as before.
        """
        self._finish(_final(status))

    def _finish(self, status: RunStatus, timeout: float | None = None) -> None:
        if self.status is status:
            return
        try:
            if timeout is None:
                self.before_finish(self)
        finally:
            self.rest.update_run(self.project.namespace_slug, self.project.slug, self.uuid, status, timeout=timeout)
            self.status = status
            _log.info("Run %r: %s", self.name, status)  # Protocol §J.1: the status itself
            self.on_finish(self)

    def __getstate__(self) -> dict[str, Any]:
        # Who started it is not where the copy goes.
        return {**self.__dict__, "before_finish": _do_nothing, "on_finish": clear_active_run}

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: object) -> None:
        try:
            if self.is_finished:
                return
            if exc is None or (isinstance(exc, SystemExit) and exc.code in (None, 0)):
                self._finish(RunStatus.COMPLETED)
                return
            try:
                self._finish(RunStatus.CRASHED)
            except TellurioError as failure:
                # The exception that left the block says what went wrong; this one would hide it.
                _log.warning("The run %r could not be marked as CRASHED: %s", self.name, failure)
        finally:
            self.on_finish(self)  # also where the server could not be told


def _final(status: str) -> RunStatus:
    finals = [known for known in RunStatus if known is not RunStatus.RUNNING]
    if status not in finals:
        raise ValueError(f"A run ends as one of {', '.join(finals)}; not as {status!r}")
    return RunStatus(status)


def start_run(
    rest: StudioRest,
    namespace_slug: str,
    project_display_name: str,
    name: str | None = None,
    description: str | None = None,
    status: str = RunStatus.RUNNING,
    *,
    username: str | None = None,
) -> Run:
    """A new run, in the project of this name, which is created (RESTRICTED) if there is none. Blocks, thread-safe.

    It is not made the active run: that is the caller's part.

    Args:
        name: None: the server makes one up. A taken name is changed by the server (``_1``, ``_2``, ...).
        status: to begin with.
        username: of this account, for the text of the error about an unknown namespace.

    Raises:
        ValueError: not a status, or a project name without letters and digits.
        HttpStatusError: unknown namespace, or the server refused for another reason.
        HttpUnreachable: the server was not reached.
        HttpError: it answered in an unknown form.
    """
    first_status = RunStatus(status)
    project = get_or_create_project(rest, namespace_slug, project_display_name, "RESTRICTED", username)
    answer = rest.create_run(namespace_slug, project.slug, name, description, first_status)
    return Run.from_answer(answer, project, rest)


class RunGuard:
    """Makes sure that no run of this process stays RUNNING for ever (protocol §J.1). One per session; thread-safe.

    * A new run ends an unfinished earlier one as FAILED.
    * An exit of the interpreter ends the unfinished one: as CRASHED if an unhandled exception (Ctrl-C included) is
      the reason (§J.1), else as COMPLETED. The exception is seen in ``sys.last_value``, where the interpreter puts it
      before it calls ``sys.excepthook``; so no hook is replaced. At an interactive prompt an exception does not end
      the program, so there it does not count. ``sys.exit(1)`` leaves no trace there and counts as COMPLETED.

    Only the process that started a run ends it, not a fork. A process that is killed ends nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._pid = 0
        self._seen_exception: BaseException | None = None

    def watch(self, run: Run) -> None:
        """Take care of this run from now on.

        Blocks while an earlier one is marked FAILED; errors of that are only logged.
        """
        if self._pid != os.getpid():
            # The first run, or after a fork: the parent's run is the parent's, and its lock may be held for ever.
            self._lock, self._run, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            earlier, self._run = self._run, run
            # What was raised before (a test runner's last failure, say) is not why this run ends.
            self._seen_exception = _last_exception()
        # Registered again for each run: exit functions run in reverse order, and this one must run before the one that
        # stops the local backend, which was started earlier than the run.
        atexit.unregister(self.finish_at_exit)
        atexit.register(self.finish_at_exit)
        if earlier is not None and earlier is not run and not earlier.is_finished:
            try:
                earlier.finish(RunStatus.FAILED)
            except TellurioError as exc:
                _log.warning("The earlier run %r could not be marked as FAILED: %s", earlier.name, exc)

    def finish_at_exit(self) -> None:
        """End the watched run if it is unfinished. Waits 1.5 s at most; errors are only logged."""
        if self._pid != os.getpid():
            return
        with self._lock:
            run, self._run = self._run, None
        if run is None or run.is_finished:
            return
        last = _last_exception()
        crashed = last is not None and last is not self._seen_exception and not at_prompt()
        status = RunStatus.CRASHED if crashed else RunStatus.COMPLETED
        try:
            run._finish(status, timeout=min(_EXIT_TIMEOUT, run.rest.timeout))
        except TellurioError as exc:
            # Not a warning: an exit writes nothing to stderr, and a server that is away was complained about before.
            _log.info("The run %r could not be marked as %s: %s", run.name, status, exc)


def _last_exception() -> BaseException | None:
    return getattr(sys, "last_value", None)
