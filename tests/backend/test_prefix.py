"""The backend behind a reverse proxy that serves it under a path, and takes that away from requests, or does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import urljoin, urlsplit

import pytest
import requests

import tellurio_sync as te
from tellurio_sync.backend.options import BackendOptions, arguments_parser

from ..reverse_proxy import ReverseProxy
from .conftest import KEY, RunningBackend
from .rpc_client import FAILSAFE
from .test_page_story import Trained
from .watched_run import TOKEN, links_of

PREFIX = "/user/me/proxy/7862"

StartBackend = Callable[..., RunningBackend]
Train = Callable[[RunningBackend], Trained]


@pytest.fixture(params=["stripped", "kept"])
def proxy(request: pytest.FixtureRequest, start_backend: StartBackend) -> Iterator[ReverseProxy]:
    """Without any option of the backend where the prefix is taken away."""
    strips = request.param == "stripped"
    backend = start_backend(path_prefix="" if strips else PREFIX)
    with ReverseProxy(backend.port, PREFIX, strips=strips) as proxy:
        proxy.backend = backend  # type: ignore[attr-defined]
        yield proxy


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def train() -> Iterator[Train]:
    """A function that makes a run with something on each page."""
    made: list[Trained] = []

    def train(backend: RunningBackend) -> Trained:
        made.append(Trained(backend))
        return made[-1]

    yield train
    for run in made:
        run.close()


def cookie_paths(browser: requests.Session) -> set[str]:
    return {cookie.path for cookie in browser.cookies}


# --- the page -----------------------------------------------------------------------------------------


def test_every_link_of_every_page_stays_under_the_prefix(
    proxy: ReverseProxy, browser: requests.Session, train: Train
) -> None:
    """From the first page on, all links are followed."""
    run = train(proxy.backend)  # type: ignore[attr-defined]
    for path in ("series.json?metric=accuracy", "values.csv?metric=accuracy"):
        assert browser.get(f"{proxy.url}{run.path}{path}&token={TOKEN}", timeout=FAILSAFE).status_code == 200
    # Compared are the runs that are picked in a form, which no link leads to.
    left = [f"{PREFIX}{run.project_path}compare/?run={run.uuid}", f"{PREFIX}/?token={TOKEN}"]
    seen = set(left)
    kinds: set[str] = set()
    while left:
        page = browser.get(urljoin(proxy.url, left.pop()), timeout=FAILSAFE)
        assert page.status_code == 200, page.url
        kinds.add(re.sub("[0-9a-f-]{30,}|[0-9]+", "N", urlsplit(page.url).path.removeprefix(PREFIX)))
        if not page.headers.get("Content-Type", "").startswith("text/html") or "attachment" in str(page.headers):
            continue
        for link in links_of(page):
            assert link.startswith(f"{PREFIX}/"), (page.url, link)
            if link not in seen and not link.endswith("/change/"):  # where forms are sent: see below
                seen.add(link)
                left.append(link)
        paths = re.findall('"(?:path|href)":"([^"]*)"', page.text)
        assert all(urljoin(page.url, path).startswith(f"{proxy.url}/") for path in paths), "for the plots' script"
    assert proxy.elsewhere == []
    assert kinds >= {
        "/",
        "/local/projects/my-project/",
        "/local/projects/my-project/compare/",
        "/local/projects/my-project/runs/N/",
        "/local/projects/my-project/runs/N/report.html",
        "/local/projects/my-project/runs/N/graph/",
        "/local/projects/my-project/runs/N/prompts/N/",
        "/local/projects/my-project/runs/N/prompts/N/versions/N.md",
        "/local/projects/my-project/runs/N/samples/",
        "/local/projects/my-project/runs/N/samples/N/",
    }
    assert [kind for kind in kinds if kind.startswith("/static/")]


def test_the_key_is_asked_for_and_remembered_under_the_prefix(
    proxy: ReverseProxy, browser: requests.Session, train: Train
) -> None:
    run = train(proxy.backend)  # type: ignore[attr-defined]
    for path in ("/", run.path):
        asked = browser.get(proxy.url + path, timeout=FAILSAFE)
        assert (asked.status_code, '<form method="post">' in asked.text) == (401, True), "it is sent to its own address"
        shown = browser.post(proxy.url + path, data={"key": KEY}, timeout=FAILSAFE)
        assert (shown.status_code, shown.url) == (200, proxy.url + path)
        assert browser.get(f"{proxy.url}/", timeout=FAILSAFE).status_code == 200, "all pages, not only this one"
        browser.cookies.clear()
    assert proxy.elsewhere == []


def test_forms_lead_to_pages_under_the_prefix(proxy: ReverseProxy, browser: requests.Session, train: Train) -> None:
    run = train(proxy.backend)  # type: ignore[attr-defined]
    browser.get(f"{proxy.url}/?token={TOKEN}", timeout=FAILSAFE)
    own = {"Sec-Fetch-Site": "same-origin"}

    def change(path: str, **form: str) -> requests.Response:
        return browser.post(f"{proxy.url}{path}change/", data=form, headers=own, timeout=FAILSAFE)

    renamed = change(run.path, action="rename", name="other")
    assert (renamed.url, "<h1>other</h1>" in renamed.text) == (proxy.url + run.path, True)
    refused = change(run.path, action="rename", name=" ")
    assert (refused.status_code, links_of(refused)) == (400, [f"{PREFIX}/"])
    assert links_of(change("/local/projects/none/", action="delete")) == [f"{PREFIX}/"]
    assert change(run.path, action="delete").url == proxy.url + run.project_path
    assert change(run.project_path, action="delete").url == f"{proxy.url}/"
    assert proxy.elsewhere == []


def test_changes_are_announced_through_the_proxy(proxy: ReverseProxy, browser: requests.Session, train: Train) -> None:
    """As they happen: a proxy that buffers is asked not to."""
    browser.get(f"{proxy.url}/?token={TOKEN}", timeout=FAILSAFE)
    with browser.get(f"{proxy.url}/events/", stream=True, timeout=FAILSAFE) as answer:
        assert (answer.status_code, answer.headers["X-Accel-Buffering"]) == (200, "no")
        lines = (line for line in answer.iter_lines(1) if line)
        first = next(lines)
        train(proxy.backend)  # type: ignore[attr-defined]
        assert next(lines) != first


def test_a_prefix_without_its_slash_leads_to_the_one_with_it(start_backend: StartBackend) -> None:
    backend = start_backend(path_prefix=PREFIX)
    page = requests.get(f"{backend.http_url}{PREFIX}?token={TOKEN}", timeout=FAILSAFE)
    assert (page.status_code, page.url) == (200, f"{backend.http_url}{PREFIX}/?token={TOKEN}")


def test_what_is_not_under_the_prefix_is_served_as_well(
    start_backend: StartBackend, browser: requests.Session, train: Train
) -> None:
    """For programs on the same machine, and for a check of the proxy."""
    backend = start_backend(path_prefix="/local")  # also the name of the namespace
    run = train(backend)
    for path in ("/", run.path, f"/local{run.path}"):
        page = browser.get(f"{backend.http_url}{path}?token={TOKEN}", timeout=FAILSAFE)
        assert page.status_code == 200
        base = "/local" if path.startswith("/local/local") else ""
        assert f"{base}{run.path}" in links_of(page) or "Overview" in page.text
        assert all(link.startswith(f"{base}/") for link in links_of(page))
    browser.cookies.clear()
    browser.get(f"{backend.http_url}{run.project_path}?token={TOKEN}", timeout=FAILSAFE)
    assert cookie_paths(browser) == {"/"}, "that path only looks as if it were under the prefix"


# --- where the cookie is sent -----------------------------------------------------------------------------


def test_a_kept_prefix_is_the_path_of_the_cookie(start_backend: StartBackend, browser: requests.Session) -> None:
    """Other paths of the same host may be other people's servers."""
    backend = start_backend(path_prefix=PREFIX)
    browser.get(f"{backend.http_url}{PREFIX}/?token={TOKEN}", timeout=FAILSAFE)
    assert cookie_paths(browser) == {PREFIX}


