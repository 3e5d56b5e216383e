"""Runs and their metrics (protocol §J, §J.1).

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``status``, ``reason`` | the thread that ends the run | any thread | one store | – |
| ``noted`` | the hooks of ``run_guard`` | the end of the program | one store | – |
| what it logs | see ``run_log`` | | | |
"""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..active_run import HasUuid, get_active_run, set_active_run
from ..console import columns, one_line, say, where_to_show
from ..errors import HttpStatusError, TellurioError, UsageError
from ..journal.folder import kept_runs
from .projects import Project, find_project, get_or_create_project, optional_date, reading, slug_of
from .rest import StudioRest
from .run_guard import RunGuard, leaving_reason
from .run_log import PATIENCE, RunLog
from .values import plain_config

if TYPE_CHECKING:
    from ..ledger import Ledger
    from .rows import Rows

__all__ = ["Run", "RunGuard", "RunStatus", "User", "clear_active_run", "continue_run", "list_runs", "start_run"]

_log = logging.getLogger(__name__)

_NO_VALUE: Any = object()
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")  # without these only browsers of text would be found, which wait


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


def logged_by(run: HasUuid) -> list[str | int] | None:
    """How much this process has logged for a run: the name of its journal, and bytes; None: nothing, or unknown."""
    return run._log.logged() if isinstance(run, Run) else None


