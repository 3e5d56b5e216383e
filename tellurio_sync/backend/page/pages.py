"""The content of each page: from an address and the records to the values of a template."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slugify import slugify

from ...graph_picture import Graph
from ..passes import from_json
from ..rest import STATUSES
from ..snapshot import Records
from ..store import Row
from .comparison import MOST_RUNS, comparison, configuration
from .plots import plots
from .queries import metrics
from .queries.parameters import parameters, version_before
from .queries.passes import backward_pass, passes
from .queries.projects import count_of_projects, project, projects
from .queries.runs import Wanted, count_of_runs, metric_columns, run, runs, tags_in_use, values_of
from .queries.samples import (
    WantedSamples,
    count_of_samples,
    found_samples,
    same_sample,
    sample,
    samples,
    with_answers,
)
from .queries.scores import changed_samples
from .queries.usage import usage, usage_by_step
from .render import Html, age, project_path, query, render, run_path, short
from .story import Marks, story
from .words import compare, only_new

PROJECTS_SHOWN = 50
RUNS_PER_PROJECT = 10
RUNS_PER_PAGE = 100
METRICS_PER_RUN = 4
METRICS_SHOWN = 40
SAMPLES_PER_PAGE = 50
# To count more takes too long, above all where each must be looked at.
SAMPLES_COUNTED, SAMPLES_COUNTED_IF_FILTERED = 100_000, 10_000
PURPOSES = ("forward", "judge", "critic", "propagator", "optimizer")

_OTHERS_SHOWN = 50

_NAMED_RUNS = 1000


@dataclass(frozen=True)
class Asked:
    """A request for a page.

    Attributes:
        names: those in the path.
        query: the rest of the address.
        revision: of the records.
        root: from this page, the address of all pages.
    """

    names: Mapping[str, str]
    query: Mapping[str, str]
    lists: Mapping[str, list[str]]
    revision: str
    root: str = "./"

    def number(self, name: str, default: int, *, least: int = 1, most: int = 10**9) -> int:
        """A number in the query; the default if it is not a number."""
        text = self.query.get(name, "")
        return min(max(int(text), least), most) if text.isascii() and text.isdigit() and len(text) < 19 else default


class NotFound(Exception):
    """There is no such page; the text says what is missing."""


def key_form(problem: str = "") -> Html:
    """The page for a request without the key."""
    return render("key.html", title="Key", problem=problem, revision=None, has_plots=False)


def notice(title: str, sentence: str, root: str) -> Html:
    """A page that says why there is no such page."""
    return render("notice.html", title=title, sentence=sentence, root=root, revision=None, has_plots=False)


# --- projects -----------------------------------------------------------------------------------


def overview(records: Records, asked: Asked) -> Html:
    """All projects, with their latest runs."""
    parts = []
    for found in projects(records, PROJECTS_SHOWN):
        rows = runs(records, found["uuid"], Wanted(), limit=RUNS_PER_PROJECT)
        where = metric_columns(records, found["uuid"])[:METRICS_PER_RUN]
        parts.append(
            {
                "project": found,
                "path": project_path(asked.root, found),
                "runs": [shown_run(asked.root, found, row) for row in rows],
                "where": where,
                "columns": _columns(where),
                "found": values_of(records, found["uuid"], rows, where),
            }
        )
    return _page("projects.html", asked, title="Projects", parts=parts, total=count_of_projects(records))


def project_page(records: Records, asked: Asked) -> Html:
    """The runs of one project."""
    found = _project(records, asked)
    wanted = Wanted(
        search=asked.query.get("q", "").strip(),
        status=asked.query.get("status", ""),
        tag=asked.query.get("tag", ""),
        sort=asked.query.get("sort", "started"),
        is_up=asked.query.get("up") == "1",
    )
    page = asked.number("page", 1)
    total = count_of_runs(records, found["uuid"], wanted)
    rows = runs(records, found["uuid"], wanted, limit=RUNS_PER_PAGE, offset=(page - 1) * RUNS_PER_PAGE)
    all_metrics = metric_columns(records, found["uuid"])
    chosen = asked.lists.get("metric", [])
    where = [name for name in all_metrics if name in chosen] or all_metrics[:METRICS_PER_RUN]
    described = {
        "q": wanted.search,
        "status": wanted.status,
        "tag": wanted.tag,
        "sort": wanted.sort,
        "up": "1" if wanted.is_up else "",
        "metric": chosen,
    }
    return _page(
        "project.html",
        asked,
        title=found["display_name"],
        project=found,
        path=project_path(asked.root, found),
        wanted=wanted,
        searched=described,
        statuses=STATUSES,
        tags=tags_in_use(records, found["uuid"]),
        all_metrics=all_metrics,
        where=where,
        runs=[shown_run(asked.root, found, row) for row in rows],
        columns=_columns(where, wanted, described),
        values=values_of(records, found["uuid"], rows, where),
        total=total,
        total_runs=count_of_runs(records, found["uuid"], Wanted()),
        is_filtered=bool(wanted.search or wanted.status or wanted.tag),
        page=page,
        first=(page - 1) * RUNS_PER_PAGE + 1,
    )


def compare_page(records: Records, asked: Asked) -> Html:
    """Several runs of a project side by side."""
    found = _project(records, asked)
    chosen = list(dict.fromkeys(asked.lists.get("run", [])))[:MOST_RUNS]
    rows = [row for uuid in chosen if (row := run(records, found["uuid"], uuid)) is not None]
    rows = [shown_run(asked.root, found, row) for row in rows]
    metrics, only_different = asked.lists.get("metric", []), asked.query.get("different") == "1"
    return _page(
        "compare.html",
        asked,
        scripts=("live.js", "plots.js"),
        has_plots=True,
        title=f"Runs of {found['display_name']}",
        project=found,
        path=project_path(asked.root, found),
        searched={"run": chosen, "metric": metrics, "different": "1" if only_different else None},
        **comparison(records, asked.root, found, rows, metrics, only_different=only_different),
    )


def _columns(where: list[str], wanted: Wanted | None = None, described: Row | None = None) -> list[Row]:
    """The heads of a table of runs; with ``wanted`` each is a link that sorts by it."""
    heads = [("Run", "name"), ("Status", "status"), ("Started", "started"), ("Took", "duration")]
    heads += [(name, f"metric:{name}") for name in where]
    columns = []
    for label, key in heads:
        column = {"label": label, "is_number": key == "duration" or ":" in key, "sorted": None, "address": None}
        if wanted is not None and described is not None:
            is_here = wanted.sort == key
            # The second click turns the order round. Names start with A, everything else with the largest.
            is_up = not wanted.is_up if is_here else key in ("name", "status")
            column["address"] = query(described, sort=key, up="1" if is_up else "")
            column["sorted"] = ("ascending" if wanted.is_up else "descending") if is_here else None
        columns.append(column)
    return columns


# --- a run --------------------------------------------------------------------------------------


def run_page(records: Records, asked: Asked) -> Html:
    """One run: its metrics and its parameters."""
    found, row = run_of(records, asked)
    names, path = metrics.names_of_metrics(records, row["uuid"]), run_path(asked.root, found, row)
    marks = Marks(records, row["uuid"], path)
    used = usage(records, row["uuid"])
    return _page(
        "run.html",
        asked,
        scripts=("live.js", "plots.js"),
        has_plots=True,
        **_about_run(asked.root, found, row, ""),
        plots=plots(records, row, names[:METRICS_SHOWN], path, marks),
        more_metrics=len(names) > METRICS_SHOWN,
        marks=marks.all,
        usage=used,
        used=total_usage(used),
        steps=usage_by_step(records, row["uuid"]),
        configuration=configuration([row], only_different=False),
        parameters=[_parameter(records, path, row, *one) for one in enumerate(parameters(records, row["uuid"]), 1)],
    )


def total_usage(used: list[Row]) -> Row:
    names = ("questions", "cached", "errors", "retries", "prompt_tokens", "completion_tokens", "cost", "unpriced")
    return {name: sum(row[name] for row in used) for name in names}


def _parameter(records: Records, path: str, run: Row, position: int, newest: Row) -> Row:
    before = version_before(records, run["uuid"], newest["variable_id"], newest["version"])
    words = compare(before["value"] if before else newest["value"], newest["value"])
    return {**newest, "words": only_new(words), "path": f"{path}prompts/{position}/"}


def _about_run(root: str, project: Row, run: Row, here: str) -> Row:
    """The part that all pages of a run have; ``here`` is the part that is shown."""
    path = run_path(root, project, run)
    return {
        "title": run["name"],
        "project": project,
        "project_path": project_path(root, project),
        "run": shown_run(root, project, run),
        "path": path,
        "run_parts": [(label, path + part, part == here) for label, part in _PARTS],
    }


_PARTS = (("Overview", ""), ("Samples", "samples/"), ("Graph", "graph/"))


def shown_run(root: str, project: Row, run: Row) -> Row:
    is_over = run["status"] != "RUNNING"
    return {
        **run,
        "path": run_path(root, project, run),
        "took": age(run["date_created"], run["date_updated"] if is_over else None),
    }


# --- a prompt, and what was asked -------------------------------------------------------------------


def story_page(records: Records, asked: Asked) -> Html:
    """The story of one parameter."""
    found, row = run_of(records, asked)
    position = _position(asked.names["position"])
    wanted = {
        "version": asked.number("version", 0, least=0),
        "against": asked.number("against", 0, least=0),
        "metric": asked.query.get("metric"),
    }
    values = story(records, row, run_path(asked.root, found, row), position, wanted)
    if values is None:
        raise NotFound("There is no such parameter.")
    return _page(
        "story.html",
        asked,
        scripts=("live.js", "plots.js"),
        has_plots=True,
        **{**_about_run(asked.root, found, row, f"prompts/{position}/"), "title": f"Prompt of {row['name']}"},
        **values,
    )


def samples_page(records: Records, asked: Asked) -> Html:
    """The questions of a run."""
    found, row = run_of(records, asked)
    position = asked.number("prompt", 1)
    prompts = parameters(records, row["uuid"])
    variable_id = prompts[position - 1]["variable_id"] if position <= len(prompts) else ""
    version, before = asked.number("version", 0, least=0), asked.number("before", 0, least=0)
    change = asked.query.get("change", "")
    problem, changes = "", None
    if change in ("broke", "mended"):
        after = version or (prompts[position - 1]["version"] if variable_id else 0)
        changes = changed_samples(records, row["uuid"], variable_id, before or after - 1, after)
        changes = [one for one in changes if (one["now"] < one["was"]) == (change == "broke")]
        if after < 2:
            problem = "Choose a version from 2 on: what a change broke shows between two versions of a prompt."
    wanted = WantedSamples(
        purpose=asked.query.get("purpose", ""),
        state=asked.query.get("state", ""),
        variable_id=variable_id,
        version=0 if changes is not None else version,
        numbers=None if changes is None else tuple(one["now_question"] for one in changes),
    )
    text, page, below = asked.query.get("q", "").strip(), asked.number("page", 1), asked.number("below", 0, least=0)
    total, counted, goes_on = 0, 0, 0
    if text:
        rows, goes_on = found_samples(records, row["uuid"], wanted, text, limit=SAMPLES_PER_PAGE, below=below)
    else:
        counted = SAMPLES_COUNTED_IF_FILTERED if wanted.state else SAMPLES_COUNTED
        total = count_of_samples(records, row["uuid"], wanted, counted)
        rows = samples(records, row["uuid"], wanted, limit=SAMPLES_PER_PAGE, offset=(page - 1) * SAMPLES_PER_PAGE)
    if changes is not None:
        by_number = {one["now_question"]: one for one in with_answers(records, row["uuid"], changes)}
        rows = [{**one, **by_number[one["number"]]} for one in rows]
    searched = {
        "purpose": wanted.purpose,
        "state": wanted.state,
        "q": text,
        "prompt": asked.query.get("prompt", ""),
        "version": version or "",
        "change": change,
        "before": before or "",
    }
    return _page(
        "samples.html",
        asked,
        **{**_about_run(asked.root, found, row, "samples/"), "title": f"Samples of {row['name']}"},
        purposes=PURPOSES,
        states=("right", "wrong", "error"),
        wanted=wanted,
        prompts=[one["role"] or f"parameter {i}" for i, one in enumerate(prompts, 1)],
        prompt=position,
        version=version,
        before=before,
        change=change,
        problem=problem,
        rows=rows,
        has_prices=any(one["cost"] for one in rows),
        text=text,
        below=below,
        goes_on=goes_on,
        total=total,
        counted=counted,
        page=page,
        first=(page - 1) * SAMPLES_PER_PAGE + 1,
        searched=searched,
        is_filtered=any(searched.values()),
    )


def sample_page(records: Records, asked: Asked) -> Html:
    """One question."""
    found, row = run_of(records, asked)
    shown = sample(records, row["uuid"], _position(asked.names["number"]))
    if shown is None:
        raise NotFound("This sample is not kept, or not any more.")
    path = run_path(asked.root, found, row)
    prompts = []
    for position, parameter in enumerate(parameters(records, row["uuid"]), 1):
        version = shown["prompts"].get(parameter["variable_id"])
        if version is not None:
            label = f"{short(parameter['role'] or 'prompt', 40)}, version {version}"
            prompts.append((label, f"{path}prompts/{position}/?version={version}"))
    return _page(
        "sample.html",
        asked,
        **{**_about_run(asked.root, found, row, ""), "title": f"Sample of {row['name']}"},
        sample=shown,
        prompts=prompts,
        others=same_sample(records, row["uuid"], shown, _OTHERS_SHOWN),
    )


def graph_page(records: Records, asked: Asked) -> Html:
    """One backward pass of a run as a picture."""
    found, row = run_of(records, asked)
    kept = passes(records, row["uuid"])
    number = asked.number("pass", kept[0]["number"] if kept else 0)
    shown = backward_pass(records, row["uuid"], number)
    if kept and shown is None:
        raise NotFound("This backward pass is not kept, or not any more.")
    graph = from_json(shown["graph"]) if shown else Graph([], [])
    zoom = asked.number("zoom", 100, least=10, most=400)
    return _page(
        "graph.html",
        asked,
        **{**_about_run(asked.root, found, row, "graph/"), "title": f"Graph of {row['name']}"},
        svg=_zoomed(graph.svg, zoom) if shown else "",
        passes=kept,
        number=number,
        zoom=zoom,
        arrows=graph.arrows,
        has_feedback=any(arrow.feedback for arrow in graph.arrows),
        labels={box.key: box.label for box in graph.boxes},
    )


def _zoomed(svg: str, percent: int) -> str:
    def scaled(found: re.Match[str]) -> str:
        return f'{found[1]}="{int(found[2]) * percent // 100}"'

    return re.sub(r'(?<= )(width|height)="(\d+)"', scaled, svg, count=2)


def _position(text: str) -> int:
    """A number in a path; 0 for what is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


# --- what an address names --------------------------------------------------------------------------


def _project(records: Records, asked: Asked) -> Row:
    found = project(records, asked.names["namespace"], asked.names["project"])
    if found is None:
        raise NotFound("There is no such project.")
    return found


def run_of(records: Records, asked: Asked) -> tuple[Row, Row]:
    """The project and the run of a path: the run with this uuid, or the latest whose name makes this path.

    Raises:
        NotFound: there is none.
    """
    found, name = _project(records, asked), asked.names["run"]
    row = run(records, found["uuid"], name)
    if row is None:
        latest = runs(records, found["uuid"], Wanted(), limit=_NAMED_RUNS)
        row = next((run for run in latest if slugify(run["name"]) == name), None)
    if row is None:
        raise NotFound("There is no such run.")
    return found, row


def _page(
    template: str, asked: Asked, *, scripts: tuple[str, ...] = ("live.js",), has_plots: bool = False, **values: Any
) -> Html:
    styles = ("style.css", "uPlot.min.css") if has_plots else ("style.css",)
    frame = {"root": asked.root, "revision": asked.revision, "has_plots": has_plots}
    return render(template, scripts=scripts, styles=styles, **frame, **values)
