"""What the client answers to what the server sends (protocol §B.1)."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync import jsonrpc
from tellurio_sync.jsonrpc import RpcError
from tellurio_sync.peer import dispatch
from tellurio_sync.peer.dispatch import Dispatcher, Method
from tellurio_sync.peer.workers import WorkerPool

from ..conftest import FAILSAFE
from ..interrupts import strikes

V = "2.0"


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


def _raise(exc: BaseException) -> Callable[[dict[str, Any]], Any]:
    def handler(params: dict[str, Any]) -> Any:
        raise exc

    return handler


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


HANDLERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ok": lambda params: {"message": "Ok"},
    "echo": lambda params: params,
    "none": lambda params: None,
    "key": lambda params: params["variable_id"],
    "value_error": _raise(ValueError("boom")),
    "textless": _raise(ValueError()),
    "unprintable": _raise(Unprintable()),
    "system_exit": _raise(SystemExit(3)),
    "interrupt": _raise(KeyboardInterrupt()),
    "stop": _raise(StopIteration("x")),
    "recursion": _raise(RecursionError("deep")),
    "rpc_error": _raise(RpcError(7, "seven", {"n": 7})),
    "bad_rpc_error": _raise(RpcError(7, "seven", {"n": math.nan})),
    "worse_rpc_error": _raise(RpcError(7, object(), object())),  # type: ignore[arg-type]
    "nan": lambda params: {"x": math.nan},
    "object": lambda params: object(),
    "deep": lambda params: _nested(200_000),
    "surrogate": lambda params: "\ud800",
}


class Bench:
    """A dispatcher, and what it sent."""

    def __init__(self, *, on_worker: bool = False, pool: WorkerPool | None = None, **more: Any) -> None:
        self.pool = pool or WorkerPool()
        self.sent: list[Any] = []
        self._came = threading.Condition()
        methods = {name: Method(handler, on_worker) for name, handler in {**HANDLERS, **more}.items()}
        self.dispatcher = Dispatcher(methods, self.pool, self._send)

    def _send(self, text: str) -> None:
        with self._came:
            self.sent.append(json.loads(text))
            self._came.notify_all()

    def handle(self, value: Any) -> None:
        message = jsonrpc.classify(value)
        assert not isinstance(message, jsonrpc.Reply)
        self.dispatcher.handle(message)

    def answers(self, count: int = 1) -> list[Any]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.sent) >= count, FAILSAFE), self.sent
            return list(self.sent)

    def flush(self) -> None:
        self.pool.close(FAILSAFE)


@pytest.fixture(params=[False, True], ids=["receive thread", "worker"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(on_worker=request.param)
    yield made
    made.flush()


def result(value: Any) -> dict[str, Any]:
    return {"result": value}


def error(code: int, message: str, data: Any = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **({} if data is None else {"data": data})}}


NOT_JSON = "cannot be sent as JSON: "

REPLIES = [
    ("ok", {}, result({"message": "Ok"})),
    ("echo", {"a": [1, None]}, result({"a": [1, None]})),
    ("none", {}, result(None)),
    ("key", {}, error(-32602, "Missing key: variable_id", {"missing_key": "variable_id"})),
    ("unknown", {}, error(-32601, "Method 'unknown' not found.", {"method": "unknown"})),
    ("", {}, error(-32601, "Method '' not found.", {"method": ""})),
    ("__class__", {}, error(-32601, "Method '__class__' not found.", {"method": "__class__"})),
    ("value_error", {}, error(-32603, "Internal error", {"exception": "boom"})),
    ("textless", {}, error(-32603, "Internal error", {"exception": "ValueError"})),
    ("unprintable", {}, error(-32603, "Internal error", {"exception": "Unprintable"})),
    ("system_exit", {}, error(-32603, "Internal error", {"exception": "3"})),
    ("interrupt", {}, error(-32603, "Internal error", {"exception": "KeyboardInterrupt"})),
    ("stop", {}, error(-32603, "Internal error", {"exception": "x"})),
    ("recursion", {}, error(-32603, "Internal error", {"exception": "deep"})),
    ("rpc_error", {}, error(7, "seven", {"n": 7})),
    ("surrogate", {}, result("\ud800")),
]


@pytest.mark.parametrize("id_", ["x", 0, "", 7, 1.5])
@pytest.mark.parametrize(("method", "params", "reply"), REPLIES, ids=[case[0] or "empty" for case in REPLIES])
def test_a_request_gets_exactly_its_reply(
    bench: Bench, method: str, params: dict[str, Any], reply: dict[str, Any], id_: Any
) -> None:
    bench.handle({"jsonrpc": V, "method": method, "params": params, "id": id_})
    assert bench.answers() == [{"jsonrpc": V, "id": id_, **reply}]


@pytest.mark.parametrize("method", ["nan", "object", "deep", "bad_rpc_error", "worse_rpc_error"])
def test_what_cannot_be_sent_as_json_is_an_error_that_says_so(bench: Bench, method: str) -> None:
    bench.handle({"jsonrpc": V, "method": method, "id": 1})
    (reply,) = bench.answers()
    assert (reply["id"], reply["error"]["code"]) == (1, -32603)
    assert reply["error"]["data"]["exception"].startswith(NOT_JSON)


@pytest.mark.parametrize("method", [case[0] for case in REPLIES] + ["nan", "object", "deep", "bad_rpc_error"])
@pytest.mark.parametrize("id_", [{}, {"id": None}])
def test_a_notification_gets_no_reply_whatever_comes_of_it(bench: Bench, method: str, id_: dict[str, None]) -> None:
    bench.handle({"jsonrpc": V, "method": method, **id_})
    bench.flush()
    assert bench.sent == []


@pytest.mark.parametrize(
    ("value", "id_", "code"),
    [
        (1, None, -32600),
        (None, None, -32600),
        ("text", None, -32600),
        ([], None, -32600),
        ({}, None, -32600),
        ({"jsonrpc": V, "id": None}, None, -32600),
        ({"jsonrpc": "1.0", "method": "ok", "id": 3}, 3, -32600),
        ({"method": "ok", "id": 3}, 3, -32600),
        ({"jsonrpc": V, "method": 1, "id": 3}, 3, -32600),
        ({"jsonrpc": V, "method": "ok", "id": True}, None, -32600),
        ({"jsonrpc": V, "method": "ok", "id": [1]}, None, -32600),
        ({"jsonrpc": V, "method": "ok", "id": math.nan}, None, -32600),
        ({"jsonrpc": V, "method": "ok", "id": math.inf}, None, -32600),
        ({"jsonrpc": V, "method": "ok", "params": 1, "id": 3}, 3, -32602),
        ({"jsonrpc": V, "method": "ok", "params": [1], "id": 3}, 3, -32602),
        ({"jsonrpc": V, "method": "ok", "params": None, "id": 0}, 0, -32602),
    ],
)
def test_what_is_invalid_is_answered_with_its_code(bench: Bench, value: Any, id_: Any, code: int) -> None:
    bench.handle(value)
    (reply,) = bench.answers()
    assert (reply["id"], reply["error"]["code"]) == (id_, code)
    assert isinstance(reply["error"]["data"], dict)


def test_a_notification_with_params_of_the_wrong_shape_gets_no_reply(bench: Bench) -> None:
    bench.handle({"jsonrpc": V, "method": "ok", "params": [1]})
    assert bench.sent == []


def test_an_invalid_message_nested_too_deeply_for_the_log_is_answered(bench: Bench) -> None:
    bench.handle({"jsonrpc": "1.0", "method": "ok", "params": _nested(100_000), "id": 3})
    bench.handle({"jsonrpc": V, "method": "ok", "params": [_nested(100_000)], "id": 4})
    assert [reply["id"] for reply in bench.answers(2)] == [3, 4]


# --- batches ------------------------------------------------------------------------------------


def test_a_batch_that_would_keep_the_receive_thread_for_seconds_is_refused_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "MOST_IN_A_BATCH", 3)
    request = {"jsonrpc": "2.0", "id": 1, "method": "no such method"}
    bench.handle([request] * 3)
    bench.handle([request] * 4)
    fitting, refusal = bench.answers(2)
    assert len(fitting) == 3
    assert refusal["id"] is None
    assert "a batch of 4 messages; at most 3" in refusal["error"]["message"]


def test_a_batch_is_answered_by_one_array_of_the_replies_to_its_requests(bench: Bench) -> None:
    bench.handle(
        [
            {"jsonrpc": V, "method": "ok", "id": 1},
            {"jsonrpc": V, "method": "ok"},
            {"jsonrpc": V, "method": "value_error"},
            {"jsonrpc": V, "method": "value_error", "id": "two"},
            {"jsonrpc": V, "method": "unknown", "id": 3},
            {"jsonrpc": V, "method": "nan", "id": 4},
            1,
            {"foo": "boo"},
            {"jsonrpc": V, "id": "somebody's", "result": 1},
        ]
    )
    (replies,) = bench.answers()
    assert sorted(str(reply["id"]) for reply in replies) == ["1", "3", "4", "None", "None", "two"]
    by_id = {reply["id"]: reply for reply in replies}
    assert by_id[1]["result"] == {"message": "Ok"}
    assert by_id["two"]["error"]["data"] == {"exception": "boom"}
    assert by_id[3]["error"]["code"] == -32601
    bench.flush()
    assert len(bench.sent) == 1


@pytest.mark.parametrize(
    "batch",
    [
        [{"jsonrpc": V, "method": "ok"}],
        [{"jsonrpc": V, "method": "ok"}, {"jsonrpc": V, "method": "unknown"}, {"jsonrpc": V, "method": "nan"}],
        [{"jsonrpc": V, "id": "x", "result": 1}],
    ],
)
def test_a_batch_without_a_request_is_met_with_silence(bench: Bench, batch: list[Any]) -> None:
    bench.handle(batch)
    bench.flush()
    assert bench.sent == []


# --- workers ------------------------------------------------------------------------------------


class Held:
    """A handler that waits to be let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()

    def __call__(self, params: dict[str, Any]) -> Any:
        self.entered.set()
        assert self.release.wait(FAILSAFE)
        return "done"


