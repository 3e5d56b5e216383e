from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from .conftest import KEY, RunningBackend


@pytest.fixture
def browser() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def fill(backend: RunningBackend, browser: requests.Session) -> None:
    root, key = f"{backend.http_url}/api/v0/local/projects/", {"Authorization": f"Api-Key {KEY}"}
    browser.post(root, json={"display_name": "A <b> project"}, headers=key, timeout=30)
    run = browser.post(f"{root}a-b-project/runs/", json={"name": "first run"}, headers=key, timeout=30).json()
    for value in (0.25, 0.5, {"text": "<script>"}):
        path = f"{root}a-b-project/runs/{run['uuid']}/metrics/"
        browser.post(path, json={"name": "accuracy", "value": value}, headers=key, timeout=30)


def test_it_shows_projects_runs_and_metrics(backend: RunningBackend, browser: requests.Session) -> None:
    fill(backend, browser)
    page = browser.post(backend.http_url, data={"key": KEY}, timeout=30)
    assert page.status_code == 200
    for text in ("A &lt;b&gt; project", "first run", "RUNNING", "accuracy", "<td class=number>0.25", "<polyline"):
        assert text in page.text
    assert "<script>" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    again = browser.get(backend.http_url, timeout=30)
    assert again.text == page.text
    assert KEY not in str(browser.cookies.get_dict())


@pytest.mark.parametrize("cookie", ["", "x", KEY])
def test_without_the_key_it_shows_nothing(backend: RunningBackend, browser: requests.Session, cookie: str) -> None:
    fill(backend, browser)
    for page in (
        browser.get(backend.http_url, cookies={"tellurio_page": cookie}, timeout=30),
        browser.post(backend.http_url, data={"key": cookie.upper()}, timeout=30),
    ):
        assert page.status_code == 401
        assert "first run" not in page.text
