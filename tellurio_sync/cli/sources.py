"""Where the commands read runs from: a server, the data of a local backend, or what is kept on this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import UsageError

if TYPE_CHECKING:
    from ..session import Session
    from ..studio.rows import Rows
    from ..studio.runs import Run

LATEST = "latest"
_SHORTEST_ID = 4
_NAMED = 5

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class ShownRun:
    """A run, as the commands show it.

    Attributes:
        begun: when, as the server wrote it; empty: that is not known.
        rows: reads what was logged.
    """

    uuid: str
    name: str
    project: str
    namespace: str
    status: str
    begun: str
    reason: str | None
    description: str | None
    config: dict[str, Any]
    rows: Callable[[], Rows] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """All but the rows."""
        names = ("uuid", "name", "project", "namespace", "status", "begun", "reason", "description", "config")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Source:
    """Where runs are read from.

    Attributes:
        data_dir: the data of a local backend, which need not run.
        is_kept: what is kept on this machine, for no server needs to run.
        project: the runs of this one; None: at a server those of "Default", else those of all.
        namespace: of the project; None: at a server the account's own.
    """

    data_dir: Path | None
    is_kept: bool
    project: str | None
    namespace: str | None

    def runs(self) -> list[ShownRun]:
        """The runs, oldest first. Blocks.

        Raises:
            As ``Session.login`` and ``Session.runs``; UsageError, BackendError: there is no such data.
        """
        if self.is_kept and self.data_dir is not None:
            raise click.UsageError("--kept and --data-dir are two different places: name one of them.")
        if self.data_dir is not None:
            found = _of_data_dir(self.data_dir)
        elif self.is_kept:
            found = _of_journals()
        else:
            try:
                return _of_server(self.namespace, self.project or "Default")
            except UsageError as exc:
                if self.project is not None:
                    raise
                # There is no way to ask a server which projects it has.
                raise UsageError(f"{exc} Name another one: --project NAME (with `runs`: just NAME).") from exc
        return [run for run in found if self.project in (None, run.project) and self.namespace in (None, run.namespace)]

    def run(self, which: str) -> ShownRun:
        """The run of this name, of this id or the beginning of it, or the latest.

        Raises:
            UsageError: there is none, or it is not clear which. As :meth:`runs`.
        """
        runs = self.runs()
        if which == LATEST and runs:
            return runs[-1]
        found = [run for run in runs if which in (run.uuid, run.name)]
        if not found and len(which) >= _SHORTEST_ID:
            found = [run for run in runs if run.uuid.startswith(which)]
        if len(found) == 1:
            return found[0]
        if found:
            ids = " or ".join(run.uuid for run in found[:_NAMED])
            raise UsageError(f"There are several runs {which!r}. Name one by its id: {ids}.")
        names = ", ".join(run.name for run in runs[: -_NAMED - 1 : -1]) or "none"
        raise UsageError(f"There is no run {which!r}. The latest runs: {names}.")


def logged_in(data_dir: Path | None) -> Session:
    """A session: with a local backend on this directory, or else with the server of the environment."""
    from ..session import Session

    session = Session()
    try:
        if data_dir is not None:
            session.login(mode="local", data_dir=data_dir)
        else:
            session.login()
    except BaseException:
        session.close()
        raise
    return session


def server_options(function: F) -> F:
    """The option that says which server is meant."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="A local backend on this folder, started for this command (default: the server of the environment).",
    )(function)


def source_options(function: F) -> F:
    """The options that say where runs are read from."""
    options: Sequence[Callable[[F], F]] = (
        click.option("--namespace", metavar="NAME", help="Where the project is (default: your own)."),
        click.option(
            "--kept",
            is_flag=True,
            help="Read what is kept on this machine: offline runs, and what has not been sent. No server is asked.",
        ),
        click.option(
            "--data-dir",
            type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR",
            help="Read the data of a local backend, which need not run (default: the server of the environment).",
        ),
    )
    for option in options:
        function = option(function)
    return function


# --- the three places ---------------------------------------------------------------------------


def _of_server(namespace: str | None, project: str) -> list[ShownRun]:
    with logged_in(None) as session:
        found = session.runs(namespace, project)

    def rows(run: Run) -> Callable[[], Rows]:
        return lambda: run.metrics()

    return [
        ShownRun(
            uuid=run.uuid,
            name=run.name,
            project=run.project.display_name,
            namespace=run.project.namespace_slug,
            status=str(run.status),
            begun=run.date_created.isoformat() if run.date_created else "",
            reason=run.reason,
            description=run.description,
            config=run.config,
            rows=rows(run),
        )
        for run in found
    ]


def _of_data_dir(data_dir: Path) -> list[ShownRun]:
    from ..backend.metrics import all_values
    from ..backend.snapshot import records_of
    from ..studio.rows import Rows

    def rows(uuid: str) -> Callable[[], Rows]:
        def read() -> Rows:
            with records_of(data_dir) as records:
                return Rows(
                    {"name": name, "step": step, "value": value} for name, value, step in all_values(records, uuid)
                )

        return read

    with records_of(data_dir) as records:
        found = records.read(
            "SELECT runs.*, projects.display_name AS project, projects.namespace AS namespace FROM runs"
            " JOIN projects ON projects.uuid = runs.project_uuid ORDER BY runs.number"
        )
    return [
        ShownRun(
            uuid=row["uuid"],
            name=row["name"],
            project=row["project"],
            namespace=row["namespace"],
            status=row["status"],
            begun=row["date_created"],
            reason=row["reason"],
            description=row["description"],
            config=json.loads(row["config"]) if row["config"] else {},
            rows=rows(row["uuid"]),
        )
        for row in found
    ]


def _of_journals() -> list[ShownRun]:
    from ..journal.folder import RunFolder, kept_runs
    from ..studio.rows import rows_of_folder

    def rows(folder: RunFolder) -> Callable[[], Rows]:
        return lambda: rows_of_folder(folder.path)

    found = []
    for folder in kept_runs():
        about, end = folder.about(), folder.end()
        if about:
            found.append(
                ShownRun(
                    uuid=str(about.get("uuid") or folder.path.name),
                    name=str(about.get("name") or about.get("shown_name") or about.get("uuid")),
                    project=str(about.get("project") or ""),
                    namespace=str(about.get("namespace") or ""),
                    status=str(end.get("status") or ("RUNNING" if folder.is_written else "NOT ENDED")),
                    begun="",
                    reason=end.get("reason"),
                    description=about.get("description"),
                    config=about.get("config") or {},
                    rows=rows(folder),
                )
            )
    return found