def test_a_slow_callable_does_not_hold_up_what_comes_after_it() -> None:
    held = Held()
    bench = Bench()
    bench.dispatcher = Dispatcher(
        {"slow": Method(held, on_worker=True), "quick": Method(lambda params: "quick")}, bench.pool, bench._send
    )
    bench.handle({"jsonrpc": V, "method": "slow", "id": 1})
    bench.handle({"jsonrpc": V, "method": "quick", "id": 2})
    assert [reply["id"] for reply in bench.answers()] == [2]
    held.release.set()
    assert [reply["id"] for reply in bench.answers(2)] == [2, 1]
    bench.flush()


def test_callables_run_at_the_same_time() -> None:
    barrier = threading.Barrier(3)
    bench = Bench(on_worker=True, meet=lambda params: barrier.wait(FAILSAFE) and None)
    for number in range(3):
        bench.handle({"jsonrpc": V, "method": "meet", "id": number})
    assert sorted(reply["id"] for reply in bench.answers(3)) == [0, 1, 2]
    bench.flush()


def test_a_full_queue_of_callables_is_answered_with_an_error_at_once() -> None:
    held = Held()
    bench = Bench(on_worker=True, pool=WorkerPool(max_workers=1, max_queue=1), held=held)
    bench.handle({"jsonrpc": V, "method": "held", "id": 1})
    assert held.entered.wait(FAILSAFE)
    bench.handle({"jsonrpc": V, "method": "held", "id": 2})
    bench.handle({"jsonrpc": V, "method": "held", "id": 3})
    bench.handle({"jsonrpc": V, "method": "held"})
    (refused,) = bench.answers()
    assert (refused["id"], refused["error"]["code"]) == (3, -32000)
    held.release.set()
    assert [reply["id"] for reply in bench.answers(3)] == [3, 1, 2]
    bench.flush()


