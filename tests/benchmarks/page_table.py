"""``make bench-page``: how long the pages of the local backend take, on its server and in Chromium, with a lot of data.

The data: the run of the demo; a run of 5,000 steps with 20 metrics, 200 versions of a prompt and 50,000 stored
questions; a run of a million values; 100 runs of 10,000 values; 3,000 runs. Beside it the pages of trackio and mlflow,
each in an environment of its own, with one run of 5,000 steps and 20 metrics. Bounded: each page is opened ``--rounds``
times, the medians count.
A browser takes its time to paint whatever it is sent: before each page an empty one is opened in the same way, and
``empty`` is its first paint, ``own`` by how much that of the page is later. Each page is opened once before, and from a
page of the same site, as a reader does whose browser is running; but with an empty cache.
While the pages are made, another client calls the backend all the time: the longest of its calls shows whether they
hold others up.
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import requests

from tellurio_sync import TellurioWebSocketClient
from tellurio_sync.backend import metrics
from tellurio_sync.backend.history import History
from tellurio_sync.backend.question_log import Forward, asking, sample_of
from tellurio_sync.backend.questions import Answer, Asked
from tellurio_sync.backend.store import Store
from tellurio_sync.local import start_local_backend
from tellurio_sync.studio import StudioRest

from ..backend.test_page_browser import CHROMIUM, Chromium
from .logging_table import environment

WORDS = ["answer", "the", "mail", "politely", "and", "say", "what", "to", "do", "when", "in", "doubt", "ask", "again"]
PEERS = ("trackio", "mlflow")
SERVE_TIMEOUT = 300.0


# --- the data ---------------------------------------------------------------------------------------------


class Data:
    """A data directory with a lot in it, and the paths of the pages that show it. ``scale`` 1 is all of it."""

    def __init__(self, folder: Path, scale: float) -> None:
        self._scale = scale
        self._rng = random.Random(0)
        self._store = Store(folder)
        self.paths = {"projects": "/"}
        big = self._project("big")
        self._large(big)
        self._million(big)
        self._many()
        self._hundred()
        self._store.close()

    def _count(self, number: int) -> int:
        return max(2, int(number * self._scale))

    def _project(self, name: str) -> dict[str, Any]:
        project = self._store.create_project("local", name, name.title(), "TEAM")
        assert project is not None
        return project

    def _run(self, project: dict[str, Any], name: str) -> dict[str, Any]:
        return self._store.create_run(project["uuid"], name, None, "COMPLETED", config={"name": name})

    def _add(self, run: dict[str, Any], values: list[tuple[str, Any, int | None]]) -> None:
        with self._store.transaction():
            metrics.add_values(self._store._db, run["number"], values, time.time())

    def _large(self, project: dict[str, Any]) -> None:
        run, history, rng = self._run(project, "large"), History(self._store), self._rng
        words = [rng.choice(WORDS) for _ in range(300)]
        versions, questions = self._count(200), self._count(250)
        for version in range(versions):
            words[rng.randrange(300)] = f"word{version}"
            prompt = " ".join(words)
            history.versions.note(run["uuid"], "prompt", "system prompt", prompt, "step", [f"Feedback {version}"])
            first = version * 25
            self._add(
                run,
                [
                    (f"metric_{m:02}", math.sin(s / 50 + m) + rng.random() / 5, s)
                    for s in range(first, first + 25)
                    for m in range(20)
                ],
            )
            with self._store.transaction():
                for question in range(questions):
                    sample = sample_of(question, {"prompt": version + 1})
                    forward = Forward(lambda _, sample=sample: sample)  # type: ignore[misc]
                    with asking(forward):
                        history.questions.note(self._question(run, prompt, question))
                    history.questions.note_answers("a", forward.numbers)
                    history.questions.note_scores("a", [(float(rng.random() < 0.5 + version / 500), "because")])
        path = f"/local/projects/big/runs/{run['uuid']}/"
        self.paths["a run of 5,000 steps x 20"] = path
        self.paths["the story of its prompt"] = path + f"prompts/1/?version={versions // 2}"
        self.paths["its 50,000 questions"] = path + "samples/"
        self.paths["what a change broke"] = path + f"samples/?change=broke&version={versions // 2}"
        self.paths["a search in the questions"] = path + "samples/?q=mail+77"

    def _question(self, run: dict[str, Any], prompt: str, number: int) -> Asked:
        usage = {"prompt_tokens": 400, "completion_tokens": 5}
        return Asked(
            purpose="forward",
            run_uuid=run["uuid"],
            model_id="m",
            model_name="small",
            endpoint="",
            sample=0,
            messages=[{"role": "system", "content": prompt}, {"role": "user", "content": f"mail {number} " * 20}],
            completion_args={},
            answer=Answer(f"answer {self._rng.randrange(3)}", "thought", usage=usage, cost=0.0001),
            error=None,
            error_kind=None,
            tries=1,
            started_at=time.time(),
            seconds=0.3,
            cost=0.0001,
        )

    def _million(self, project: dict[str, Any]) -> None:
        run, count = self._run(project, "million"), self._count(1_000_000)
        for first in range(0, count, 10_000):
            steps = range(first, min(count, first + 10_000))
            self._add(run, [("loss", 1 / (1 + step / 1000) + self._rng.random() / 10, step) for step in steps])
        self.paths["a run of 1,000,000 values"] = f"/local/projects/big/runs/{run['uuid']}/"

    def _many(self) -> None:
        project = self._project("many")
        for number in range(self._count(3000)):
            run = self._run(project, f"run {number}")
            self._add(run, [(f"m{metric}", self._rng.random(), step) for step in range(3) for metric in range(6)])
        self.paths["a table of 3,000 runs"] = "/local/projects/many/?sort=metric:m3"

    def _hundred(self) -> None:
        project = self._project("hundred")
        uuids = []
        for number in range(100):
            run = self._run(project, f"run {number}")
            values = [(1 / (1 + step / 100) + self._rng.random() / 10, step) for step in range(self._count(10_000))]
            self._add(run, [("loss", value, step) for value, step in values])
            uuids.append(("run", run["uuid"]))
        self.paths["100 runs x 10,000 in one plot"] = f"/local/projects/hundred/compare/?{urlencode(uuids)}"


# --- measuring --------------------------------------------------------------------------------------------

PAINTED = """new Promise((resolve) => {
    const plot = document.querySelector("tellurio-plot");
    plot?.scrollIntoView({block: "center", behavior: "instant"});
    const done = () => {
        const paint = performance.getEntriesByName("first-contentful-paint")[0];
        const page = performance.getEntriesByType("navigation")[0];
        const parts = performance.getEntriesByType("resource").filter((one) => one.initiatorType !== "eventsource");
        const drawn = performance.getEntriesByName("plot drawn").map((one) => one.startTime);
        const loaded = parts.map((one) => one.responseEnd);
        const last = Math.max(page.loadEventEnd, paint?.startTime ?? 0, ...drawn, ...loaded);
        const isDrawn = !plot || drawn.length > 0;
        if (!paint || !page.loadEventEnd || !isDrawn || performance.now() - last < QUIET) {
            setTimeout(done, 20);
            return;
        }
        const bytes = [page, ...parts].reduce((sum, one) => sum + one.encodedBodySize, 0);
        resolve([paint.startTime, last, 1 + parts.length, bytes, performance.memory.usedJSHeapSize]);
    };
    done();
})"""
"""First paint and complete in ms, requests, bytes, bytes of the heap.

