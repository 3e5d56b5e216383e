"""The pages in a real browser: headless Chromium, spoken to by its debugging protocol."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from .conftest import KEY, RunningBackend
from .rpc_client import FAILSAFE
from .watched_run import TOKEN, WatchedRun

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]

# The tests' pages are their own, so it needs no sandbox, which containers often do not allow.
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*"),
]


class Chromium:
    """A browser with one tab.

    Attributes:
        complaints: what its console says of errors, violations of the Content-Security-Policy among them.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        self.complaints: list[str] = []
        self._ids = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        self._session: dict[str, str] = {}
        self._address = ""
        self._is_up = threading.Event()
        self._process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read_stderr, name="stderr of Chromium")
        self._reader.start()
        self._socket: websocket.WebSocket | None = None
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stderr:
            for line in stderr:
                found = re.search(r"DevTools listening on (\S+)", line)
                if found:
                    self._address = found[1]
                    self._is_up.set()

    def _connect(self) -> None:
        assert self._is_up.wait(FAILSAFE), "Chromium did not start"
        self._socket = websocket.create_connection(self._address, timeout=FAILSAFE)
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.shutdown()  # type: ignore[no-untyped-call]
        self._process.terminate()
        try:
            self._process.wait(FAILSAFE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(FAILSAFE)

    # --- its protocol ---------------------------------------------------------------------------

    def command(self, method: str, **params: Any) -> Any:
        command_id = next(self._ids)
        assert self._socket is not None
        self._socket.send(json.dumps({"id": command_id, "method": method, "params": params, **self._session}))
        end = time.monotonic() + FAILSAFE
        while True:
            message = self._next(end)
            if message.get("id") == command_id:
                assert "error" not in message, message
                return message["result"]

    def _next(self, end: float) -> dict[str, Any]:
        # Events may come for ever, so a timeout of each alone would be no end.
        left = end - time.monotonic()
        assert left > 0, f"what should happen did not within {FAILSAFE} s; the console says {self.complaints[-3:]}"
        assert self._socket is not None
        self._socket.settimeout(left)
        message: dict[str, Any] = json.loads(self._socket.recv())
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.complaints.append(message["params"]["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(message["params"]["exceptionDetails"]))
        if "method" in message:
            self._events.append(message)
        return message

    # --- what a user does -----------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Load a page, and wait until that is done."""
        self._events.clear()
        self.command("Page.navigate", url=url)
        self.wait_for_load()

    def wait_for_load(self) -> None:
        end = time.monotonic() + FAILSAFE
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._next(end)
        self._events.clear()

    def look(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until the page has changed such that the expression is true."""
        self.look(
            f"""new Promise((resolve) => {{
                const observer = new MutationObserver(() => check());
                const check = () => {{ if ({expression}) {{ observer.disconnect(); resolve(); }} }};
                observer.observe(document, {{subtree: true, childList: true, attributes: true, characterData: true}});
                check();
            }})"""
        )

    def resize(self, width: int, scheme: str = "light") -> None:
        """Be a screen of this many pixels, in a light or dark room."""
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element that is scrolled to, in the window."""
        box = self.look(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)});"
            " found.scrollIntoView({block: 'center', behavior: 'instant'});"
            " return found.getBoundingClientRect().toJSON(); })()"
        )
        return box["x"], box["y"], box["width"], box["height"]

    def click(self, selector: str, x: float = 0.5, y: float = 0.5) -> None:
        """Click with the mouse on an element, at these shares of its width and height."""
        left, top, width, height = self.place(selector)
        self._mouse("mouseMoved", left + x * width, top + y * height)
        for kind in ("mousePressed", "mouseReleased"):
            self._mouse(kind, left + x * width, top + y * height)

    def drag(self, selector: str, begin: float, end: float) -> None:
        """Drag the mouse over an element, from one share of its width to another."""
        left, top, width, height = self.place(selector)
        y = top + height / 2
        self._mouse("mouseMoved", left + begin * width, y)
        self._mouse("mousePressed", left + begin * width, y)
        for step in range(1, 6):
            self._mouse("mouseMoved", left + (begin + (end - begin) * step / 5) * width, y)
        self._mouse("mouseReleased", left + end * width, y)

    def _mouse(self, kind: str, x: float, y: float) -> None:
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def choose(self, selector: str, value: str, event: str = "change") -> None:
        """Give a field another value, as its list or slider does, and let the page know."""
        # Later, because the page may be another one then, in which nothing could be answered.
        self.look(
            f"(() => {{ const field = document.querySelector({json.dumps(selector)});"
            f" field.value = {json.dumps(value)};"
            f" setTimeout(() => field.dispatchEvent(new Event({json.dumps(event)}, {{bubbles: true}})), 0); }})()"
        )

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, **(text if kind == "keyDown" else {}))

    def source(self) -> str:
        """The document as it is now, read past its script."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        html: str = self.command("DOM.getOuterHTML", nodeId=root)["outerHTML"]
        return html


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path / "profile")
    yield chromium
    chromium.close()


@pytest.fixture
def run(backend: RunningBackend) -> Iterator[WatchedRun]:
    run = WatchedRun(backend, name="calm_river_1")
    yield run
    run.close()


def url_of(backend: RunningBackend, run: WatchedRun) -> str:
    return f"{backend.http_url}{run.path}?token={TOKEN}"


def see_plot(chromium: Chromium) -> None:
    """Go to the first plot, if there is one, and wait until it is drawn."""
    if chromium.look("document.querySelector('tellurio-plot') !== null"):
        chromium.place("tellurio-plot")
        chromium.wait("document.querySelector('tellurio-plot .u-over')")


# How many values the first plot draws.
CORNERS = "document.querySelector('tellurio-plot').chart.data[0].length"


def test_a_run_is_seen_and_followed(chromium: Chromium, backend: RunningBackend, run: WatchedRun) -> None:
    for value in (0.25, 0.5):
        run.log("accuracy", value)
    prompt = run.parameter("Be brief.", "system prompt")
    run.step(prompt, "Be brief.\nBe kind.")
    chromium.open(url_of(backend, run))
    see_plot(chromium)

    box = chromium.look("document.querySelector('tellurio-plot canvas').getBoundingClientRect().toJSON()")
    assert box["width"] > 200
    assert box["height"] > 50
    assert chromium.look("getComputedStyle(document.querySelector('.u-over')).position") == "absolute", (
        "its style is in use"
    )
    assert chromium.look("document.querySelector('ins').innerText") == "\nBe kind."
    assert chromium.look("location.search") == "", "the token is not left in the address"
    chromium.wait("document.getElementById('live').textContent.startsWith('Live')")
    assert chromium.look(CORNERS) == 2

    chromium.look("document.querySelectorAll('article details').forEach((details) => details.open = true)")
    run.step(prompt, "Be brief.\nBe kind.\nBe right.")
    chromium.wait("document.querySelector('ins')?.innerText === '\\nBe right.'")
    run.log("accuracy", 0.75)
    chromium.wait(f"{CORNERS} === 3")
    run.log("loss", 4)
    chromium.wait("document.querySelectorAll('tellurio-plot canvas').length === 2")
    assert chromium.look("document.querySelectorAll('details[open]').length") == 1, "what was opened stays open"
    run.finish()
    chromium.wait("document.querySelector('.status').innerText === 'completed'")
    assert chromium.complaints == []


def test_new_runs_show_up_in_the_overview(chromium: Chromium, backend: RunningBackend) -> None:
    chromium.open(f"{backend.http_url}/?token={TOKEN}")
    run = WatchedRun(backend, "First", name="calm_river_1")
    run.close()
    chromium.wait("document.querySelector('td a')")
    chromium.look("document.querySelector('td a').click()")
    chromium.wait_for_load()
    assert chromium.look("document.querySelector('h1').innerText") == "calm_river_1"
    assert chromium.complaints == []


def test_it_is_a_plain_page_without_script(chromium: Chromium, backend: RunningBackend, run: WatchedRun) -> None:
    run.log("accuracy", 0.25)
    run.log("accuracy", 0.5)
    run.parameter("Be brief.", "system prompt")
    chromium.command("Emulation.setScriptExecutionDisabled", value=True)
    chromium.open(url_of(backend, run))
    source = chromium.source()
    for text in ("<td>1</td>", "0.25 at step 0, 0.5 at step 1", "Be brief.", "Reload this page"):
        assert text in source


def test_the_key_is_asked_for(chromium: Chromium, backend: RunningBackend, run: WatchedRun) -> None:
    chromium.open(backend.http_url + run.path)
    assert chromium.look("document.activeElement.name") == "key"
    chromium.look(f"document.activeElement.value = '{KEY}'; document.forms[0].requestSubmit()")
    chromium.wait_for_load()
    assert chromium.look("document.querySelector('h1').innerText") == "calm_river_1"
    assert chromium.look("document.cookie") == "", "no script can read it"


def test_hostile_texts_do_nothing(chromium: Chromium, backend: RunningBackend, run: WatchedRun) -> None:
    hostile = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 2</script>"
    run.log(hostile, 1)
    prompt = run.parameter(hostile, hostile)
    chromium.open(url_of(backend, run))
    run.step(prompt, f"again {hostile}")
    run.log(hostile, {hostile: 1})
    chromium.wait("document.querySelector('.prose').innerText.startsWith('again <img')")
    assert chromium.look("[window.hacked === undefined, document.images.length]") == [True, 0]
    # Even what would get past the escaping could do nothing.
    chromium.look("document.body.insertAdjacentHTML('beforeend', \"<img src=x onerror='window.hacked = 3'>\")")
    chromium.look("new Promise((resolve) => requestAnimationFrame(resolve))")
    assert chromium.look("window.hacked === undefined")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(chromium: Chromium, backend: RunningBackend, run: WatchedRun, scheme: str) -> None:
    run.parameter("Be brief.", "system prompt")
    chromium.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    chromium.open(url_of(backend, run))
    colours = {}
    for name, where in (("background", "body"), ("color", ".prose"), ("color ", ".soft")):
        colour = chromium.look(f"getComputedStyle(document.querySelector('{where}')).{name.strip()}")
        colours[name] = luminance(colour)
    for name in ("color", "color "):
        low, high = sorted((colours[name], colours["background"]))
        assert (high + 0.05) / (low + 0.05) >= 4.5, "WCAG 2 asks for this much contrast"
    assert (colours["background"] > 0.5) == (scheme == "light")


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance of what begins with ``rgb(1, 2, 3)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_backend_that_is_gone_and_comes_back(
    chromium: Chromium, start_backend: Callable[..., RunningBackend]
) -> None:
    first = start_backend()
    run = WatchedRun(first, name="calm_river_1")
    chromium.open(url_of(first, run))
    run.close()
    first.stop()
    chromium.wait("document.getElementById('live').textContent.startsWith('The backend does not answer')")
    assert chromium.look("document.querySelector('h1').innerText") == "calm_river_1"
    second = start_backend(port=first.port)
    chromium.wait("document.getElementById('live').textContent.startsWith('Live')")
    second.stop()
    start_backend(port=first.port, api_key="another-key-of-the-backend")
    chromium.wait_for_load()
    assert chromium.look("document.querySelector('label').innerText") == "Key of this backend"


# What the page waits for is held: timers of long pauses run when the test says so, and no stream is opened.
HELD = """
window.held = [];
window.streams = [];
window.asked = 0;
const {setTimeout: later, clearTimeout: forget, fetch: ask} = window;
window.setTimeout = (work, delay, ...rest) => (delay >= 400 ? -held.push({work, delay}) : later(work, delay, ...rest));
window.clearTimeout = (timer) => (timer < 0 ? delete held[-timer - 1] : forget(timer));
window.fetch = (...request) => { window.asked += 1; return ask(...request); };
window.EventSource = class {
  static CLOSED = 2;
  readyState = 0;
  constructor(address) { this.address = address; streams.push(this); document.body.dataset.streams = streams.length; }
  close() { this.readyState = 2; }
};
"""


def test_a_page_waits_after_an_error_of_its_stream_before_it_asks(
    chromium: Chromium, backend: RunningBackend, run: WatchedRun
) -> None:
    """A backend that stops should not be asked while it closes its connections."""
    chromium.command("Page.addScriptToEvaluateOnNewDocument", source=HELD)
    chromium.open(url_of(backend, run))
    chromium.wait("document.body.dataset.streams === '1'")
    waiting = "held.filter((one) => one).map((one) => one.delay)"
    # Others wait for other things.
    before = chromium.look("held.fill(undefined) && asked")
    chromium.look("streams[0].onerror(); streams[0].onerror()")
    (delay,) = chromium.look(waiting)
    assert delay >= 500, "one look, however many errors there are"
    chromium.look("streams[0].onmessage({data: 'another revision'})")
    assert chromium.look(waiting) == [delay], "what comes meanwhile makes it no earlier"
    assert chromium.look("asked") == before
    chromium.look("Object.values(held).pop().work()")
    assert chromium.look("asked") == before + 1
    chromium.wait("document.getElementById('live').textContent.startsWith('Live')")
    assert chromium.look("streams.length") == 1, "the browser asks for a stream that broke off again by itself"

    chromium.look("delete held[held.length - 1]; streams[0].close(); streams[0].onerror()")
    assert sorted(chromium.look(waiting)) == [500, 2000], "one that was refused is asked for by the page"
    chromium.look("held.find((one) => one?.delay === 2000).work()")
    assert chromium.look("streams.length") == 2
    assert chromium.look("streams[1].address").endswith("events/")
