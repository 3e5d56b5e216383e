"""The pages as a browser without script gets them: what they show, and to whom."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tellurio_sync.backend import versions
from tellurio_sync.backend.history import History
from tellurio_sync.backend.page import access, pages, plots
from tellurio_sync.backend.page.pages import Asked
from tellurio_sync.backend.page.queries.parameters import parameters
from tellurio_sync.backend.page.queries.series import series
from tellurio_sync.backend.store import Row, Store
from tellurio_sync.backend.versions import Versions

from .conftest import KEY, RunningBackend
from .watched_run import TOKEN, Browser, WatchedRun, links_of

MakeRun = Callable[..., WatchedRun]


@pytest.fixture
def browser(backend: RunningBackend) -> Iterator[Browser]:
    with Browser(backend) as browser:
        yield browser


@pytest.fixture
def make_run(backend: RunningBackend) -> Iterator[MakeRun]:
    """A function that makes a run on the backend, or on the one that is given."""
    runs: list[WatchedRun] = []

    def make(project: str = "My project", on: RunningBackend | None = None, **body: str) -> WatchedRun:
        runs.append(WatchedRun(on or backend, project, **body))
        return runs[-1]

    yield make
    for run in runs:
        run.close()


# --- what they show -------------------------------------------------------------------------------


def test_projects_and_their_runs(browser: Browser, make_run: MakeRun) -> None:
    assert "There are no projects yet" in browser.look().text
    run = make_run("First", name="calm_river_1")
    make_run("First", name="bold_moon_2").finish("CRASHED")
    run.log("accuracy", 0.25)
    run.log("accuracy", 0.5)
    for path in ("/", run.project_path):
        page = browser.look(path)
        assert page.status_code == 200
        assert page.text.index("bold_moon_2") < page.text.index("calm_river_1"), "the latest comes first"
        for text in ("calm_river_1</a>", "running", "crashed", "accuracy"):
            assert text in page.text
        assert run.path in links_of(page)
        assert '<td data-label="accuracy" class="number">0.5</td>' in page.text
    assert run.project_path in links_of(browser.look())


def test_a_run_with_its_metrics(browser: Browser, make_run: MakeRun) -> None:
    run = make_run(name="calm_river_1", description="what I tried")
    assert "No metrics yet." in browser.look(run.path).text
    for step, value in enumerate((0.25, 0.75, 0.5)):
        run.log("accuracy", value, step)
    run.log("note", {"any": ["JSON", None]})
    page = browser.look(run.path).text
    for text in (
        *("calm_river_1", "what I tried", "running"),
        # For screen readers.
        'aria-label="accuracy: 0.25 at step 0, 0.5 at step 2; lowest 0.25, highest 0.75"',
        "{&#34;any&#34;: [&#34;JSON&#34;, null]}",
    ):
        assert text in page
    (plot,) = plots_of(page)
    assert (plot["name"], plot["x"], plot["runs"][0]["y"]) == ("accuracy", [0, 1, 2], [0.25, 0.75, 0.5])
    run.finish()
    assert "completed" in browser.look(run.path).text


def test_a_run_is_found_under_the_address_that_clients_print(browser: Browser, make_run: MakeRun) -> None:
    run = make_run(name="calm_river_1")
    page = browser.look(f"{run.project_path}runs/calm-river-1/")
    assert page.status_code == 200
    assert "<h1>calm_river_1</h1>" in page.text
    assert f"{run.path}change/" in links_of(page), "its links are those of the run"


@pytest.mark.parametrize("path", ["/local/projects/none/", "/local/projects/my-project/runs/none/", "/x/projects/y/"])
def test_not_found(browser: Browser, make_run: MakeRun, path: str) -> None:
    make_run()
    page = browser.look(path)
    assert (page.status_code, "Not found" in page.text) == (404, True)


def test_metrics_come_in_the_order_of_their_begin(browser: Browser, make_run: MakeRun) -> None:
    run = make_run()
    for name in ("b", "a", "c", "a"):
        run.log(name, 1)
    page = browser.look(run.path).text
    assert re.findall("<h3>(.*?)</h3>", page) == ["b", "a", "c"]
    for i in range(pages.METRICS_SHOWN):
        run.log(f"d{i:03}", 1)
    page = browser.look(run.path).text
    assert page.count("<h3>") == pages.METRICS_SHOWN
    assert f"Only {pages.METRICS_SHOWN} metrics are shown." in page


def test_the_metrics_that_began_first_are_those_of_the_overview(browser: Browser, make_run: MakeRun) -> None:
    run = make_run()
    for name in ("z_accuracy", "loss", "y", "x", "b", "a"):
        run.log(name, 1)
    page = browser.look(run.project_path).text
    assert re.findall('data-label="([a-z_]+)" class="number">1<', page) == ["z_accuracy", "loss", "y", "x"]


@pytest.fixture
def stored_run(tmp_path: Path) -> Iterator[tuple[Store, Row, Row]]:
    store = Store(tmp_path)
    History(store)  # makes its tables
    project = store.create_project("local", "p", "P", "TEAM")
    assert project is not None
    yield store, project, store.create_run(project["uuid"], "r", None, "RUNNING")
    store.close()


def test_a_long_history_is_drawn_from_its_begin_to_its_end(stored_run: tuple[Store, Row, Row]) -> None:
    store, project, run = stored_run
    total = 5 * plots.columns_for(1)
    for step in range(total):
        store.add_metric(run["uuid"], "loss", {777: -9.0, 1234: 50.0}.get(step, step / total), step)
    page = pages.run_page(store, asked_for(project, run))
    assert re.search(f"{total // 1000}.{total % 1000} values; of every span the lowest and the highest are drawn", page)
    assert 'aria-label="loss: 0 at step 0, ' in page
    assert "lowest −9, highest 50" in page
    assert page.count("<tr>") == plots.VALUES_IN_TABLE + 1
    (plot,) = plots_of(page)
    assert plot["isThinned"]
    assert len(plot["x"]) <= 2 * plots.columns_for(1) + 4
    assert len(page) < 100_000


def asked_for(project: Row, run: Row) -> Asked:
    return Asked({"namespace": project["namespace"], "project": project["slug"], "run": run["uuid"]}, {}, {}, "1")


def plots_of(page: str) -> list[dict[str, Any]]:
    return [json.loads(found) for found in re.findall('<script type="application/json">(.*?)</script>', page)]


@given(
    values=st.lists(st.floats(-1e6, 1e6) | st.sampled_from([math.nan, 1e308, 10**16]), min_size=1, max_size=60),
    times=st.sampled_from([1, 12]),
    gaps=st.lists(st.integers(0, 2**40), min_size=1, max_size=9),
    others=st.lists(st.integers(0, 2), min_size=1, max_size=4),
    columns=st.integers(1, 12),
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_no_extreme_is_lost(
    stored_run: tuple[Store, Row, Row],
    values: list[float],
    times: int,
    gaps: list[int],
    others: list[int],
    columns: int,
) -> None:
    """Of few values and of several packed rows of them; NaN is a gap, and what is too large is left out.

    ``others``: how many values of another metric come between them.
    """
    store, project, _ = stored_run
    run = store.create_run(project["uuid"], None, None, "RUNNING")
    assert run is not None
    values = values * times
    steps = list(itertools.islice(itertools.accumulate(itertools.cycle(gaps)), len(values)))
    with store.transaction():
        for step, value, count in zip(steps, values, itertools.cycle(others)):
            for _ in range(count):
                store.add_metric(run["uuid"], "other", 0.5, None)
            store.add_metric(run["uuid"], "loss", value, step)
    numbered = itertools.accumulate(itertools.islice(itertools.cycle(others), len(values)), lambda at, n: at + n + 1)
    wanted = [
        (step, None if math.isnan(value) else float(value), number)
        for number, step, value in zip(numbered, steps, values)
        if value != 1e308
    ]
    assert series(store, run["uuid"], "loss", len(values)) == wanted
    found = series(store, run["uuid"], "loss", columns)
    assert set(found) <= set(wanted)
    assert found == sorted(found, key=lambda point: (point.step, point.number))
    assert found[:1] + found[-1:] == wanted[:1] + wanted[-1:]
    numbers = [value for _, value, _ in wanted if value is not None]
    if numbers:
        plotted = [point.value for point in found if point.value is not None]
        assert (min(plotted), max(plotted)) == (min(numbers), max(numbers))
    assert len(found) <= 3 * columns + 5
    if len(wanted) <= 2 * columns:
        assert found == wanted


def test_a_closer_look_shows_more(stored_run: tuple[Store, Row, Row]) -> None:
    store, _, run = stored_run
    with store.transaction():
        for step in range(3000):
            store.add_metric(run["uuid"], "loss", step % 7, step)
    found = series(store, run["uuid"], "loss", 100, (1000, 1150))
    assert [point.step for point in found] == list(range(1000, 1151))
    found = series(store, run["uuid"], "loss", 100, (1000, 2500))
    assert len(found) <= 205
    assert (found[0].step, found[-1].step) == (1000, 2500)
    assert series(store, run["uuid"], "loss", 100, (5000, 6000)) == []


# --- parameters -----------------------------------------------------------------------------------


def test_parameters_follow_the_optimizer(browser: Browser, make_run: MakeRun) -> None:
    run = make_run()
    assert "No parameters yet." in browser.look(run.path).text
    prompt = run.parameter("Be brief.", "system prompt")
    run.rpc.variable("no parameter", "something else")
    page = browser.look(run.path).text
    assert "<h3>system prompt</h3>" in page
    assert '<div class="prose">Be brief.</div>' in page
    assert "no parameter" not in page
    run.step(prompt, "Be brief.\nBe kind.")
    page = browser.look(run.path).text
    assert "Be brief.<ins>\nBe kind.</ins>" in page, "what is new is marked"
    assert "version 2" in page
    run.rpc.call("update_variable", variable_id=prompt["variable_id"], field="data", value="My own.")
    page = browser.look(run.path).text
    assert "<ins>My own</ins>" in page
    assert "version 3" in page


def test_a_functional_step_is_followed_too(browser: Browser, make_run: MakeRun) -> None:
    run = make_run()
    prompt = run.parameter("old", "prompt")
    model = run.rpc.model(lambda messages: "<IMPROVED>new</IMPROVED>")
    gradient = run.rpc.variable("Do better.", "feedback")
    params = {"params": [prompt], "grads": [[gradient]], "momentum_buffer_list": [[]], "model_client": model}
    run.rpc.call("run_optimizer_tgd", **params)
    assert "<ins>new</ins>" in browser.look(run.path).text


def test_a_run_has_its_own_parameters(browser: Browser, make_run: MakeRun) -> None:
    first, second = make_run(), make_run()
    prompt = first.parameter("the first's", "prompt")
    second.parameter("the second's", "prompt")
    assert "the second" not in browser.look(first.path).text
    # A run may go on with the parameters of an earlier one.
    second.rpc.functions = first.rpc.functions
    second.step(prompt, "changed by the second")
    assert "changed by the second" not in browser.look(first.path).text
    page = browser.look(second.path).text
    assert "the second&#39;s" in page
    assert "changed by the second" in re.sub("</?ins>", "", page)


def test_parameters_survive_a_restart(start_backend: Callable[..., RunningBackend]) -> None:
    first = start_backend()
    run = WatchedRun(first)
    run.step(run.parameter("old", "prompt"), "learnt")
    run.close()
    first.stop()
    with Browser(start_backend()) as browser:
        assert "<ins>learnt</ins>" in browser.look(run.path).text


def test_what_is_kept_of_parameters_is_bounded(
    stored_run: tuple[Store, Row, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "PARAMETERS_PER_RUN", 5)
    monkeypatch.setattr(versions, "VERSIONS_PER_PARAMETER", 10)
    monkeypatch.setattr(versions, "CHARS_PER_VERSION", 100)
    store, _, row = stored_run
    kept, run = Versions(store), row["uuid"]
    for i in range(8):
        assert kept.note(run, f"id {i}", "role", "first") == (1 if i < 5 else None)
    for i in range(15):
        assert kept.note(run, "id 0", "role", f"value {i}") == i + 2
        assert kept.note(run, "id 0", "role", f"value {i}") == i + 2, "the same value is no new version"
    kept.note(run, "id 1", "role", "x" * 107)
    assert kept.note("no such run", "id", "role", "value") is None
    found = parameters(store, run)
    assert [row["variable_id"] for row in found] == [f"id {i}" for i in range(5)]
    numbers = store.read("SELECT version FROM parameters WHERE variable_id = 'id 0' ORDER BY version")
    assert [row["version"] for row in numbers] == [1, *range(8, 17)]
    assert found[1]["value"].endswith("x … (7 more characters)")
    assert parameters(store, "no such run") == []
    # Another backend on the same data goes on counting.
    assert Versions(store).note(run, "id 0", "role", "value 14") == 16
    assert Versions(store).note(run, "id 0", "role", "another") == 17
    store.delete_project("local", "p")
    assert parameters(store, run) == []
    assert store.read("SELECT * FROM causes") == []


# --- who may look ---------------------------------------------------------------------------------


def paths_of(run: WatchedRun) -> list[str]:
    return ["/", run.project_path, run.path]


@pytest.mark.parametrize("token", ["", "x", KEY, TOKEN[:-1], "\N{SNOWMAN}"])
def test_without_the_key_they_show_nothing(backend: RunningBackend, make_run: MakeRun, token: str) -> None:
    run = make_run("Secret", name="secret_run")
    with Browser(backend, token) as stranger:
        for path in paths_of(run):
            for page in (stranger.look(path), stranger.enter(token, path) if token != KEY else stranger.look(path)):
                assert page.status_code == 401
                assert "ecret" not in page.text
                assert 'name="key"' in page.text
        assert not stranger.cookies


def test_the_link_opens_them_and_the_browser_remembers(backend: RunningBackend, make_run: MakeRun) -> None:
    run = make_run()
    with Browser(backend) as browser:
        (cookie,) = browser.look(run.path).headers["Set-Cookie"].split(", ")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        cookies = browser.cookies.copy()
    with Browser(backend, token="") as later:
        later.cookies.update(cookies)
        assert [later.look(path).status_code for path in paths_of(run)] == [200] * 3


def test_a_cookie_is_of_use_for_hours_not_for_ever(
    backend: RunningBackend, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Browsers send it to every port of this machine: a server there must not be able to look for ever."""
    run = make_run()
    with Browser(backend) as browser:
        browser.look(run.path)
        (name,), (value,) = browser.cookies.keys(), browser.cookies.values()
    assert TOKEN not in value
    until, _, signature = value.partition(".")

    def status(cookie: str) -> int:
        with Browser(backend, token="") as thief:
            thief.cookies.set(name, cookie)
            return thief.look(run.path).status_code

    assert status(value) == 200
    for wrong in (
        f"{int(until) + 1}.{signature}",
        f"{until}.{signature[:-1]}",
        f"{until}.",
        "",
        ".",
        TOKEN,
        f"x.{signature}",
    ):
        assert status(wrong) == 401, wrong
    now = time.time()
    monkeypatch.setattr(access, "time", SimpleNamespace(time=lambda: now + access.PASS_SECONDS + 5))
    assert status(value) == 401


