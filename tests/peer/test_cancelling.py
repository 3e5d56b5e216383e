"""A call that nobody waits for any more: the server is told, and what it answers all the same is not lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tellurio_sync.errors import CallTimeout
from tellurio_sync.transport.base import Ending, NoRoom, TransportEnded

from .rig import Background, Rig

TIMEOUT = 30.0


def cancellation(greeting: Any, request_id: str) -> str | None:
    return json.dumps({"jsonrpc": "2.0", "method": "cancel", "params": {"id": request_id, "greeting": greeting}})


def begin(rig: Rig, **options: Any) -> tuple[Background, dict[str, Any]]:
    """A long call under way, and its request."""
    calling = Background(rig.peer.request, "long", {}, TIMEOUT, **{"is_extendable": True, **options})
    request = rig.server_receive()
    rig.clock.wait_for_waiting()
    return calling, request


class TestTheServerIsTold:
    def test_of_a_time_out(self) -> None:
        with Rig(cancellation=cancellation).open() as rig:
            calling, request = begin(rig)
            rig.clock.advance(TIMEOUT)
            assert isinstance(calling.error(), CallTimeout)
            told = rig.server_receive()
            # What it said in its greeting decides whether it wants to know.
            assert (told["method"], told["params"]) == ("cancel", {"id": request["id"], "greeting": "s"})
            rig.sync()

    def test_of_each_of_many(self) -> None:
        with Rig(cancellation=cancellation).open() as rig:
            calling = Background(rig.peer.request_many, [("long", {}, True), ("short", {}, False)], TIMEOUT)
            requests = [rig.server_receive() for _ in range(2)]
            rig.clock.wait_for_waiting()
            rig.clock.advance(TIMEOUT)
            assert all(isinstance(outcome, CallTimeout) for outcome in calling.result())
            assert rig.server_receive()["params"]["id"] == requests[0]["id"]
            rig.sync()

    def test_of_a_cancelled_future(self) -> None:
        with Rig(cancellation=cancellation).open() as rig:
            future = rig.peer.submit("long", {}, TIMEOUT, is_extendable=True)
            request = rig.server_receive()
            assert future.cancel()
            assert future.cancel()
            assert rig.server_receive()["params"]["id"] == request["id"]
            rig.sync()

    def test_of_a_future_at_its_deadline(self) -> None:
        with Rig(cancellation=cancellation).open() as rig:
            future = rig.peer.submit("long", {}, TIMEOUT, is_extendable=True)
            request = rig.server_receive()
            rig.clock.advance(TIMEOUT)
            assert rig.server_receive()["params"]["id"] == request["id"]
            assert isinstance(future.exception(), CallTimeout)
            rig.sync()


class TestTheServerIsNotTold:
    def test_of_a_short_call(self) -> None:
        """It has been dealt with, or will be at once."""
        with Rig(cancellation=cancellation).open() as rig:
            calling, _ = begin(rig, is_extendable=False)
            rig.clock.advance(TIMEOUT)
            calling.error()
            rig.sync()

    def test_if_it_does_not_know_what_that_is(self) -> None:
        for given in (None, lambda greeting, request_id: None):
            with Rig(cancellation=given).open() as rig:
                calling, _ = begin(rig)
                rig.clock.advance(TIMEOUT)
                calling.error()
                rig.sync()

    def test_of_what_has_ended(self) -> None:
        with Rig(cancellation=cancellation).open() as rig:
            calling, request = begin(rig)
            rig.reply(request)
            assert calling.result()["result"] == "ok"
            future = rig.peer.submit("long", {}, TIMEOUT, is_extendable=True)
            rig.reply(rig.server_receive())
            assert future.result()["result"] == "ok"
            assert not future.cancel()
            rig.sync()

    @pytest.mark.parametrize("problem", [NoRoom(), TransportEnded(Ending("over", "network"))], ids=repr)
    def test_where_nothing_can_be_sent(self, problem: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        with Rig(cancellation=cancellation).open() as rig:
            future = rig.peer.submit("long", {}, TIMEOUT, is_extendable=True)
            rig.server_receive()

            def send(texts: list[str], receipts: Any, timeout: float | None) -> None:
                assert timeout == 0.0  # it may be the receive thread that gives up
                raise problem

            with monkeypatch.context() as patch:
                patch.setattr(rig.peer.lifecycle.connection.transport, "send", send)  # type: ignore[union-attr]
                assert future.cancel()
            rig.sync()


class TestALateReply:
    @pytest.mark.parametrize(
        "answer", [{"result": "late"}, {"error": {"code": -32800, "message": "Request cancelled"}}]
    )
    def test_it_is_handed_over_once(self, answer: dict[str, Any]) -> None:
        late: list[Any] = []
        with Rig(cancellation=cancellation).open() as rig:
            calling, request = begin(rig, on_late=late.append)
            rig.clock.advance(TIMEOUT)
            calling.error()
            rig.server_receive()
            envelope = {"jsonrpc": "2.0", "id": request["id"], **answer}
            rig.server_send(envelope, envelope)
            rig.sync()
            assert late == [envelope]

    def test_of_many_it_is_that_of_the_last(self) -> None:
        late: list[Any] = []
        with Rig().open() as rig:
            calls = [("long", {}, True)] * 2
            calling = Background(rig.peer.request_many, calls, TIMEOUT, on_late=late.append)
            requests = [rig.server_receive() for _ in range(2)]
            rig.clock.wait_for_waiting()
            rig.clock.advance(TIMEOUT)
            calling.result()
            for request in requests:
                rig.reply(request, request["id"])
            rig.sync()
            assert [envelope["result"] for envelope in late] == [requests[1]["id"]]

    def test_one_that_breaks_the_rules_is_not(self) -> None:
        late: list[Any] = []
        with Rig().open() as rig:
            calling, request = begin(rig, on_late=late.append)
            rig.clock.advance(TIMEOUT)
            calling.error()
            rig.server_send({"jsonrpc": "2.0", "id": request["id"], "result": 1, "error": {}})
            rig.sync()
            assert late == []

    def test_one_in_time_is_not(self) -> None:
        late: list[Any] = []
        with Rig().open() as rig:
            calling, request = begin(rig, on_late=late.append)
            rig.reply(request)
            calling.result()
            rig.sync()
            assert late == []

    def test_a_reply_that_came_just_when_the_caller_was_interrupted(self) -> None:
        """Ctrl-C between the arrival and the caller's going on: the server has acted, so this side must learn of it."""
        late: list[Any] = []

        class Clock:
            def __init__(self, rig: Rig) -> None:
                self._real = rig.clock
                self.now = rig.clock.now

            def wait(self, semaphore: Any, timeout: float) -> None:
                self._real.wait(semaphore, timeout)
                raise KeyboardInterrupt

        with Rig().open() as rig:
            rig.peer.lifecycle.connection._clock = Clock(rig)  # type: ignore[union-attr, assignment]
            calling, request = begin(rig, on_late=late.append)
            rig.reply(request)
            assert isinstance(calling.error(), KeyboardInterrupt)
            assert [envelope["result"] for envelope in late] == ["ok"]
