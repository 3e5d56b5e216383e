"""The pages in a real browser, used as a person would: compare, find, copy, take away, delete, watch."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tellurio_sync.backend.page import plots
from tellurio_sync.backend.page.report import write_report

from .conftest import RunningBackend
from .rpc_client import FAILSAFE
from .test_page_browser import Chromium, pytestmark, see_plot  # noqa: F401 - skips, and is slow, for the same reason
from .test_page_story import Trained
from .watched_run import TOKEN, WatchedRun

PLOT = "document.querySelector('tellurio-plot')"


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path / "profile")
    yield chromium
    chromium.close()


@pytest.fixture
def trained(backend: RunningBackend) -> Iterator[Trained]:
    run = Trained(backend)
    yield run
    run.close()


class Person:
    """Opens pages, and knows the way."""

    def __init__(self, chromium: Chromium, backend: RunningBackend, downloads: Path) -> None:
        self.chromium = chromium
        self._url = backend.http_url
        self._downloads = downloads
        downloads.mkdir()
        chromium.command("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def open(self, path: str) -> None:
        sign = "&" if "?" in path else "?"
        self.chromium.open(f"{self._url}{path}{sign}token={TOKEN}")
        see_plot(self.chromium)

    def text(self, selector: str = "main") -> str:
        return re.sub(r"\s+", " ", self.chromium.look(f"document.querySelector({json.dumps(selector)}).innerText"))

    def follow(self, selector: str) -> None:
        self.chromium.click(selector)
        self.chromium.wait_for_load()
        see_plot(self.chromium)

    def got(self, name: str) -> bytes:
        """The content of a file that was taken away; waits until it is whole."""
        path, found = self._downloads / name, threading.Event()
        for _ in range(int(FAILSAFE * 20)):
            if path.exists() and not list(self._downloads.glob("*.crdownload")):
                return path.read_bytes()
            found.wait(0.05)
        raise AssertionError(f"no {name} among {list(self._downloads.iterdir())}")


@pytest.fixture
def person(chromium: Chromium, backend: RunningBackend, tmp_path: Path) -> Person:
    return Person(chromium, backend, tmp_path / "downloads")


SCREENS = [(1440, "light"), (360, "dark")]


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_two_runs_are_compared(
    person: Person, chromium: Chromium, backend: RunningBackend, width: int, scheme: str
) -> None:
    runs = [WatchedRun(backend, name=name, config={"lr": name}) for name in ("first", "second", "third")]
    for i, run in enumerate(runs):
        for step in range(5):
            run.log("loss", 10.0 ** (i + 1) - step)
        run.close()
    chromium.resize(width, scheme)
    person.open(runs[0].project_path)
    for name in ("first", "second"):
        chromium.click(f"[aria-label='Pick {name}']")
    person.follow("button[form=pick]")
    assert "2 runs compared" in person.text()
    shown = f"Object.fromEntries({PLOT}.chart.series.slice(1).map((one) => [one.label, one.show]))"
    assert chromium.look(shown) == {"first": True, "second": True}
    assert chromium.look(f"{PLOT}.chart.data.length") == 3
    chromium.click("[aria-label='Draw first']")
    assert chromium.look(shown) == {"first": False, "second": True}
    chromium.click("[name=log]")
    assert chromium.look(f"{PLOT}.chart.scales.y.distr") == 3
    chromium.look("document.querySelector('[name=smoothing]').value = 0.9")
    chromium.look("document.querySelector('[name=smoothing]').dispatchEvent(new Event('input', {bubbles: true}))")
    assert chromium.look(f"{PLOT}.chart.data.length") == 5, "raw lines behind, smooth ones in front"
    assert "lr second first" in person.text("[data-part=configuration]")
    assert chromium.look("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off"
    assert chromium.complaints == []


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_why_a_prompt_changed_and_what_that_broke_is_found(
    person: Person, chromium: Chromium, trained: Trained, width: int, scheme: str
) -> None:
    chromium.resize(width, scheme)
    person.open(trained.path)
    # The marks of the plot are a way there; so is the link below the prompt.
    x = chromium.look(f"{PLOT}.chart.valToPos({PLOT}.marks()[1].at, 'x') / {PLOT}.chart.over.clientWidth")
    person_at = chromium.look("location.pathname")
    chromium.click("tellurio-plot .u-over", x=x)
    chromium.wait_for_load()
    assert chromium.look("location.pathname") == f"{person_at}prompts/1/"
    text = person.text("#version")
    assert "Version 3" in text
    assert "Do better." in text
    assert "What it broke 1" in text
    # Another version shows in its place, and the way back leads to this one.
    chromium.click(".versions li:nth-child(2) a")
    chromium.wait("document.querySelector('#version h2').innerText === 'Version 2'")
    assert chromium.look("location.search") == "?version=2"
    assert "What it mended 1" in person.text("#version")
    chromium.look("history.back()")
    chromium.wait("document.querySelector('#version h2').innerText === 'Version 3'")
    person.follow("#version .sides ul a")
    assert "system Shout: yes maybe" in person.text()
    assert chromium.look("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.complaints == []


def test_an_earlier_prompt_is_copied(person: Person, chromium: Chromium, trained: Trained) -> None:
    chromium.command("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    person.open(f"{trained.path}prompts/1/?version=2")
    chromium.look("document.getElementById('take').open = true")
    chromium.click("[data-copy=whole]")
    chromium.wait("document.querySelector('[data-copy=whole]').innerText === 'Copied'")
    assert chromium.look("navigator.clipboard.readText()") == "Shout: yes no maybe"
    chromium.click("[data-copy=restore]")
    chromium.wait("document.querySelector('[data-copy=restore]').innerText === 'Copied'")
    assert "prompt.data = 'Shout: yes no maybe'" in chromium.look("navigator.clipboard.readText()")


def test_metrics_and_prompts_are_taken_away(person: Person, chromium: Chromium, trained: Trained) -> None:
    person.open(trained.path)
    for place, name in enumerate(("accuracy.csv", "accuracy.png", "accuracy.svg"), 1):
        chromium.click(f".plot-tools > :nth-child({place})")
        content = person.got(name)
        assert content.startswith({"csv": b"step,value", "png": b"\x89PNG", "svg": b"<svg"}[name[-3:]])
    svg = person.got("accuracy.svg").decode()
    assert svg.count("<path") == 1
    assert ">v2</text>" in svg
    person.open(f"{trained.path}prompts/1/?version=1")
    chromium.look("document.getElementById('take').open = true")
    chromium.click("a[href$='.json']")
    assert json.loads(person.got("system_prompt_v1.json"))["data"] == "Shout: yes no"
    person.open(trained.path)
    chromium.click("a[href$='report.html']")
    assert b"calm_river_1" in person.got("calm_river_1.html")
    assert chromium.complaints == []


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_run_is_renamed_described_and_deleted(
    person: Person, chromium: Chromium, backend: RunningBackend, width: int, scheme: str
) -> None:
    run = WatchedRun(backend, name="old_name")
    run.close()
    chromium.resize(width, scheme)
    person.open(run.path)
    chromium.click("#rename summary")
    chromium.look("document.querySelector('#rename input').value = 'new name'")
    person.follow("#rename button")
    assert person.text("h1") == "new name"
    chromium.click("#describe summary")
    chromium.look("document.querySelector('#describe input').value = 'best, keep'")
    person.follow("#describe button")
    assert "best keep" in person.text("[data-part=facts]")
    # Asked once: the first click only opens the question.
    chromium.click("#delete summary")
    assert "gone for good" in person.text("#delete")
    person.follow("#delete button")
    assert "No runs yet." in person.text()
    assert chromium.complaints == []


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_runs_are_found_by_their_tag_and_a_project_is_deleted(
    person: Person, chromium: Chromium, backend: RunningBackend, width: int, scheme: str
) -> None:
    runs = [WatchedRun(backend, name=name) for name in ("first", "second")]
    for run in runs:
        run.close()
    chromium.resize(width, scheme)
    person.open(runs[0].path)
    chromium.click("#describe summary")
    chromium.look("document.querySelector('#describe input').value = 'baseline, old'")
    person.follow("#describe button")
    person.open(runs[0].project_path)
    assert "second" in person.text("table")
    chromium.choose("[name=tag]", "baseline")
    chromium.wait_for_load()
    table = person.text("table")
    assert ("first" in table, "second" in table) == (True, False)
    # Asked once: the first click only opens the question.
    chromium.click("#delete summary")
    assert "gone for good" in person.text("#delete")
    person.follow("#delete button")
    assert chromium.look("location.pathname") == "/"
    assert "There are no projects yet" in person.text()
    assert chromium.complaints == []


def test_a_long_metric_is_looked_at_more_closely(person: Person, chromium: Chromium, backend: RunningBackend) -> None:
    run = WatchedRun(backend)
    for step in range(1500):
        run.log("loss", step % 50, step)
    run.close()
    person.open(run.path)
    drawn = chromium.look(f"{PLOT}.chart.data[0].length")
    assert drawn < 1100
    chromium.drag("tellurio-plot .u-over", 0.5, 0.6)
    chromium.wait(f"Number({PLOT}.dataset.points) > 0")
    low, high = chromium.look(f"[{PLOT}.chart.scales.x.min, {PLOT}.chart.scales.x.max]")
    assert 700 < low < high < 950
    steps = chromium.look(f"{PLOT}.chart.data[0]")
    assert steps == list(range(steps[0], steps[-1] + 1)), "every value of that span"
    left, top, width, height = chromium.place("tellurio-plot .u-over")
    chromium.command("Input.dispatchMouseEvent", type="mouseMoved", x=left + width / 2, y=top + height / 2)
    chromium.wait("!document.querySelector('.tip').hidden")
    assert re.match(r"step \d{3} \d+", person.text(".tip"))
    # The same by keys: to see all, to go along the line, and closer.
    chromium.look(f"{PLOT}.focus()")
    chromium.press("0")
    assert chromium.look(f"{PLOT}.chart.data[0].length") == drawn
    chromium.press("ArrowRight")
    assert "step 0 0" in person.text(".tip")
    chromium.press("+")
    chromium.wait(f"{PLOT}.chart.scales.x.max < 1000")
    assert chromium.complaints == []


def test_plots_are_drawn_and_fetched_when_they_come_into_view(
    chromium: Chromium, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "POINTS_IN_PAGE", 4)
    run = WatchedRun(backend)
    for name in "abcdefghi":
        for value in (1, 2, 3):
            run.log(name, value)
    chromium.resize(360)
    chromium.open(f"{backend.http_url}{run.path}?token={TOKEN}")
    asked = "performance.getEntriesByType('resource').filter((one) => one.name.includes('series.json')).length"
    last = "document.querySelector('tellurio-plot[data-name=i]')"
    chromium.wait("document.getElementById('live').textContent.startsWith('Live')")
    assert chromium.look(f"{last}.chart == null")
    assert chromium.look(asked) < 5, "not those far down"
    # What can be taken away does not wait for that.
    assert chromium.look(f"{last}.nextElementSibling.querySelector('a').href").endswith("values.csv?metric=i")
    chromium.place("tellurio-plot[data-name=i]")
    chromium.wait(f"{last}.querySelector('.u-over')")
    assert chromium.look(f"[...{last}.chart.data[1]]") == [1, 2, 3]
    # New values of what has come into view come by themselves.
    run.log("i", 7)
    chromium.wait(f"{last}.chart?.data[1].length === 4")
    chromium.choose("[name=x]", "time", "input")
    chromium.wait(f"{last}.chart?.data[0][0] > 1e9")
    chromium.choose("[name=x]", "step", "input")
    chromium.wait(f"{last}.chart?.data[0][0] === 0")
    run.close()
    assert chromium.complaints == []


def test_many_long_runs_share_their_steps(person: Person, chromium: Chromium, backend: RunningBackend) -> None:
    runs = [WatchedRun(backend, name=name) for name in ("first", "second")]
    for run in runs:
        run.log_all("loss", [step % 50 + (step == 700) * 100 for step in range(1500)])
        run.close()
    person.open(f"{runs[0].project_path}compare/?run={runs[0].uuid}&run={runs[1].uuid}")
    whole = chromium.look(f"{PLOT}.chart.data[0].length")
    assert whole <= 1000
    assert chromium.look(f"{PLOT}.chart.data.slice(1).map((values) => Math.max(...values))") == [100, 100]
    left, top, width, height = chromium.place("tellurio-plot .u-over")
    chromium.command("Input.dispatchMouseEvent", type="mouseMoved", x=left + width / 2, y=top + height / 2)
    chromium.wait("!document.querySelector('.tip').hidden")
    assert re.match(r"steps 7\d\d to 7\d\d (first|second): \d+", person.text(".tip"))
    chromium.drag("tellurio-plot .u-over", 0.5, 0.6)
    chromium.wait(f"Number({PLOT}.dataset.points) > 0")
    steps = chromium.look(f"{PLOT}.chart.data[0]")
    assert steps == list(range(steps[0], steps[-1] + 1)), "every value of that span"
    chromium.choose("[name=x]", "time", "input")
    chromium.wait(f"{PLOT}.chart.axes[0].incrs && {PLOT}.along.t")
    assert [len(run["t"]) > 500 for run in chromium.look(f"{PLOT}.lines()")] == [True, True]
    chromium.choose("[name=x]", "step", "input")
    chromium.wait(f"{PLOT}.chart.data[0].length === {whole}")
    assert chromium.complaints == []


def test_a_gap_is_a_gap_and_every_axis_works(person: Person, chromium: Chromium, trained: Trained) -> None:
    person.open(trained.path)
    for axis in ("time", "version", "step"):
        chromium.look(f"document.querySelector('[name=x]').value = '{axis}'")
        chromium.look("document.querySelector('[name=x]').dispatchEvent(new Event('input', {bubbles: true}))")
        wanted = {"time": "lines()[0].t", "version": "lines()[0].v", "step": "data.x"}[axis]
        chromium.look("new Promise((resolve) => requestAnimationFrame(resolve))")
        chromium.look(f"{PLOT}.show()")
        assert chromium.look(f"JSON.stringify({PLOT}.chart.data[0]) === JSON.stringify({PLOT}.{wanted})")
        assert chromium.look(f"{PLOT}.chart.data[0].length") == 3, axis
        assert chromium.look(f"{PLOT}.marks().length") == 2, axis
    assert chromium.complaints == []


def test_a_zoom_stays_while_values_come(person: Person, chromium: Chromium, backend: RunningBackend) -> None:
    run = WatchedRun(backend)
    for step in range(50):
        run.log("loss", step)
    person.open(run.path)
    chromium.wait("document.getElementById('live').textContent.startsWith('Live')")
    chromium.drag("tellurio-plot .u-over", 0.2, 0.4)
    chromium.wait(f"{PLOT}.chart.scales.x.max < 25")
    before = chromium.look(f"{PLOT}.chart.scales.x.max")
    run.log("loss", 7)
    chromium.wait(f"{PLOT}.chart.data[0].length === 51")
    assert chromium.look(f"{PLOT}.chart.scales.x.max") == before
    run.close()


def test_the_run_page_is_three_requests_and_small(person: Person, chromium: Chromium, trained: Trained) -> None:
    person.open(trained.path)
    chromium.look("new Promise((resolve) => setTimeout(resolve, 0))")
    found = chromium.look(
        "[performance.getEntriesByType('navigation')[0], ...performance.getEntriesByType('resource')]"
        ".filter((entry) => !entry.name.startsWith('data:')).map((entry) => [entry.name, entry.decodedBodySize])"
    )
    assert len(found) <= 3, found
    assert sum(size for _, size in found) <= 150_000, found


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_which_run_was_best_why_and_with_which_prompt_takes_two_clicks(
    person: Person, chromium: Chromium, backend: RunningBackend, trained: Trained, width: int, scheme: str
) -> None:
    other = WatchedRun(backend, name="other")
    for value in (0.2, 0.9):
        other.log("accuracy", value)
    other.close()
    chromium.resize(width, scheme)
    person.open("/")
    best = "[...document.querySelectorAll('td[data-label=accuracy]')].filter((cell) => cell.querySelector('b'))"
    assert chromium.look(f"{best}.map((cell) => cell.innerText)") == ["0.66667 max 1"], "seen before any click"
    chromium.look(f"{best}[0].closest('tr').querySelector('td a').id = 'found'")
    person.follow("#found")
    assert "highest 1 at step 1, with v2" in person.text("[data-part='metric accuracy']")
    person.follow("[data-part='metric accuracy'] .best a")
    text = person.text("#version")
    assert "Version 2" in text
    assert "made by an optimizer in step 1" in text
    assert "Do better." in text, "why"
    assert "Shout: yes no maybe" in text, "with which prompt"
    assert "What it mended 1" in text
    assert chromium.look("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.complaints == []


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_table_of_runs_is_searched_sorted_and_filtered(
    person: Person, chromium: Chromium, backend: RunningBackend, width: int, scheme: str
) -> None:
    runs = [WatchedRun(backend, name=name) for name in ("Ärger 1", "Ärger 2", "calm")]
    for run, value in zip(runs, (0.5, 0.25, 0.75)):
        run.log("accuracy", value)
        run.log("loss", 1 - value)
    runs[0].finish("FAILED")
    for run in runs:
        run.close()
    chromium.resize(width, scheme)
    person.open(runs[0].project_path)
    names = "[...document.querySelectorAll('td.text > a')].map((link) => link.innerText)"
    assert chromium.look(names) == ["calm", "Ärger 2", "Ärger 1"]
    if width > 640:  # on a phone the heads of the columns are not shown
        person.follow("thead th:nth-of-type(6) a")
        assert chromium.look(names) == ["calm", "Ärger 1", "Ärger 2"], "sorted by accuracy"
        person.follow("thead th:nth-of-type(6) a")
        assert chromium.look(names) == ["Ärger 2", "Ärger 1", "calm"], "the other way round"
        assert chromium.look("document.querySelector('[aria-sort=ascending]').innerText") == "accuracy ↑"
    chromium.click("[name=q]")
    chromium.command("Input.insertText", text="ärger")
    chromium.press("Enter")
    chromium.wait_for_load()
    assert sorted(chromium.look(names)) == ["Ärger 1", "Ärger 2"]
    chromium.choose("[name=status]", "FAILED")
    chromium.wait_for_load()
    assert chromium.look(names) == ["Ärger 1"], "of those found"
    chromium.click("#columns summary")
    person.follow("#columns input[value=accuracy]")
    assert chromium.look("[...document.querySelectorAll('td[data-label]')].map((cell) => cell.dataset.label)") == [
        "started",
        "took",
        "loss",
    ]
    assert chromium.complaints == []


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_the_samples_that_a_change_broke_are_filtered_and_searched(
    person: Person, chromium: Chromium, trained: Trained, width: int, scheme: str
) -> None:
    chromium.resize(width, scheme)
    person.open(trained.path)
    person.follow("nav.parts li:nth-child(2) a")

    def choose(name: str, value: str) -> None:
        chromium.choose(f"[name={name}]", value)
        chromium.wait_for_load()

    choose("change", "broke")
    assert "no before: “NO” 1 → 0" in person.text("[data-part=samples]")
    assert chromium.look("document.querySelectorAll('tbody tr').length") == 1
    choose("version", "2")
    assert "No sample is like that." in person.text("[data-part=samples]"), "version 2 broke nothing"
    choose("change", "mended")
    assert "MAYBE before: “maybe” 0 → 1" in person.text("[data-part=samples]")
    choose("change", "")
    choose("version", "")
    choose("state", "wrong")
    assert chromium.look("document.querySelectorAll('tbody tr').length") == 2
    choose("state", "")
    chromium.click("[name=q]")
    chromium.command("Input.insertText", text="YES NO MAYBE")
    chromium.press("Enter")
    chromium.wait_for_load()
    assert "found, looked through all" in person.text("[data-part=samples]")
    person.follow("tbody tr:first-child td.text a")
    assert "yes no maybe" in person.text()
    assert chromium.look("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.complaints == []


def test_any_two_versions_and_only_what_differs_between_runs(
    person: Person, chromium: Chromium, backend: RunningBackend, trained: Trained
) -> None:
    person.open(f"{trained.path}prompts/1/")
    chromium.look("document.querySelector('[name=against]').value = '1'")
    chromium.click("form[data-swap] button")
    chromium.wait("document.querySelector('.texts h3').innerText === 'What changed since version 1'")
    shown = chromium.look("document.querySelector('.texts .prose').innerHTML")
    assert "Shout: yes <del>no</del><ins>maybe</ins>" in shown
    assert chromium.look("location.search") == "?version=3&against=1"
    runs = [WatchedRun(backend, name=name, config={"lr": name, "seed": 1}) for name in ("a", "b")]
    for run in runs:
        run.log("loss", 1)
        run.close()
    person.open(f"{runs[0].project_path}compare/?run={runs[0].uuid}&run={runs[1].uuid}")
    assert "seed" in person.text("[data-part=configuration]")
    person.follow("[data-part=configuration] .links a")
    assert person.text("[data-part=configuration]") == "Differences only. Show all setting a b lr a b"
    assert chromium.complaints == []


def test_the_graph_is_zoomed_and_taken_away(person: Person, chromium: Chromium, backend: RunningBackend) -> None:
    run = WatchedRun(backend)
    prompt, feedback = run.parameter("Be brief.", "system prompt"), run.rpc.variable("Say please.", "feedback")
    output = run.rpc.run("Add", prompt, run.rpc.variable(" Always.", "ending"))
    run.rpc.backward({"__variable__": True, "variable_id": output["variable_id"]}, feedback)
    person.open(f"{run.path}graph/")
    size = "document.querySelector('svg.graph').getBoundingClientRect().width"
    before = chromium.look(size)
    chromium.choose("[name=zoom]", "200")
    chromium.wait_for_load()
    assert chromium.look(size) == pytest.approx(2 * before, rel=0.02)
    assert "↑ Say please." in chromium.look("document.querySelector('svg.graph').textContent")
    chromium.click("a[href^='graph.svg']")
    assert b"Say please." in person.got("graph.svg")
    run.close()
    assert chromium.complaints == []


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_a_report_is_read_without_a_server(
    person: Person,
    chromium: Chromium,
    backend: RunningBackend,
    trained: Trained,
    tmp_path: Path,
    width: int,
    scheme: str,
) -> None:
    path = tmp_path / "report.html"
    write_report(tmp_path / "data", trained.uuid, path)
    chromium.resize(width, scheme)
    chromium.command("Network.enable")
    chromium.command(
        "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
    )
    chromium.open(path.as_uri())
    see_plot(chromium)
    assert chromium.look(f"{PLOT}.chart.data[0].length") == 3
    chromium.choose("[name=x]", "version", "input")
    chromium.wait(f"{PLOT}.chart.data[0][0] === {PLOT}.data.runs[0].v[0]")
    chromium.look("document.querySelectorAll('details').forEach((details) => details.open = true)")
    assert "Version 3, by step 2: score 1 → 0.66667, broke 1" in person.text()
    requests = "performance.getEntriesByType('resource').map((one) => one.name).filter((name) => !/^data:/.test(name))"
    assert chromium.look(requests) == []
    assert chromium.look("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.complaints == []


def test_what_is_no_number_is_a_gap(person: Person, chromium: Chromium, backend: RunningBackend) -> None:
    run = WatchedRun(backend)
    run.log_all("loss", (1.0, float("nan"), 3.0))
    person.open(run.path)
    assert chromium.look(f"[...{PLOT}.chart.data[1]]") == [1, None, 3]
    assert chromium.look(f"{PLOT}.chart.series[1].spanGaps") is False
    run.close()


def test_a_page_that_is_long_in_the_making_is_not_asked_for_all_the_time(
    person: Person, chromium: Chromium, backend: RunningBackend
) -> None:
    """However often something changes: a tenth of the time at most is spent on it."""
    run = WatchedRun(backend)
    run.log("loss", 0)
    person.open(run.path)
    chromium.wait("document.getElementById('live').textContent.startsWith('Live')")
    chromium.look(
        """{
            const real = window.fetch;
            window.looks = [];
            window.fetch = async (...given) => {
                if (given[0] !== location.pathname + location.search) return real(...given);
                const look = {begin: performance.now(), end: 0};
                window.looks.push(look);
                const reply = await real(...given);
                await new Promise((resolve) => setTimeout(resolve, 100));
                look.end = performance.now();
                return reply;
            };
        }"""
    )
    for value in range(1000):
        run.log("loss", value)
        if chromium.look("window.looks.length") > 2:
            break
    looks = chromium.look("window.looks")
    assert len(looks) > 2
    for before, after in pairwise(looks):
        assert before["end"] > 0
        assert after["begin"] - before["end"] >= 8 * (before["end"] - before["begin"])
    run.close()


AXE = importlib.util.find_spec("axe_core_python")


@pytest.mark.skipif(AXE is None, reason="axe-core-python is not installed (extra `test`)")
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_axe_finds_nothing(person: Person, chromium: Chromium, trained: Trained, width: int, scheme: str) -> None:
    assert AXE is not None
    assert AXE.origin is not None
    axe = Path(AXE.origin).with_name("axe.min.js").read_text(encoding="utf-8")
    prompt = trained.rpc.variable(" Always.", "ending")
    output = trained.rpc.run("Add", trained.prompt, prompt)
    feedback = trained.rpc.variable("Better.", "feedback")
    trained.rpc.backward({"__variable__": True, "variable_id": output["variable_id"]}, feedback)
    chromium.resize(width, scheme)
    paths = ("", "prompts/1/", "samples/", "samples/1/", "graph/", "samples/999/")
    for path in [
        "/",
        trained.project_path,
        *(trained.path + path for path in paths),
        f"{trained.project_path}compare/?run={trained.uuid}",
    ]:
        person.open(path)
        chromium.look("document.querySelectorAll('details').forEach((details) => details.open = true)")
        chromium.look(f"{axe}; 1")
        found = chromium.look(
            "axe.run(document).then((result) =>"
            " result.violations.map((one) => [one.id, one.nodes[0].html.slice(0, 200)]))"
        )
        assert found == [], path
        assert chromium.look("document.documentElement.scrollWidth <= innerWidth"), f"{path} is cut off"
