"""Calls on one connection: what ends them, and when. Memory transport, clock moved by hand."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest

from tellurio_sync.deadlines import MONOTONIC
from tellurio_sync.errors import (
    CallTimeout,
    ClosedByUser,
    ConnectionLost,
    LocalProtocolError,
    RemoteProtocolError,
    WouldDeadlock,
)
from tellurio_sync.peer.dispatch import Method
from tellurio_sync.peer.pending import PendingCall
from tellurio_sync.transport.base import Ending, NoRoom, TransportEnded
from tellurio_sync.transport.memory import MemoryTransport

from ..conftest import FAILSAFE
from .rig import Background, Rig

TIMEOUT = 30.0


@pytest.fixture
def rig() -> Any:
    with Rig() as made:
        yield made.open()


def pending(rig: Rig) -> dict[str, str]:
    connection = rig.peer.connection
    return {} if connection is None else connection.pending.snapshot()


def request(rig: Rig, method: str = "m", timeout: float = TIMEOUT, **options: Any) -> Any:
    return rig.peer.request(method, {"a": 1}, timeout, **options)


def started(rig: Rig, **options: Any) -> tuple[Background, dict[str, Any]]:
    """A call that waits for its reply, and its request as the server got it."""
    waiting = Background(request, rig, **options)
    asked = rig.server_receive()
    rig.clock.wait_for_waiting()
    return waiting, asked


# --- replies --------------------------------------------------------------------------------------


def test_a_call_sends_its_request_and_returns_the_whole_reply(rig: Rig) -> None:
    waiting, asked = started(rig)
    assert asked == {"jsonrpc": "2.0", "method": "m", "params": {"a": 1}, "id": asked["id"]}
    rig.reply(asked, {"x": 1})
    assert waiting.result() == {"jsonrpc": "2.0", "id": asked["id"], "result": {"x": 1}}
    assert pending(rig) == {}


def test_an_error_reply_is_returned_like_any_other(rig: Rig) -> None:
    waiting, asked = started(rig)
    reply = {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32603, "message": "Internal error"}}
    rig.server_send(reply)
    assert waiting.result() == reply


def test_a_reply_that_arrives_inside_send_is_not_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is registered before it is sent."""
    send = MemoryTransport.send

    def send_and_reply(self: MemoryTransport, texts: list[str], *args: Any, **kwargs: Any) -> None:
        send(self, texts, *args, **kwargs)
        if threading.current_thread() is threading.main_thread():
            rig.reply(rig.server_receive(), "early")
            rig.sync()  # the receive thread has dealt with it

    monkeypatch.setattr(MemoryTransport, "send", send_and_reply)
    assert request(rig)["result"] == "early"


@pytest.mark.parametrize("exc", [RuntimeError("no memory"), KeyboardInterrupt()])
def test_a_call_whose_send_fails_is_not_left_in_the_table(
    rig: Rig, exc: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise exc

    with monkeypatch.context() as patch:
        patch.setattr(MemoryTransport, "send", fail)
        with pytest.raises(type(exc)):
            request(rig)
        with pytest.raises(type(exc)):
            rig.peer.submit("m", {}, TIMEOUT)
        with pytest.raises(type(exc)):
            rig.peer.request_many([("m", {}, False)] * 3, TIMEOUT)
    assert pending(rig) == {}
    waiting, asked = started(rig)
    rig.reply(asked)
    assert waiting.result()["result"] == "ok"


def test_what_cannot_be_sent_is_refused_before_anything_is_registered(rig: Rig) -> None:
    for attempt in (
        lambda: rig.peer.request("m", {"x": float("nan")}, TIMEOUT),
        lambda: rig.peer.submit("m", {"x": object()}, TIMEOUT),
        lambda: rig.peer.notify("m", {"x": {1}}, TIMEOUT),
        lambda: rig.peer.request_many([("m", {}, False), ("m", {"x": b""}, False)], TIMEOUT),
    ):
        with pytest.raises(LocalProtocolError):
            attempt()
    assert pending(rig) == {}
    assert not rig.transport.server_has_message()


def test_replies_find_their_calls_in_any_order(rig: Rig) -> None:
    calls = [started(rig) for _ in range(5)]
    for number, (_, asked) in reversed(list(enumerate(calls))):
        rig.reply(asked, number)
    assert [waiting.result()["result"] for waiting, _ in calls] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "reply",
    [
        {"result": 1, "error": {"code": 1, "message": "m"}},
        {},
        {"error": None},
        {"error": {"code": "1", "message": "m"}},
        {"error": {"code": 1}},
        {"result": 1, "jsonrpc": "1.0"},
    ],
)
def test_a_malformed_reply_with_a_known_id_fails_that_call_only(rig: Rig, reply: dict[str, Any]) -> None:
    bad, asked_bad = started(rig)
    good, asked_good = started(rig)
    rig.server_send({"jsonrpc": "2.0", "id": asked_bad["id"], **reply})
    error = bad.error()
    assert isinstance(error, RemoteProtocolError)
    assert asked_bad["id"] in error.received
    rig.reply(asked_good)
    assert good.result()["result"] == "ok"


