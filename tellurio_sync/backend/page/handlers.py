"""The addresses of the pages; clients print these addresses for their runs."""

from __future__ import annotations

import asyncio
import gzip
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from ..opening import entry_path
from ..snapshot import Records
from ..store import Store
from . import files, pages
from .access import Access
from .assets import PLAIN_HEADERS, static_file
from .changes import Changes, Refusal, found_project, found_run
from .files import File
from .pages import Asked, NotFound
from .reader import Reader
from .render import FIRST_TEMPLATES, Html, prepare, root_of

if TYPE_CHECKING:
    from ..history import History

Form = dict[str, str]

_PROJECTS = "/"
_PROJECT = "/{namespace}/projects/{project}/"
_RUN = _PROJECT + "runs/{run}/"

_PAGES: dict[str, Callable[[Records, Asked], Html]] = {
    _PROJECTS: pages.overview,
    _PROJECT: pages.project_page,
    _PROJECT + "compare/": pages.compare_page,
    _RUN: pages.run_page,
    _RUN + "prompts/{position}/": pages.story_page,
    _RUN + "graph/": pages.graph_page,
    _RUN + "samples/": pages.samples_page,
    _RUN + "samples/{number}/": pages.sample_page,
}

_FILES: dict[str, Callable[[Records, Asked], File]] = {
    _RUN + "prompts/{position}/versions/{version}.{form}": files.version_file,
    _RUN + "graph/graph.{form}": files.graph_file,
    _RUN + "report.html": files.report_file,
    _RUN + "values.csv": files.values_file,
    _RUN + "series.json": files.series_file,
}

# Seconds: how often to look for changes for a page that waits for them, and after how long a lost client is noticed.
_LOOK_INTERVAL = 0.25
_SIGN_INTERVAL = 15.0

# Seconds after the start of a backend. Its first clients log in, and what they call should not share a processor.
_PREPARE_AFTER = 2.0

# nginx would keep what is sent until it fills a buffer.
_UNBUFFERED = {"X-Accel-Buffering": "no"}

# For fewer bytes than these, compressing takes longer than sending.
_WORTH_COMPRESSING = 4096


