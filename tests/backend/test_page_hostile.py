"""Hostile names and data stay text: whatever they are, every page, picture, file and report has the same structure."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.backend.history import History
from tellurio_sync.backend.page import files, pages
from tellurio_sync.backend.page.changes import Changes
from tellurio_sync.backend.page.pages import Asked
from tellurio_sync.backend.page.report import report
from tellurio_sync.backend.passes import as_json
from tellurio_sync.backend.question_log import Forward, asking, sample_of
from tellurio_sync.backend.questions import Answer
from tellurio_sync.backend.questions import Asked as Question
from tellurio_sync.backend.snapshot import Snapshot
from tellurio_sync.backend.store import Store
from tellurio_sync.graph_picture import Arrow, Box, Graph

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)' x='",
    "</script></style></title></textarea></select><svg onload=alert(1)>",
    "<!--<script>",
    "]]></title><![CDATA[<b>",
    "&lt;b&gt;&#60;i&#62;&amp",
    "{{ 7*7 }}{% raw %}${7*7}#{7}",
    "<base href=//evil.example>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<a href=javascript:alert(1)>",
    "\u2028\u2029</script>",
    "x\x00y\x1b[31m\u202egpj\ufeff",
    "<tellurio-plot data-x=1></tellurio-plot>",
    "<form action=//evil.example><input name=action value=delete>",
    "__proto__",
    "constructor",
    "🏴\u200d☠️" * 20,
    "%0d%0aSet-Cookie: a=b",
    "=HYPERLINK('http://evil.example')",
)


LINKS = re.compile(r"\.\.?/(?![/\\])|\?|[a-z.]+\?|versions/|report\.html|data:image/svg\+xml,|change/|$")


class Structure(HTMLParser):
    """Tags and the names of their attributes, and those values that do something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Any] = []
        self.links: list[str] = []
        self.scripts: list[str] = []
        self._is_in_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, sorted(name for name, _ in attrs)))
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action", "formaction")]
        self._is_in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self.found.append(f"/{tag}")
        self._is_in_script = False

    def handle_data(self, data: str) -> None:
        if self._is_in_script:
            self.scripts.append(data)

    def handle_comment(self, data: str) -> None:
        self.found.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.found.append(decl)

    def unknown_decl(self, data: str) -> None:
        self.found.append("declaration")


def made_with(text: str, folder: Path) -> tuple[Snapshot, dict[str, Any], dict[str, Any], list[tuple[str, Any]]]:
    """A project in which this text stands wherever a user, a program or a model can put one; and its pages."""
    store = Store(folder)
    history = History(store)
    project = store.create_project("local", "p", f"P {text}", "TEAM")
    assert project is not None
    uuids = []
    for _ in range(2):
        config = {text: text, "nested": {f"n {text}": [text]}}
        row = store.create_run(project["uuid"], text, f"about {text}", "RUNNING", config=config)
        assert row is not None
        uuids.append(row["uuid"])
        for step in range(3):
            store.add_metric(row["uuid"], f"m {text}", 0.5 * step, step)
            store.add_metric(row["uuid"], f"t {text}", {text: [text]}, step)
    uuid = uuids[0]
    for version in range(3):
        feedback = [f"<ITEM>do {text}</ITEM>"]
        history.versions.note(uuid, f"id {text}", text, f"{text} {'better ' * version}", "step", feedback, version + 1)
        for sample in range(2):
            forward = Forward(
                lambda _, version=version, sample=sample: sample_of(sample, {f"id {text}": version + 1})  # type: ignore[misc]
            )
            with asking(forward):
                history.questions.note(question(uuid, text))
            history.questions.note_answers("a", forward.numbers)
            history.questions.note_scores("a", [(float((version + sample) % 2), f"because {text}")])
    history.questions.note(question(uuid, text, error=f"failed {text}"))
    history.passes.note(
        uuid, Graph([Box("a", "parameter", text, text), Box("b", "function", text)], [Arrow("a", "b", text)])
    )
    Changes(store, history).describe(
        project, {**project, "uuid": uuid}, f"{text.replace(',', '')}, tag", f"note {text}"
    )
    store.update_run(uuid, "CRASHED", reason=f"why {text}")
    store.close()
    names = {"namespace": "local", "project": "p", "run": uuid, "position": "1", "number": "1"}

    def asked(**query: Any) -> Asked:
        lists = {name: value if isinstance(value, list) else [value] for name, value in query.items()}
        return Asked({**names, "form": "svg"}, {name: value[0] for name, value in lists.items()}, lists, "1")

    shown = [
        (f"{make.__name__} {list(query)}", (make, asked(**query)))
        for make, query in (
            (pages.overview, {}),
            (pages.project_page, {}),
            (pages.project_page, {"q": text, "sort": f"metric:m {text}", "metric": [f"m {text}"]}),
            (pages.compare_page, {"run": uuids}),
            (pages.compare_page, {"run": uuids, "different": "1", "metric": [text]}),
            (pages.run_page, {}),
            (pages.story_page, {}),
            (pages.story_page, {"version": "2", "against": "1", "metric": f"m {text}"}),
            (pages.samples_page, {}),
            (pages.samples_page, {"q": text, "purpose": text, "state": text}),
            (pages.samples_page, {"change": "broke", "version": "2"}),
            (pages.sample_page, {}),
            (pages.graph_page, {}),
        )
    ]
    return Snapshot(folder / "tellurio.sqlite3"), {**project}, {**names}, shown


