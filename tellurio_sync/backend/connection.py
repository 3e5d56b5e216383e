"""One WebSocket connection of a client.

Order.  Messages are handled one after another.  A short method takes effect, and its reply is queued, before the next
message is handled.  The arguments of a long method are decoded before the next message, and the rest runs as a task.
Everything that is sent passes one queue, so pushes come before the reply to the request that made them.

The backend does not wait for the reply to a push: the client handles messages in order, and that is enough (protocol
§C.1); each wait would cost a round trip.  An error reply to a push is logged.

There is one event loop thread and no lock.  Changes that must be seen together are made between two awaits.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from aiohttp import WSMsgType, web

from .. import jsonrpc
from ..errors import TellurioError, shorten
from ..jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, PARSE_ERROR, RpcError
from ..jsonrpc.envelopes import Id
from .chain import Chain
from .lm import LanguageModels
from .long_methods import LONG_METHODS, Work
from .methods import METHODS, release
from .objects import new_id
from .progress import Progress, progress_of
from .refused import Refused
from .scope import Scope
from .sessions import Session

logger: logging.Logger = logging.getLogger(__name__)

MAX_INCOMING_BYTES = 64 * 2**20

# Protocol §A.7: the longest message, in bytes, to a client that has announced nothing else.
DEFAULT_MAX_OUTGOING_BYTES = 2**20
MAX_SIZE_HEADER = "X-Tellurio-Max-Message-Size"

# Seconds that a client has to answer the close frame.
CLOSE_TIMEOUT = 1.0

# The most long-running requests of one connection at a time.
MAX_RUNNING = 10_000

# While more characters than these wait for a client that does not read, nothing is read from it either.
_FULL_CHARS = 4 * 2**20

# Error replies are recognised only for this many of the last pushes, because a client may never answer any.
_MAX_UNANSWERED_PUSHES = 10_000

# Buffered messages are handled without a pause. After this many, other connections get their turn.
_MESSAGES_PER_TURN = 32


# Names of the wire's extensions that this backend knows; clients use none that the greeting does not name.
EXTENSIONS = (
    "accept",
    "after",
    "budget",
    "cancel",
    "client_function",
    "embed",
    "feedback",
    "logged",
    "on_error",
    "progress",
    "questions",
    "release",
    "session",
)

_OK = {"message": "Ok"}

# As the Language Server Protocol has it: the reply to a request that was cancelled.
REQUEST_CANCELLED = -32800

# Seconds after which a client that acknowledges nothing of what is sent, not even a heartbeat, is taken to be gone.
GONE_AFTER = 60.0

# If an error cannot be sent as it is, an id of more characters than these is left out.
_LONG_ID = 1000


class Connection:
    """The backend's end of one connection. Runs until the client leaves or the backend stops."""

    def __init__(
        self,
        session: Session,
        lm: LanguageModels,
        *,
        heartbeat_interval: float,
        max_outgoing_bytes: int = DEFAULT_MAX_OUTGOING_BYTES,
    ) -> None:
        self._session = session
        self._lm = lm
        self._heartbeat_interval = heartbeat_interval
        self._max_outgoing_bytes = max_outgoing_bytes
        self._ws = web.WebSocketResponse(timeout=CLOSE_TIMEOUT, compress=False, max_msg_size=MAX_INCOMING_BYTES)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        # Two for each long-running request: its work and its heartbeats.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._works: dict[Id, asyncio.Task[Any]] = {}
        self._chain = Chain()
        self._timers: set[asyncio.TimerHandle] = set()
        self._next_id = 1
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._pushes: dict[int, str] = {}
        self._outbox: deque[str] = deque()
        self._outbox_chars = 0
        self._outbox_changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_over = False

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Open the connection and serve it to its end; its running requests end with it."""
        # A client that shares a session with others gets a new id at each connection, as before.
        session_id = self._session.session_id or new_id()
        greeting = jsonrpc.result_reply(
            None,
            {"session_id": session_id, "extensions": list(EXTENSIONS), "max_message_size": MAX_INCOMING_BYTES},
        )
        # Protocol §A.2: there are clients that miss a greeting in a later segment than the handshake's.
        self._transport = request.transport
        with corked(self._transport):
            await self._ws.prepare(request)
            await self._ws.send_str(jsonrpc.encode(greeting))
        _give_up_on_the_gone(self._transport)
        self._session.go_on_with(self)
        writer = self._loop.create_task(self._write())
        try:
            await self._receive()
        finally:
            await self._end(writer)
        return self._ws

    async def close(self) -> None:
        """Close it because the backend stops. Takes :data:`CLOSE_TIMEOUT` seconds at most."""
        try:
            await asyncio.wait_for(self._ws.close(code=1001, message=b"The backend stops."), CLOSE_TIMEOUT)
        except asyncio.TimeoutError:
            # A client that does not read would delay even the close frame, and so the end of the process.
            if self._transport is not None:
                self._transport.abort()

    def abandon(self) -> None:
        """Cancel all running requests: the client goes on with its session on another connection."""
        for task in self._tasks:
            task.cancel()

    async def _end(self, writer: asyncio.Task[None]) -> None:
        self._is_over = True
        for timer in self._timers:
            timer.cancel()
        running = [writer, *self._tasks]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for future in self._calls.values():
            future.cancel()

    # --- receiving ------------------------------------------------------------------------------

    async def _receive(self) -> None:
        count = 0
        async for message in self._ws:
            if message.type is WSMsgType.TEXT:
                self._on_text(message.data)
            elif message.type is WSMsgType.BINARY:
                self._reply_error(None, RpcError(PARSE_ERROR, "Parse error", {"error": "a binary frame"}))
            count += 1
            if count % _MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)
            await self._has_room.wait()

    def _on_text(self, text: str) -> None:
        try:
            message = jsonrpc.classify(jsonrpc.decode(text))
        except jsonrpc.MalformedText as exc:
            self._reply_error(None, RpcError(PARSE_ERROR, "Parse error", {"error": str(exc)}))
            return
        if isinstance(message, jsonrpc.Reply):
            self._on_reply(message)
        elif isinstance(message, jsonrpc.Batch):
            text = "Batches are not supported: send one object per message."
            self._reply_error(None, Refused(text, INVALID_REQUEST, "Invalid Request"))
        elif isinstance(message, jsonrpc.Invalid):
            if message.is_answered:
                self._reply_error(message.id, message.error)
        else:
            self._on_call(message)

    def _on_reply(self, reply: jsonrpc.Reply) -> None:
        if not isinstance(reply.id, int):
            # To answer a reply that answers nothing would start an endless exchange (protocol §B.1).
            logger.debug("< reply to nothing: %s", reply.problem or reply.envelope.get("error"))
            return
        method = self._pushes.pop(reply.id, None)
        if method is not None:
            if "result" not in reply.envelope:
                logger.warning("The client refused a push of %s: %s", method, _error_text(reply))
            return
        future = self._calls.pop(reply.id, None)
        if future is None or future.done():
            logger.debug("< late or unknown reply %r", reply.id)
        elif "result" in reply.envelope and reply.problem is None:
            future.set_result(reply.envelope["result"])
        else:
            future.set_exception(Refused(_error_text(reply)))

    def _on_call(self, message: jsonrpc.Request | jsonrpc.Notification) -> None:
        method, params = message.method, message.params
        request_id = message.id if isinstance(message, jsonrpc.Request) else None
        run_uuid = params.get("run_uuid", "")
        progress = progress_of(params) if method in LONG_METHODS else None
        scope = Scope(self._session.objects, self, self._lm, run_uuid, progress)
        try:
            if not isinstance(run_uuid, str):
                raise Refused("`run_uuid` must be a string.", INVALID_PARAMS, "Invalid params")
            if method == "cancel":
                self._cancel(params.get("id"))
                self._finish(request_id, scope, _OK)  # a notification as a rule (protocol §K.2), but not by force
            elif method == "release":
                release(scope, params)
                self._finish(request_id, scope, _OK)
            elif method in METHODS:
                self._finish(request_id, scope, METHODS[method](scope, params))
            elif method in LONG_METHODS:
                if len(self._tasks) >= 2 * MAX_RUNNING:
                    raise Refused(f"There are {MAX_RUNNING} requests running on this connection already.")
                self._heartbeat(request_id)
                begin = partial(LONG_METHODS[method], scope, params)
                work = self._chain.work(params, begin)
                self._chain.note(params, self._start(request_id, method, scope, work, progress))
            else:
                raise RpcError(METHOD_NOT_FOUND, f"Method '{method}' not found.", {"method": method})
        except Exception as exc:  # noqa: BLE001 - a failing request is an error reply, never a dead connection
            self._fail(request_id, method, exc)

    def _start(
        self, request_id: Id, method: str, scope: Scope, work: Work, progress: Progress | None
    ) -> asyncio.Task[Any]:
        # The task runs the work itself. A wrapper would leave it unawaited if the client leaves at once.
        task = self._loop.create_task(work)
        beats = self._loop.create_task(self._beat(request_id, progress))
        self._tasks |= {task, beats}
        if request_id is not None:
            self._works[request_id] = task
        beats.add_done_callback(self._tasks.discard)

        def end(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if self._works.get(request_id) is task:
                del self._works[request_id]
            beats.cancel()
            if task.cancelled():
                # Nothing was changed: a request makes its changes together, at its end.
                if request_id is not None:
                    self._reply_error(request_id, _cancelled())
                return
            try:
                self._finish(request_id, scope, task.result())
            except Exception as exc:  # noqa: BLE001 - as in _on_call
                self._fail(request_id, method, exc)

        task.add_done_callback(end)
        return task

    def _cancel(self, request_id: Any) -> None:
        """Stop working on a request that nobody waits for; one that has ended, or never was, changes nothing."""
        work = self._works.get(request_id) if isinstance(request_id, (str, int, float)) else None
        if work is not None:
            logger.debug("= cancelled: request %r", request_id)
            work.cancel()

    async def _beat(self, request_id: Id, progress: Progress | None) -> None:
        while True:
            if progress is None:
                await asyncio.sleep(self._heartbeat_interval)
            else:
                await progress.news(self._heartbeat_interval)
            self._heartbeat(request_id, progress)

    def _heartbeat(self, request_id: Id, progress: Progress | None = None) -> None:
        if request_id is not None:
            told = {} if progress is None else progress.told()
            self._post(jsonrpc.notification("heartbeat", {"id": request_id, **told}))

    # --- answering ------------------------------------------------------------------------------

    def _finish(self, request_id: Id, scope: Scope, result: Any) -> None:
        if request_id is not None:
            self._post(jsonrpc.result_reply(request_id, result))
        for late in scope.late_pushes:
            # Who has a session of its own (protocol §K.6) sets its flags before it asks.
            if late.delay and self._session.session_id is None:
                self._push_in(late.delay, late.method, late.params)
            else:
                self.push(late.method, late.params)

    def _fail(self, request_id: Id, method: str, exc: Exception) -> None:
        error = exc if isinstance(exc, RpcError) else None
        if error is None:
            if not isinstance(exc, TellurioError):
                logger.error("The request %r (%s) failed.", request_id, method, exc_info=exc)
            text = str(exc) or type(exc).__name__
            error = RpcError(INTERNAL_ERROR, "Internal error", {"exception": text})
        if request_id is not None:
            self._reply_error(request_id, error)
        else:
            logger.info("The notification %s failed: %s", method, error)

    def _reply_error(self, request_id: Id, error: RpcError) -> None:
        # Protocol §B: `data` is always there, and always an object.
        data = error.data if isinstance(error.data, dict) else {}
        try:
            self._post(jsonrpc.error_reply(request_id, RpcError(error.code, error.message, data)))
        except (Refused, TellurioError) as exc:
            # The text is longer than the client takes, or the id is not JSON (NaN) or too long itself.
            usable = request_id if isinstance(request_id, (int, str)) and len(str(request_id)) < _LONG_ID else None
            short = {"exception": f"{shorten(str(error))} (The error cannot be sent in full: {exc})"}
            self._post(jsonrpc.error_reply(usable, RpcError(error.code, shorten(error.message), short)))

    # --- calling the client (scope.Client) ----------------------------------------------------------

    def push(self, method: str, params: dict[str, Any]) -> None:
        """Send a state change, in the order of the calls.

        Raises:
            Refused: it is longer than this client takes.
            LocalProtocolError: it holds a value that JSON does not have (NaN).
        """
        push_id = self._take_id()
        self._post(jsonrpc.request(push_id, method, params))
        self._pushes[push_id] = method
        if len(self._pushes) > _MAX_UNANSWERED_PUSHES:
            del self._pushes[next(iter(self._pushes))]

    def _push_in(self, delay: float, method: str, params: dict[str, Any]) -> None:
        def now() -> None:
            self._timers.discard(timer)
            self.push(method, params)

        timer = self._loop.call_later(delay, now)
        self._timers.add(timer)

    async def call(self, method: str, params: dict[str, Any]) -> Any:
        """Call a method of the client; wait until it answers or leaves.

        Raises:
            Refused: the client's error; also as :meth:`push`.
        """
        # A client that does not read is not called either; the messages to it would pile up here.
        await self._has_room.wait()
        call_id = self._take_id()
        self._post(jsonrpc.request(call_id, method, params))
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls[call_id] = future
        try:
            return await future
        finally:
            self._calls.pop(call_id, None)

    def _take_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    # --- sending --------------------------------------------------------------------------------

    def _post(self, message: dict[str, Any]) -> None:
        """Queue a message. Never blocks."""
        if self._is_over:
            return
        text = jsonrpc.encode(message)
        size = _size_bytes(text, self._max_outgoing_bytes)
        if size > self._max_outgoing_bytes:
            raise Refused(
                f"A message of {size} bytes is over the {self._max_outgoing_bytes} bytes that this client takes; "
                f"a client can announce more by the header {MAX_SIZE_HEADER}."
            )
        self._outbox.append(text)
        self._outbox_chars += len(text)
        self._outbox_changed.set()
        if self._outbox_chars > _FULL_CHARS:
            self._has_room.clear()

    async def _write(self) -> None:
        try:
            while True:
                await self._outbox_changed.wait()
                self._outbox_changed.clear()
                while self._outbox:
                    text = self._outbox.popleft()
                    await self._ws.send_str(text)
                    self._outbox_chars -= len(text)
                self._has_room.set()
        except ConnectionError:
            # The receive loop sees the error, too, and ends the connection.
            logger.debug("! the connection broke while sending")
        finally:
            self._is_over = True
            self._has_room.set()


@contextmanager
def corked(transport: asyncio.Transport | None) -> Iterator[None]:
    """Context manager: what is written inside is sent together, as far as it fits into one segment.

    On systems without corking the parts are sent one by one; only clients that miss a late greeting notice that.
    """
    if sys.platform.startswith("linux"):
        option = socket.TCP_CORK
    else:
        option = getattr(socket, "TCP_NOPUSH", 4 if sys.platform == "darwin" else None)
    found = transport.get_extra_info("socket") if transport is not None else None
    if option is None or found is None:
        yield
        return
    found.setsockopt(socket.IPPROTO_TCP, option, 1)
    try:
        yield
    finally:
        found.setsockopt(socket.IPPROTO_TCP, option, 0)


def _give_up_on_the_gone(transport: asyncio.Transport | None) -> None:
    """Let the system end the connection of a client that vanished, such as a closed laptop: its calls cost money."""
    found = transport.get_extra_info("socket") if transport is not None else None
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if found is not None and option is not None:
        found.setsockopt(socket.IPPROTO_TCP, option, int(GONE_AFTER * 1000))


def _cancelled() -> RpcError:
    return RpcError(
        REQUEST_CANCELLED, "Request cancelled", {"exception": "The call was cancelled; it changed nothing."}
    )


def _size_bytes(text: str, limit: int) -> int:
    # A character has 4 bytes at most, so most texts need not be encoded to be known as short enough.
    return len(text) if text.isascii() or len(text) * 4 <= limit else len(text.encode())


def _error_text(reply: jsonrpc.Reply) -> str:
    error = reply.envelope.get("error")
    if reply.problem is not None or not isinstance(error, dict):
        return f"The client's reply is malformed: {reply.problem}"
    data = error.get("data")
    exception = data.get("exception") if isinstance(data, dict) else None
    return str(exception) if exception is not None else f"{error['message']} (code {error['code']}, data {data})"
