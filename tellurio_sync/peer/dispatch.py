"""Answers to messages of the server: requests, notifications, batches, and messages that are none of these.

State handlers run on the receive thread, at once and in wire order, so that a reply never overtakes the
pushes sent before it.  Methods marked ``on_worker`` run user code: they go to the worker pool, and the
receive thread goes on.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| method table | the constructor | receive thread, workers | frozen | no method changes it |
| open (unanswered) requests | receive thread, workers | any thread | one C call on a dict each | – |
| ``_OneReply._ungiven`` | receive thread, a worker, ``close`` | the same | one C call on a list | – |
| ``_BatchCollector._missing``, ``_replies`` | the same | the same | one C call on a list each | – |

There is no lock: a signal handler that closes the client could find it taken by its own thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Union

from .. import jsonrpc
from ..errors import LocalProtocolError, shorten_repr
from ..jsonrpc import Batch, Invalid, Notification, Request, RpcError
from ..jsonrpc.codes import error_for
from ..secret import redact
from .records import log
from .workers import WorkerPool

# JSON-RPC 2.0 §5.1 leaves -32000 to -32099 to implementations.
BUSY = -32000
CLOSING = -32001

MOST_IN_A_BATCH = 10_000
"""Messages of one batch; a longer one is refused as a whole."""

Answer = Callable[[Union[str, None]], None]
"""Takes the text of a reply; None: there is no reply."""


class Method(NamedTuple):
    """The handler of a method that the server may call.

    Attributes:
        handler: takes the params, returns the result; an exception that it raises becomes the error reply.
        on_worker: whether it runs on the worker pool instead of the receive thread.
    """

    handler: Callable[[dict[str, Any]], Any]
    on_worker: bool = False


class Dispatcher:
    """Runs handlers and sends their replies.

    Args:
        methods: name to method.
        pool: where methods marked ``on_worker`` run.
        send: sends one text, never waits; called on the receive thread and on workers.
        secrets: blotted out of what is logged.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        pool: WorkerPool,
        send: Callable[[str], None],
        secrets: Sequence[str] = (),
    ) -> None:
        self._methods = dict(methods)
        self._secrets = secrets
        self.max_outgoing: int | None = None  # bytes of a message that the server takes; None: it does not say
        self._pool = pool
        self._send = send
        self._open: dict[int, _OneReply] = {}

    @property
    def lock(self) -> threading.RLock:
        """That of the pool, in which code of the user may be run."""
        return self._pool.lock

    def handle(self, message: Request | Notification | Invalid | Batch) -> None:
        """Handle one message. Runs on the receive thread; raises nothing, whatever a handler does."""
        if isinstance(message, Batch):
            self._handle_batch(message)
        else:
            self._handle_one(message, self._send_reply)

    def refuse_open_requests(self) -> None:
        """Answer every open request with an error, because its result would come too late. Any thread."""
        for reply in self._open.copy().values():
            reply.fail(RpcError(CLOSING, "The client is closing.", {}))

    def _handle_batch(self, batch: Batch) -> None:
        # JSON-RPC 2.0 §6: one array with a reply for each request, in any order; no array if there is no request.
        if len(batch.messages) > MOST_IN_A_BATCH:
            # All of it would keep the receive thread for seconds: time-outs would come late, and a close.
            text = f"Invalid Request: a batch of {len(batch.messages)} messages; at most {MOST_IN_A_BATCH} are handled."
            self._handle_one(Invalid(None, RpcError(jsonrpc.INVALID_REQUEST, text, {}), text), self._send_reply)
            return
        collector = _BatchCollector(len(batch.messages), self._send)
        for message in batch.messages:
            if isinstance(message, jsonrpc.Reply):
                log.warning("! a reply inside a batch is ignored: batches are never sent from here")
                collector.add(None)
            else:
                self._handle_one(message, collector.add)

    def _handle_one(self, message: Request | Notification | Invalid, answer: Answer) -> None:
        if isinstance(message, Invalid):
            log.warning("! invalid message: %s: %s", message.error.message, self.shown(message.received))
            answer(_encode_error(message.id, message.error) if message.is_answered else None)
            return
        reply = _OneReply(
            message.id if isinstance(message, Request) else None, isinstance(message, Request), answer, self
        )
        method = self._methods.get(message.method)
        if method is None:
            error = RpcError(
                jsonrpc.METHOD_NOT_FOUND, f"Method '{message.method}' not found.", {"method": message.method}
            )
            reply.fail(error)
        elif not method.on_worker:
            _run(method, message, reply)
        else:
            self._run_on_worker(method, message, reply)

    def _run_on_worker(self, method: Method, message: Request | Notification, reply: _OneReply) -> None:
        key = id(reply)
        self._open[key] = reply

        def task() -> None:
            try:
                _run(method, message, reply)
            finally:
                self._open.pop(key, None)

        def refuse(reason: str) -> None:
            self._open.pop(key, None)
            # An error, not a wait: if the receive thread waited, the heartbeats of all calls would stop.
            reply.fail(RpcError(BUSY, reason, {}))

        if not self._pool.submit(task, refuse=refuse):
            refuse(self._pool.refusal or "No thread can be started for a callable.")

    def _send_reply(self, text: str | None) -> None:
        if text is not None:
            self._send(text)

    def shown(self, value: object) -> str:
        """The beginning of its ``repr``, without secrets."""
        return shorten_repr(value, redact=lambda text: redact(text, *self._secrets))