def test_closing_answers_every_open_request_once_and_its_late_result_is_dropped() -> None:
    held = Held()
    bench = Bench(on_worker=True, held=held)
    bench.handle({"jsonrpc": V, "method": "held", "id": 1})
    bench.handle({"jsonrpc": V, "method": "held"})
    bench.handle([{"jsonrpc": V, "method": "held", "id": 2}, {"jsonrpc": V, "method": "held", "id": 3}])
    assert held.entered.wait(FAILSAFE)
    bench.dispatcher.refuse_open_requests()
    single, batch = bench.answers(2)
    assert (single["id"], single["error"]["code"]) == (1, -32001)
    assert sorted((reply["id"], reply["error"]["code"]) for reply in batch) == [(2, -32001), (3, -32001)]
    bench.dispatcher.refuse_open_requests()
    held.release.set()
    bench.flush()
    assert len(bench.sent) == 2


def test_a_result_that_comes_before_closing_is_the_reply() -> None:
    bench = Bench(on_worker=True)
    bench.handle({"jsonrpc": V, "method": "ok", "id": 1})
    (reply,) = bench.answers()
    bench.flush()
    bench.dispatcher.refuse_open_requests()
    assert bench.sent == [reply]
    assert "result" in reply


def test_after_the_pool_is_closed_a_callable_is_refused() -> None:
    bench = Bench(on_worker=True)
    bench.flush()
    bench.handle({"jsonrpc": V, "method": "ok", "id": 1})
    assert bench.answers()[0]["error"]["code"] == -32000


