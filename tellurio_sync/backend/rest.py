"""REST: who I am, projects, runs, metrics (protocol §J).

Beyond §J, said in the header ``Tellurio-Extensions`` of each answer:

    idempotency   POST of a run or a value with an ``Idempotency-Key``: the same key again adds nothing
    journal       POST .../runs/{run}/journal/{writer}/?position=N: bytes of a journal (``journal.format``) from N on;
                  the answer says up to where it is known. 409: from where it must be sent. Also a sign of life
    questions     GET .../runs/{run}/questions/: what the run has asked language models, in ``questions`` a row for each
                  step of an optimizer, kind and model; and ``steps``, how many have ended
    run-details   runs have ``config`` and ``reason``; a new one may be given its ``uuid``
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn
from uuid import NAMESPACE_DNS, UUID, uuid5

from aiohttp import web
from slugify import slugify

from .key_names import without_keys
from .options import BackendOptions
from .question_log import questions_by_step
from .store import MAX_NAME_CHARS, JournalGap, Row, Store

logger: logging.Logger = logging.getLogger(__name__)

EXTENSIONS_HEADER = "Tellurio-Extensions"
EXTENSIONS = ("idempotency", "journal", "questions", "run-details")
IDEMPOTENCY_HEADER = "Idempotency-Key"

VISIBILITIES = ("RESTRICTED", "TEAM", "PUBLIC", "OPEN")
STATUSES = ("RUNNING", "COMPLETED", "CRASHED", "FAILED")

_MAX_KEY_CHARS = 200
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Rest:
    """The REST endpoints of one backend.

    A request that cannot be carried out is answered with 400 (the body is wrong), 404 (the path) or 409 (the name is
    taken), and a JSON object whose ``detail`` has the reason.  The key was checked before.
    """

    def __init__(self, options: BackendOptions, store: Store) -> None:
        self._options = options
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """The routes, for an application's router."""
        projects = "/api/v0/{namespace}/projects/"
        project = projects + "{project}/"
        run = project + "runs/{run}/"
        return [
            web.get("/api/v0/verify-api-key/", self.verify_api_key),
            web.post(projects, self.create_project),
            web.get(project, self.get_project),
            web.delete(project, self.delete_project),
            web.get(project + "runs/", self.list_runs),
            web.post(project + "runs/", self.create_run),
            web.patch(run, self.update_run),
            web.get(run + "metrics/", self.list_metrics),
            web.get(run + "questions/", self.list_questions),
            web.post(run + "metrics/", self.create_metric),
            web.post(run + "journal/{writer}/", self.add_journal),
        ]

    @property
    def middleware(self) -> Any:
        """Says what this backend knows beyond the protocol, and answers what the database cannot do."""
        begins = ("/api/", f"{self._options.path_prefix}/api/")

        @web.middleware
        async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not request.rel_url.raw_path.startswith(begins):
                return await handler(request)
            return await _told(request, handler)

        return middleware

    async def verify_api_key(self, request: web.Request) -> web.Response:
        return web.json_response({"email": self._options.email, "username": self._options.username})

    # --- projects -------------------------------------------------------------------------------

    async def create_project(self, request: web.Request) -> web.Response:
        namespace = self._namespace(request)
        body = await _body(request)
        display_name = _text(body, "display_name")
        visibility = _choice(body, "visibility", VISIBILITIES, "TEAM")
        slug = slugify(display_name)
        if not slug:
            refuse(400, "`display_name` must hold at least one letter or digit.")
        project = self._store.create_project(namespace, slug, display_name, visibility)
        if project is None:
            refuse(409, f"There is a project {slug!r} in {namespace!r} already.")
        membership = {
            "role": "OWNER",
            "org_uuid": _stable_uuid(f"org/{namespace}"),
            "org_display_name": namespace,
            "org_slug": namespace,
        }
        return web.json_response({**_project_form(project), **membership}, status=201)

    async def get_project(self, request: web.Request) -> web.Response:
        return web.json_response(_project_form(self._project(request)))

    async def delete_project(self, request: web.Request) -> web.Response:
        project = self._project(request)
        self._store.delete_project(project["namespace"], project["slug"])
        return web.Response(status=204)

    # --- runs -----------------------------------------------------------------------------------

    async def list_runs(self, request: web.Request) -> web.Response:
        project = self._project(request)
        return web.json_response([self._run_form(project, run) for run in self._store.runs(project["uuid"])])

    async def create_run(self, request: web.Request) -> web.Response:
        body = await _body(request)
        project = self._project(request)
        run = self._store.create_run(
            project["uuid"],
            _optional_text(body, "name") or None,
            _optional_text(body, "description", limit=None),
            _choice(body, "status", STATUSES, "RUNNING"),
            config=_config(body),
            run_uuid=_uuid(body),
            key=_idempotency_key(request),
        )
        if run is None:
            refuse(409, f"There is a run {body['uuid']!r} already.")
        return web.json_response(self._run_form(project, run), status=201)

    async def update_run(self, request: web.Request) -> web.Response:
        body = await _body(request)
        project, run = self._run(request)
        status = _choice(body, "status", STATUSES, run["status"])
        reason = _optional_text(body, "reason", limit=None)
        run = self._store.update_run(run["uuid"], status, reason=reason, config=_config(body))
        return web.json_response(self._run_form(project, run))

    # --- metrics --------------------------------------------------------------------------------

    async def list_metrics(self, request: web.Request) -> web.Response:
        _, run = self._run(request)
        return web.json_response([_metric_form(metric) for metric in self._store.metrics(run["uuid"])])

    async def list_questions(self, request: web.Request) -> web.Response:
        _, run = self._run(request)
        ended = self._store.read("SELECT ended FROM steps WHERE run_uuid = ?", run["uuid"])
        rows = questions_by_step(self._store, run["uuid"])
        return web.json_response({"steps": ended[0]["ended"] if ended else 0, "questions": rows})

    async def create_metric(self, request: web.Request) -> web.Response:
        body = await _body(request)
        _, run = self._run(request)
        if "value" not in body:
            refuse(400, "`value` is missing.")
        value = body["value"]
        if value is None and isinstance(special := body.get("not_finite"), str):
            value = _NOT_FINITE.get(special)
        step = body.get("step")
        if step is not None and (isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 2**63):
            refuse(400, "`step` must be an integer of at least 0.")
        key = _idempotency_key(request)
        metric = self._store.add_metric(run["uuid"], _text(body, "name"), value, step, key=key)
        return web.json_response(_metric_form(metric), status=201)

    async def add_journal(self, request: web.Request) -> web.Response:
        data = await request.read()
        _, run = self._run(request)
        writer, position = request.match_info["writer"], request.query.get("position", "")
        if len(writer) > _MAX_KEY_CHARS:
            refuse(400, f"The name of the writer is over {_MAX_KEY_CHARS} characters.")
        if not (position.isascii() and position.isdigit() and len(position) < 19):
            refuse(400, "`position` must be a number of bytes.")
        self._store.saw(run["uuid"])
        try:
            added = self._store.add_journal(run["uuid"], writer, int(position), data)
        except JournalGap as exc:
            return web.json_response({"detail": str(exc), "position": exc.position}, status=409)
        return web.json_response(added)

    # --- what a path names ------------------------------------------------------------------------

    def _namespace(self, request: web.Request) -> str:
        namespace = request.match_info["namespace"]
        if not self._options.has_namespace(namespace):
            known = ", ".join(self._options.namespaces)
            refuse(404, f"There is no namespace {namespace!r}; this backend has: {known}.")
        return namespace

    def _project(self, request: web.Request) -> Row:
        namespace, slug = self._namespace(request), request.match_info["project"]
        project = self._store.project(namespace, slug)
        if project is None:
            refuse(404, f"There is no project {slug!r} in {namespace!r}.")
        return project

    def _run(self, request: web.Request) -> tuple[Row, Row]:
        project, run_uuid = self._project(request), request.match_info["run"]
        run = self._store.run(project["uuid"], run_uuid)
        if run is None:
            refuse(404, f"There is no run {run_uuid!r} in the project {project['slug']!r}.")
        return project, run

    # --- forms ----------------------------------------------------------------------------------

    def _run_form(self, project: Row, run: Row) -> Row:
        username = self._options.username
        form = {key: run[key] for key in ("uuid", "name", "description", "status", "date_created", "date_updated")}
        form["config"] = json.loads(run["config"]) if run["config"] else None
        form["reason"] = run["reason"]
        form["project"] = {key: project[key] for key in ("uuid", "display_name", "slug")}
        form["user"] = {"uuid": _stable_uuid(f"user/{username}"), "username": username, "slug": slugify(username)}
        return form