def test_a_malformed_reply_nested_too_deeply_for_a_text_fails_that_call_only(rig: Rig) -> None:
    waiting, asked = started(rig)
    for depth in (500, 900, 1500, 3000):
        deep = "[" * depth + "]" * depth
        rig.transport.server_send(f'{{"jsonrpc":"2.0","id":"nobody","result":{deep},"error":{deep}}}')
        rig.transport.server_send(f'{{"jsonrpc":"1.0","id":9,"method":"m","params":{{"x":{deep}}}}}')
        assert rig.server_receive()["error"]["code"] in (-32600, -32700)
        while rig.transport.server_has_message():
            rig.server_receive()
    rig.reply(asked)
    assert waiting.result()["result"] == "ok"


@pytest.mark.parametrize("id_", [None, 0, 1, "", "unknown", 1.5, True, [], {}])
def test_a_reply_with_an_unknown_id_changes_nothing(rig: Rig, id_: Any) -> None:
    waiting, asked = started(rig)
    rig.server_send({"jsonrpc": "2.0", "id": id_, "result": 1})
    rig.sync()
    assert waiting.is_running
    rig.reply(asked)
    assert waiting.result()["result"] == "ok"


def test_the_second_of_two_replies_is_dropped(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    waiting, asked = started(rig)
    rig.reply(asked, "first")
    rig.reply(asked, "second")
    assert waiting.result()["result"] == "first"
    rig.sync()
    assert "unknown request" in caplog.text


def test_a_reply_after_the_timeout_is_known_as_late(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "tellurio_sync.peer")
    waiting, asked = started(rig)
    rig.clock.advance(TIMEOUT)
    assert isinstance(waiting.error(), CallTimeout)
    rig.reply(asked)
    rig.sync()
    assert "came late" in caplog.text
    assert "unknown request" not in caplog.text


@pytest.mark.parametrize(
    "message", ["", "{", "nul", "\ufeff{}", "[" * 100_000, "9" * 5_001, b"binary", b"", '"\\ud800', "\x00"]
)
def test_what_is_not_json_is_answered_with_a_parse_error_and_nothing_else_changes(rig: Rig, message: Any) -> None:
    waiting, asked = started(rig)
    rig.transport.server_send(message)
    reply = rig.server_receive()
    assert (reply["id"], reply["error"]["code"]) in [(None, -32700), (None, -32600)]
    rig.reply(asked)
    assert waiting.result()["result"] == "ok"


def test_while_closing_the_receive_thread_survives_what_it_cannot_answer_any_more() -> None:
    """The close frame is out, and the server, which has not seen it, goes on talking."""
    handled = threading.Event()
    with Rig(methods={"last": lambda params: handled.set()}) as rig:
        rig.open()
        transport = rig.transport
        transport.server_stop_reading()
        connection = rig.peer.connection
        assert connection is not None
        connection.close()
        transport.server_send("not json", '{"jsonrpc":"2.0","method":"unknown","id":1}', "[]")
        transport.server_send('{"jsonrpc":"2.0","method":"last"}')
        assert handled.wait(FAILSAFE)
        rig.peer.close(0.01)


# --- deadlines --------------------------------------------------------------------------------------


def test_a_call_expires_exactly_at_its_timeout(rig: Rig) -> None:
    waiting, _ = started(rig)
    rig.clock.advance(TIMEOUT - 0.001)
    rig.clock.wait_for_waiting()
    assert waiting.is_running
    rig.clock.advance(0.001)
    error = waiting.error()
    assert isinstance(error, CallTimeout)
    assert (error.method, error.waited_s, error.last_heartbeat_age_s, error.was_sent) == ("m", TIMEOUT, None, True)
    assert pending(rig) == {}


def test_a_call_that_could_not_be_sent_in_time_says_so(rig: Rig) -> None:
    rig.transport.server_stop_reading()
    error = Background(request, rig, timeout=1e-3).error()
    assert isinstance(error, CallTimeout)
    assert not error.was_sent
    assert pending(rig) == {}
    rig.peer.close(0.01)


def test_making_many_requests_takes_nothing_of_their_time(rig: Rig) -> None:
    """It may be the user's generator that makes them, from what it reads or computes."""

    def slowly() -> Iterator[tuple[str, dict[str, Any], bool]]:
        for number in range(3):
            rig.clock.advance(TIMEOUT)
            yield "m", {"n": number}, False

    many = Background(rig.peer.request_many, slowly(), TIMEOUT)
    asked = [rig.server_receive() for _ in range(3)]
    rig.clock.wait_for_waiting()
    rig.clock.advance(TIMEOUT - 0.001)
    for message in asked:
        rig.reply(message, message["params"]["n"])
    assert [reply["result"] for reply in many.result()] == [0, 1, 2]


def test_heartbeats_move_the_deadline_from_the_last_one(rig: Rig) -> None:
    waiting, asked = started(rig, is_extendable=True)
    for _ in range(10):
        rig.clock.advance(TIMEOUT - 0.001)  # at the last moment
        rig.clock.wait_for_waiting()
        rig.heartbeat(asked["id"])
        rig.sync()
    rig.clock.advance(TIMEOUT - 0.001)
    rig.clock.wait_for_waiting()
    assert waiting.is_running
    rig.clock.advance(0.001)
    error = waiting.error()
    assert isinstance(error, CallTimeout)
    assert error.last_heartbeat_age_s == pytest.approx(TIMEOUT)
    assert error.waited_s == pytest.approx(11 * TIMEOUT - 0.01)


def test_heartbeats_do_not_move_it_beyond_the_hard_limit(rig: Rig) -> None:
    waiting, asked = started(rig, is_extendable=True, hard_timeout=100)
    for _ in range(4):
        rig.clock.advance(24)
        rig.clock.wait_for_waiting()
        rig.heartbeat(asked["id"])
        rig.sync()
    rig.clock.advance(3.999)
    rig.clock.wait_for_waiting()
    assert waiting.is_running
    rig.clock.advance(0.001)
    assert isinstance(waiting.error(), CallTimeout)


def test_heartbeats_of_others_change_and_leak_nothing(rig: Rig) -> None:
    waiting, asked = started(rig, is_extendable=True)
    other, asked_other = started(rig, is_extendable=True)
    short, asked_short = started(rig)  # not extendable
    rig.clock.advance(20)
    rig.clock.wait_for_waiting(3)
    for foreign in ("unknown", "", None, 0, 1, True, 1.5, [], {}, asked_other["id"], asked_short["id"]):
        rig.heartbeat(foreign)
    rig.server_send(
        {"jsonrpc": "2.0", "method": "heartbeat"},
        {"jsonrpc": "2.0", "method": "heartbeat", "params": {"wrong": asked["id"]}},
        {"jsonrpc": "2.0", "method": "heartbeat", "params": [asked["id"]]},
        {"jsonrpc": "2.0", "method": "heartbeat", "params": asked["id"]},
        {"jsonrpc": "1.0", "method": "other", "params": {"id": asked["id"]}, "id": None},
    )
    rig.server_receive()  # the answer to the wrong version
    rig.sync()
    assert sorted(pending(rig)) == sorted([asked["id"], asked_other["id"], asked_short["id"]])
    rig.clock.advance(10)
    assert isinstance(waiting.error(), CallTimeout)
    assert isinstance(short.error(), CallTimeout)
    rig.reply(asked_other)
    assert other.result()["result"] == "ok"
    assert pending(rig) == {}


def test_a_late_heartbeat_does_not_bring_a_call_back(rig: Rig) -> None:
    waiting, asked = started(rig, is_extendable=True)
    rig.clock.advance(TIMEOUT)
    assert isinstance(waiting.error(), CallTimeout)
    rig.heartbeat(asked["id"])
    rig.sync()
    assert pending(rig) == {}


@pytest.mark.slow
def test_ten_thousand_timeouts_leave_nothing() -> None:
    with Rig(ping_interval=None) as rig:
        rig.open()
        for _ in range(100):
            futures = [rig.peer.submit("m", {}, 1.0) for _ in range(100)]
            rig.clock.advance(1.0)
            assert wait(futures, FAILSAFE).not_done == set()
        assert pending(rig) == {}


# --- submitted calls --------------------------------------------------------------------------------


def test_a_submitted_call_resolves_its_future(rig: Rig) -> None:
    future = rig.peer.submit("m", {"a": 1}, TIMEOUT)
    rig.reply(rig.server_receive(), 5)
    assert future.result(FAILSAFE)["result"] == 5
    assert pending(rig) == {}


def test_the_receive_thread_expires_a_submitted_call_exactly(rig: Rig) -> None:
    first = rig.peer.submit("m", {}, 30)
    second = rig.peer.submit("m", {}, 10)
    extended = rig.peer.submit("m", {}, 10, is_extendable=True)
    third_id = [rig.server_receive()["id"] for _ in range(3)][2]
    rig.clock.advance(9.999)
    rig.heartbeat(third_id)
    rig.sync()
    assert not second.done()
    rig.clock.advance(0.001)
    error = second.exception(FAILSAFE)
    assert isinstance(error, CallTimeout)
    assert (error.waited_s, error.was_sent) == (10, True)
    assert not first.done()
    assert not extended.done()
    rig.clock.advance(9.999)
    assert isinstance(extended.exception(FAILSAFE), CallTimeout)
    rig.clock.advance(10.001)
    assert isinstance(first.exception(FAILSAFE), CallTimeout)


def test_a_sleeping_receive_thread_wakes_for_the_deadline_of_a_submitted_call() -> None:
    """With a real clock, nothing else to do, and no wake-up from outside."""
    with Rig(clock=MONOTONIC, ping_interval=None) as rig:
        rig.open()
        rig.sync()
        assert isinstance(rig.peer.submit("m", {}, 0.02).exception(FAILSAFE), CallTimeout)


class HeldBack:
    """Requests are held back after they were registered, and before the transport gets them."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_registered, self.go_on = threading.Event(), threading.Event()
        send = rig.transport.send

        def held(texts: list[str], receipts: Any = None, **options: Any) -> None:
            if receipts is not None:  # a request's, not a reply's of the receive thread
                self.is_registered.set()
                assert self.go_on.wait(FAILSAFE)
            send(texts, receipts, **options)

        monkeypatch.setattr(rig.transport, "send", held)

    def wait(self) -> None:
        assert self.is_registered.wait(FAILSAFE)


def test_a_submitted_call_that_is_held_up_does_not_expire_before_it_is_sent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the error would say that it was not sent, and then it is."""
    rig.peer.submit("other", {}, 1.0)
    rig.server_receive()
    sending = HeldBack(rig, monkeypatch)
    submitting = Background(rig.peer.submit, "mine", {}, 5.0)
    sending.wait()
    rig.clock.advance(6.0)
    for _ in range(2):  # the receive thread has looked at its timers by then
        rig.sync()
    assert list(pending(rig).values()) == ["mine"]
    sending.go_on.set()
    assert rig.server_receive()["method"] == "mine"
    error = submitting.result().exception(FAILSAFE)
    assert isinstance(error, CallTimeout)
    assert error.was_sent


def test_a_submitted_call_has_its_hard_limit(rig: Rig) -> None:
    future = rig.peer.submit("m", {}, 10, is_extendable=True, hard_timeout=15)
    id_ = rig.server_receive()["id"]
    rig.clock.advance(9)
    rig.heartbeat(id_)
    rig.sync()
    rig.clock.advance(6)
    assert isinstance(future.exception(FAILSAFE), CallTimeout)


def test_timeouts_of_any_length_are_waited_for(rig: Rig) -> None:
    future = rig.peer.submit("m", {}, 1e300)
    asked = rig.server_receive()
    rig.sync()
    rig.reply(asked)
    assert future.result(FAILSAFE)["result"] == "ok"


def test_cancelling_a_future_gives_up_its_call_and_tells_who_waits(rig: Rig) -> None:
    future = rig.peer.submit("m", {}, TIMEOUT)
    asked = rig.server_receive()
    waiting = Background(wait, [future], FAILSAFE)
    assert future.cancel()
    assert waiting.result().done == {future}
    assert pending(rig) == {}
    rig.reply(asked)
    rig.sync()
    with pytest.raises(CancelledError):
        future.result(0)


def test_a_callback_runs_on_a_worker_and_may_call_again(rig: Rig) -> None:
    outcome: list[Any] = []
    done = threading.Event()

    def call_again(future: Any) -> None:
        outcome.append((threading.current_thread().name, request(rig, "again")["result"]))
        done.set()

    rig.peer.submit("m", {}, TIMEOUT).add_done_callback(call_again)
    rig.reply(rig.server_receive())
    again = rig.server_receive()
    assert again["method"] == "again"
    rig.reply(again, "yes")
    assert done.wait(FAILSAFE)
    assert outcome == [("tellurio-sync worker", "yes")]


def test_a_callback_runs_also_where_no_thread_can_be_started(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may be waiting for what it does: a coroutine, say."""
    called: list[str] = []
    done = threading.Event()

    def note(_: object) -> None:
        called.append(threading.current_thread().name)
        done.set()

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    future = rig.peer.submit("m", {}, TIMEOUT)
    future.add_done_callback(note)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        rig.reply(rig.server_receive())
        assert done.wait(FAILSAFE)
    assert called == ["tellurio-sync receive"]


def test_a_forked_child_does_not_wait_for_a_call_of_its_parent() -> None:
    """Run here as in the child, where the receive thread does not exist."""
    with Rig() as rig:
        future = rig.open().peer.submit("m", {}, TIMEOUT)
        transport, thread = rig.transport, rig.peer._thread
        rig.peer.forget_after_fork()
        with pytest.raises(ConnectionLost, match="forked"):
            future.result(FAILSAFE)
        transport.server_end(Ending("over", "network"))  # so that this process's thread ends
        assert thread is not None
        thread.join(FAILSAFE)


# --- many calls in one go ---------------------------------------------------------------------------


def test_many_calls_are_sent_in_one_go_and_answered_in_any_order(rig: Rig) -> None:
    many = Background(rig.peer.request_many, [("m", {"n": n}, False) for n in range(5)], TIMEOUT)
    asked = [rig.server_receive() for _ in range(5)]
    assert [request["params"]["n"] for request in asked] == [0, 1, 2, 3, 4]
    for request in reversed(asked):
        rig.reply(request, request["params"]["n"])
    assert [reply["result"] for reply in many.result()] == [0, 1, 2, 3, 4]
    assert rig.peer.request_many([], TIMEOUT) == []


def test_of_many_calls_the_reply_to_the_last_is_told_before_what_was_sent_after_it() -> None:
    events: list[str] = []
    with Rig(methods={"push": lambda _: events.append("push")}) as rig:
        connection = rig.open().peer.connection
        requests = [("m", {"n": n}, False) for n in range(2)]
        many = Background(
            rig.peer.request_many, requests, TIMEOUT, connection=connection, on_reply=lambda: events.append("reply")
        )
        first, last = (rig.server_receive() for _ in range(2))
        rig.server_send({"jsonrpc": "2.0", "method": "push"})
        rig.reply(first)
        rig.sync()
        assert events == ["push"]
        rig.transport.server_send(
            json.dumps({"jsonrpc": "2.0", "id": last["id"], "error": {"code": 1, "message": "no"}}),
            json.dumps({"jsonrpc": "2.0", "method": "push"}),
        )
        assert [set(reply) & {"result", "error"} for reply in many.result()] == [{"result"}, {"error"}]
        rig.sync()
    assert events == ["push", "reply", "push"]


def test_of_many_calls_a_hard_timeout_ends_those_that_heartbeats_extend() -> None:
    with Rig() as rig:
        rig.open()
        many = Background(rig.peer.request_many, [("m", {}, True)], 10, hard_timeout=15)
        asked = rig.server_receive()
        for _ in range(3):
            rig.clock.wait_for_waiting()
            rig.clock.advance(5)
            rig.heartbeat(asked["id"])
            rig.sync()
        (outcome,) = many.result()
    assert isinstance(outcome, CallTimeout)
    assert outcome.waited_s == 15


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (NoRoom(), CallTimeout),
        (TransportEnded(Ending("reset", "network")), ConnectionLost),
    ],
)
def test_a_large_batch_that_is_cut_off_while_it_is_sent_fails_only_what_was_not_sent(
    rig: Rig, failure: Exception, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = rig.transport
    send = transport.send
    sent: list[int] = []

    def send_once(texts: list[str], *args: Any, **options: Any) -> None:
        if sent:
            raise failure
        sent.append(len(texts))
        send(texts, *args, **options)

    monkeypatch.setattr(transport, "send", send_once)
    many = Background(rig.peer.request_many, [("m", {"n": n}, False) for n in range(1000)], TIMEOUT)
    asked = [rig.server_receive() for _ in range(128)]
    while len(pending(rig)) > len(asked):
        threading.Event().wait(0.001)
    for request in asked:
        rig.reply(request, request["params"]["n"])
    outcomes = many.result()
    assert sent == [128]
    assert [outcome["result"] for outcome in outcomes[:128]] == list(range(128))
    assert len(outcomes) == 1000
    assert {type(outcome) for outcome in outcomes[128:]} == {error}
    assert len({id(outcome) for outcome in outcomes[128:]}) == 1000 - 128, "each has an error of its own"
    assert not any(outcome.was_sent for outcome in outcomes[128:])


def test_of_many_calls_each_has_its_own_outcome(rig: Rig) -> None:
    many = Background(rig.peer.request_many, [("a", {}, False), ("b", {}, False), ("c", {}, True)], TIMEOUT)
    asked = {request["method"]: request for request in (rig.server_receive() for _ in range(3))}
    rig.reply(asked["a"], "a")
    rig.server_send({"jsonrpc": "2.0", "id": asked["b"]["id"]})
    rig.sync()
    rig.clock.wait_for_waiting()
    rig.clock.advance(TIMEOUT)
    first, second, third = many.result()
    assert first["result"] == "a"
    assert isinstance(second, RemoteProtocolError)
    assert isinstance(third, CallTimeout)
    assert pending(rig) == {}


# --- notifications ----------------------------------------------------------------------------------


def test_a_notification_has_no_id_and_waits_for_nothing(rig: Rig) -> None:
    rig.peer.notify("m", {"a": 1}, TIMEOUT)
    assert rig.server_receive() == {"jsonrpc": "2.0", "method": "m", "params": {"a": 1}}


def test_a_notification_that_finds_no_room_names_its_method(rig: Rig) -> None:
    rig.transport.server_stop_reading()
    with pytest.raises(CallTimeout) as caught:
        rig.peer.notify("log", {}, 1e-3)
    assert (caught.value.method, caught.value.was_sent) == ("log", False)
    rig.peer.close(0.01)


# --- the receive thread -----------------------------------------------------------------------------


def test_on_the_receive_thread_a_blocking_call_raises_at_once_and_others_work() -> None:
    outcomes: list[Any] = []

    def handler(params: dict[str, Any]) -> Any:
        for attempt in (
            lambda: rig.peer.request("m", {}, TIMEOUT),
            lambda: rig.peer.request_many([("m", {}, False)], TIMEOUT),
            lambda: rig.peer.submit("submitted", {}, TIMEOUT),
            lambda: rig.peer.notify("notified", {}, TIMEOUT),
        ):
            try:
                outcomes.append(attempt())
            except Exception as exc:  # noqa: BLE001 - looked at below
                outcomes.append(exc)
        return "ok"

    with Rig(methods={"handler": handler}) as rig:
        rig.open()
        rig.server_send({"jsonrpc": "2.0", "method": "handler", "id": 1})
        sent = [rig.server_receive() for _ in range(3)]
        assert [message.get("method") for message in sent] == ["submitted", "notified", None]
        assert isinstance(outcomes[0], WouldDeadlock)
        assert isinstance(outcomes[1], WouldDeadlock)
        assert outcomes[3] is None
        rig.reply(sent[0], 1)
        assert outcomes[2].result(FAILSAFE)["result"] == 1
        assert pending(rig) == {}


def test_a_call_before_the_greeting_on_the_receive_thread_raises_at_once() -> None:
    outcomes: list[BaseException] = []

    def handler(params: dict[str, Any]) -> None:
        for attempt in (rig.peer.request, rig.peer.submit, rig.peer.notify):
            try:
                attempt("m", {}, TIMEOUT)
            except WouldDeadlock as exc:
                outcomes.append(exc)

    with Rig("silent", methods={"early": handler}) as rig:
        opening = Background(rig.peer.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        transport.server_send('{"jsonrpc":"2.0","method":"early"}')
        transport.server_send('{"jsonrpc":"2.0","result":{"session_id":"s"},"id":null}')
        assert opening.result() == "s"
    assert len(outcomes) == 3


def test_a_callable_on_a_worker_may_call_the_server() -> None:
    def callable_(params: dict[str, Any]) -> Any:
        return rig.peer.request("inner", {}, TIMEOUT)["result"]

    with Rig(methods={"run": Method(callable_, on_worker=True)}) as rig:
        rig.open()
        rig.server_send({"jsonrpc": "2.0", "method": "run", "id": "outer"})
        inner = rig.server_receive()
        rig.reply(inner, 42)
        assert rig.server_receive() == {"jsonrpc": "2.0", "id": "outer", "result": 42}


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), RuntimeError("x")])
def test_what_a_handler_raises_ends_neither_thread_nor_connection(error: BaseException) -> None:
    def handler(params: dict[str, Any]) -> None:
        raise error

    with Rig(methods={"bad": handler}) as rig:
        rig.open()
        rig.server_send({"jsonrpc": "2.0", "method": "bad", "id": 1}, {"jsonrpc": "2.0", "method": "bad"})
        assert rig.server_receive()["error"]["code"] == -32603
        rig.sync()
        assert rig.peer.state == "open"


def test_state_handlers_run_in_wire_order_before_the_reply_behind_them() -> None:
    seen: list[int] = []
    with Rig(methods={"push": lambda params: seen.append(params["n"])}) as rig:
        rig.open()
        waiting, asked = started(rig)
        pushes = [{"jsonrpc": "2.0", "method": "push", "params": {"n": n}} for n in range(100)]
        rig.server_send(*pushes, {"jsonrpc": "2.0", "id": asked["id"], "result": "after"})
        waiting.result()
        assert seen == list(range(100))


def test_a_defect_in_the_receive_loop_fails_the_waiting_calls(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No caller waits for a thread that is gone."""
    waiting, _ = started(rig)
    transport = rig.transport

    def break_down(timeout: float | None) -> Any:
        raise ZeroDivisionError("our own bug")

    monkeypatch.setattr(transport, "receive", break_down)
    transport.wake()
    error = waiting.error()
    assert isinstance(error, ConnectionLost)
    assert "ZeroDivisionError: our own bug" in error.reason
    assert "receive loop failed" in caplog.text
    assert transport.is_disposed


# --- the end of the connection ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending", [Ending("reset", "network"), Ending("closed", "server", 1011), Ending("end", "server")]
)
def test_losing_the_connection_fails_every_waiting_call_at_once(rig: Rig, ending: Ending) -> None:
    calls = [started(rig)[0] for _ in range(3)]
    futures = [rig.peer.submit("m", {}, TIMEOUT) for _ in range(3)]
    many = Background(rig.peer.request_many, [("m", {}, False)] * 2, TIMEOUT)
    for _ in range(5):
        rig.server_receive()
    rig.transport.server_end(ending)
    errors: list[Any] = [call.error() for call in calls]
    errors += [future.exception(FAILSAFE) for future in futures]
    errors += many.result()
    assert len({id(error) for error in errors}) == 8, "each its own exception object"
    for error in errors:
        assert type(error) is ConnectionLost
        assert (error.reason, error.who, error.code, error.was_sent) == (*ending, True)


def test_was_sent_is_false_for_what_never_left(rig: Rig) -> None:
    sent = rig.peer.submit("m", {}, TIMEOUT)
    rig.server_receive()
    rig.transport.server_stop_reading()
    connection = rig.peer.connection
    assert connection is not None
    call = PendingCall("stuck", "m", TIMEOUT, rig.clock.now())
    connection.pending.add([call])
    rig.transport.send(["{}"], [call])
    rig.transport.server_end(Ending("reset", "network"))
    error = sent.exception(FAILSAFE)
    assert isinstance(error, ConnectionLost)
    assert error.was_sent
    call.wait_outcome(rig.clock)
    assert isinstance(call.error, ConnectionLost)
    assert not call.error.was_sent


def test_a_dead_server_is_found_interval_plus_timeout_after_its_last_sign_of_life() -> None:
    with Rig(ping_interval=20.0, ping_timeout=5.0, reconnect=False) as rig:
        rig.open()
        waiting, _ = started(rig, timeout=1000)
        rig.clock.advance(15)
        rig.heartbeat("x")  # any message is a sign of life
        rig.sync()
        rig.clock.advance(19.999)
        assert rig.transport.pings == 0
        rig.clock.advance(0.001)
        _wait_for_ping(rig, 1)
        rig.clock.advance(4.999)
        rig.clock.wait_for_waiting()
        assert waiting.is_running
        rig.clock.advance(0.001)
        error = waiting.error()
        assert isinstance(error, ConnectionLost)
        assert error.who == "network"
        assert "ping" in error.reason


def test_an_answered_ping_keeps_the_connection() -> None:
    with Rig(ping_interval=20.0, ping_timeout=5.0) as rig:
        rig.open()
        for number in range(1, 4):
            rig.clock.advance(20)
            _wait_for_ping(rig, number)
            rig.clock.advance(4.999)
            rig.sync()  # any bytes count
        assert rig.peer.state == "open"


def _wait_for_ping(rig: Rig, count: int) -> None:
    transport = rig.transport
    with transport._condition:
        assert transport._condition.wait_for(lambda: transport.pings >= count, FAILSAFE)


def test_a_server_that_takes_nothing_is_given_up_after_the_write_timeout() -> None:
    with Rig(ping_interval=None, ping_timeout=5.0, reconnect=False) as rig:
        rig.open()
        waiting, _ = started(rig, timeout=1000)
        rig.transport.stalled_since = rig.clock.now()
        rig.transport.wake()
        rig.clock.advance(4.999)
        rig.clock.wait_for_waiting()
        assert waiting.is_running
        rig.clock.advance(0.001)
        error = waiting.error()
        assert isinstance(error, ConnectionLost)
        assert "took nothing for 5 s" in error.reason


# --- close ------------------------------------------------------------------------------------------


def test_close_fails_every_waiting_call_at_once(rig: Rig) -> None:
    calls = [started(rig)[0] for _ in range(2)]
    future = rig.peer.submit("m", {}, TIMEOUT)
    rig.peer.close()
    errors = [*(call.error() for call in calls), future.exception(FAILSAFE)]
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, ClosedByUser)
        assert (error.who, error.was_sent) == ("local", True)