def test_the_backend_says_where_they_are(backend: RunningBackend) -> None:
    address = backend._backend.address()
    assert address["page_url"] == f"{backend.http_url}/?token={TOKEN}"
    with Browser(backend, token="") as browser:
        assert browser.get(address["page_url"], timeout=30).status_code == 200


def test_the_form_opens_them(backend: RunningBackend, make_run: MakeRun) -> None:
    run = make_run(name="calm_river_1")
    with Browser(backend, token="") as browser:
        page = browser.enter(KEY, run.path)
        assert page.status_code == 200
        assert page.url == backend.http_url + run.path
        assert "calm_river_1" in page.text
        assert KEY not in str(browser.cookies.get_dict())


def test_a_huge_form_is_not_read(backend: RunningBackend, browser: Browser) -> None:
    form = {"key": KEY, "more": "x" * 100_000}
    assert browser.post(backend.http_url, data=form, timeout=30).status_code == 401


def test_the_token_opens_nothing_else(backend: RunningBackend, browser: Browser) -> None:
    browser.look()
    for headers in ({}, {"Authorization": f"Api-Key {TOKEN}"}):
        assert browser.look("/api/v0/verify-api-key/", **headers).status_code == 401
        assert browser.look("/ws/v0/rpc/", **headers).status_code == 401