def _project_form(project: Row) -> Row:
    return {
        key: project[key] for key in ("uuid", "display_name", "slug", "date_created", "last_run_date", "visibility")
    }


def _metric_form(metric: Row) -> Row:
    """As JSON, which has neither NaN nor infinities: they are null, and ``not_finite`` says which."""
    value = metric["value"]
    if type(value) is float and not math.isfinite(value):
        return {**metric, "value": None, "not_finite": str(value)}
    return metric


def _stable_uuid(name: str) -> str:
    return str(uuid5(NAMESPACE_DNS, name))


# --- reading bodies -----------------------------------------------------------------------------


def refuse(status: int, detail: str) -> NoReturn:
    """End the request with this HTTP status and a JSON body that says why."""
    raise error_response(status, detail)


def error_response(status: int, detail: str) -> web.HTTPException:
    """The exception that becomes an HTTP error with a JSON body."""
    classes: dict[int, type[web.HTTPException]] = {
        400: web.HTTPBadRequest,
        401: web.HTTPUnauthorized,
        404: web.HTTPNotFound,
        409: web.HTTPConflict,
        503: web.HTTPServiceUnavailable,
        507: web.HTTPInsufficientStorage,
    }
    return classes[status](text=json.dumps({"detail": detail}), content_type="application/json")


