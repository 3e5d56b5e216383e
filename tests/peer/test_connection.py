"""Calls on one connection: their replies, and their deadlines. Memory transport, clock moved by hand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from typing import Any

import pytest

from tellurio_sync.errors import (
    CallTimeout,
    LocalProtocolError,
    RemoteProtocolError,
)
from tellurio_sync.transport.memory import MemoryTransport

from ..conftest import FAILSAFE
from .rig import TIMEOUT, Background, Rig, pending, request, started

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
        connection = rig.peer.lifecycle.connection
        assert connection is not None
        connection.close()
        transport.server_send("not json", '{"jsonrpc":"2.0","method":"unknown","id":1}', "[]")
        transport.server_send('{"jsonrpc":"2.0","method":"last"}')
        assert handled.wait(FAILSAFE)
        rig.peer.lifecycle.close(0.01)


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
    rig.peer.lifecycle.close(0.01)


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