def test_close_fails_the_waiting_calls_also_while_the_server_does_not_answer(rig: Rig) -> None:
    waiting, _ = started(rig)
    rig.transport.server_stop_reading()
    closing = Background(rig.peer.close, FAILSAFE)
    error = waiting.error()
    assert isinstance(error, ClosedByUser)
    assert error.was_sent
    assert closing.is_running, "it still waits for the server"
    rig.transport.server_end(Ending("at last", "server"))
    closing.result()
    assert rig.transport.is_disposed


@pytest.mark.parametrize("submits", [False, True])
@pytest.mark.parametrize("is_in_time", [True, False])
def test_close_tells_the_truth_about_a_call_that_is_just_being_sent(
    rig: Rig, submits: bool, is_in_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, transport = rig.peer.connection, rig.transport
    assert connection is not None
    is_closing, close_on = threading.Event(), threading.Event()
    refuse = connection._dispatcher.refuse_open_requests

    def refuse_slowly() -> None:
        is_closing.set()
        assert close_on.wait(FAILSAFE)
        refuse()

    monkeypatch.setattr(connection._dispatcher, "refuse_open_requests", refuse_slowly)
    sending = HeldBack(rig, monkeypatch)
    calling = Background(rig.peer.submit if submits else rig.peer.request, "m", {}, TIMEOUT)
    sending.wait()
    closing = Background(rig.peer.close)
    assert is_closing.wait(FAILSAFE)
    for _ in range(2):  # the receive thread has seen that it is closing
        rig.sync()
    if is_in_time:
        sending.go_on.set()
        assert rig.server_receive()["method"] == "m"
    close_on.set()
    closing.result()
    sending.go_on.set()
    error = calling.result().exception(FAILSAFE) if submits and is_in_time else calling.error()
    assert isinstance(error, ClosedByUser)
    assert error.was_sent == is_in_time
    assert not transport.server_has_message()


# --- Ctrl-C -----------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_wait_at_once_and_leaves_the_connection_usable(rig: Rig) -> None:
    raised: list[bool] = []

    def on_signal(*_: object) -> None:
        if not raised:
            raised.append(True)
            raise KeyboardInterrupt

    def interrupt() -> None:
        rig.server_receive()
        rig.clock.wait_for_waiting()
        pause = threading.Event()
        while not raised:  # a signal that comes just before the system call of the wait does not interrupt it
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            pause.wait(0.01)

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        for _ in range(2):
            raised.clear()
            interrupting = Background(interrupt)
            with pytest.raises(KeyboardInterrupt):
                request(rig)
            interrupting.result()
            assert pending(rig) == {}
    finally:
        signal.signal(signal.SIGINT, previous)
    waiting, asked = started(rig)
    rig.reply(asked)
    assert waiting.result()["result"] == "ok"


@pytest.mark.parametrize("where", ["now", "wait"])
def test_ctrl_c_anywhere_in_a_wait_leaves_no_pending_call(
    rig: Rig, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    main = threading.main_thread()
    real = getattr(rig.clock, where)
    calls = iter(range(1000))
    monkeypatch.setattr(
        rig.clock,
        where,
        lambda *args: interrupt() if threading.current_thread() is main and next(calls) >= 1 else real(*args),
    )
    if where == "wait":
        next(calls)
    with pytest.raises(KeyboardInterrupt):
        request(rig)
    with pytest.raises(KeyboardInterrupt):
        rig.peer.request_many([("m", {}, False)] * 3, TIMEOUT)
    monkeypatch.undo()
    assert pending(rig) == {}


def test_ctrl_c_in_submit_leaves_no_pending_call(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would have its future, and nobody watch its deadline."""

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rig.peer.connection, "watch_expiry", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rig.peer.submit("m", {}, TIMEOUT)
    assert pending(rig) == {}
    asked = rig.server_receive()
    rig.reply(asked)
    rig.sync()
