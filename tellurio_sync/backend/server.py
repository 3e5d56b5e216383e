"""The backend process: REST and WebSocket on one port."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sqlite3
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ..addresses import hub_url, is_loopback, is_on_hub
from ..errors import BackendError
from ..leash import SERVES, exit_code
from .connection import DEFAULT_MAX_OUTGOING_BYTES, MAX_INCOMING_BYTES, MAX_SIZE_HEADER, Connection
from .door import Door
from .history import History
from .leashes import Leashes
from .lm import AnswerCache, LanguageModels
from .opening import Opening, entry_path, new_key, page_token, write_privately
from .options import BackendOptions
from .page import Page
from .page.access import ANY_HOST, Access
from .rest import Rest, error_response
from .sessions import SESSION_HEADER, Sessions
from .store import Store

logger: logging.Logger = logging.getLogger(__name__)

RPC_PATH = "/ws/v0/rpc/"

# Of a key that somebody chose, where everybody in a network can try keys.
_STRONG_KEY_CHARS = 16
_MAX_HEADER_BYTES = 64 * 2**10
_MAX_BODY_BYTES = 16 * 2**20

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def serve(options: BackendOptions, opening: Opening | None = None) -> int:
    """Run a backend until SIGTERM, SIGINT, or (if the options say so) the end of standard input.

    Blocks. Call it once, in the main thread of a separate process.

    Args:
        opening: its data and port, where they are open already.

    Returns:
        The process's exit code: 0 after an orderly end, 3 if another backend uses the data directory, 1 if the backend
        could not be started for another reason; the reason is then on standard error.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_serve(options, opening))
    except BackendError as exc:
        print(f"tellurio-sync backend: {exc}", file=sys.stderr)
        return exit_code(exc)
    return 0


async def _serve(options: BackendOptions, opening: Opening | None) -> None:
    stopping = asyncio.Event()
    _stop_on_signals(stopping)
    backend = Backend(options, stopping.set, opening=opening)
    if options.exit_with_stdin:
        _watch_stdin(backend.leashes)
    await backend.start()
    try:
        if options.ready_file is not None:
            write_privately(options.ready_file, backend.address())
        if options.opened_file is not None:
            # In one write, so that no other thread's line stands within this one.
            sys.stderr.write(f"{SERVES}\n")
            sys.stderr.flush()
        _announce(backend)
        preparing = asyncio.create_task(backend.prepare_pages())
        await stopping.wait()
        preparing.cancel()
    finally:
        await backend.stop()