async def _told(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as exc:
        exc.headers[EXTENSIONS_HEADER] = ", ".join(EXTENSIONS)
        raise
    except sqlite3.Error as exc:
        logger.warning("! %s %s: %s", request.method, request.path, exc)
        raise _database_error(exc) from exc
    response.headers[EXTENSIONS_HEADER] = ", ".join(EXTENSIONS)
    return response


def _database_error(exc: sqlite3.Error) -> web.HTTPException:
    text = str(exc)
    if "full" in text or "disk I/O" in text:
        return error_response(507, f"The disk of the backend's data directory is full or broken ({text}).")
    if "readonly" in text:
        return error_response(507, f"The backend's data directory is read-only ({text}).")
    if "locked" in text:
        error = error_response(503, f"Another program has locked the backend's database ({text}). Try again.")
        error.headers["Retry-After"] = "1"
        return error
    return error_response(507, f"The backend's database failed ({text}).")


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is not None and len(key) > _MAX_KEY_CHARS:
        refuse(400, f"The {IDEMPOTENCY_HEADER} is over {_MAX_KEY_CHARS} characters.")
    return key or None


def _config(body: dict[str, Any]) -> dict[str, Any] | None:
    config = body.get("config")
    if config is not None and not isinstance(config, dict):
        refuse(400, "`config` must be a JSON object.")
    return None if config is None else without_keys(config)


def _uuid(body: dict[str, Any]) -> str | None:
    text = body.get("uuid")
    if text is None:
        return None
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return str(UUID(text))
    refuse(400, "`uuid` must be a UUID.")


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        text = await request.text()
    except (UnicodeDecodeError, LookupError) as exc:
        refuse(400, f"The body is not the text that its headers announce: {exc}")
    try:
        # NaN is not JSON (RFC 8259 §6), and could not be sent back.
        body = json.loads(
            text,
            parse_float=_finite,
            parse_constant=lambda name: refuse(400, f"{name} is not JSON; send null."),
        )
    except (ValueError, RecursionError) as exc:
        refuse(400, f"The body is not JSON: {exc}")
    if not isinstance(body, dict):
        refuse(400, "The body must be a JSON object.")
    return body


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        refuse(400, f"{text} is too large for a number.")
    return number


def _text(body: dict[str, Any], key: str) -> str:
    value = _optional_text(body, key)
    if value is None or not value.strip():
        refuse(400, f"`{key}` must be a text that is not empty.")
    return value


def _optional_text(body: dict[str, Any], key: str, *, limit: int | None = MAX_NAME_CHARS) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        refuse(400, f"`{key}` must be a text.")
    if value is not None and limit is not None and len(value) > limit:
        refuse(400, f"`{key}` is over {limit} characters.")
    if value is not None and any("\ud800" <= char <= "\udfff" for char in value):
        refuse(400, f"`{key}` holds half a surrogate pair, which is no text.")
    return value


def _choice(body: dict[str, Any], key: str, choices: tuple[str, ...], default: str) -> str:
    value = body.get(key)
    if value is None:
        return default
    if value not in choices:
        refuse(400, f"`{key}` must be one of {', '.join(choices)}.")
    return str(value)
