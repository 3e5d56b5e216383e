"""Every error this package raises on purpose.

The tree::

    TellurioError
    ├─ ConnectFailed(ConnectionError, RuntimeError)      stage, url, attempts, status
    │   └─ InvalidAPIKeyError                            a refused key; never retried
    ├─ ConnectionLost(ConnectionError)                   reason, who, was_sent
    │   └─ ClosedByUser
    ├─ CallError (never raised itself)                   method, request_id, was_sent
    │   ├─ CallTimeout(TimeoutError)                     waited_s, last_heartbeat_age_s
    │   ├─ CallCancelled(RuntimeError)
    │   └─ RemoteError(RuntimeError)                     code, message, data
    │       ├─ MethodNotFound
    │       ├─ InvalidParams
    │       └─ RemoteInternalError
    │           └─ SamplesFailed                         results, failures
    │               └─ BudgetExceeded
    ├─ BatchFailed(RuntimeError)                         failures
    ├─ ProtocolError (never raised itself)
    │   ├─ LocalProtocolError(ValueError)                was_sent: False; it is not valid
    │   └─ RemoteProtocolError(ValueError, RuntimeError) received (the message, shortened), was_sent: True
    ├─ UsageError(RuntimeError)
    │   ├─ WouldDeadlock                                 was_sent: False
    │   └─ NotConnected                                  was_sent: False
    ├─ HttpError(OSError)                                url
    │   ├─ HttpStatusError                               status, url
    │   ├─ HttpTooLarge                                  limit, url
    │   └─ HttpUnreachable(ConnectionError, ValueError)  url
    ├─ ModelError (never raised itself)
    │   ├─ UnknownNode(ValueError)                       node_id
    │   ├─ UnknownVariable(ValueError)                   variable_id
    │   ├─ UnknownModel(ValueError)                      model_id
    │   ├─ UnknownCallable(ValueError)                   callable_id
    │   └─ PendingTimeout(TimeoutError, RuntimeError)    flag, variable_id, waited_s
    └─ BackendError(RuntimeError)                        was_sent: False; the local backend could not be started or used

Rules: an error carries plain data only (no socket, no key, no peer); it pickles
with its attributes; its text tells the user what to do, if there is something to
do.  Each error that is raised also inherits the builtin that fits, so that ``except TimeoutError``
and ``except ConnectionError`` catch what a reader expects.  Each error that a call can raise has
``was_sent``: False means that the server certainly has not acted on the request.  Among the builtins an
``OSError`` comes first, because ``__new__`` of the others cannot make one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_SHORTENED_CHARS = 200
_TOLD_FAILURES = 5


def shorten(text: str, limit: int = _SHORTENED_CHARS) -> str:
    """The text, or its beginning and its length if it has more than ``limit`` characters."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... ({len(text)} characters)"


def shorten_repr(value: object, *, redact: Callable[[str], str] = str) -> str:
    """The beginning of ``repr(value)``; a description if the value is nested too deeply for ``repr``.

    ``redact`` blots out what must not be seen, before anything is cut off: half a key is one, too.
    """
    try:
        return shorten(redact(repr(value)))
    except RecursionError:
        return f"a {type(value).__name__} nested too deeply to show"


def describe(thing: object) -> str:
    """The beginning of ``str(thing)``, for one item in a list of failures. Never raises."""
    try:
        return shorten(str(thing))
    except Exception:  # noqa: BLE001 - it is the user's object, whose `__str__` may raise anything
        return f"a {type(thing).__name__} that cannot be shown"