class Backend:
    """One running backend, in the current event loop.

    Attributes:
        port: the port it listens on, once started.
        api_key: the key that clients must send.
        leashes: the programs that use it.
        page_path: opens the pages in a browser, so it is as secret as they are: see the package ``page``.

    Args:
        on_unused: called when no program uses it any more.
        opening: its data and port, where they are open already, with its key.

    Raises:
        BackendError: the certificate cannot be used.
    """

    def __init__(
        self,
        options: BackendOptions,
        on_unused: Callable[[], None] = lambda: None,
        *,
        opening: Opening | None = None,
    ) -> None:
        self.options = options
        self.opening = opening
        self.api_key: str = new_key(options) if opening is None else opening.api_key
        self.port: int = options.port
        self.leashes: Leashes = Leashes(on_unused)
        self._tls = _tls_of(options)
        self._door = Door()
        self.page_path: str = entry_path(page_token(self.api_key))
        self._page: Page | None = None
        self._lm = _language_models(options)
        self._connections: set[Connection] = set()
        self._sessions = Sessions(options.session_grace)
        self._cleanup = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Open the data and the port.

        Raises:
            BackendError: the data directory or the port is in use, or cannot be used.
        """
        self._check_openness()
        async with contextlib.AsyncExitStack() as cleanup:
            opening = self.opening = self.opening or Opening(self.options, self.api_key)
            cleanup.callback(opening.close)
            looking = asyncio.create_task(_look_for_lost_runs(opening.store))
            cleanup.callback(looking.cancel)
            cleanup.push_async_callback(self._lm.close)
            cleanup.callback(lambda: self._sessions.close())
            # A browser sends the cookies of all programs that were ever served from this host: more than 8 kB.
            runner = web.AppRunner(
                self._application(opening.store),
                access_log=None,
                shutdown_timeout=1.0,
                max_field_size=_MAX_HEADER_BYTES,
            )
            await runner.setup()
            cleanup.push_async_callback(runner.cleanup)
            server = runner.server
            assert server is not None
            self.port = opening.port
            await self._door.open(server, opening.listeners, self._tls)
            cleanup.push_async_callback(self._door.close)
            opening.announce()
            cleanup.callback(opening.withdraw)
            self._cleanup = cleanup.pop_all()

    def _check_openness(self) -> None:
        """For a backend that others than this machine can reach."""
        options = self.options
        if is_loopback(options.host):
            return
        if options.api_key is not None and len(options.api_key) < _STRONG_KEY_CHARS:
            raise BackendError(
                f"On {options.host} everybody in the network can try keys: the key must have at least "
                f"{_STRONG_KEY_CHARS} characters. Without --api-key a new one is made."
            )
        if self._tls is None:
            logger.warning(
                "! on %s, everybody on the way can read the key, prompts and answers. Encrypt them by --tls-cert, or "
                "use the default --host 127.0.0.1 and a tunnel (ssh -L).",
                options.host,
            )

    async def prepare_pages(self) -> None:
        """Make the first look at a page as quick as the next one, after a while. May be cancelled."""
        assert self._page is not None
        await self._page.prepare()

    async def stop(self) -> None:
        """Close connections, port and data, and remove temporary data. Takes about a second at most."""
        await self._cleanup.aclose()

    def address(self) -> dict[str, Any]:
        """What a client needs to know, also the key: the content of the ready file. Of one that has started."""
        assert self.opening is not None
        return self.opening.address()

    def _application(self, store: Store) -> web.Application:
        history = History(
            store,
            max_question_bytes=round(self.options.questions_mb * 2**20),
            max_question_days=self.options.questions_days,
        )
        for key in (self.api_key, self.options.lm_api_key, os.environ.get("OPENAI_API_KEY")):
            history.kept_out.add({"api_key": key})
        self._lm.on_question.append(history.question)
        prefix = self.options.path_prefix
        access = Access(
            self.options.host,
            self.api_key,
            # On a hub, browsers come by its name, which it does not tell.
            self.options.allow_hosts or ((ANY_HOST,) if is_on_hub() else ()),
            is_encrypted=self._tls is not None,
            path_prefix=prefix,
        )
        page = self._page = Page(access, store, history, prefix)
        rest = Rest(self.options, store)
        self._sessions = Sessions(self.options.session_grace, history)
        app = web.Application(middlewares=[self._check_key(page), rest.middleware], client_max_size=_MAX_BODY_BYTES)
        routes = [*rest.routes(), *page.routes(), web.get(RPC_PATH, self._rpc), *self.leashes.routes()]
        if prefix:
            # Before the others: a path that could be of both is what a proxy has passed on.
            app.add_routes([_under(prefix, route) for route in routes])
            app.add_routes([web.get(prefix, page.enter_prefix)])
        app.add_routes(routes)
        app.on_shutdown.append(page.stop)
        app.on_shutdown.append(self.leashes.close)
        app.on_shutdown.append(self._close_connections)
        app.on_cleanup.append(page.close)
        return app

    def _check_key(self, page: Page) -> Any:
        wanted = f"Api-Key {self.api_key}".encode()

        @web.middleware
        async def check_key(request: web.Request, handler: Handler) -> web.StreamResponse:
            if page.serves(request):
                # A browser cannot send this header; the pages ask for the key themselves. While a form comes
                # in, its connection counts as one that waits.
                with (
                    self._door.at_work(request, is_known=False)
                    if request.method != "POST"
                    else contextlib.nullcontext()
                ):
                    return await handler(request)
            sent = request.headers.get("Authorization", "")
            # A header may hold any bytes; bytes that are not UTF-8 arrive as lone surrogates.
            if not secrets.compare_digest(sent.encode(errors="surrogateescape"), wanted):
                raise error_response(401, "Invalid API key.")
            with self._door.at_work(request, is_known=True):
                return await handler(request)

        return check_key

    async def _rpc(self, request: web.Request) -> web.StreamResponse:
        session = self._sessions.join(request.headers.get(SESSION_HEADER))
        connection = Connection(
            session,
            self._lm,
            heartbeat_interval=self.options.heartbeat_interval,
            max_outgoing_bytes=_announced_size(request),
        )
        self._connections.add(connection)
        try:
            return await connection.serve(request)
        finally:
            self._connections.discard(connection)
            self._sessions.leave(session)

    async def _close_connections(self, app: web.Application) -> None:
        await asyncio.gather(*(connection.close() for connection in self._connections), return_exceptions=True)


def _under(prefix: str, route: web.RouteDef) -> web.RouteDef:
    return web.RouteDef(route.method, prefix + route.path, route.handler, route.kwargs)


async def _look_for_lost_runs(store: Store) -> None:
    """Every second, show the runs whose process gives no sign of life any more as CRASHED."""
    while True:
        await asyncio.sleep(1.0)
        try:
            for run_uuid in store.mark_lost():
                logger.info("! run %s gives no sign of life any more", run_uuid)
        except sqlite3.Error as exc:
            logger.warning("! a lost run could not be marked: %s", exc)


def _language_models(options: BackendOptions) -> LanguageModels:
    return LanguageModels(
        options.lm_base_url,
        options.lm_api_key,
        cache=AnswerCache(options.data_dir),
        caches_all=options.lm_cache,
        at_once=options.lm_max_concurrency,
        per_minute=options.lm_requests_per_minute,
    )


def _tls_of(options: BackendOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None:
        if options.tls_key is not None:
            raise BackendError("--tls-key needs --tls-cert, the certificate that it belongs to.")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a terminal nobody could be asked for a password.
        context.load_cert_chain(options.tls_cert, options.tls_key, password=_no_password)
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        files = " and ".join(str(path) for path in (options.tls_cert, options.tls_key) if path is not None)
        raise BackendError(f"The certificate of {files} cannot be used: {exc}") from exc
    return context


def _no_password() -> str:
    raise ValueError("the private key is encrypted; give one without a password")


def _announced_size(request: web.Request) -> int:
    text = request.headers.get(MAX_SIZE_HEADER) or request.query.get(MAX_SIZE_HEADER)
    if text is None:
        return DEFAULT_MAX_OUTGOING_BYTES
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 20):
        raise error_response(400, f"{MAX_SIZE_HEADER} must be a number of bytes.")
    return min(max(int(text), DEFAULT_MAX_OUTGOING_BYTES), MAX_INCOMING_BYTES)


# --- the process --------------------------------------------------------------------------------


def _stop_on_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stopping.set)
        except NotImplementedError:
            # Windows
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))


def _watch_stdin(leashes: Leashes) -> threading.Thread:
    loop = asyncio.get_running_loop()

    def wait_for_end() -> None:
        # os.read, not sys.stdin: the lock of that, held by a thread that never returns, would disturb the exit.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        leashes.tell_starter()
        # The loop is closed if the backend ended for another reason.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(leashes.starter_left)

    thread = threading.Thread(target=wait_for_end, name="tellurio-backend-stdin", daemon=True)
    thread.start()
    return thread


def _announce(backend: Backend) -> None:
    address, options = backend.address(), backend.options
    url = f"{address['http_base_url']}:{address['http_port']}"
    data = options.data_dir or "temporary"
    # A new key must be shown somewhere: on the terminal, unless a program reads the ready file.
    is_shown = options.api_key is None and options.ready_file is None
    key = backend.api_key if is_shown else _last_four(backend.api_key)
    print(f"tellurio-sync backend on {url} (key {key}, data {data})", flush=True)
    print(f"in a browser: {address['page_url'] if is_shown else f'{url}/ (asks for the key)'}", flush=True)
    entry = backend.page_path if is_shown else "/"
    if options.path_prefix:
        print(f"behind the proxy: {options.path_prefix}{entry} at its address", flush=True)
    through_hub = hub_url(backend.port)
    if through_hub is not None:
        print(f"through the hub: {through_hub}{entry}", flush=True)


def _last_four(key: str) -> str:
    # The last four characters of a short key would be most of it.
    return f"...{key[-4:]}" if len(key) >= 12 else "..."