def _run(method: Method, message: Request | Notification, reply: _OneReply) -> None:
    try:
        result = method.handler(message.params)
    except BaseException as exc:  # noqa: BLE001 - a SystemExit in a handler must not end the thread either
        log.debug("! handler of %s failed", message.method, exc_info=True)
        reply.fail(error_for(exc))
    else:
        reply.succeed(result)


class _OneReply:
    """The reply to one request. Given once: by the handler, or at closing. For a notification it is only logged."""

    def __init__(self, id_: jsonrpc.envelopes.Id, is_wanted: bool, answer: Answer, dispatcher: Dispatcher) -> None:
        self._id = id_
        self._dispatcher = dispatcher
        self._is_wanted = is_wanted
        self._answer = answer
        self._ungiven = [True]

    def succeed(self, result: Any) -> None:
        if not self._is_wanted:
            self._give(None)
            return
        try:
            text = jsonrpc.encode(jsonrpc.result_reply(self._id, result))
            limit = self._dispatcher.max_outgoing
            if limit is not None and len(text) * 4 > limit and (size := jsonrpc.utf8_size(text)) > limit:
                raise LocalProtocolError(
                    f"the result is too big: it has {size} bytes, and the server takes at most {limit} "
                    "(its max_message_size)"
                )
        except LocalProtocolError as exc:
            self.fail(error_for(exc))
        else:
            self._give(text)

    def fail(self, error: RpcError) -> None:
        if not self._is_wanted:
            # JSON-RPC 2.0 §4.1: no reply to a notification, not even an error.
            log.warning("! notification failed: %s", self._dispatcher.shown([error.message, error.data]))
            self._give(None)
            return
        self._give(_encode_error(self._id, error))

    def _give(self, text: str | None) -> None:
        try:
            self._ungiven.pop()
        except IndexError:
            return
        self._answer(text)


def _encode_error(id_: jsonrpc.envelopes.Id, error: RpcError) -> str:
    try:
        return jsonrpc.encode(jsonrpc.error_reply(id_, error))
    except LocalProtocolError as exc:  # the handler's error holds a value that is not JSON
        return jsonrpc.encode(jsonrpc.error_reply(id_, error_for(exc)))


class _BatchCollector:
    """Collects the replies of one batch, from any thread, and sends all of them when the last one has come."""

    def __init__(self, expected: int, send: Callable[[str], None]) -> None:
        self._missing = list(range(expected))
        self._send = send
        self._replies: list[str] = []

    def add(self, reply: str | None) -> None:
        if reply is not None:
            self._replies.append(reply)
        # Only one thread takes out the 0, and by then each has added its reply.
        if self._missing.pop() == 0 and self._replies:
            self._send(f"[{','.join(self._replies)}]")