def _rebuild(cls: type[TellurioError], args: tuple[Any, ...], state: dict[str, Any]) -> TellurioError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class TellurioError(Exception):
    """Base of every error of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls cls(*args), which fails for keyword-only attributes.
        return _rebuild, (type(self), self.args, dict(self.__dict__))

    # OSError (a base of ConnectionError) builds its text from errno; ours is always the message.
    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


# --- connection ---------------------------------------------------------------------------------


class ConnectFailed(TellurioError, ConnectionError, RuntimeError):
    """No connection could be opened.

    Attributes:
        stage: where it failed: ``"url"``, ``"DNS"``, ``"proxy"``, ``"TCP"``, ``"TLS"``, ``"handshake"``,
            ``"greeting"``; or ``"internal error"``, a defect of this package.
        url: the address, without credentials.
        attempts: how many attempts were made.
        status: the HTTP status of a refused handshake, else None.
    """

    def __init__(
        self, text: str, *, stage: str = "", url: str = "", attempts: int = 1, status: int | None = None
    ) -> None:
        super().__init__(text)
        self.stage = stage
        self.url = url
        self.attempts = attempts
        self.status = status


class InvalidAPIKeyError(ConnectFailed):
    """The server refused the API key (HTTP 401 or 403). Never retried."""


class ConnectionLost(TellurioError, ConnectionError):
    """The connection ended while the call was waiting, or before it could be sent.

    Attributes:
        reason: why, in words.
        who: who ended it: ``"local"``, ``"server"`` or ``"network"``.
        was_sent: True if the whole request was handed to the operating system, so that the server may
            have acted on it; False if it certainly did not; None where it is about no request (``on_lost``).
        code: the WebSocket close code (RFC 6455 §7.4), or None where there was no close frame.
    """

    def __init__(
        self, reason: str, *, who: str = "network", was_sent: bool | None = False, code: int | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.who = who
        self.was_sent = was_sent
        self.code = code

    def __str__(self) -> str:
        sent = {True: "; the request had been sent", False: "; the request had not been sent", None: ""}[self.was_sent]
        return f"Connection lost ({self.who}): {self.reason}{sent}."


class ClosedByUser(ConnectionLost):
    """This side closed the connection while the call was waiting."""

    def __init__(
        self,
        reason: str = "close() was called",
        *,
        who: str = "local",
        was_sent: bool | None = False,
        code: int | None = None,
    ) -> None:
        super().__init__(reason, who=who, was_sent=was_sent, code=code)


# --- calls --------------------------------------------------------------------------------------


class CallError(TellurioError):
    """One call failed; the connection is not affected. Only the subclasses are raised.

    Attributes:
        method: the called method.
        request_id: the JSON-RPC id of the request, or None where there was none yet.
        was_sent: True if the server may have acted on the request, False if it certainly did not.
    """

    was_sent: bool = True

    def __init__(self, text: str, *, method: str = "", request_id: object = None) -> None:
        super().__init__(text)
        self.method = method
        self.request_id = request_id


class CallTimeout(CallError, TimeoutError):
    """No reply came before the call's deadline.

    Attributes:
        waited_s: seconds from the start of the call to its expiry.
        last_heartbeat_age_s: seconds since the last heartbeat of this call, None if there was none.
        was_sent: True if the request was sent, or is queued and may yet be, so that the server may act on it; False
            if it certainly was not and will not be.
        recent: what happened last on the connection, oldest first: calls that were answered, calls that wait,
            heartbeats, pushes, lost connections. It holds no parameters, no results and no keys. From Python 3.11 on it
            is a note, too, which tracebacks show.
    """

    recent: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        method: str = "",
        request_id: object = None,
        waited_s: float = 0.0,
        last_heartbeat_age_s: float | None = None,
        was_sent: bool = True,
    ) -> None:
        super().__init__("timeout", method=method, request_id=request_id)
        self.waited_s = waited_s
        self.last_heartbeat_age_s = last_heartbeat_age_s
        self.was_sent = was_sent

    def __str__(self) -> str:
        beat = (
            "no heartbeat came"
            if self.last_heartbeat_age_s is None
            else f"last heartbeat {self.last_heartbeat_age_s:.1f} s ago"
        )
        sent = "" if self.was_sent else "; the request could not be sent in this time"
        return f"No reply to {self.method!r} within {self.waited_s:.1f} s ({beat}{sent})."

    def tell_recent(self, lines: tuple[str, ...]) -> None:
        """Say what happened last on the connection."""
        self.recent = lines
        if lines and sys.version_info >= (3, 11):
            self.add_note("\n".join(["What happened last on this connection:", *(f"  {line}" for line in lines)]))


class CallCancelled(CallError, RuntimeError):
    """The call was given up by this side before its reply came."""


class RemoteError(CallError, RuntimeError):
    """The server answered with an error object (JSON-RPC 2.0 §5.1).

    ``str()`` is the server's exception text where it sent one (``error.data.exception``,
    protocol §B.2), else the whole error.

    Attributes:
        code: the error code.
        message: the error message.
        data: the ``data`` member, None where it was absent.
        place: where a function of yours raised it, such as ``"score, program.py line 12"``; "" where it was not one.
    """

    place: str = ""

    def __init__(
        self, code: int = 0, message: str = "", data: Any = None, *, method: str = "", request_id: object = None
    ) -> None:
        exception = data.get("exception") if isinstance(data, dict) else None
        text = str(exception) if exception is not None else f"{message} (code {code}, data {data!r})"
        super().__init__(text, method=method, request_id=request_id)
        self.code = code
        self.message = message
        self.data: Any = data

    def __str__(self) -> str:
        return f"{super().__str__()} (in {self.place})" if self.place else super().__str__()

    @staticmethod
    def from_reply(error: dict[str, Any], *, method: str = "", request_id: object = None) -> RemoteError:
        """The fitting error for the ``error`` member of a reply envelope."""
        code, data = error.get("code", 0), error.get("data")
        cls = _BY_CODE.get(code, RemoteError)
        if isinstance(data, dict) and isinstance(data.get("results"), list) and sample_failures(data.get("failures")):
            cls = SamplesFailed
        if isinstance(data, dict) and data.get("kind") == "budget":
            cls = BudgetExceeded
        return cls(code, error.get("message", ""), error.get("data"), method=method, request_id=request_id)


class MethodNotFound(RemoteError):
    """The server does not know the method (code -32601)."""


class InvalidParams(RemoteError):
    """The server refused the parameters (code -32602)."""


class RemoteInternalError(RemoteError):
    """The method failed on the server (code -32603)."""


@dataclass(frozen=True)
class SampleFailure:
    """What went wrong with one sample of a batch.

    Attributes:
        index: of the sample in the batch, from 0.
        kind: in a word: ``"refused"``, ``"blocked"``, ``"cut_off"``, ``"timeout"``, ``"not_asked"``, ...
        error: the same in words.
    """

    index: int
    kind: str
    error: str


def sample_failures(value: Any) -> tuple[SampleFailure, ...] | None:
    """The failures in a message of the server's, None where it holds none."""
    if not isinstance(value, list):
        return None
    found = [
        SampleFailure(item["sample"], str(item.get("kind", "other")), str(item.get("error", "")))
        for item in value
        if isinstance(item, dict) and isinstance(item.get("sample"), int)
    ]
    return tuple(found) if found else None


