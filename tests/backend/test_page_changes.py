"""What readers of the pages may change, which readers may, and the comparison of runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tellurio_sync.backend.page.direction import is_lower_better
from tellurio_sync.backend.store import Store

from .conftest import RunningBackend
from .rpc_client import FAILSAFE
from .test_page_story import Trained, part, plain
from .watched_run import TOKEN, Browser, WatchedRun

MakeRun = Callable[..., WatchedRun]


@pytest.fixture
def browser(backend: RunningBackend) -> Iterator[Browser]:
    with Browser(backend) as browser:
        browser.look()
        yield browser


@pytest.fixture
def make_run(backend: RunningBackend) -> Iterator[MakeRun]:
    runs: list[WatchedRun] = []

    def make(project: str = "My project", **body: Any) -> WatchedRun:
        runs.append(WatchedRun(backend, project, **body))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


def change(browser: Browser, backend: RunningBackend, path: str, **form: str) -> requests.Response:
    """Send a form as a browser does from one of the pages."""
    headers = {"Origin": backend.http_url}
    return browser.post(f"{backend.http_url}{path}change/", data=form, headers=headers, timeout=FAILSAFE)


def names(page: str) -> list[str]:
    return re.findall(r'<td class="text"><a href="[^"]*">(.*?)</a>', page)


# --- changes --------------------------------------------------------------------------------------


def test_a_run_is_renamed(browser: Browser, backend: RunningBackend, make_run: MakeRun) -> None:
    run, other = make_run(name="old"), make_run(name="taken")
    page = change(browser, backend, run.path, action="rename", name=" new <b> ")
    assert (page.status_code, page.url) == (200, backend.http_url + run.path)
    assert "<h1>new &lt;b&gt;</h1>" in page.text
    for wrong, why in (("", "needs a name"), ("taken", "another run with the name"), ("x" * 201, "200 characters")):
        refused = change(browser, backend, run.path, action="rename", name=wrong)
        assert (refused.status_code, why in refused.text) == (400, True)
    assert change(browser, backend, other.path, action="rename", name="taken").status_code == 200


def test_tags_and_notes_are_shown_searched_and_filtered(
    browser: Browser, backend: RunningBackend, make_run: MakeRun
) -> None:
    run, _ = make_run(name="first"), make_run(name="second")
    change(browser, backend, run.path, action="describe", tags="best, to keep,, best ,three", notes="Learnt <fast>.")
    page = browser.look(run.path).text
    assert re.findall('<span class="tag">(.*?)</span>', part(page, "facts")) == ["best", "to keep", "three"]
    assert "Learnt &lt;fast&gt;." in part(page, "facts")
    for query in ("tag=best", "q=FAST", "q=irs", "tag=to+keep&q=learnt"):
        assert names(browser.look(f"{run.project_path}?{query}").text) == ["first"], query
    assert names(browser.look(f"{run.project_path}?tag=none").text) == []
    change(browser, backend, run.path, action="describe", tags="", notes="")
    assert names(browser.look(f"{run.project_path}?tag=best").text) == []


def test_a_run_is_deleted_with_all_that_is_kept_of_it(
    browser: Browser, backend: RunningBackend, tmp_path: Path
) -> None:
    run = Trained(backend)
    run.log("note", {"no": "number"})
    other = WatchedRun(backend, name="other")
    other.log("loss", 1)
    page = change(browser, backend, run.path, action="delete")
    assert (page.status_code, page.url) == (200, backend.http_url + run.project_path)
    assert names(page.text) == ["other"]
    assert browser.look(run.path).status_code == 404
    assert "loss" in browser.look(other.path).text
    run.close()
    other.close()
    backend.stop()
    store = Store(tmp_path / "data")
    for table in (
        "points",
        "others",
        "questions",
        "question_texts",
        "question_prompts",
        "texts",
        "parameters",
        "causes",
    ):
        found = store.read(f"SELECT count(*) AS count FROM {table}")[0]["count"]
        assert found == (1 if table == "points" else 0), f"{table}: of the other run there is one metric"
    store.close()


def test_a_project_is_deleted(browser: Browser, backend: RunningBackend, make_run: MakeRun) -> None:
    run, _, other = make_run("Old"), make_run("Old"), make_run("Other")
    run.log("loss", 1)
    page = change(browser, backend, run.project_path, action="delete")
    assert page.url == backend.http_url + "/"
    assert ">Old</a>" not in page.text
    assert ">Other</a>" in page.text
    assert browser.look(other.path).status_code == 200


@pytest.mark.parametrize("form", [{}, {"action": "x"}, {"action": ""}])
def test_what_is_no_change(browser: Browser, backend: RunningBackend, make_run: MakeRun, form: dict[str, str]) -> None:
    run = make_run()
    for path in (run.path, run.project_path):
        assert change(browser, backend, path, **form).status_code == 400
    assert change(browser, backend, f"{run.project_path}runs/none/", action="delete").status_code == 404
    assert change(browser, backend, "/local/projects/none/", action="delete").status_code == 404
    assert browser.look(run.path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_no_other_page_may_change_anything(
    browser: Browser, backend: RunningBackend, make_run: MakeRun, headers: dict[str, str]
) -> None:
    """Not even one of this machine on another port, to which the browser sends the same cookies."""
    run = make_run(name="mine")
    for path in (run.path, run.project_path):
        sent = browser.post(f"{backend.http_url}{path}change/", {"action": "delete"}, headers=headers, timeout=FAILSAFE)
        assert sent.status_code == 403
    assert browser.look(run.path).status_code == 200


def test_without_the_key_nothing_is_changed(backend: RunningBackend, make_run: MakeRun, browser: Browser) -> None:
    run = make_run()
    with Browser(backend, token="") as stranger:
        assert change(stranger, backend, run.path, action="delete").status_code == 401
        headers = {"Origin": backend.http_url, "Host": "evil.example"}
        sent = stranger.post(
            f"{backend.http_url}{run.path}change/", params={"token": TOKEN}, headers=headers, timeout=30
        )
        assert sent.status_code == 403
    assert browser.look(run.path).status_code == 200


@pytest.mark.parametrize("content_type", ["multipart/form-data", "application/x-www-form-urlencoded; charset=none"])
def test_what_is_no_form_is_no_reason_for_an_error(
    backend: RunningBackend, make_run: MakeRun, browser: Browser, content_type: str
) -> None:
    run = make_run()
    headers = {"Content-Type": content_type, "Origin": backend.http_url}
    with Browser(backend, token="") as stranger:
        assert stranger.post(backend.http_url, data="key=x", headers=headers, timeout=FAILSAFE).status_code == 401
    sent = browser.post(f"{backend.http_url}{run.path}change/", data="x", headers=headers, timeout=FAILSAFE)
    assert sent.status_code == 400


# --- the table of runs ----------------------------------------------------------------------------


def test_runs_are_sorted_and_columns_chosen(browser: Browser, make_run: MakeRun) -> None:
    for name, accuracy in (("b", 0.5), ("c", 0.9), ("a", None)):
        run = make_run(name=name)
        run.log("loss", 1)
        if accuracy is not None:
            run.log("accuracy", accuracy)
    path = run.project_path
    assert names(browser.look(path).text) == ["a", "c", "b"], "the latest first"
    assert names(browser.look(f"{path}?sort=name&up=1").text) == ["a", "b", "c"]
    assert names(browser.look(f"{path}?sort=metric:accuracy").text) == ["c", "b", "a"], "those without come last"
    assert names(browser.look(f"{path}?sort=metric:accuracy&up=1").text) == ["b", "c", "a"]
    assert names(browser.look(f"{path}?sort=no such thing").text) == ["a", "c", "b"]
    page = browser.look(f"{path}?metric=accuracy&sort=metric:accuracy").text
    assert re.findall('<td data-label="([a-z]+)" class="number">(?:<b[^>]*>)?[0-9.]+<', page) == [
        "accuracy",
        "accuracy",
    ]
    assert 'aria-sort="descending"' in page
    # The head of the column turns the order round, and keeps what was chosen.
    (link,) = re.findall(r'href="([^"]*)">accuracy ↓', page)
    assert names(browser.look(path + link.replace("&amp;", "&")).text) == ["b", "c", "a"]


def test_many_runs_come_in_pages(browser: Browser, backend: RunningBackend, make_run: MakeRun) -> None:
    run = make_run(name="run 0")
    for i in range(1, 120):
        run.another(name=f"run {i}")
    first = browser.look(run.project_path).text
    assert "1 to 100 of 120" in plain(first)
    (link,) = re.findall(r'href="(\?[^"]*)">Next page', first)
    second = browser.look(run.project_path + link.replace("&amp;", "&")).text
    assert sorted(names(first) + names(second)) == sorted(f"run {i}" for i in range(120))


# --- comparison -----------------------------------------------------------------------------------


def test_runs_are_compared(browser: Browser, make_run: MakeRun) -> None:
    first = make_run(name="first", config={"lr": 0.1, "model": {"name": "small"}, "seed": 1})
    second = make_run(name="second", config={"lr": 0.2, "model": {"name": "small"}, "seed": 1})
    for run, values in ((first, (0.1, 0.2)), (second, (0.3, 0.9))):
        for value in values:
            run.log("accuracy", value)
        run.parameter("Be brief.", "system prompt")
    first.log("loss", 3)
    path = f"{first.project_path}compare/?run={first.uuid}&run={second.uuid}&run={first.uuid}&run=none"
    page = browser.look(path).text
    assert "<h1>2 runs compared</h1>" in page
    accuracy, loss = [json.loads(f) for f in re.findall('<script type="application/json">(.*?)</script>', page)]
    assert [(run["label"], run["y"]) for run in accuracy["runs"]] == [("first", [0.1, 0.2]), ("second", [0.3, 0.9])]
    assert [(run["label"], run["y"]) for run in loss["runs"]] == [("first", [3]), ("second", [])]
    table = plain(part(page, "lines"))
    assert "firstrunning" in table
    assert '<b title="the highest">0.9</b>' in page
    settings = plain(part(page, "configuration"))
    assert "lr0.10.2model.namesmallsmallseed11" in settings.replace(" ", "")
    different = plain(part(browser.look(f"{path}&different=1").text, "configuration"))
    assert "lr0.10.2" in different.replace(" ", "")
    assert "seed" not in different
    assert part(page, "prompt 1").count('class="prose small"') == 2
    # A closer look, and the values, of all of them.
    closer = browser.look(f"{first.path}series.json?metric=accuracy&from=1&run={first.uuid}&run={second.uuid}").json()
    assert [run["y"] for run in closer["runs"]] == [[0.2], [0.9]]
    values = browser.look(f"{first.path}values.csv?metric=accuracy&run={first.uuid}&run={second.uuid}").text
    assert values.splitlines() == ["run,step,value", "first,0,0.1", "first,1,0.2", "second,0,0.3", "second,1,0.9"]


@pytest.mark.parametrize("query", ["", "run=", "run=none", "metric=none"])
def test_comparing_nothing(browser: Browser, make_run: MakeRun, query: str) -> None:
    page = browser.look(f"{make_run().project_path}compare/?{query}")
    assert page.status_code == 200
    assert "Pick two runs or more" in page.text


# --- the best run ---------------------------------------------------------------------------------


def test_the_best_run_is_marked_at_first_sight(browser: Browser, make_run: MakeRun) -> None:
    """Also where its best value is not its last one; of a loss the lowest counts."""
    for name, accuracies, losses in (
        ("first", (0.5, 0.7), (3, 2)),
        ("second", (0.9, 0.6), (4, 0.125)),
        ("third", (), ()),
    ):
        run = make_run(name=name)
        for accuracy, loss in zip(accuracies, losses):
            run.log("accuracy", accuracy)
            run.log("train_loss", loss)
            run.log("same", 1)
    for path in ("/", run.project_path):
        rows = re.findall("<tr>(.*?)</tr>", browser.look(path).text, re.DOTALL)
        cells = {
            re.sub("<[^>]*>", "", found).strip(): found
            for row in rows
            for found in re.findall("<td data-label=[^>]*>(.*?)</td>", row, re.DOTALL)
        }
        assert '<b title="the lowest of all runs of the project">0.125</b>' in cells["0.125"]
        assert 'title="the highest of all runs of the project">max <b>0.9</b>' in next(
            cell for text, cell in cells.items() if text.startswith("0.6")
        )
        assert "<b" not in cells["0.7"]
        assert "<b" not in cells["2"]


@pytest.mark.parametrize(
    ("name", "is_lower"),
    [
        ("loss", True),
        ("validation_loss", True),
        ("valLoss", True),
        ("cost_usd", True),
        ("accuracy", False),
        ("glossary", False),
        ("lossless_share", False),
        ("", False),
    ],
)
def test_which_end_of_a_metric_is_the_good_one(name: str, is_lower: bool) -> None:
    assert is_lower_better(name) is is_lower
