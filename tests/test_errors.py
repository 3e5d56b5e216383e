"""The error tree: what each error is, says, and keeps when it travels between processes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync import errors
from tellurio_sync.errors import (
    BackendError,
    BatchFailed,
    BudgetExceeded,
    CallCancelled,
    CallError,
    CallTimeout,
    ClosedByUser,
    ConnectFailed,
    ConnectionLost,
    HttpError,
    HttpStatusError,
    HttpTooLarge,
    HttpUnreachable,
    InvalidAPIKeyError,
    InvalidParams,
    LocalProtocolError,
    MethodNotFound,
    ModelError,
    NotConnected,
    PendingTimeout,
    ProtocolError,
    RemoteError,
    RemoteInternalError,
    RemoteProtocolError,
    SampleFailure,
    SamplesFailed,
    TellurioError,
    UnknownCallable,
    UnknownModel,
    UnknownNode,
    UnknownVariable,
    UsageError,
    WouldDeadlock,
)

# One of each, all attributes set; what it is besides a TellurioError; its attributes.
CASES: list[tuple[TellurioError, tuple[type, ...], dict[str, Any]]] = [
    (
        ConnectFailed("no", stage="TLS", url="wss://h", attempts=3, status=503),
        (RuntimeError, ConnectionError, OSError),
        {"stage": "TLS", "url": "wss://h", "attempts": 3, "status": 503},
    ),
    (
        InvalidAPIKeyError("refused", stage="handshake", url="wss://h", attempts=1, status=401),
        (ConnectFailed, RuntimeError, ConnectionError),
        {"status": 401},
    ),
    (
        ConnectionLost("reset", who="server", was_sent=True, code=1011),
        (ConnectionError, OSError),
        {"reason": "reset", "who": "server", "was_sent": True, "code": 1011},
    ),
    (
        ClosedByUser(was_sent=True),
        (ConnectionLost, ConnectionError),
        {"reason": "close() was called", "who": "local", "was_sent": True, "code": None},
    ),
    (CallError("x", method="m", request_id="1"), (), {"method": "m", "request_id": "1", "was_sent": True}),
    (
        CallTimeout(method="m", request_id="1", waited_s=1.5, last_heartbeat_age_s=0.5, was_sent=False),
        (CallError, TimeoutError, OSError),
        {"method": "m", "request_id": "1", "waited_s": 1.5, "last_heartbeat_age_s": 0.5, "was_sent": False},
    ),
    (CallCancelled("x", method="m"), (CallError, RuntimeError), {"method": "m", "request_id": None, "was_sent": True}),
    (
        RemoteError(-32000, "Busy", {"a": 1}, method="m", request_id="1"),
        (CallError, RuntimeError),
        {"code": -32000, "message": "Busy", "data": {"a": 1}, "method": "m", "request_id": "1", "was_sent": True},
    ),
    (MethodNotFound(-32601, "no", {"method": "m"}), (RemoteError, RuntimeError), {"code": -32601}),
    (InvalidParams(-32602, "no", {}), (RemoteError, RuntimeError), {"code": -32602}),
    (RemoteInternalError(-32603, "no", {"exception": "boom"}), (RemoteError, RuntimeError), {"code": -32603}),
    (
        SamplesFailed(-32603, "no", {"results": ["a", None], "failures": [{"sample": 1, "kind": "k", "error": "e"}]}),
        (RemoteInternalError, RuntimeError),
        {"results": ["a", None], "failures": (SampleFailure(1, "k", "e"),)},
    ),
    (
        BudgetExceeded(-32603, "no", {"exception": "spent", "kind": "budget"}),
        (SamplesFailed, RuntimeError),
        {"results": [], "failures": ()},
    ),
    (BatchFailed([]), (RuntimeError,), {"failures": ()}),
    (ProtocolError("x"), (), {}),
    (LocalProtocolError("x"), (ProtocolError, ValueError), {"was_sent": False}),
    (
        RemoteProtocolError("x", received="abc"),
        (ProtocolError, ValueError, RuntimeError),
        {"received": "abc", "was_sent": True},
    ),
    (UsageError("x"), (RuntimeError,), {}),
    (WouldDeadlock("x"), (UsageError, RuntimeError), {"was_sent": False}),
    (NotConnected(), (UsageError, RuntimeError), {"was_sent": False}),
    (HttpError("x", url="http://h"), (OSError,), {"url": "http://h"}),
    (HttpStatusError("x", status=500, url="http://h"), (HttpError,), {"status": 500, "url": "http://h"}),
    (HttpTooLarge("x", limit=5, url="http://h"), (HttpError,), {"limit": 5, "url": "http://h"}),
    (HttpUnreachable("x", url="http://h"), (HttpError, ConnectionError, ValueError), {"url": "http://h"}),
    (ModelError("x"), (), {}),
    (UnknownNode("x", node_id="n"), (ModelError, ValueError), {"node_id": "n"}),
    (UnknownVariable("x", variable_id="v"), (ModelError, ValueError), {"variable_id": "v"}),
    (UnknownModel("x", model_id="m"), (ModelError, ValueError), {"model_id": "m"}),
    (UnknownCallable("x", callable_id="c"), (ModelError, ValueError), {"callable_id": "c"}),
    (
        PendingTimeout("_pending_data", variable_id="v", waited_s=3.0),
        (ModelError, RuntimeError, TimeoutError),
        {"flag": "_pending_data", "variable_id": "v", "waited_s": 3.0},
    ),
    (BackendError("x"), (RuntimeError,), {}),
]
IDS = [type(error).__name__ for error, _, _ in CASES]


def test_the_cases_cover_every_error_of_the_module() -> None:
    classes = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, BaseException)]
    every = {cls for cls in classes if not issubclass(cls, Warning)}
    assert every - {type(error) for error, _, _ in CASES} == {TellurioError}


NEVER_RAISED = {CallError, ProtocolError, ModelError}


def test_every_error_that_is_raised_is_also_a_builtin() -> None:
    """So ``except ValueError`` and the like catch what a reader expects."""
    for error, _, _ in CASES:
        builtin = {base for base in type(error).__mro__ if base.__module__ == "builtins"}
        is_named = bool(builtin - {Exception, BaseException, object})
        assert is_named != (type(error) in NEVER_RAISED), type(error)


def test_what_is_never_raised_itself_is_made_nowhere() -> None:
    names = "|".join(cls.__name__ for cls in (*NEVER_RAISED, TellurioError))
    made = [
        f"{path.name}: {line.strip()}"
        for path in Path(errors.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(rf"(?<!class )(?<![\w.])({names})\(", line)
    ]
    assert made == []


def test_every_error_that_a_call_can_raise_tells_whether_the_server_may_have_acted() -> None:
    told = {type(error): error.was_sent for error, _, _ in CASES if hasattr(error, "was_sent")}
    of_calls = {ConnectionLost, LocalProtocolError, RemoteProtocolError, WouldDeadlock, NotConnected, CallError}
    of_calls |= {BackendError}
    assert set(told) >= of_calls
    assert all(isinstance(was_sent, bool) for was_sent in told.values())
    for error, _, _ in CASES:
        assert (type(error) in told) == isinstance(error, tuple(of_calls)), type(error)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = set(re.findall(r"[├└]─ (\w+)", errors.__doc__ or ""))
    assert drawn == set(IDS)


@pytest.mark.parametrize(("error", "bases", "attributes"), CASES, ids=IDS)
def test_an_error_is_what_its_builtins_say_and_has_its_attributes(
    error: TellurioError, bases: tuple[type, ...], attributes: dict[str, Any]
) -> None:
    for base in (TellurioError, *bases):
        assert isinstance(error, base)
    assert {name: getattr(error, name) for name in attributes} == attributes


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", [case[0] for case in CASES], ids=IDS)
def test_an_error_pickles_with_attributes_and_text(error: TellurioError, protocol: int) -> None:
    for twin in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is type(error)
        assert twin.args == error.args
        assert twin.__dict__ == error.__dict__
        assert str(twin) == str(error)


@pytest.mark.parametrize("error", [case[0] for case in CASES], ids=IDS)
def test_a_raised_error_with_a_cause_pickles(error: TellurioError) -> None:
    with pytest.raises(TellurioError) as caught:
        raise error from OSError("below")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectFailed("no route", stage="TCP"), "no route"),
        (ConnectFailed(""), ""),
        (ConnectionLost("reset", who="server"), "Connection lost (server): reset; the request had not been sent."),
        (ConnectionLost("reset", was_sent=True), "Connection lost (network): reset; the request had been sent."),
        (ClosedByUser(), "Connection lost (local): close() was called; the request had not been sent."),
        (BatchFailed([("role of x", RemoteError(data={"exception": "no"}))]), "1 refused in a batch: role of x: no"),
        (
            BatchFailed([(f"v{n}", RemoteError(data={"exception": "no"})) for n in range(7)]),
            "7 refused in a batch: v0: no; v1: no; v2: no; v3: no; v4: no; ... and 2 more (see `failures`)",
        ),
        (NotConnected(), "WebSocket is not connected"),
        (CallTimeout(method="m", waited_s=30.04), "No reply to 'm' within 30.0 s (no heartbeat came)."),
        (
            CallTimeout(method="m", waited_s=90, last_heartbeat_age_s=30, was_sent=False),
            "No reply to 'm' within 90.0 s (last heartbeat 30.0 s ago; the request could not be sent in this time).",
        ),
        (RemoteError(-1, "no", {"exception": "boom"}), "boom"),
        (RemoteError(-1, "no", {"exception": ""}), ""),
        (RemoteError(-1, "no", {"exception": {"nested": 1}}), "{'nested': 1}"),
        (RemoteError(-1, "no", {"other": 1}), "no (code -1, data {'other': 1})"),
        (RemoteError(-1, "no", [1]), "no (code -1, data [1])"),
        (RemoteError(-1, "no"), "no (code -1, data None)"),
        (
            PendingTimeout("_pending_data", variable_id="v"),
            "Timeout waiting for _pending_data to be cleared for variable_id=v",
        ),
    ],
)
def test_the_text_of_an_error(error: TellurioError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (-32601, MethodNotFound),
        (-32602, InvalidParams),
        (-32603, RemoteInternalError),
        (-32600, RemoteError),
        (-32000, RemoteError),
        (0, RemoteError),
    ],
)
def test_an_error_reply_becomes_the_error_of_its_code(code: int, cls: type[RemoteError]) -> None:
    error = RemoteError.from_reply({"code": code, "message": "no", "data": {"a": 1}}, method="m", request_id="1")
    assert type(error) is cls
    assert (error.code, error.message, error.data) == (code, "no", {"a": 1})
    assert (error.method, error.request_id) == ("m", "1")


def test_an_error_reply_without_data_keeps_its_message() -> None:
    error = RemoteError.from_reply({"code": -32603, "message": "Internal error"})
    assert error.data is None
    assert str(error) == "Internal error (code -32603, data None)"


@pytest.mark.parametrize("length", [0, 1, 199, 200])
def test_a_short_text_is_left_as_it_is(length: int) -> None:
    assert errors.shorten("x" * length) == "x" * length


def test_a_long_text_is_cut_and_its_length_told() -> None:
    assert errors.shorten("x" * 201) == "x" * 200 + "... (201 characters)"
    assert errors.shorten("abcdef", 3) == "abc... (6 characters)"


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def test_the_repr_of_any_value_can_be_shortened_even_one_nested_too_deeply() -> None:
    assert errors.shorten_repr({"a": 1}) == "{'a': 1}"
    assert errors.shorten_repr("x" * 300).endswith("... (302 characters)")
    assert errors.shorten_repr(_nested(100_000)) == "a list nested too deeply to show"


def test_what_a_protocol_error_quotes_is_shortened() -> None:
    assert len(RemoteProtocolError("x", received="y" * 10_000).received) < 250