class SamplesFailed(RemoteInternalError):
    """Some samples of a batch failed; the others were worked on all the same. The text names the failed ones.

    Attributes:
        results: of a chat completion the answers, of an evaluator the scores: one per sample, None for those that
            failed.  Empty for a backward pass, which can be tried again as it was.
        failures: what went wrong, a ``SampleFailure`` for each sample that failed.
    """

    def __init__(
        self, code: int = 0, message: str = "", data: Any = None, *, method: str = "", request_id: object = None
    ) -> None:
        super().__init__(code, message, data, method=method, request_id=request_id)
        found = data if isinstance(data, dict) else {}
        self.results: list[Any] = list(found.get("results") or [])
        self.failures: tuple[SampleFailure, ...] = sample_failures(found.get("failures")) or ()


class BudgetExceeded(SamplesFailed):
    """A question to a language model was not asked, because it could have passed the limit of ``te.budget``.

    ``results`` and ``failures`` are those of a batch, where some of its samples were answered before.
    """


class UnusedInput(UserWarning):
    """An input fills no placeholder, so that the model will not see it. The text names both."""


class SamplesLeftOut(UserWarning):
    """Some samples of a batch failed, and the work went on without them.

    Attributes:
        size: of the batch.
        failures: a ``SampleFailure`` for each sample that was left out.
    """

    def __init__(self, text: str, size: int = 0, failures: Sequence[SampleFailure] = ()) -> None:
        super().__init__(text)
        self.size = size
        self.failures: tuple[SampleFailure, ...] = tuple(failures)


_BY_CODE: dict[int, type[RemoteError]] = {-32601: MethodNotFound, -32602: InvalidParams, -32603: RemoteInternalError}


class BatchFailed(TellurioError, RuntimeError):
    """The server refused some of the items of a batch; the others have taken effect. The text names the first few.

    Attributes:
        failures: for each refused item its description and the reason.
    """

    def __init__(self, failures: Sequence[tuple[str, TellurioError]] = ()) -> None:
        self.failures: tuple[tuple[str, TellurioError], ...] = tuple(failures)
        told = [f"{what}: {error}" for what, error in self.failures[:_TOLD_FAILURES]]
        if len(self.failures) > _TOLD_FAILURES:
            told.append(f"... and {len(self.failures) - _TOLD_FAILURES} more (see `failures`)")
        super().__init__(f"{len(self.failures)} refused in a batch: " + "; ".join(told))