def test_the_method_table_cannot_be_changed_from_outside() -> None:
    table = {"ok": Method(lambda params: 1)}
    bench = Bench()
    dispatcher = Dispatcher(table, bench.pool, bench._send)
    table.clear()
    message = jsonrpc.classify({"jsonrpc": V, "method": "ok", "id": 1})
    assert isinstance(message, jsonrpc.Request)
    dispatcher.handle(message)
    assert bench.sent[0]["result"] == 1


def test_a_failing_notification_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tellurio_sync.peer"):
        Bench().handle({"jsonrpc": V, "method": "value_error"})
    assert "notification failed" in caplog.text


def test_a_signal_handler_may_refuse_what_is_being_refused() -> None:
    """At any point: it closes the client while its thread does so. Each request is answered once."""
    has_begun, may_end = threading.Event(), threading.Event()

    def wait(params: dict[str, Any]) -> str:
        has_begun.set()
        assert may_end.wait(FAILSAFE)
        return "late"

    def act() -> None:
        bench.dispatcher.refuse_open_requests()

    for strike in strikes(dispatch, act=act):
        has_begun.clear()
        may_end.clear()
        bench = Bench(on_worker=True, wait=wait)
        bench.handle([{"jsonrpc": V, "id": id_, "method": "wait", "params": {}} for id_ in (1, 2)])
        bench.handle({"jsonrpc": V, "id": 3, "method": "wait", "params": {}})
        assert has_begun.wait(FAILSAFE)
        with strike:
            bench.dispatcher.refuse_open_requests()
        may_end.set()
        bench.flush()
        single, batch = sorted(bench.sent, key=lambda sent: isinstance(sent, list))
        assert [single["id"], *sorted(reply["id"] for reply in batch)] == [3, 1, 2], strike
        assert {reply["error"]["code"] for reply in (single, *batch)} == {dispatch.CLOSING}
