"""The files that the pages offer for download, and the data that their plots fetch for a closer look."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import NamedTuple

from ..passes import from_json
from ..snapshot import Records
from ..store import Row
from .comparison import drawn_together
from .pages import Asked, NotFound, run_of
from .plots import columns_for, drawn
from .queries.parameters import parameters, version
from .queries.passes import backward_pass
from .queries.runs import run
from .queries.series import line_of, values
from .render import visible
from .report import report
from .story import Marks, export

# The most runs that can be drawn into one plot.
_MOST_RUNS = 100


class File(NamedTuple):
    """What is sent. ``name`` is the name of the file to save; None: it is shown in the page."""

    content: bytes
    media_type: str
    name: str | None


def version_file(records: Records, asked: Asked) -> File:
    """One version of a parameter, as text, Markdown or JSON."""
    _, row = run_of(records, asked)
    position, number, form = (asked.names[name] for name in ("position", "version", "form"))
    found = parameters(records, row["uuid"])
    if not (position.isdigit() and 1 <= int(position[:9]) <= len(found) and number.isdigit() and form in _FORMS):
        raise NotFound("There is no such version.")
    parameter = found[int(position) - 1]
    shown = version(records, row["uuid"], parameter["variable_id"], int(number[:18]))
    if shown is None:
        raise NotFound("There is no such version.")
    text, media_type = export(parameter["role"], shown, form)
    return File(text.encode(errors="replace"), media_type, f"{_file_name(parameter['role'])}_v{number}.{form}")


_FORMS = ("txt", "md", "json")


def graph_file(records: Records, asked: Asked) -> File:
    """One backward pass as SVG or DOT."""
    _, row = run_of(records, asked)
    shown = backward_pass(records, row["uuid"], asked.number("pass", 0))
    form = asked.names["form"]
    if shown is None or form not in ("svg", "dot"):
        raise NotFound("There is no such graph.")
    graph = from_json(shown["graph"])
    if form == "dot":
        return File(graph.dot.encode(), "text/vnd.graphviz", "graph.dot")
    return File(graph.svg.encode(), "image/svg+xml", "graph.svg")


def report_file(records: Records, asked: Asked) -> File:
    """One run in one file."""
    project, row = run_of(records, asked)
    return File(report(records, project, row).encode(errors="replace"), "text/html", f"{_file_name(row['name'])}.html")


def values_file(records: Records, asked: Asked) -> File:
    """All values of one metric, of this run or of several, as CSV."""
    rows, name = _runs(records, asked), asked.query.get("metric", "")
    text = io.StringIO()
    writer = csv.writer(text)
    is_one = len(rows) == 1
    writer.writerow(["step", "value"] if is_one else ["run", "step", "value"])
    for row in rows:
        for step, value in values(records, row["uuid"], name):
            shown = value if isinstance(value, (int, float)) and not isinstance(value, bool) else json.dumps(value)
            writer.writerow([step, shown] if is_one else [_harmless(row["name"]), step, shown])
    return File(text.getvalue().encode(errors="replace"), "text/csv", f"{_file_name(name)}.csv")


def series_file(records: Records, asked: Asked) -> File:
    """One metric in a span of steps, of this run or of several, thinned out to what can be seen.

    With ``axis`` "t" (time) or "v" (version of the prompt) each run has that instead of common steps.
    """
    rows, name, axis = _runs(records, asked), asked.query.get("metric", ""), asked.query.get("axis", "")
    span = (asked.number("from", 0, least=0, most=2**63 - 1), asked.number("to", 2**63 - 1, most=2**63 - 1))
    columns = columns_for(len(rows))
    if len(rows) > 1 and not axis:
        found = drawn_together(records, rows, name, span)
    else:
        each = [
            drawn(
                *(records, row, line_of(records, row["uuid"], name), Marks(records, row["uuid"], "")),
                *(columns, span, (axis,)),
            )
            for row in rows
        ]
        found = {**each[0], "runs": [one["runs"][0] for one in each]}
    return File(json.dumps(found, separators=(",", ":")).encode(), "application/json", None)


def _runs(records: Records, asked: Asked) -> list[Row]:
    project, row = run_of(records, asked)
    chosen = asked.lists.get("run", [])[:_MOST_RUNS]
    found = [run(records, project["uuid"], run_uuid) for run_uuid in chosen]
    return [one for one in found if one is not None] or [row]


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")[:80] or "values"


# What a spreadsheet may take for the begin of a formula, after white space too; the last four are those of East Asia.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")


def _harmless(text: str) -> str:
    # Control characters become visible, too: before Python 3.11 the module csv cannot write NUL.
    return str(visible(f"'{text}" if _FORMULA.match(text) else text))