# --- protocol -----------------------------------------------------------------------------------


class ProtocolError(TellurioError):
    """A rule of WebSocket or JSON-RPC was broken. Only the subclasses are raised; they say which side broke it."""


class LocalProtocolError(ProtocolError, ValueError):
    """This side was asked to send something that the protocol cannot carry.

    Attributes:
        was_sent: False: nothing of the request was sent.
    """

    was_sent: bool = False


class RemoteProtocolError(ProtocolError, ValueError, RuntimeError):
    """The server sent something that the protocol does not allow.

    Attributes:
        received: the beginning of the message.
        was_sent: True: the server may have acted on the request, only its reply cannot be used.
    """

    was_sent: bool = True

    def __init__(self, text: str, *, received: str = "") -> None:
        super().__init__(text)
        self.received: str = shorten(received)


# --- usage --------------------------------------------------------------------------------------


class UsageError(TellurioError, RuntimeError):
    """The package was used in a way that cannot work; the text says what to do instead."""


class WouldDeadlock(UsageError):
    """A blocking call was made on the receive thread, which would have to deliver the reply to it.

    Attributes:
        was_sent: False: nothing of the request was sent.
    """

    was_sent: bool = False


class NotConnected(UsageError):
    """There is no open connection.

    Attributes:
        was_sent: False: nothing of the request was sent.
    """

    was_sent: bool = False

    def __init__(self, text: str = "WebSocket is not connected") -> None:
        super().__init__(text)


# --- REST ---------------------------------------------------------------------------------------


class HttpError(TellurioError, OSError):
    """A REST request failed.

    Attributes:
        url: the address of the request, without credentials.
    """

    def __init__(self, text: str, *, url: str = "") -> None:
        super().__init__(text)
        self.url = url


class HttpStatusError(HttpError):
    """The server answered a REST request with a status that is not a success.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, text: str, *, status: int = 0, url: str = "") -> None:
        super().__init__(text, url=url)
        self.status = status


class HttpTooLarge(HttpError):
    """The answer to a REST request has more bytes than is allowed here. What was asked for may have been done.

    Attributes:
        limit: bytes.
    """

    def __init__(self, text: str, *, limit: int = 0, url: str = "") -> None:
        super().__init__(text, url=url)
        self.limit = limit


class HttpUnreachable(HttpError, ConnectionError, ValueError):
    """The server could not be reached, or its answer was not complete in time."""


# --- model --------------------------------------------------------------------------------------


class ModelError(TellurioError):
    """The mirrored object model does not hold what was asked for. Only the subclasses are raised."""


class UnknownNode(ModelError, ValueError):
    """No graph node with this id is registered.

    Attributes:
        node_id: the id.
    """

    def __init__(self, text: str, *, node_id: object = None) -> None:
        super().__init__(text)
        self.node_id = node_id


class UnknownVariable(ModelError, ValueError):
    """No Variable or Parameter with this id is registered.

    Attributes:
        variable_id: the id.
    """

    def __init__(self, text: str, *, variable_id: object = None) -> None:
        super().__init__(text)
        self.variable_id = variable_id


class UnknownModel(ModelError, ValueError):
    """No language model with this id is registered.

    Attributes:
        model_id: the id.
    """

    def __init__(self, text: str, *, model_id: object = None) -> None:
        super().__init__(text)
        self.model_id = model_id


class UnknownCallable(ModelError, ValueError):
    """No callable with this id is registered.

    Attributes:
        callable_id: the id.
    """

    def __init__(self, text: str, *, callable_id: object = None) -> None:
        super().__init__(text)
        self.callable_id = callable_id


class PendingTimeout(ModelError, TimeoutError, RuntimeError):
    """The server did not deliver an announced change of a Variable in time.

    Attributes:
        flag: the flag that stayed set: ``_pending_data``, ``_pending_grad`` or ``_pending_grad_fn_id``.
        variable_id: the id of the Variable.
        waited_s: seconds waited.
    """

    def __init__(self, flag: str = "", *, variable_id: object = None, waited_s: float = 0.0) -> None:
        super().__init__(f"Timeout waiting for {flag} to be cleared for variable_id={variable_id}")
        self.flag = flag
        self.variable_id = variable_id
        self.waited_s = waited_s


class BackendError(TellurioError, RuntimeError):
    """The local backend could not be started, or stopped by itself; the text says why and what to do.

    ``was_sent`` is False: a call that raises this has not reached it.
    """

    was_sent = False
