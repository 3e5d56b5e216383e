"""Calls that nobody waits for one by one: submitted, many in one go, notifications. Clock moved by hand."""

from __future__ import annotations

import json
import threading
from concurrent.futures import CancelledError, wait
from typing import Any

import pytest

from tellurio_sync.deadlines import MONOTONIC
from tellurio_sync.errors import (
    CallTimeout,
    ConnectionLost,
    RemoteProtocolError,
)
from tellurio_sync.transport.base import Ending, NoRoom, TransportEnded

from ..conftest import FAILSAFE, wait_until
from .rig import TIMEOUT, Background, HeldBack, Rig, pending, request

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
        transport, thread = rig.transport, rig.peer.lifecycle._thread
        rig.peer.lifecycle.renew_after_fork()
        with pytest.raises(ConnectionLost, match="forked"):
            future.result(FAILSAFE)
        transport.server_end(Ending("over", "network"))  # so that this process's thread ends
        assert thread is not None
        thread.join(FAILSAFE)


# --- many calls in one go ---------------------------------------------------------------------------


def test_many_calls_are_sent_in_one_go_and_answered_in_any_order(rig: Rig) -> None:
    many = Background(rig.peer.request_many, [("m", {"n": n}, False) for n in range(5)], TIMEOUT)
    asked = [rig.server_receive() for _ in range(5)]
    assert [one["params"]["n"] for one in asked] == [0, 1, 2, 3, 4]
    for one in reversed(asked):
        rig.reply(one, one["params"]["n"])
    assert [reply["result"] for reply in many.result()] == [0, 1, 2, 3, 4]
    assert rig.peer.request_many([], TIMEOUT) == []


def test_of_many_calls_the_reply_to_the_last_is_told_before_what_was_sent_after_it() -> None:
    events: list[str] = []
    with Rig(methods={"push": lambda _: events.append("push")}) as rig:
        connection = rig.open().peer.lifecycle.connection
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
    wait_until(lambda: len(pending(rig)) == len(asked), "what was not sent is still pending")
    for one in asked:
        rig.reply(one, one["params"]["n"])
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
    rig.peer.lifecycle.close(0.01)