@pytest.mark.parametrize(
    ("told", "path"),
    [
        ("", "/"),
        (PREFIX, PREFIX),
        (f"{PREFIX}/", PREFIX),
        ("/user/me%40example.org/x", "/user/me%40example.org/x"),
        ("/", "/"),
        ("relative/path", "/"),
        ("//evil.example", "/"),
        ("https://evil.example/", "/"),
        ("/x; Domain=example", "/"),
        ("/x;Domain=example", "/"),
        ('/x"><script>alert(1)</script>', "/"),
        ("/x, /y", "/"),
        ("/x\\y", "/"),
        ("/" + "x" * 2000, "/"),
        ("/\xe9", "/"),
    ],
)
def test_a_proxy_may_tell_the_prefix_that_it_has_taken_away(
    backend: RunningBackend, browser: requests.Session, told: str, path: str, train: Train
) -> None:
    """And what it tells goes nowhere else: no link, no redirect and no text has it."""
    run = train(backend)
    url = f"{backend.http_url}{run.path}"
    headers = {"X-Forwarded-Prefix": told.encode("latin-1"), "Sec-Fetch-Site": "same-origin"}
    plain = browser.get(f"{url}?token={TOKEN}", timeout=FAILSAFE)
    browser.cookies.clear()
    answers = [
        browser.get(f"{url}?token={TOKEN}", headers=headers, timeout=FAILSAFE),
        browser.post(url, data={"key": KEY}, headers=headers, allow_redirects=False, timeout=FAILSAFE),
    ]
    for answer in answers:
        (sent,) = re.findall("(?i)path=([^;]*)", answer.headers["Set-Cookie"])
        assert sent == path
        assert "domain" not in answer.headers["Set-Cookie"].lower()
    assert links_of(answers[0]) == links_of(plain)
    assert told not in answers[0].text or len(told) < 2
    assert answers[1].headers["Location"] == "./"