def test_two_backends_in_one_browser(
    start_backend: Callable[..., RunningBackend], backend: RunningBackend, tmp_path: Path
) -> None:
    """Cookies know no ports."""
    other = start_backend(api_key="another-key", data_dir=tmp_path / "other")
    with Browser(backend) as browser:
        browser.look()
        browser.post(other.http_url, data={"key": "another-key"}, timeout=30)
        assert [browser.get(b.http_url, timeout=30).status_code for b in (backend, other)] == [200, 200]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.3.2.1:8000", 200),
        ("localhost:1234", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("192.168.0.1", 403),
        ("[::1", 403),
        ("@localhost@evil.example", 403),
    ],
)
def test_another_name_for_this_machine_gets_nothing(
    backend: RunningBackend, make_run: MakeRun, browser: Browser, host: str, status: int
) -> None:
    """DNS rebinding: a foreign page whose name was made to point at 127.0.0.1."""
    make_run("Secret")
    page = browser.look(Host=host)
    assert page.status_code == status
    assert ("Secret" in page.text) == (status == 200)
    if status == 403:
        assert browser.enter(KEY, Host=host).status_code == 403


def test_on_the_network_any_name_will_do_but_the_key_is_needed(start_backend: Callable[..., RunningBackend]) -> None:
    backend = start_backend(host="0.0.0.0")
    with Browser(backend) as browser, Browser(backend, token="") as stranger:
        assert browser.look(Host="training-machine.example:80").status_code == 200
        assert stranger.look(Host="training-machine.example:80").status_code == 401


