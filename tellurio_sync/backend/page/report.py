"""One run in one file that can be passed on: it needs no network, no server, and no other file."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path

from ...errors import BackendError
from ..passes import from_json
from ..snapshot import Records, find_run, records_of
from ..store import Row
from . import assets
from .comparison import configuration
from .pages import shown_run, total_usage
from .plots import plots
from .queries.metrics import names_of_metrics
from .queries.parameters import parameters, version, versions
from .queries.passes import backward_pass, passes
from .queries.samples import with_answers
from .queries.scores import changed_samples, scores_of_versions
from .queries.usage import usage, usage_by_step
from .render import environment
from .story import Marks, feedback_texts
from .words import compare

METRICS_SHOWN = 40
CHANGES_SHOWN = 60
EXAMPLES_SHOWN = 10

_STYLES = ("style.css", "uPlot.min.css")
_SCRIPTS = (assets.UPLOT, "plots.js")


def write_report(data_dir: Path, run: str, path: Path) -> str:
    """Write a report of a run to ``path``. Returns the run's name. The backend with this data may be running, or not.

    Args:
        data_dir: where a backend keeps its data.
        run: its name, its id or the beginning of that, or "latest".
        path: of the file, which is replaced if it is there.

    Raises:
        BackendError: there is no such data or run, or it is not clear which, or the file cannot be written.
    """
    with records_of(data_dir) as records:
        project, row = _found(records, run)
        text = report(records, project, row)
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as exc:
        raise BackendError(f"The report cannot be written to {path}: {exc.strerror or exc}.") from exc
    return str(row["name"])


def _found(records: Records, run: str) -> tuple[Row, Row]:
    row = find_run(records, run)
    notes = records.read("SELECT tags, notes FROM run_notes WHERE run_uuid = ?", row["uuid"])
    project = records.read("SELECT * FROM projects WHERE uuid = ?", row["project_uuid"])[0]
    tags = json.loads(notes[0]["tags"]) if notes else []
    return project, {**row, "tags": tags, "notes": notes[0]["notes"] if notes else ""}


def report(records: Records, project: Row, run: Row) -> str:
    """The report of a run as HTML."""
    styles, scripts = tuple(map(assets.text_of, _STYLES)), tuple(map(assets.text_of, _SCRIPTS))
    marks = Marks(records, run["uuid"], "")
    # There is no server to ask for more.
    made = plots(records, run, names_of_metrics(records, run["uuid"])[:METRICS_SHOWN], "", marks, is_whole=True)
    for plot in made:
        if plot["best"]:
            plot["best"]["versions"] = [(label, "") for label, _ in plot["best"]["versions"]]
    used = usage(records, run["uuid"])
    kept = passes(records, run["uuid"])
    last = backward_pass(records, run["uuid"], kept[0]["number"]) if kept else None
    return (
        environment()
        .get_template("report.html")
        .render(
            policy=assets.policy_of_file(styles, scripts),
            styles=styles,
            scripts=scripts,
            project=project,
            run=shown_run("", project, run),
            path="",
            configuration=configuration([run], only_different=False),
            plots=made,
            # There is no page to go to.
            marks=[{**mark, "href": ""} for mark in marks.all],
            usage=used,
            used=total_usage(used),
            steps=usage_by_step(records, run["uuid"]),
            stories=[_story(records, run, *one) for one in enumerate(parameters(records, run["uuid"]), 1)],
            svg=from_json(last["graph"]).svg if last else "",
            now=datetime.now(timezone.utc).isoformat(),
        )
    )


def _story(records: Records, run: Row, position: int, newest: Row) -> Row:
    variable_id = newest["variable_id"]
    rows = versions(records, run["uuid"], variable_id)
    numbers, steps = [row["version"] for row in rows], {row["version"]: row["step"] for row in rows}
    scores = scores_of_versions(records, run["uuid"], variable_id)
    pairs = list(pairwise(numbers))
    left_out = max(len(pairs) - CHANGES_SHOWN, 0)
    half = CHANGES_SHOWN // 2
    told = pairs[:half] + pairs[half + left_out :] if left_out else pairs
    return {
        "role": newest["role"],
        "position": position,
        "newest": newest,
        "left_out": left_out,
        "changes": [_change(records, run, variable_id, scores, steps, *pair) for pair in told[::-1]],
    }


def _change(
    records: Records,
    run: Row,
    variable_id: str,
    scores: dict[int, Row],
    steps: dict[int, int | None],
    before: int,
    after: int,
) -> Row:
    earlier = version(records, run["uuid"], variable_id, before)
    later = version(records, run["uuid"], variable_id, after)
    assert earlier is not None
    assert later is not None
    changes = changed_samples(records, run["uuid"], variable_id, before, after)
    broke = [row for row in changes if row["now"] < row["was"]]
    return {
        "version": after,
        "score": scores.get(after),
        "score_before": scores.get(before),
        "words": compare(earlier["value"], later["value"]),
        "texts": feedback_texts(later["feedback"]),
        "step": steps.get(after),
        "broke": len(broke),
        "mended": len(changes) - len(broke),
        "examples": with_answers(records, run["uuid"], broke[:EXAMPLES_SHOWN]),
    }