Complete: nothing was asked for, and none of our plots drawn, for a while. Ours are drawn when they come into view, so
that is where the first one is brought.
"""


EMPTY = b"<!doctype html><html lang=en><title>Empty</title><link rel=icon href='data:,'><p>Nothing</p></html>"


class EmptyPage(http.server.BaseHTTPRequestHandler):
    """Answers at once, with a page that has nothing but a word."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        for name, value in (
            ("Content-Type", "text/html"),
            ("Content-Length", len(EMPTY)),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(EMPTY)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def empty_page() -> Iterator[str]:
    """The address of an empty page, on the same host as the others."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Seen(NamedTuple):
    """What a browser makes of a page: times in ms from the navigation on, medians.

    Attributes:
        empty: first paint of an empty page in the same round.
        own: by how much the first paint of this page is later.
    """

    empty: float
    paint: float
    own: float
    complete: float
    requests: float
    size: float
    heap: float


def browse(browser: Chromium, url: str, empty_url: str, rounds: int, quiet_ms: int) -> Seen:
    """The medians of some looks at a page, each after one at an empty page; a first one of both does not count."""
    rows = []
    for _ in range(rounds + 1):
        empty = _look(browser, empty_url, 0)[0]
        paint, *others = _look(browser, url, quiet_ms)
        rows.append((empty, paint, paint - empty, *others))
    return Seen(*(statistics.median(column) for column in zip(*rows[1:])))


def _look(browser: Chromium, url: str, quiet_ms: int) -> list[float]:
    browser.command("Network.clearBrowserCache")
    # What the pages before left behind in the same process is no part of this one.
    browser.command("HeapProfiler.collectGarbage")
    browser.open(url)
    found: list[float] = browser.look(PAINTED.replace("QUIET", str(quiet_ms)))
    return found


def served(session: requests.Session, url: str, rounds: int) -> float:
    """Milliseconds from the request to the last byte: the median."""
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        session.get(url, timeout=SERVE_TIMEOUT).raise_for_status()
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


class Bystander:
    """Another client of the backend, which calls all the time."""

    def __init__(self, backend: Any, run_uuid: str) -> None:
        self._client = TellurioWebSocketClient(backend.ws_base_url, backend.ws_port)
        self._client.connect(api_key=backend.api_key)
        self._params = {"run_uuid": run_uuid}
        self._is_over = threading.Event()
        self.longest_ms = 0.0
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def _call(self) -> None:
        while not self._is_over.wait(0.002):
            started = time.perf_counter()
            self._client.call("get_rpc_version", self._params)
            self.longest_ms = max(self.longest_ms, (time.perf_counter() - started) * 1000)

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._client.close()


def line(name: str, served_ms: float | None, seen: Seen, others_ms: float | None) -> str:
    times = [served_ms, seen.empty, seen.paint, seen.own, seen.complete]
    shown = "".join(f"{'-' if one is None else format(one, '.0f'):>9}" for one in times)
    others = "-" if others_ms is None else format(others_ms, ".0f")
    return f"{name:<32}{shown}{seen.requests:>9.0f}{seen.size / 1000:>7.0f}{seen.heap / 2**20:>8.1f}{others:>10}"


HEAD = (
    f"{'':<32}{'server':>9}{'empty':>9}{'paint':>9}{'own':>9}{'complete':>9}{'requests':>9}{'kB':>7}{'heap MB':>8}"
    f"{'others ms':>10}"
)


def measure_ours(browser: Chromium, empty_url: str, rounds: int, scale: float) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-page-") as folder:
        paths = Data(Path(folder), scale).paths
        demo = [sys.executable, "-m", "tellurio_sync", "demo", "--quiet", "--mode", "local", "--data-dir", folder]
        subprocess.run(demo, check=True, stdout=subprocess.DEVNULL, timeout=SERVE_TIMEOUT)
        with start_local_backend(folder) as backend, requests.Session() as session:
            base = f"{backend.http_base_url}:{backend.http_port}"
            with contextlib.closing(StudioRest(backend.http_base_url, backend.http_port, backend.api_key)) as rest:
                run_uuid = rest.list_runs("local", "big")[0]["uuid"]
                demo_uuid = rest.list_runs("local", "facility-support")[0]["uuid"]
            paths["the run of the demo"] = f"/local/projects/facility-support/runs/{demo_uuid}/"
            session.get(backend.page_url, timeout=SERVE_TIMEOUT)  # its cookie opens the other pages
            browser.open(backend.page_url)
            for name, path in paths.items():
                bystander = Bystander(backend, run_uuid)
                served_ms = served(session, base + path, rounds)
                bystander.close()
                seen = browse(browser, base + path, empty_url, rounds, 300)
                print(line(name, served_ms, seen, bystander.longest_ms), flush=True)


@contextlib.contextmanager
def peer_page(name: str, python: Path, scale: float) -> Iterator[str]:
    """The address of the page of another tracker, with one run in it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix=f"bench-page-{name}-", ignore_cleanup_errors=True) as folder:
        steps = str(max(50, int(5000 * scale)))
        command = [str(python), str(Path(__file__).with_name("page_server.py")), name, folder, steps, "20", str(port)]
        process = subprocess.Popen(
            command,
            cwd=folder,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        ending = threading.Timer(SERVE_TIMEOUT, os.killpg, (process.pid, signal.SIGKILL))
        ending.start()
        try:
            assert process.stdout is not None
            url = next((text.strip() for text in process.stdout if text.startswith("http://127.0.0.1")), None)
            if url is None:
                raise OSError(f"{name} did not serve its page")
            _wait_for_port(port)
            yield url
        finally:
            ending.cancel()
            with contextlib.suppress(ProcessLookupError):  # its own group, nothing else
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + SERVE_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def main() -> int:
    """Print the table; the exit code is 1 where there is no browser."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.page_table", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="little data: only shows that it runs")
    parser.add_argument("--only-ours", action="store_true", help="without trackio and mlflow")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench-log"))
    args = parser.parse_args()
    if CHROMIUM is None:
        print("Chromium is not installed (Debian: apt-get install chromium)")
        return 1
    scale = 0.01 if args.quick else 1.0
    print(f"load of the machine: {os.getloadavg()[0]:.1f}, processors: {os.cpu_count()}")
    print(f"times in ms, medians of {args.rounds}")
    print(HEAD)
    with (
        tempfile.TemporaryDirectory(prefix="bench-page-profile-", ignore_cleanup_errors=True) as profile,
        contextlib.closing(Chromium(Path(profile))) as browser,
        empty_page() as empty_url,
    ):
        browser.resize(1440)
        browser.command("Network.enable")
        measure_ours(browser, empty_url, args.rounds, scale)
        for name in () if args.only_ours else PEERS:
            try:
                with peer_page(name, environment(name, args.cache.absolute()), scale) as url:
                    seen = browse(browser, url, empty_url, args.rounds, 2000)
                    print(line(f"{name}: a run of 5,000 x 20", None, seen, None))
            except (OSError, subprocess.CalledProcessError) as exc:
                print(f"{name:<32} {exc}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