# --- hostile texts --------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></svg><svg onload=alert(1)>",
    "javascript:alert(1)",
    "]]><!-- &lt;b&gt;",
    "half a pair: \ud83d",
)


class Tags(HTMLParser):
    """What a parser makes of a page: tags with their attributes, and the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.content: dict[str, str] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        self.content[self._inside] = data
        self._inside = ""


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_stay_texts(browser: Browser, make_run: MakeRun, text: str) -> None:
    is_whole = text.isascii()
    run = make_run(f"P {text}" if is_whole else "P", **({"name": text, "description": text} if is_whole else {}))
    plain = make_run("Plain")
    for watched in (run, plain):
        for value in (text, 0.5, {text: text}):
            watched.log(f"metric {text}" if is_whole else "metric", value)
        prompt = watched.parameter(text, text)
        watched.step(prompt, f"better {text}")
        watched.parameter([text, text], "")
    for hostile, harmless in zip(paths_of(run), paths_of(plain)):
        page = browser.look(hostile)
        assert page.status_code == 200
        tags = Tags(page.text)
        names = {name for name, _ in tags.found}
        assert names <= {*TAGS_IN_USE}, "a text became a tag"
        scripts = [attributes for name, attributes in tags.found if name == "script"]
        assert all(
            script == {"type": "module"}
            or script in ({"type": "application/json"}, {"type": "application/json", "id": "marks"})
            for script in scripts
        )
        for _, attributes in tags.found:
            assert not [name for name in attributes if name.startswith("on") or name == "style"]
            assert re.match(r"\.\.?/(?!/)|\?|data:image/svg\+xml,", attributes.get("href") or "./")
        assert browser.look(harmless).status_code == 200


def test_what_cannot_be_seen_is_shown(browser: Browser, make_run: MakeRun) -> None:
    run = make_run(name="calm\x00river\x1b[31m\u202egpj.exe")
    page = browser.look(run.path).text
    assert "calm\u2400river\u241b[31m⟨U+202E⟩gpj.exe" in page
    assert not re.search("[\x00\x1b\u202e]", page)


def test_no_name_makes_a_link_to_elsewhere(start_backend: Callable[..., RunningBackend]) -> None:
    backend = start_backend(namespaces=("*",))
    headers = {"Authorization": f"Api-Key {KEY}"}
    for namespace in ("%2Fevil.example", "%5Cevil.example", "javascript:alert(1)"):
        projects = f"{backend.http_url}/api/v0/{namespace}/projects/"
        made = requests.post(projects, json={"display_name": "P"}, headers=headers, timeout=30)
        assert made.status_code == 201
        assert requests.post(f"{projects}p/runs/", json={"name": "r"}, headers=headers, timeout=30).status_code == 201
    with Browser(backend) as browser:
        page = browser.look()
        links = links_of(page)
        assert len(links) == 6
        for link in links:
            assert re.match(r"/[^/\\]", link)
            assert browser.look(link).status_code == 200


TAGS_IN_USE = (
    *("html", "head", "meta", "title", "link", "style", "body", "main", "footer", "script", "nav", "section"),
    *("h1", "h2", "h3", "p", "div", "span", "a", "b", "ins", "time", "details", "summary", "article", "ol", "li", "br"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "tellurio-plot"),
    *("form", "label", "input", "select", "option", "button", "textarea", "fieldset"),
)


def test_only_this_style_and_this_script_may_run(browser: Browser, make_run: MakeRun) -> None:
    run = make_run()
    for path in [*paths_of(run), "/none/projects/none/"]:
        page = browser.look(path)
        policy = dict(rule.split(" ", 1) for rule in page.headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
        for name in ("style", "script"):
            allowed = set(policy[f"{name}-src"].split()) - {"'self'", "'none'"}
            contents = re.findall(f"<{name}(?: type=.module.)?>(.*?)</{name}>", page.text, re.DOTALL)
            digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
            assert {f"'sha256-{digest}'" for digest in digests} == allowed
        assert "'unsafe" not in page.headers["Content-Security-Policy"]
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Cache-Control"] == "no-store"
        assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in page.text


# --- what changed ---------------------------------------------------------------------------------


def test_a_page_is_made_again_only_after_a_change(browser: Browser, make_run: MakeRun) -> None:
    run = make_run()
    prompt = run.parameter("old", "prompt")
    changes: list[Callable[[], object]] = [
        lambda: run.log("loss", 1.5),
        lambda: run.parameter("another", "prompt"),
        lambda: run.step(prompt, "new"),
        lambda: run.finish(),
    ]
    for change in changes:
        seen = browser.look(run.path)
        again = browser.look(run.path, If_None_Match=seen.headers["ETag"])
        assert (again.status_code, again.content) == (304, b"")
        change()
        after = browser.look(run.path, If_None_Match=seen.headers["ETag"])
        assert after.status_code == 200
        assert after.text != seen.text


def test_nothing_is_said_about_changes_without_the_key(backend: RunningBackend, browser: Browser) -> None:
    seen = browser.look().headers["ETag"]
    with Browser(backend, token="") as stranger:
        assert stranger.look(If_None_Match=seen).status_code == 401


# --- values ---------------------------------------------------------------------------------------

HUGE = 10**400


@pytest.mark.parametrize("value", [HUGE, -HUGE, True, None, "text", [1], {"a": 1}, 1e308])
def test_what_cannot_be_plotted_is_shown_as_text(browser: Browser, make_run: MakeRun, value: object) -> None:
    run = make_run()
    run.log("odd", value)
    page = browser.look(run.path)
    assert page.status_code == 200
    assert plots_of(page.text) == []
    run.log("odd", 0.5)
    run.log("odd", 0.25)
    (plot,) = plots_of(browser.look(run.path).text)
    assert plot["runs"][0]["y"] == [0.5, 0.25]
