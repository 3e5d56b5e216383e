"""The pages behind a reverse proxy that serves them under a path, in a real browser: it asks for nothing elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..reverse_proxy import ReverseProxy
from .conftest import RunningBackend
from .test_page_browser import Chromium, pytestmark  # noqa: F401 - skips, and is slow, for the same reason
from .test_page_story import Trained
from .watched_run import TOKEN

PREFIX = "/user/me/proxy/7862"


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path / "profile")
    yield chromium
    chromium.close()


@pytest.mark.parametrize("strips", [True, False])
def test_all_that_a_page_does_stays_under_the_prefix(
    chromium: Chromium,
    start_backend: Callable[..., RunningBackend],
    strips: bool,
) -> None:
    backend = start_backend(path_prefix="" if strips else PREFIX)
    # As nginx does, unless it is told otherwise: the backend does not see the name that the browser uses.
    headers = {} if strips else {"Host": f"127.0.0.1:{backend.port}"}
    with (
        contextlib.closing(Trained(backend)) as run,
        ReverseProxy(backend.port, PREFIX, strips=strips, headers=headers) as proxy,
    ):

        def follow(selector: str) -> None:
            chromium.click(selector)
            chromium.wait_for_load()

        def shows(path: str) -> bool:
            return bool(chromium.look("location.pathname") == PREFIX + path)

        chromium.open(f"{proxy.url}/?token={TOKEN}")
        assert chromium.look("location.href") == f"{proxy.url}/"
        follow("h2 a")
        assert shows(run.project_path)
        follow("td.text a")
        assert shows(run.path)
        chromium.wait("document.querySelector('tellurio-plot canvas')")
        # What scripts ask for: changes, other axes, a file.
        chromium.wait("document.getElementById('live').textContent.startsWith('Live')")
        run.log("accuracy", 0.125)
        chromium.wait("document.querySelector('tellurio-plot').chart.data[0].length === 4")
        closer = "document.querySelector('tellurio-plot').fetchSeries({}).then((found) => found.runs.length)"
        assert chromium.look(closer) == 1
        assert f"{run.path}series.json?metric=accuracy" in proxy.asked
        file = "fetch(document.querySelector('.plot-tools a').href).then((reply) => reply.text())"
        assert chromium.look(file).splitlines()[0] == "step,value"
        # Another version of the same page, and back.
        follow("a[href$='prompts/1/']")
        assert shows(f"{run.path}prompts/1/")
        chromium.click(".versions li:nth-child(1) a")
        chromium.wait("document.querySelector('#version h2').innerText === 'Version 1'")
        chromium.look("history.back()")
        chromium.wait("document.querySelector('#version h2').innerText !== 'Version 1'")
        follow("a[href$='/samples/']")
        follow("td.text a")
        assert chromium.look("document.querySelector('h1').innerText").startswith("Forward")
        # A form.
        chromium.open(f"{proxy.url}{run.path}")
        chromium.click("#rename summary")
        chromium.look("document.querySelector('#rename input').value = 'other'")
        follow("#rename button")
        assert shows(run.path)
        assert chromium.look("document.querySelector('h1').innerText") == "other"
        assert chromium.complaints == []
        assert proxy.elsewhere == []