def question(run: str, text: str, error: str | None = None) -> Question:
    answer = Answer(f"answer {text}", f"thought {text}", usage={}, cost=None)
    return Question(
        purpose="forward",
        run_uuid=run,
        model_id="m",
        model_name=f"model {text}",
        endpoint="",
        sample=0,
        messages=[{"role": f"role {text}", "content": text}, {"role": "user", "content": [{"text": text}]}],
        completion_args={},
        answer=None if error else answer,
        error=error,
        error_kind="refused" if error else None,
        tries=2,
        started_at=9e9,
        seconds=0.3,
        cost=None,
    )


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The structure of each page with a text that is as harmless as can be."""
    with (found := made_with("harmless", tmp_path_factory.mktemp("harmless")))[0] as records:
        made = {name: Structure(make(records, asked)).found for name, (make, asked) in found[3]}
        made["report"] = Structure(report(records, *whole(records, found[2]))).found
    return made


def whole(records: Snapshot, names: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return pages.run_of(records, Asked(names, {}, {}, "1"))


@pytest.mark.parametrize("text", HOSTILE)
def test_every_page_is_made_as_with_harmless_texts(text: str, harmless: dict[str, list[Any]], tmp_path: Path) -> None:
    records, _, names, shown = made_with(text, tmp_path)
    with records:
        made = {name: make(records, asked) for name, (make, asked) in shown}
        made["report"] = report(records, *whole(records, names))
    for name, page in made.items():
        structure = Structure(page)
        assert structure.found == harmless[name], name
        for link in structure.links:
            assert LINKS.match(link), (name, link)
        for script in structure.scripts:
            assert "alert(1)" not in script or script.lstrip().startswith(("{", "[")), "data, in a block of JSON"
            if script.lstrip().startswith(("{", "[")):
                json.loads(script)
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202e\ufeff]", page), name


@pytest.mark.parametrize("text", HOSTILE)
def test_every_picture_and_file_is_whole(text: str, tmp_path: Path) -> None:
    records, _, names, _ = made_with(text, tmp_path)
    with records:
        (one,) = records.read("SELECT number FROM passes")
        query = {"pass": str(one["number"])}
        svg = files.graph_file(records, Asked({**names, "form": "svg"}, query, {}, "1")).content.decode()
        dot = files.graph_file(records, Asked({**names, "form": "dot"}, query, {}, "1")).content.decode()
        tags = [element.tag.rpartition("}")[2] for element in ET.fromstring(svg).iter()]
        assert set(tags) <= {"svg", "title", "g", "rect", "text", "path"}
        assert not [name for element in ET.fromstring(svg).iter() for name in element.attrib if name.startswith("on")]
        assert dot.count("\n") == 6, "a line per node and arrow, whatever stands in them"
        for form in ("txt", "md", "json"):
            file = files.version_file(records, Asked({**names, "version": "2", "form": form}, {}, {}, "1"))
            assert file.name is not None
            assert re.fullmatch(r"[A-Za-z0-9._-]+", file.name), "it goes into a header"
        runs = [row["uuid"] for row in records.read("SELECT uuid FROM runs")]
        for metric in (f"m {text}", f"t {text}"):
            for lists in ({}, {"run": runs}):
                file = files.values_file(records, Asked(names, {"metric": metric}, lists, "1"))
                assert file.name is not None
                assert re.fullmatch(r"[A-Za-z0-9._-]+", file.name)
                table = list(csv.reader(io.StringIO(file.content.decode(), newline="")))
                assert len(table) == 1 + 3 * max(len(runs) if lists else 1, 1)
                for cell in (cell for row in table for cell in row):
                    assert not re.match(r"\s*[=+@\uff1d\uff0b\uff0d\uff20]|\s*-(?![0-9.])|[\t\r]", cell), "a formula"
        stored = as_json(Graph([Box("a", "parameter", text, text)], []))
        assert json.loads(stored)["boxes"][0][2:] == [text, text]


@pytest.mark.parametrize(
    "name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "\uff1d1+1", "\uff20x"]
)
def test_no_name_of_a_run_is_a_formula(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    project = store.create_project("local", "p", "P", "TEAM")
    assert project is not None
    uuids = []
    for run in (name, "other"):
        row = store.create_run(project["uuid"], run, None, "RUNNING")
        assert row is not None
        uuids.append(row["uuid"])
        store.add_metric(row["uuid"], "loss", -0.5, 0)
    store.close()
    names = {"namespace": "local", "project": "p", "run": uuids[0]}
    with Snapshot(tmp_path / "tellurio.sqlite3") as records:
        file = files.values_file(records, Asked(names, {"metric": "loss"}, {"run": uuids}, "1"))
    table = list(csv.reader(io.StringIO(file.content.decode(), newline="")))
    assert table == [
        ["run", "step", "value"],
        [f"'{name}".replace("\r", "\u240d"), "0", "-0.5"],
        ["other", "0", "-0.5"],
    ]