# --- clients ------------------------------------------------------------------------------------------


def test_a_client_behind_it_trains_and_logs(proxy: ReverseProxy, browser: requests.Session) -> None:
    with te.Session() as session:
        session.login(KEY, base_url=f"{proxy.url}/")
        assert session.whoami()["server"] == proxy.url
        with session.init(project_display_name="P", name="calm river") as run:
            text = te.Variable("hello", role="greeting", requires_grad=True)
            text.data = "good morning"
            run.log("loss", 0.5)
            assert run.flush()
            assert [row["value"] for row in run.metrics()] == [0.5]
        assert run.url == f"{proxy.url}/local/projects/p/runs/calm-river/"
        assert session.client.ws_url == f"{proxy.url}/ws/v0/rpc/".replace("http", "ws")
        assert session.rest.knows("journal"), "headers of answers arrive, too"
    page = browser.get(f"{run.url}?token={TOKEN}", timeout=FAILSAFE)
    assert (page.status_code, "<h1>calm river</h1>" in page.text) == (200, True)
    assert proxy.elsewhere == []


# --- the options --------------------------------------------------------------------------------------


def parse(*arguments: str) -> BackendOptions:
    return BackendOptions.from_args(arguments_parser("x").parse_args(arguments))


@pytest.mark.parametrize(
    ("given", "prefix"),
    [("/tellurio", "/tellurio"), ("tellurio/", "/tellurio"), ("/user/me/x/", PREFIX[:8] + "/x"), ("/", ""), ("", "")],
)
def test_the_option(given: str, prefix: str) -> None:
    assert parse(f"--path-prefix={given}").path_prefix == prefix
    assert BackendOptions(path_prefix=given).path_prefix == prefix


@pytest.mark.parametrize(
    "given",
    ["/me%40example.org", "/Jörg", "/a;b", "/a//b", "//a", "/a/../b", "/{x}", "/a?b", "/a b", "/<b>", "http://a/b"],
)
def test_what_is_no_prefix_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(f"--path-prefix={given}")
    assert "an example: /tellurio" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["/a-b.c_d~e/0", "/api", "/events", "/static", "/local/projects", "/api/v0"])
def test_any_prefix_that_is_accepted_works(
    start_backend: StartBackend, browser: requests.Session, prefix: str, train: Train
) -> None:
    backend = start_backend(path_prefix=prefix)
    run = train(backend)
    with ReverseProxy(backend.port, prefix, strips=False) as proxy:
        page = browser.get(f"{proxy.url}{run.path}?token={TOKEN}", timeout=FAILSAFE)
        assert page.status_code == 200
        assert proxy.asked == [f"{run.path}?token={TOKEN}"]
        assert requests.get(f"{proxy.url}/api/v0/verify-api-key/", timeout=FAILSAFE).status_code == 401


def test_a_name_that_is_not_expected_is_told_how_it_would_be(backend: RunningBackend) -> None:
    def page(host: str) -> str:
        answer = requests.get(f"{backend.http_url}/", headers={"Host": host}, timeout=FAILSAFE)
        assert answer.status_code == 403
        return answer.text

    assert "tellurio-sync backend --allow-host hub.example<" in page("hub.example:8443")
    assert "--allow-host" not in page("$(reboot).example"), "it would be copied into a shell"


@pytest.mark.parametrize(("prefix", "status"), [("/user/me/", 401), ("", 403)])
def test_on_a_hub_any_name_is_allowed(
    start_backend: StartBackend, monkeypatch: pytest.MonkeyPatch, prefix: str, status: int
) -> None:
    """The hub does not tell its name, and no browser is on the machine that a name could be made to point to."""
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", prefix)
    backend = start_backend()
    answer = requests.get(f"{backend.http_url}/", headers={"Host": "hub.example"}, timeout=FAILSAFE)
    assert answer.status_code == status


def test_any_name_may_be_allowed(start_backend: StartBackend) -> None:
    backend = start_backend(allow_hosts=("*",))
    answer = requests.get(f"{backend.http_url}/", headers={"Host": "any.example"}, timeout=FAILSAFE)
    assert answer.status_code == 401