class Page:
    """The pages of one backend. For the event loop's thread; the reader's threads read records and make pages."""

    def __init__(self, access: Access, store: Store, history: History, path_prefix: str = "") -> None:
        self._access = access
        self._prefix = path_prefix
        self._store = store
        self._changes = Changes(store, history)
        self._reader = Reader(store.path)
        # It distinguishes revisions of this backend from those of an earlier one on the same port.
        self._start = secrets.token_hex(4)
        self._is_closing = asyncio.Event()

    @property
    def entry_path(self) -> str:
        """The path and query that open the pages without the key being typed."""
        return entry_path(self._access.token)

    def routes(self) -> list[web.RouteDef]:
        """The routes, for an application's router."""
        return [
            *(web.get(path, self.show) for path in _PAGES),
            *(web.post(path, self.enter) for path in _PAGES),
            *(web.get(path, self.file) for path in _FILES),
            web.post(_PROJECT + "change/", self.change_project),
            web.post(_RUN + "change/", self.change_run),
            web.get("/events/", self.events),
            web.get("/static/{version}/{name}", self.static),
        ]

    def serves(self, request: web.Request) -> bool:
        """Whether the request is for these pages, which check the key themselves."""
        shown = (self.show, self.enter, self.enter_prefix, self.file, self.events, self.static)
        return request.match_info.handler in (*shown, self.change_project, self.change_run)

    async def prepare(self) -> None:
        """Make the first page come as soon as any other, on a reading thread, once clients had time to begin.

        May be cancelled at any time; a page that is asked for meanwhile does not wait for all of it.
        """
        await asyncio.sleep(_PREPARE_AFTER)
        for template in FIRST_TEMPLATES:
            # One by one: the end of the backend waits for what a thread is at.
            await self._reader.run(lambda _, template=template: prepare(template))  # type: ignore[misc]

    async def stop(self, app: web.Application) -> None:
        """End the responses that wait for changes: for ``on_shutdown``."""
        self._is_closing.set()

    async def close(self, app: web.Application) -> None:
        """Close the records: for ``on_cleanup``."""
        self._reader.close()

    # --- pages ----------------------------------------------------------------------------------

    async def show(self, request: web.Request) -> web.Response:
        """A page, or the form that asks for the key."""
        if not self._access.is_expected_host(request):
            return _page(self._wrong_host(request), status=403)
        if not self._access.is_allowed(request):
            return _page(pages.key_form(), status=401)
        # Taken before the records are read, so that a change in the meantime makes this page outdated.
        revision = self._revision
        if request.headers.get("If-None-Match") == revision:
            response = web.Response(status=304, headers=PLAIN_HEADERS)
        else:
            response = await self._response(request, revision)
        self._access.remember(request, response)
        return response

    async def enter(self, request: web.Request) -> web.Response:
        """Open the pages to a browser that sends the key."""
        if not self._access.is_expected_host(request):
            return _page(self._wrong_host(request), status=403)
        if not await self._access.is_key_in_form(request):
            return _page(pages.key_form("This is not the key of this backend."), status=401)
        # The same page: all of them end in a slash.
        response = web.Response(status=303, headers={**PLAIN_HEADERS, "Location": "./"})
        self._access.remember(request, response)
        return response

    async def enter_prefix(self, request: web.Request) -> web.Response:
        """From the prefix without a slash to the one with it, on which links can build."""
        last = self._prefix.rpartition("/")[2]
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        return web.Response(status=308, headers={**PLAIN_HEADERS, "Location": f"./{last}/{query}"})

    async def file(self, request: web.Request) -> web.Response:
        """Something to take away, or to draw."""
        if not (self._access.is_expected_host(request) and self._access.is_allowed(request)):
            return web.Response(status=401, headers=PLAIN_HEADERS)
        make, asked = _FILES[self._pattern_of(request)], _asked(request, self._revision, self._root_of(request))
        try:
            found = await self._reader.run(lambda records: make(records, asked))
        except NotFound as exc:
            return web.Response(status=404, text=str(exc), headers=PLAIN_HEADERS)
        headers = {**PLAIN_HEADERS, "Content-Type": f"{found.media_type}; charset=utf-8"}
        if found.name is not None:
            headers["Content-Disposition"] = f'attachment; filename="{found.name}"'
        return web.Response(body=found.content, headers=headers)

    async def _response(self, request: web.Request, revision: str) -> web.Response:
        make, asked = _PAGES[self._pattern_of(request)], _asked(request, revision, self._root_of(request))
        is_compressed = "gzip" in request.headers.get("Accept-Encoding", "")
        try:
            return await self._reader.run(lambda records: _page(make(records, asked), revision, is_compressed))
        except NotFound as exc:
            return _page(pages.notice("Not found", str(exc), self._root_of(request)), status=404)

    def _pattern_of(self, request: web.Request) -> str:
        """Of the address, as it stands above."""
        resource = request.match_info.route.resource
        assert resource is not None
        return resource.canonical.removeprefix(self._prefix)

    def _root_of(self, request: web.Request) -> str:
        return root_of(self._pattern_of(request))

    def _wrong_host(self, request: web.Request) -> Html:
        name = self._access.host_of(request)
        text = "This backend answers to addresses of its own machine only, such as 127.0.0.1."
        if name:
            text += f" Where {name} is the name of your reverse proxy: tellurio-sync backend --allow-host {name}"
        return pages.notice("Not here", text, self._root_of(request))

    @property
    def _revision(self) -> str:
        return f'"{self._start}-{self._store.revision}"'

    # --- what readers change ----------------------------------------------------------------------

    async def change_project(self, request: web.Request) -> web.Response:
        """Delete a project."""

        async def change(form: Form) -> str:
            names = request.match_info
            project = found_project(self._store, names["namespace"], names["project"])
            if form.get("action") != "delete":
                raise Refusal("There is no such change.")
            return await self._changes.delete_project(project)

        return await self._change(request, change)

    async def change_run(self, request: web.Request) -> web.Response:
        """Rename, describe or delete a run."""

        async def change(form: Form) -> str:
            names = request.match_info
            project, run = found_run(self._store, names["namespace"], names["project"], names["run"])
            action = form.get("action")
            if action == "rename":
                return self._changes.rename(project, run, form.get("name", ""))
            if action == "describe":
                return self._changes.describe(project, run, form.get("tags", ""), form.get("notes", ""))
            if action == "delete":
                return await self._changes.delete_run(project, run)
            raise Refusal("There is no such change.")

        return await self._change(request, change)

    async def _change(self, request: web.Request, change: Callable[[Form], Awaitable[str]]) -> web.Response:
        if not self._access.is_expected_host(request):
            return _page(self._wrong_host(request), status=403)
        if not self._access.is_allowed(request):
            return _page(pages.key_form(), status=401)
        if not self._access.is_from_own_page(request):
            text = "Only these pages themselves may change something."
            return _page(pages.notice("Not from here", text, self._root_of(request)), status=403)
        try:
            found = await request.post()
            form = {name: _whole(value) for name, value in found.items() if isinstance(value, str)}
            where = await change(form)
        except NotFound as exc:
            return _page(pages.notice("Not found", str(exc), self._root_of(request)), status=404)
        except (Refusal, ValueError, LookupError) as exc:
            text = str(exc) if isinstance(exc, Refusal) else "The form cannot be read."
            return _page(pages.notice("That cannot be done", text, self._root_of(request)), status=400)
        return web.Response(status=303, headers={**PLAIN_HEADERS, "Location": self._root_of(request) + where})

    # --- changes, and the library -----------------------------------------------------------------

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Say when there is something new, as server-sent events, until the browser or the backend goes."""
        if not (self._access.is_expected_host(request) and self._access.is_allowed(request)):
            return web.Response(status=401, headers=PLAIN_HEADERS)
        response = web.StreamResponse(headers={**PLAIN_HEADERS, "Content-Type": "text/event-stream", **_UNBUFFERED})
        await response.prepare(request)
        said, silent = "", 0.0
        while not self._is_closing.is_set():
            if self._revision != said or silent > _SIGN_INTERVAL:
                said, silent = self._revision, 0.0
                # Also a sign of life: only by writing can the backend notice that a browser is gone.
                try:
                    await response.write(f"data: {said}\n\n".encode())
                except ConnectionError:
                    break
            silent += _LOOK_INTERVAL
            try:
                await asyncio.wait_for(self._is_closing.wait(), _LOOK_INTERVAL)
            except asyncio.TimeoutError:
                continue
        return response

    async def static(self, request: web.Request) -> web.Response:
        """The library for plots. Public, so without a key."""
        file = static_file(request.match_info["name"])
        if file is None:
            return web.Response(status=404, headers=PLAIN_HEADERS)
        is_compressed = "gzip" in request.headers.get("Accept-Encoding", "")
        return web.Response(
            body=file.compressed if is_compressed else file.content,
            content_type=file.content_type,
            charset="utf-8",
            headers={
                **PLAIN_HEADERS,
                **({"Content-Encoding": "gzip"} if is_compressed else {}),
                # Its address holds its hash.
                "Cache-Control": "public, max-age=31536000, immutable",
                "Vary": "Accept-Encoding",
            },
        )


def _asked(request: web.Request, revision: str, root: str) -> Asked:
    lists = {name: request.query.getall(name) for name in request.query}
    return Asked(request.match_info, request.query, lists, revision, root)


def _whole(text: str) -> str:
    # The database takes no half of a surrogate pair.
    return text.encode(errors="replace").decode()


def _page(page: Html, revision: str | None = None, is_compressed: bool = False, status: int = 200) -> web.Response:
    # What cannot be written (half a surrogate pair, which JSON allows) must not make the rest unreadable.
    body = page.encode(errors="replace")
    headers = {**page.headers, **({} if revision is None else {"ETag": revision})}
    if is_compressed and len(body) > _WORTH_COMPRESSING:
        # The fastest: what is saved beyond is less than what it costs, on one's own machine.
        body = gzip.compress(body, 1)
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, status=status, content_type="text/html", charset="utf-8", headers=headers)