@dataclass(eq=False, repr=False)
class Run:
    """One training run: logs metrics, and has a status that ends as COMPLETED, CRASHED or FAILED.

    As a context manager it ends with the block: COMPLETED, or CRASHED if an exception leaves it (``sys.exit()`` without
    an error counts as completed). The end of the block never raises because of the server.

    Thread-safe; a forked child and a copy that was unpickled in another process log into the same run.

    Attributes:
        uuid: its id, part of every call made for it.
        name: the given one, or the one that the server made up.
        description: None: none.
        status: as last told to or by the server, or as it ended here.
        project: what it belongs to.
        user: who started it; None where the server left it out.
        date_created, date_updated: as the server told them on creation.
        rest: what its changes are sent with.
        before_finish: called before it ends, for what is still to be done in it; but not at the end of the interpreter.
            The server is told also where it raises.
        on_finish: called when no more calls are to be made for it, perhaps more than once.
        config: what was given to ``init``, as the server keeps it.
        reason: why it has the status that it has; None: none is known.
        is_strict: ``log`` raises for what cannot be logged, instead of a warning.
        noted: something that makes it CRASHED at the end of the program.
        page_query: what opens the page of a local backend without asking for its key; part of ``link``.
        page_base: where a browser finds the pages of a local backend; empty: where REST is.
        is_to_come: the server has yet to make it, with this id and this name, as soon as it serves. Until then ``user``
            is None, and ``project.uuid`` is empty.
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
    config: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    is_strict: bool = False
    noted: str | None = None
    page_query: str = ""
    page_base: str = ""
    is_to_come: bool = False

    def __post_init__(self) -> None:
        self._log = RunLog(self._about(), self.rest)

    def _about(self) -> dict[str, Any]:
        project = self.project
        about = {
            "uuid": self.uuid,
            "remote_uuid": None if self.is_to_come else self.uuid,
            "namespace": project.namespace_slug,
            "slug": project.slug,
            "project": project.display_name,
            "name": self.name,
            "description": self.description,
            "config": self.config or None,
            "server": self.rest.url,
        }
        return about

    @staticmethod
    def from_answer(answer: dict[str, Any], project: Project, rest: StudioRest) -> Run:
        """The run in an answer of the server.

        Raises:
            HttpError: the answer lacks what every run has.
        """
        with reading("run"):
            user = answer.get("user")
            config = answer.get("config")
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
                config=dict(config) if isinstance(config, dict) else {},
                reason=answer.get("reason"),
            )

    def __repr__(self) -> str:
        return f"Run({self.name!r}, {self.status}, {self.url})"

    @property
    def url(self) -> str:
        """Where a browser shows the run; on a JupyterHub that does not tell its address, only the path there."""
        from slugify import slugify

        project, base = self.project, self.page_base or self.rest.address.short_url
        return f"{base}/{project.namespace_slug}/projects/{project.slug}/runs/{slugify(self.name)}/"

    @property
    def link(self) -> str:
        """As ``url``, and where a local backend serves it, with the token that opens it: keep that to yourself."""
        return f"{self.url}?{self.page_query}" if self.page_query else self.url

    @property
    def shown_link(self) -> str:
        """What may be shown where it is: in a notebook without the token, because notebooks are kept and published."""
        return self.url if where_to_show() == "notebook" else self.link

    def open(self) -> None:
        """Show the run in a browser on the machine that this program runs on. Does not wait for the page.

        Raises:
            UsageError: there is no browser there.
        """
        import webbrowser

        has_screen = sys.platform in ("win32", "darwin") or any(os.environ.get(name) for name in _SCREENS)
        is_whole = not self.link.startswith("/")
        if not (has_screen and is_whole and webbrowser.open(self.link)):
            token = (
                " It holds the token of the page: clear the output before you publish it." if self.page_query else ""
            )
            raise UsageError(f"There is no browser on this machine. print(run.link) says where the run is.{token}")

    def _repr_html_(self) -> str:
        """In a notebook: the status, a small plot of each metric and a link.

        Of a run of this process it reads what is kept here. Otherwise it asks the server, which it waits for as
        ``metrics`` does.
        """
        from .run_card import card_of

        return card_of(self)

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, as far as this process knows."""
        return self.status is not RunStatus.RUNNING

    def begin(self) -> None:
        """Give signs of life from now on, and send what is logged."""
        self._log.start()

    def wait_until_made(self, timeout: float) -> None:
        """Wait until the server has made it, if that is to come; not for one that is away.

        Args:
            timeout: seconds, > 0, once it serves.

        Raises:
            HttpUnreachable: the server could not be started.
        """
        if self.is_to_come:
            self.rest.wait_until_serving()
            self._log.flush(timeout, patience=PATIENCE)
            self._take_over()

    def _take_over(self) -> None:
        """Have what the server has made of it, if it is to come and has come."""
        if not self.is_to_come or (found := self._log.made) is None:
            return
        self.project, answer = found
        made = Run.from_answer(answer, self.project, self.rest)
        self.name, self.user = made.name, made.user
        self.date_created, self.date_updated = made.date_created, made.date_updated
        self.is_to_come = False

    @property
    def is_offline(self) -> bool:
        """Whether it is kept on this machine only, until ``sync`` sends it."""
        return self._log.is_offline

    @property
    def journal(self) -> Path | None:
        """The folder that holds what was logged until the server has it; None before anything was logged."""
        return self._log.folder

    # --- logging -----------------------------------------------------------------------------------

    def log(
        self,
        name: str | Mapping[str, Any],
        value: Any = _NO_VALUE,
        step: int | None = None,
        *,
        strict: bool | None = None,
    ) -> None:
        """Add one value to a metric; or, from a dict, one to each of several, all or none of them.

        It is in a file on this machine when this returns, and survives the end of this process, however it ends; a
        thread sends it on. So this never waits for the network (it takes some microseconds), and never raises because
        of the server or a full disk: that is said in a warning. Thread-safe.

        Args:
            name: of the metric; or a dict of names and values.
            value: a number, or anything else that JSON has. Numbers and arrays of NumPy, PyTorch and others are taken;
                NaN and infinities are kept, and are gaps in plots.
            step: a whole number, at least 0; None: the server counts, beginning with 0.
            strict: raise for what cannot be logged; None: as given to ``init``. Otherwise that costs one warning.

        Raises:
            TypeError: neither a value nor a dict was given.
            TypeError, ValueError: with ``strict``: the value has no JSON form, or the step is no whole number.
        """
        if value is _NO_VALUE:
            if not isinstance(name, Mapping):
                raise TypeError("log() takes a name and a value, or a dict of names and values")
            self._log.log_many(name, step, strict=self.is_strict if strict is None else strict)
        elif isinstance(name, Mapping):
            raise TypeError("log() of a dict takes no value: use log({...}, step=...)")
        else:
            self._log.log(name, value, step, strict=self.is_strict if strict is None else strict)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until the server has all that was logged for this run on this machine.

        Args:
            timeout: seconds, > 0.

        Returns:
            False: it has not, within the time; what is missing stays in ``journal``, and is tried again.
        """
        return self._log.flush(timeout)

    # --- the end -----------------------------------------------------------------------------------

    def finish(self, status: str = RunStatus.COMPLETED) -> None:
        """End the run with this status, and make it inactive. Repeating it does nothing; another status corrects it.

        Waits until the server has all that was logged, as long as that goes on. Where the server is away, it waits
        about 1.5 s; then the run has ended here, and a warning says how to send the rest.

        Raises:
            ValueError: not a status that a run can end with.
            HttpStatusError: the server does not take it.
        """
        final = _final(status)
        self.end(final, None)
        error = self._log.last_error
        if isinstance(error, HttpStatusError) and self._log.has_unsent and 400 <= error.status < 500:
            raise HttpStatusError(str(error), status=error.status, url=error.url) from error

    def end(self, status: str, reason: str | None, *, is_exit: bool = False, patience: float = PATIENCE) -> None:
        """As ``finish``, with the reason, and without an error because of the server.

        Args:
            is_exit: the program ends: ``before_finish`` is not called.
            patience: seconds for which a server that is away is waited for.
        """
        final = _final(status)
        if self.status is final:
            return
        try:
            if not is_exit:
                self.before_finish(self)
        finally:
            is_sent = self._log.end(final, reason, patience=patience)
            self._take_over()
            self.status, self.reason = final, reason
            _log.info("Run %r: %s", self.name, final)  # Protocol §J.1: the status itself
            if not is_exit:
                self._show_end()
            has_unsent = self._log.has_unsent
            self._log.close()
            self.on_finish(self)
            if not is_sent and not self.is_offline and has_unsent:
                _log.warning(
                    "The end of run %r and what is missing at the server are kept in %s. `%s` sends them. (%s)",
                    *(self.name, self._log.folder, self._log.send_command, self._log.last_error or "no answer yet"),
                )

    def show_begin(self) -> None:
        """One line that says where to look at it: in a terminal and in a notebook; nowhere else, and not if quiet."""
        where = self.shown_link if not self.is_offline else "offline: te.sync() sends it later"
        if where.startswith("/"):
            where += " on this hub (print(run.link) adds the token)"
        elif self.page_query and where == self.url:
            where += " (run.open() opens it)"
        say(f"run {one_line(self.name)}: {where}")

    def _show_end(self) -> None:
        """In a terminal, one line per metric and the address."""
        if where_to_show() != "terminal" or not self._log.folder:
            return
        from .sparklines import summary

        lines = summary(self._log.folder, columns())
        if lines:
            where = self.link if not self.is_offline else f"offline, in {self._log.folder}"
            say("\n".join([f"run {one_line(self.name)}: {self.status}", *lines, where]))

    # --- reading back ------------------------------------------------------------------------------

    def metrics(self, name: str | None = None) -> Rows:
        """What was logged: rows with ``name``, ``step`` and ``value``, in the order in which they came.

        Waits until the server has what was logged here before. Of an offline run: what is in its journal.

        Args:
            name: only of this metric; None: of all.

        Returns:
            A list, with ``to_pandas()``, ``to_csv(path)`` and ``to_jsonl(path)``. NaN and infinities are floats.

        Raises:
            HttpUnreachable, HttpStatusError: the server cannot be asked.
        """
        from .rows import Rows, rows_of_folder

        if self.is_offline:
            rows = rows_of_folder(self._log.folder)
        else:
            found = self.rest.list_metrics(self.project.namespace_slug, self.project.slug, self.uuid)
            rows = Rows(
                {
                    "name": one["name"],
                    "step": one["step"],
                    "value": float(one["not_finite"]) if one.get("not_finite") else one["value"],
                }
                for one in found
            )
        return rows if name is None else Rows(row for row in rows if row["name"] == name)

    def questions(self) -> Ledger:
        """What this run has asked language models: by kind, tokens, money, in all and per step. One REST request.

        ::

            print(run.questions())  # 31 questions (10 forward, 10 critic, 10 propagator, 1 optimizer), 5,400 tokens

        It counts what has ended when the server is asked, by all processes that have used the run.

        Raises:
            UsageError: the server does not count them (the local backend does), or the run is offline.
            HttpUnreachable, HttpStatusError, HttpError: as ``metrics``.
        """
        from ..ledger import Ledger

        if self.is_offline:
            raise UsageError("A run that is kept on this machine only asks no language models.")
        self.wait_until_made(self.rest.timeout)
        answer = self.rest.list_questions(self.project.namespace_slug, self.project.slug, self.uuid)
        if answer is None:
            raise UsageError("This server does not count the questions of a run; the local backend does.")
        return Ledger.from_answer(answer)

    def to_pandas(self) -> Any:
        """The numbers that were logged as a ``pandas.DataFrame``: a row per step, a column per metric.

        Raises:
            ModuleNotFoundError: pandas is not installed.
            As ``metrics``.
        """
        return self.metrics().to_pandas()

    @property
    def next_step(self) -> int:
        """The step after the highest one that was logged; 0: none was. Asks the server; raises as ``metrics``."""
        return max((row["step"] for row in self.metrics()), default=-1) + 1

    def plot(self, *names: str, ax: Any = None) -> Any:
        """Draw metrics over their steps with matplotlib (extra ``plot``); returns the ``Axes``.

        Args:
            names: of metrics; none: all that have numbers.
            ax: where to draw; None: a new figure.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: there is no such metric with numbers.
            As ``metrics``.
        """
        from .rows import plot

        return plot(self.metrics(), names, ax, title=self.name)

    # --- copies and blocks -------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # The copy goes to another process, which did not start the run.
        state = {**self.__dict__, "before_finish": _do_nothing, "on_finish": clear_active_run, "page_query": ""}
        folder = self._log.folder
        if folder is None and not self.is_finished:
            # A copy in another process of this machine logs into the same folder, from where this one sends it.
            try:
                folder = self._log.make_folder().path
            except OSError:
                folder = None
        state["_log"] = (folder, self._log.is_offline)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        folder, is_offline = state.pop("_log")
        self.__dict__.update(state)
        is_here = folder is not None and folder.is_dir()
        self._log = RunLog(self._about(), self.rest, folder if is_here else None)
        self._log.is_offline = is_offline

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, traceback: Any) -> None:
        try:
            if self.is_finished:
                return
            reason = leaving_reason(exc, traceback)
            if reason is None:
                self.end(RunStatus.COMPLETED, None)
                return
            try:
                self.end(RunStatus.CRASHED, reason)
            except TellurioError as failure:
                # The exception that left the block says what went wrong; this one would hide it.
                _log.warning("The run %r could not be marked as CRASHED: %s", self.name, failure)
        finally:
            self.on_finish(self)  # also where that failed


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
    config: Any = None,
) -> Run:
    """A new run, in the project of this name, which is created (RESTRICTED) if there is none. Blocks, thread-safe.

    It is not made the active run: that is the caller's part.

    Args:
        name: None: the server makes one up. A taken name is changed by the server (``_1``, ``_2``, ...).
        status: to begin with.
        username: of this account, for the text of the error about an unknown namespace.
        config: a dict, a dataclass or an object with attributes, kept with the run; None: nothing.

    Raises:
        ValueError: not a status, or a project name without letters and digits.
        TypeError: ``config`` is none of these.
        UsageError: another project has the address that this name would get.
        HttpStatusError: unknown namespace, or the server refused for another reason.
        HttpUnreachable: the server was not reached.
        HttpError: it answered in an unknown form.
    """
    first_status = RunStatus(status)
    kept = None if config is None else plain_config(config)
    project = get_or_create_project(rest, namespace_slug, project_display_name, "RESTRICTED", username)
    key = str(uuid4())
    answer = rest.create_run(
        namespace_slug, project.slug, name, description, first_status, config=kept, idempotency_key=key
    )
    run = Run.from_answer(answer, project, rest)
    if kept is not None and not run.config:
        _log.warning("This server does not keep the configuration of a run: config=... is not kept.")
    return run


def run_to_come(
    rest: StudioRest,
    project: Project,
    name: str,
    description: str | None = None,
    *,
    config: Any = None,
) -> Run:
    """A run that the server makes later, as soon as it serves: what is logged is kept and sent then. Does not block.

    Args:
        project: as the server will have it; without an id.
        name: that is free there.

    Raises:
        TypeError: as ``start_run``.
        OSError: it cannot be kept.
    """
    now = datetime.now().astimezone()
    run = Run(
        *(str(uuid4()), name, description, RunStatus.RUNNING, project, None, now, now, rest),
        config={} if config is None else plain_config(config),
        is_to_come=True,
    )
    run._log.make_folder()
    return run


def continue_run(
    rest: StudioRest,
    namespace_slug: str,
    project_display_name: str,
    resume: str,
    name: str | None = None,
    *,
    config: Any = None,
) -> Run | None:
    """A run that was there before, RUNNING again. Blocks, thread-safe.

    Args:
        resume: the id of the run; or ``"must"`` or ``"allow"``: the latest run with this ``name``, of any name where
            that is None.
        config: added to what is kept.

    Returns:
        None: there is none, and ``resume`` is ``"allow"``.

    Raises:
        UsageError: there is no such run.
        HttpStatusError, HttpUnreachable, HttpError: as ``start_run``.
    """
    project = find_project(rest, namespace_slug, project_display_name)
    found = [] if project is None else list_runs(rest, project)
    if resume in ("must", "allow"):
        found = [run for run in found if name in (None, run.name)]
    else:
        found = [run for run in found if run.uuid == resume]
    if not found or project is None:
        if resume == "allow":
            return None
        what = f"run with the id {resume!r}" if resume != "must" else "run" + (f" named {name!r}" if name else "")
        raise UsageError(
            f"There is no {what} in the project {project_display_name!r} of {namespace_slug!r} to go on with. "
            'Its id is run.uuid; resume="allow" begins a new one instead.'
        )
    run = found[-1]
    kept = None if config is None else plain_config(config)
    answer = rest.update_run(namespace_slug, project.slug, run.uuid, RunStatus.RUNNING, config=kept)
    going_on = Run.from_answer({**_description_of(run), **answer}, project, rest)
    going_on._log.go_on()
    return going_on


def _description_of(run: Run) -> dict[str, Any]:
    """The keys that an answer to a PATCH may leave out."""
    return {"uuid": run.uuid, "name": run.name, "description": run.description, "status": RunStatus.RUNNING}


def list_runs(rest: StudioRest, project: Project) -> list[Run]:
    """The runs of a project, oldest first. Blocks; raises as :meth:`StudioRest.list_runs`."""
    answers = rest.list_runs(project.namespace_slug, project.slug)
    # The protocol promises only `uuid` and `status` here.
    empty = {"name": "", "description": None}
    runs = [Run.from_answer({**empty, **answer}, project, rest) for answer in answers]
    if all(run.date_created is not None for run in runs):
        runs.sort(key=lambda run: run.date_created.timestamp() if run.date_created is not None else math.inf)
    return runs


def offline_run(
    rest: StudioRest,
    namespace_slug: str | None,
    project_display_name: str,
    name: str | None = None,
    description: str | None = None,
    *,
    config: Any = None,
    username: str | None = None,
) -> Run:
    """A run that is kept on this machine only, until ``sync`` sends it. Does not block.

    Raises:
        ValueError: a project name without letters and digits.
        TypeError: as ``start_run``.
        OSError: it cannot be kept.
    """
    slug_of(project_display_name)  # refused now rather than when it is sent
    now = datetime.now().astimezone()
    about = {
        "uuid": str(uuid4()),
        "remote_uuid": None,
        "namespace": namespace_slug,
        "project": project_display_name,
        "name": name,
        "shown_name": name or f"offline-{now:%Y%m%d-%H%M%S}",
        "description": description,
        "config": None if config is None else plain_config(config),
        "server": None,
        "username": username,
        "date_created": now.isoformat(),
    }
    return _from_folder(about, rest, None)


def continue_offline_run(
    rest: StudioRest,
    namespace_slug: str | None,
    project_display_name: str,
    resume: str,
    name: str | None = None,
    *,
    config: Any = None,
) -> Run | None:
    """A run of this machine that was not sent yet, going on offline. Arguments and errors as ``continue_run``."""
    found = []
    for folder in kept_runs():
        about = folder.about()
        if about.get("project") != project_display_name or about.get("namespace") != namespace_slug:
            continue
        if (about["uuid"] == resume) if resume not in ("must", "allow") else name in (None, about.get("name")):
            found.append((folder, about))
    if not found:
        if resume == "allow":
            return None
        raise UsageError(
            f"There is no run on this machine to go on with offline: project {project_display_name!r}, "
            f"resume={resume!r}, name={name!r}."
        )
    folder, about = found[-1]
    if config is not None:
        about["config"] = {**(about.get("config") or {}), **plain_config(config)}
        folder.change(config=about["config"])
    folder.unset_end()
    return _from_folder(about, rest, folder.path)


def _from_folder(about: dict[str, Any], rest: StudioRest, folder: Path | None) -> Run:
    project = Project(
        uuid="",
        display_name=about["project"],
        slug=slug_of(about["project"]),
        namespace_slug=about.get("namespace") or "",
    )
    created = optional_date(about, "date_created")
    name = about.get("name") or about.get("shown_name") or about["uuid"]
    run = Run(
        *(about["uuid"], name, about.get("description"), RunStatus.RUNNING, project, None, created, created, rest),
        config=about.get("config") or {},
    )
    run._log = RunLog(about, rest, folder)
    run._log.is_offline = True
    # Open from the begin: a run without an open journal counts as one whose process has ended.
    try:
        run._log.make_folder()
    except OSError as exc:
        raise UsageError(
            f"The run cannot be kept on this machine: {exc}. TELLURIO_JOURNAL_DIR names another place for it."
        ) from exc
    run._log.open()
    return run
