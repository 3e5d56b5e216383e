"""What the pages say. Each function makes one page, or one part of one, from the store's records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..store import Row, Store
from .assets import ICON, SCRIPT, STYLE
from .markup import Content, Html, join, tag
from .plot import line_plot, number
from .queries.series import Point, is_number, series

PROJECTS_SHOWN = 50
RUNS_PER_PROJECT = 10
RUNS_SHOWN = 200
METRICS_PER_RUN = 4
METRICS_SHOWN = 40
COLUMNS_OF_PLOT = 500
VALUES_IN_TABLE = 50
CHARS_OF_DESCRIPTION = 2000


def document(title: str, main: Html, revision: str | None) -> str:
    """A whole page; with a ``revision`` it has the script that keeps it up to date."""
    live = None
    if revision is not None:
        live = join(
            tag("footer", tag("p", "Reload this page to see what is new.", id="live", role="status")),
            tag("script", Html(SCRIPT)),
        )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", f"{title} · Tellurio, local"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href=ICON),
        tag("style", Html(STYLE)),
    )
    page = tag("html", head, tag("body", tag("main", main), live), lang="en", data_revision=revision)
    return f"<!doctype html>{page}"


def key_form(problem: str = "") -> Html:
    """What those see who did not bring the key."""
    return tag(
        "div",
        tag("h1", "Tellurio, local"),
        tag("p", "These pages show the projects and runs of this backend to those who have its key."),
        tag(
            "form",
            tag("label", "Key of this backend", for_="key"),
            tag("input", id="key", name="key", type="password", autofocus=True, autocomplete="current-password"),
            " ",
            tag("button", "Show"),
            tag("p", problem, class_="problem", role="alert") if problem else None,
            method="post",
        ),
        class_="entry",
    )


def notice(title: str, sentence: str) -> Html:
    """A page that says why there is none."""
    return join(tag("h1", title), tag("p", sentence), tag("p", _link("/", "All projects")))


# --- projects -----------------------------------------------------------------------------------


def overview(store: Store) -> Html:
    """All projects, with their latest runs."""
    projects = store.projects()[::-1]
    parts = [_project_part(store, project) for project in projects[:PROJECTS_SHOWN]]
    if not parts:
        parts = [_part("none", "p", "There are no projects yet. A client's first run makes one.", class_="soft")]
    return join(tag("h1", "Projects"), *parts, _left_out(len(projects), PROJECTS_SHOWN, "projects"))


def _project_part(store: Store, project: Row) -> Html:
    path = project_path(project)
    title = tag("h2", tag("span", f"{project['namespace']} / ", class_="soft"), _link(path, project["display_name"]))
    runs = store.latest_runs(project["uuid"], RUNS_PER_PROJECT)
    total = store.run_count(project["uuid"])
    more = f"All {total} runs" if total > len(runs) else None
    table = tag("div", _runs_table(store, project, runs), more and tag("p", _link(path, more)), class_="card wide")
    return _part(project["uuid"], "section", title, table)


def project_page(store: Store, project: Row) -> Html:
    """The runs of one project."""
    runs = store.latest_runs(project["uuid"], RUNS_SHOWN)
    return join(
        tag("nav", _link("/", "Projects"), tag("span", "/"), project["namespace"], aria_label="Path"),
        tag("h1", project["display_name"]),
        _part("runs", "div", _runs_table(store, project, runs), class_="card wide"),
        _left_out(store.run_count(project["uuid"]), RUNS_SHOWN, "runs"),
    )


def _runs_table(store: Store, project: Row, runs: list[Row]) -> Html:
    if not runs:
        return tag("p", "No runs yet.", class_="soft")
    heads = (tag("th", head, scope="col") for head in ("Run", "Status", "Started", "Metrics, last values"))
    rows = (
        tag(
            "tr",
            tag("td", _link(run_path(project, run), run["name"])),
            tag("td", _status(run)),
            tag("td", _time(run["date_created"])),
            tag("td", _last_values(store, run)),
        )
        for run in runs
    )
    return tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))


def _last_values(store: Store, run: Row) -> Html:
    summaries = store.metric_summaries(run["uuid"], METRICS_PER_RUN)
    # A space in between: there, and only there, the line may break.
    values = (
        tag("span", f"{_short(row['name'], 40)} ", tag("b", _shown(row["last"])), class_="soft") for row in summaries
    )
    return join(*(join(value, " ") for value in values))


# --- a run --------------------------------------------------------------------------------------


def run_page(store: Store, project: Row, run: Row) -> Html:
    """One run: its metrics and its parameters."""
    summaries = store.metric_summaries(run["uuid"], METRICS_SHOWN + 1)
    metrics = [_metric(store, run, summary["name"]) for summary in summaries[:METRICS_SHOWN]]
    parameters = [_parameter(versions) for versions in store.parameters(run["uuid"])]
    return join(
        tag(
            "nav",
            *(_link("/", "Projects"), tag("span", "/"), project["namespace"], tag("span", "/")),
            _link(project_path(project), project["display_name"]),
            aria_label="Path",
        ),
        tag("h1", run["name"]),
        _part("facts", "div", _facts(run)),
        tag("h2", "Metrics"),
        tag("div", *metrics, class_="plots") if metrics else tag("p", "No metrics yet.", class_="soft"),
        tag("p", f"Only {METRICS_SHOWN} metrics are shown.", class_="soft") if len(summaries) > METRICS_SHOWN else None,
        tag("h2", "Parameters"),
        tag("div", *parameters, class_="stack") if parameters else tag("p", "No parameters yet.", class_="soft"),
    )


def _facts(run: Row) -> Html:
    return join(
        tag(
            "div",
            _status(run),
            tag("span", "started ", _time(run["date_created"]), class_="soft"),
            None if run["status"] == "RUNNING" else tag("span", "ended ", _time(run["date_updated"]), class_="soft"),
            class_="facts",
        ),
        tag("p", _short(run["description"], CHARS_OF_DESCRIPTION)) if run["description"] else None,
    )


def _metric(store: Store, run: Row, name: str) -> Html:
    rows = store.latest_metrics(run["uuid"], name, VALUES_IN_TABLE)
    total = store.metric_count(run["uuid"], name)
    points = series(store, run["uuid"], name, COLUMNS_OF_PLOT)
    head = tag(
        "div",
        tag("h3", name),
        tag("span", number(points[-1].value), class_="now") if points else None,
        class_="head",
    )
    is_thinned = total > 2 * COLUMNS_OF_PLOT
    left_out = f"{total} values; the lowest and the highest of every span are drawn." if is_thinned else None
    return _part(
        f"metric {name}",
        "article",
        head,
        line_plot(points, _in_words(name, points)) if points else None,
        tag("p", left_out, class_="soft") if left_out else None,
        _values_table(name, rows, total, is_open=not points),
        class_="card",
    )


def _in_words(name: str, points: Sequence[Point]) -> str:
    values = [point.value for point in points]
    first, last = points[0], points[-1]
    return (
        f"{name}: {number(first.value)} at step {first.step}, {number(last.value)} at step {last.step}; "
        f"lowest {number(min(values))}, highest {number(max(values))}"
    )


def _values_table(name: str, rows: list[Row], total: int, *, is_open: bool) -> Html:
    label = "Values" if len(rows) == total else f"The last {len(rows)} values"
    lines = (tag("tr", tag("td", row["step"]), tag("td", _shown(row["value"]), class_="number")) for row in rows[::-1])
    heads = tag("tr", tag("th", "step", scope="col"), tag("th", "value", scope="col", class_="number"))
    table = tag("table", tag("thead", heads), tag("tbody", *lines))
    return tag("details", tag("summary", label), table, id=f"values {name}", open=is_open)


def _parameter(versions: list[Row]) -> Html:
    """A parameter, from its versions, newest first."""
    newest, earlier = versions[0], versions[1:]
    before = set(earlier[0]["value"].splitlines()) if earlier else None
    about = f"version {newest['version']}, since " if earlier else "as it began, "
    marked = ", new lines marked" if before is not None else None
    facts = tag("span", about, _time(newest["date_created"]), marked, class_="soft")
    return _part(
        f"parameter {newest['variable_id']}",
        "article",
        tag("div", tag("h3", newest["role"] or "parameter without a role"), facts, class_="head"),
        _prose(newest["value"], before),
        _earlier(newest["variable_id"], earlier) if earlier else None,
        class_="card",
    )


def _prose(value: str, before: set[str] | None) -> Html:
    """A text; lines that were not in ``before`` are marked as new."""
    if not value:
        return tag("p", "empty", class_="soft")
    if before is None:
        return tag("div", value, class_="prose")
    lines = (tag("span" if line in before or not line.strip() else "ins", line) for line in value.splitlines())
    return tag("div", *lines, class_="prose")


def _earlier(variable_id: str, versions: list[Row]) -> Html:
    texts: list[Html] = []
    for row in versions:
        texts.append(tag("p", f"version {row['version']}, ", _time(row["date_created"]), class_="soft"))
        texts.append(_prose(row["value"], None))
    return tag("details", tag("summary", "Earlier values"), *texts, id=f"earlier {variable_id}")


# --- small things ---------------------------------------------------------------------------------


def project_path(project: Row) -> str:
    """Where the page of a project is."""
    return f"/{project['namespace']}/projects/{project['slug']}/"


def run_path(project: Row, run: Row) -> str:
    """Where the page of a run is."""
    return f"{project_path(project)}runs/{run['uuid']}/"


def _part(part: str, name: str, *content: Content, class_: str | None = None) -> Html:
    """A part of a page that the script replaces when it has changed."""
    return tag(name, *content, class_=class_, data_part=part)


def _link(path: str, label: str) -> Html:
    return tag("a", label, href=path)


def _status(run: Row) -> Html:
    return tag("span", run["status"].lower(), class_=f"status {run['status']}")


def _time(iso: str) -> Html:
    return tag("time", f"{iso[:10]} {iso[11:19]} UTC", datetime=iso)


def _left_out(total: int, shown: int, what: str) -> Html | None:
    return tag("p", f"The latest {shown} of {total} {what} are shown.", class_="soft") if total > shown else None


def _shown(value: Any) -> str:
    if is_number(value):
        return number(value)
    return _short(value if isinstance(value, str) else str(value), 200)


def _short(value: str, limit: int) -> str:
    return value if len(value) <= limit else f"{value[:limit]} … ({len(value) - limit} more characters)"
