"""A page for the browser: projects, their latest runs, and the metrics of these.

Made on the server, without script, and with nothing fetched from anywhere.  A browser cannot send the
key as clients do, so the page asks for it once and remembers that in a cookie.
"""

from __future__ import annotations

import hashlib
import hmac
from html import escape
from typing import Any

from aiohttp import web

from .store import Row, Store

PAGE_PATH = "/"

RUNS_PER_PROJECT = 20

_COOKIE = "tellurio_page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: middle }
.number { text-align: right; font-variant-numeric: tabular-nums }
.muted { color: #777 }
polyline { fill: none; stroke: #2563eb; stroke-width: 1.5 }
"""
_WIDTH, _HEIGHT = 160, 28


class Page:
    """The page of one backend."""

    def __init__(self, api_key: str, store: Store) -> None:
        self._api_key = api_key
        # Not the key itself: a cookie lies about in more places than a key should.
        self._token = hmac.new(api_key.encode(), b"page", hashlib.sha256).hexdigest()
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """What to add to an application's router."""
        return [web.get(PAGE_PATH, self.show), web.post(PAGE_PATH, self.enter)]

    async def show(self, request: web.Request) -> web.Response:
        if not _is_same(request.cookies.get(_COOKIE, ""), self._token):
            return _html(_key_form(), status=401)
        return _html("".join(map(self._project, self._store.projects())) or "<p>There are no projects yet.</p>")

    async def enter(self, request: web.Request) -> web.Response:
        form = await request.post()
        if not _is_same(str(form.get("key", "")), self._api_key):
            return _html(_key_form("This is not the key of this backend."), status=401)
        response = web.Response(status=303, headers={**_HEADERS, "Location": PAGE_PATH})
        response.set_cookie(_COOKIE, self._token, httponly=True, samesite="Strict")
        return response

    def _project(self, project: Row) -> str:
        runs = self._store.runs(project["uuid"])
        shown = runs[-RUNS_PER_PROJECT:][::-1]
        title = f"<h2>{escape(project['namespace'])} / {escape(project['display_name'])}</h2>"
        more = (
            f"<p class=muted>{len(runs) - len(shown)} earlier runs are not shown.</p>" if len(runs) > len(shown) else ""
        )
        return title + ("".join(map(self._run, shown)) or "<p class=muted>No runs yet.</p>") + more

    def _run(self, run: Row) -> str:
        since = escape(run["date_created"][:19].replace("T", " "))
        title = f"<h3>{escape(run['name'])} <span class=muted>{escape(run['status'])}, {since} UTC</span></h3>"
        series: dict[str, list[Any]] = {}
        for metric in self._store.metrics(run["uuid"]):
            series.setdefault(metric["name"], []).append(metric["value"])
        if not series:
            return title + "<p class=muted>No metrics yet.</p>"
        head = "<tr><th>metric<th class=number>values<th class=number>first<th class=number>last<th>"
        return f"{title}<table>{head}{''.join(_metric(name, values) for name, values in series.items())}</table>"


def _metric(name: str, values: list[Any]) -> str:
    cells = [len(values), _shown(values[0]), _shown(values[-1])]
    numbers = [float(value) for value in values if isinstance(value, (int, float))]
    columns = "".join(f"<td class=number>{escape(str(cell))}" for cell in cells)
    return f"<tr><td>{escape(name)}{columns}<td>{_curve(numbers)}"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:80]


def _curve(values: list[float]) -> str:
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = high - low or 1.0
    step = (_WIDTH - 4) / (len(values) - 1)
    points = " ".join(
        f"{2 + i * step:.1f},{_HEIGHT - 3 - (value - low) / span * (_HEIGHT - 6):.1f}" for i, value in enumerate(values)
    )
    return f'<svg width={_WIDTH} height={_HEIGHT} role=img aria-label="curve"><polyline points="{points}"/></svg>'


def _key_form(problem: str = "") -> str:
    return (
        f"<p>{escape(problem)}</p><form method=post><label>Key of this backend: "
        "<input name=key type=password autofocus autocomplete=current-password></label> <button>Show</button></form>"
    )


def _html(body: str, status: int = 200) -> web.Response:
    text = f"<!doctype html><html lang=en><meta charset=utf-8><title>Tellurio, local</title><style>{_STYLE}</style>"
    text += f"<h1>Tellurio, local</h1>{body}</html>"
    return web.Response(text=text, status=status, content_type="text/html", headers=_HEADERS)


def _is_same(sent: str, wanted: str) -> bool:
    return hmac.compare_digest(sent.encode(errors="surrogatepass"), wanted.encode())
