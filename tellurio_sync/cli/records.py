"""``runs``, ``show``, ``metrics``, ``export``, ``sync`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import click

from ..console import one_line
from .sources import Source, logged_in, server_options, source_options
from .terminal import FAILED, columns_of_terminal, complain, plot, say, short, show_json, table

_UNSENT = ("failed", "refused", "busy")
_SHOWN_STEPS = 20
_SHOWN_COLUMNS = 8
_PLOTTED = 6

_project = click.option(
    "--project", metavar="NAME", help="Whose run it is (default: Default; --data-dir, --kept: any)."
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command(short_help="List the runs of a PROJECT.")
@click.argument("project", required=False)
@_as_json
@source_options
def runs(project: str | None, as_json: bool, data_dir: Path | None, kept: bool, namespace: str | None) -> int:
    """List the runs of a PROJECT (default: Default; with --data-dir and --kept: of all), oldest first."""
    found = Source(data_dir, kept, project, namespace).runs()
    if as_json:
        show_json([run.as_json() for run in found])
    elif found:
        rows = [(run.uuid, run.status, run.project, run.name, run.begun[:19]) for run in found]
        click.echo(table(("id", "status", "project", "name", "begun"), rows))
    else:
        say("There are no runs.")
    return 0


@click.command()
@click.argument("run")
@_as_json
@_project
@source_options
def show(run: str, as_json: bool, project: str | None, data_dir: Path | None, kept: bool, namespace: str | None) -> int:
    """Show a RUN: its status, its configuration, and the course of its metrics.

    RUN is a name, an id or the beginning of that, or: latest.
    """
    from ..studio.sparklines import sparkline

    found = Source(data_dir, kept, project, namespace).run(run)
    numbers = found.rows().numbers()
    if as_json:
        last = {name: {"count": len(points), "last": points[-1][1]} for name, points in numbers.items()}
        show_json({**found.as_json(), "metrics": last})
        return 0
    about = [
        ("run", found.name),
        ("id", found.uuid),
        ("project", f"{found.namespace}/{found.project}" if found.namespace else found.project),
        ("status", found.status + (f": {found.reason}" if found.reason else "")),
        *([("begun", found.begun[:19])] if found.begun else []),
        *([("about", found.description)] if found.description else []),
        *((f"  {name}", short(value)) for name, value in found.config.items()),
    ]
    click.echo(table(*_split(about)))
    if numbers:
        lines = [
            (name, str(len(points)), short(points[-1][1]), sparkline([value for _, value in points]))
            for name, points in numbers.items()
        ]
        click.echo()
        click.echo(table(("metric", "values", "last", "course"), lines))
    return 0


def _split(about: list[tuple[str, str]]) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    return about[0], about[1:]


@click.command(short_help="Show the metrics of a RUN: table, plots, or PNG.")
@click.argument("run")
@click.argument("names", nargs=-1, metavar="[METRIC]...")
@click.option("--last", type=click.IntRange(min=1), default=_SHOWN_STEPS, show_default=True, help="Steps of the table.")
@click.option("--all", "is_all", is_flag=True, help="All steps.")
@click.option("--plot", "is_plot", is_flag=True, help="Plots as text instead of the table.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A plot as picture.")
@_as_json
@_project
@source_options
def metrics(
    run: str,
    names: tuple[str, ...],
    last: int,
    is_all: bool,
    is_plot: bool,
    png: Path | None,
    as_json: bool,
    project: str | None,
    data_dir: Path | None,
    kept: bool,
    namespace: str | None,
) -> int:
    """Show the metrics of a RUN: as a table, as plots in the terminal, or in a PNG file."""
    found = Source(data_dir, kept, project, namespace).run(run)
    rows = found.rows().of_metrics(names)
    known = dict.fromkeys(row["name"] for row in rows)
    absent = [name for name in names if name not in known]
    if absent:
        complain(f"The run {found.name!r} has no metric {' and no '.join(map(repr, absent))}.")
        return FAILED
    if png is not None:
        _draw(rows, found.name, png)
        say(f"Wrote the plot to {png}.")
    elif as_json:
        show_json(rows)
    elif not rows:
        say("Nothing was logged.")
    elif is_plot:
        numbers = rows.numbers()
        for name in list(numbers)[:_PLOTTED] if not names else numbers:
            click.echo(plot(name, numbers[name]))
        if len(numbers) > _PLOTTED and not names:
            say(f"and {len(numbers) - _PLOTTED} more metrics: name those that you want to see.")
        elif not numbers:
            say("There are no numbers among the values.")
    else:
        _print_steps(rows, list(known), None if is_all else last, is_whole=bool(names))
    return 0


def _print_steps(rows: Any, names: list[str], last: int | None, *, is_whole: bool) -> None:
    """A row for each step; of several values of a metric at one step the last."""
    shown = names if is_whole else names[:_SHOWN_COLUMNS]
    steps: dict[int, dict[str, Any]] = {}
    for row in rows:
        steps.setdefault(row["step"], {})[row["name"]] = row["value"]
    chosen = sorted(steps)[-last:] if last is not None else sorted(steps)
    text = _table_of_steps(steps, chosen, shown)
    columns = columns_of_terminal()
    # Lines that the terminal breaks are no table. Metrics that were asked for by name are all shown.
    while columns is not None and not is_whole and len(shown) > 1 and max(map(len, text.splitlines())) > columns:
        shown = shown[:-1]
        text = _table_of_steps(steps, chosen, shown)
    click.echo(text)
    if len(chosen) < len(steps):
        say(f"the last {len(chosen)} of {len(steps)} steps; --all shows them all, `export` writes them to a file.")
    if len(shown) < len(names):
        say(f"and {len(names) - len(shown)} more metrics: {', '.join(names[len(shown) :])}")


def _table_of_steps(steps: dict[int, dict[str, Any]], chosen: list[int], names: list[str]) -> str:
    lines = [
        (str(step), *(short(steps[step][name]) if name in steps[step] else "" for name in names)) for step in chosen
    ]
    return table(("step", *names), lines, numbers_from=0)


def _draw(rows: Any, title: str, path: Path) -> None:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            'A picture needs matplotlib: pip install "tellurio_sync[plot]". `--plot` draws in the terminal without it.'
        ) from exc
    from ..studio.rows import plot as draw

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    draw(rows, (), figure.add_subplot(), title)
    figure.savefig(path, format="png", dpi=150)


@click.command(short_help="Write what a RUN has logged to a file: CSV or JSON lines.")
@click.argument("run")
@click.argument("names", nargs=-1, metavar="[METRIC]...")
@click.option(
    "--csv", type=click.File("w", encoding="utf-8", lazy=True), metavar="FILE", help="Columns: name, step, value."
)
@click.option("--json", "jsonl", type=click.File("w", encoding="utf-8", lazy=True), metavar="FILE", help="JSON lines.")
@_project
@source_options
def export(
    run: str,
    names: tuple[str, ...],
    csv: IO[str] | None,
    jsonl: IO[str] | None,
    project: str | None,
    data_dir: Path | None,
    kept: bool,
    namespace: str | None,
) -> int:
    """Write what a RUN has logged to a file, as CSV or as JSON lines; FILE - is standard output."""
    if csv is None and jsonl is None:
        raise click.UsageError("Name a file: --csv FILE, or --json FILE.")
    rows = Source(data_dir, kept, project, namespace).run(run).rows().of_metrics(names)
    for file, write in ((csv, rows.write_csv), (jsonl, rows.write_jsonl)):
        if file is not None:
            write(file)  # type: ignore[arg-type]  # a text file, which click opens at the first use
            if file.name != "-":
                say(f"Wrote {len(rows)} values to {file.name}.")
    return 0


@click.command(short_help="Send the runs that were kept on this machine.")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing. No server needs to run.")
@click.option("--anyway", is_flag=True, help="Also runs that were begun at another server.")
@_as_json
@server_options
def sync(folder: Path | None, dry_run: bool, anyway: bool, as_json: bool, data_dir: Path | None) -> int:
    """Send the runs that were kept on this machine, or made offline; from FOLDER, or from where they are kept."""
    if dry_run and data_dir is None:
        from ..studio.rest import StudioRest
        from ..studio.sync import sync as look

        results = look(StudioRest(), folder, dry_run=True, anyway=anyway)
    else:
        with logged_in(data_dir) as session:
            results = session.sync(folder, dry_run=dry_run, anyway=anyway)
    if as_json:
        names = ("folder", "run", "project", "server", "unsent_bytes", "outcome", "why")
        show_json([{name: _plain(getattr(result, name)) for name in names} for result in results])
    for result in () if as_json else results:
        why = f": {result.why}" if result.why else ""
        click.echo(
            one_line(f"{result.outcome:<9} {result.run} of {result.project}, {result.unsent_bytes:,} bytes{why}")
        )
    if not results and not as_json:
        say("Nothing is left to send.")
    return FAILED if any(result.outcome in _UNSENT for result in results) else 0


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


@click.command()
@click.argument("run")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Such as report.html."
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the backend keeps its data (default: here, if there are some, else the folder of login(mode='local')).",
)
def report(run: str, output: Path, data_dir: Path | None) -> int:
    """Write a RUN of a local backend into one HTML file, to send round.

    RUN is a name, an id or the beginning of that, or: latest.
    """
    from ..local import check_installed, data_dir_of_this_user

    check_installed()
    from ..backend.page.report import write_report
    from ..backend.snapshot import DATABASE

    if data_dir is None:
        data_dir = Path() if Path(DATABASE).exists() else data_dir_of_this_user()
    name = write_report(data_dir, run, output)
    say(f"Wrote the run {name!r} to {output}.")
    return 0


COMMANDS = (runs, show, metrics, export, sync, report)
