"""The pages' addresses, which are also those that clients print for their runs."""

from __future__ import annotations

import secrets

from aiohttp import web
from slugify import slugify

from ..store import Row, Store
from . import views
from .access import TOKEN_PARAMETER, Access
from .assets import HEADERS
from .markup import Html

_PROJECTS = "/"
_PROJECT = "/{namespace}/projects/{project}/"
_RUN = _PROJECT + "runs/{run}/"


class Page:
    """The pages of one backend."""

    def __init__(self, host: str, api_key: str, store: Store) -> None:
        """``host`` is what the backend binds to: the rule of access depends on it."""
        self._access = Access(host, api_key)
        self._store = store
        # With it, a revision of an earlier backend on this port is not taken for one of this one.
        self._start = secrets.token_hex(4)

    @property
    def entry_path(self) -> str:
        """The path and query that open the pages without the key being typed."""
        return f"{_PROJECTS}?{TOKEN_PARAMETER}={self._access.token}"

    def routes(self) -> list[web.RouteDef]:
        """What to add to an application's router."""
        paths = (_PROJECTS, _PROJECT, _RUN)
        return [web.get(path, self.show) for path in paths] + [web.post(path, self.enter) for path in paths]

    def serves(self, request: web.Request) -> bool:
        """Whether the request is for these pages, which check the key themselves."""
        return request.match_info.handler in (self.show, self.enter)

    async def show(self, request: web.Request) -> web.Response:
        """A page, or the form that asks for the key."""
        if not self._access.is_expected_host(request):
            return _page("Not here", _wrong_host(), status=403)
        if not self._access.is_allowed(request):
            return _page("Key", views.key_form(), status=401)
        revision = f'"{self._start}-{self._store.revision}"'
        if request.headers.get("If-None-Match") == revision:
            return web.Response(status=304, headers=HEADERS)
        response = self._page(request, revision)
        self._access.remember(response)
        return response

    async def enter(self, request: web.Request) -> web.Response:
        """Open the pages to a browser that sends the key."""
        if not self._access.is_expected_host(request):
            return _page("Not here", _wrong_host(), status=403)
        if not await self._access.is_key_in_form(request):
            return _page("Key", views.key_form("This is not the key of this backend."), status=401)
        response = web.Response(status=303, headers={**HEADERS, "Location": request.rel_url.raw_path})
        self._access.remember(response)
        return response

    def _page(self, request: web.Request, revision: str) -> web.Response:
        names = request.match_info
        if "project" not in names:
            return _page("Projects", views.overview(self._store), revision)
        project = self._store.project(names["namespace"], names["project"])
        if project is None:
            return _page("Not found", views.notice("Not found", "There is no such project."), status=404)
        if "run" not in names:
            return _page(project["display_name"], views.project_page(self._store, project), revision)
        run = self._run(project, names["run"])
        if run is None:
            return _page("Not found", views.notice("Not found", "There is no such run."), status=404)
        return _page(run["name"], views.run_page(self._store, project, run), revision)

    def _run(self, project: Row, name: str) -> Row | None:
        """The run with this uuid, or the latest whose name makes this path."""
        found = self._store.run(project["uuid"], name)
        if found is not None:
            return found
        runs = self._store.latest_runs(project["uuid"], views.RUNS_SHOWN)
        return next((run for run in runs if slugify(run["name"]) == name), None)


def _wrong_host() -> Html:
    return views.notice("Not here", "This backend answers to addresses of its own machine only, such as 127.0.0.1.")


def _page(title: str, main: Html, revision: str | None = None, status: int = 200) -> web.Response:
    # What cannot be written (half a surrogate pair, which JSON allows) must not make the rest unreadable.
    body = views.document(title, main, revision).encode(errors="replace")
    headers = {**HEADERS, **({} if revision is None else {"ETag": revision})}
    return web.Response(body=body, status=status, content_type="text/html", charset="utf-8", headers=headers)
