"""A peer against a model of it: calls, replies, heartbeats, time, losses and closing, in any order.

Time moves by the fake clock only, on a grid of binary fractions, so that deadlines are compared exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tellurio_sync.errors import CallTimeout, ClosedByUser, ConnectionLost, NotConnected, RemoteProtocolError
from tellurio_sync.peer.lifecycle import CLOSED, OPEN, RECONNECTING
from tellurio_sync.transport.base import DialFailed, Ending

from ..conftest import FAILSAFE
from .rig import Background, Rig

GRID = 1 / 16
EPSILON = 1 / 1024
# Off the grid, so that an attempt to reconnect never falls together with a deadline.
PAUSE = 1 + 1 / 128
LOST = Ending("connection reset", "network")

timeouts = st.integers(1, 64).map(lambda units: units * GRID)
picks = st.integers(0, 1000)


class ModelCall:
    """What the model knows of one call."""

    def __init__(self, number: int, started: float, timeout: float, is_extendable: bool, hard: float | None) -> None:
        self.number = number
        self.started = started
        self.timeout = timeout
        self.is_extendable = is_extendable
        self.hard_limit = None if hard is None else started + hard
        self.last_life = started
        self.request: dict[str, Any] | None = None  # as the server received it; None: not sent yet
        self.thread: Background | None = None
        self.future: Future[dict[str, Any]] | None = None

    @property
    def deadline(self) -> float:
        expires_at = self.last_life + self.timeout
        return expires_at if self.hard_limit is None else min(expires_at, self.hard_limit)

    @property
    def is_over(self) -> bool:
        return not self.thread.is_running if self.thread is not None else self._future().done()

    def reply(self) -> dict[str, Any]:
        reply: dict[str, Any] = self.thread.result() if self.thread is not None else self._future().result(FAILSAFE)
        return reply

    def error(self) -> BaseException:
        error = self.thread.error() if self.thread is not None else self._future().exception(FAILSAFE)
        assert error is not None, "it ended with a reply"
        return error

    def _future(self) -> Future[dict[str, Any]]:
        assert self.future is not None
        return self.future


class PeerMachine(RuleBasedStateMachine):
    """Every rule leaves the peer at rest, so that the invariants can be looked at."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = patch("tellurio_sync.peer.lifecycle.Backoff.next_pause", lambda self: PAUSE)
        self._patch.start()
        self.numbers = itertools.count()
        self.open_calls: list[ModelCall] = []
        self.unsent_calls: list[ModelCall] = []  # made while there is no connection
        self.ended_ids: list[str] = []
        self.failing_attempts = 0

    # --- connect, lose, close ---------------------------------------------------------------------

    @initialize()
    def connect(self) -> None:
        self.lost: list[ConnectionLost] = []
        self.restored: list[Any] = []
        self.losses = self.returns = 0
        self.attempts = 1
        self.rig = Rig(
            methods={"double": lambda params: params["n"] * 2},
            ping_interval=None,
            on_lost=self.lost.append,
            on_restored=self.restored.append,
        ).open()
        self.state = OPEN
        self.ended_ids.clear()

    @precondition(lambda self: self.state == CLOSED)
    @rule()
    def connect_again(self) -> None:
        self.connect()

    @precondition(lambda self: self.state == OPEN)
    @rule(failing_attempts=st.integers(0, 3))
    def drop(self, failing_attempts: int) -> None:
        self.rig.dialers.steps += [DialFailed("TCP", "refused") for _ in range(failing_attempts)]
        self.failing_attempts = failing_attempts
        self.losses += 1
        self.rig.transport.server_end(LOST)
        self._expect_all(self.open_calls, ConnectionLost, was_sent=True)
        self._expect_pause()
        self.state = RECONNECTING

    @rule()
    def close(self) -> None:
        is_open = self.state == OPEN
        self.rig.peer.lifecycle.close()
        self._expect_all(self.open_calls, ClosedByUser, was_sent=True)
        self._expect_all(self.unsent_calls, NotConnected)
        self.losses += is_open
        self.state = CLOSED

    # --- calls ------------------------------------------------------------------------------------

    @precondition(lambda self: self.state != CLOSED)
    @rule(timeout=timeouts, is_extendable=st.booleans(), hard=st.none() | timeouts)
    def call(self, timeout: float, is_extendable: bool, hard: float | None) -> None:
        call = self._new_call(timeout, is_extendable, hard)
        call.thread = Background(
            self.rig.peer.request,
            "m",
            {"n": call.number},
            timeout,
            is_extendable=is_extendable,
            hard_timeout=hard,
        )
        if self.state == OPEN:
            self._expect_request([call])
        else:
            self.unsent_calls.append(call)
            self.rig.clock.wait_for_waiting(1 + len(self.unsent_calls))

    @precondition(lambda self: self.state == OPEN)
    @rule(timeout=timeouts, is_extendable=st.booleans(), hard=st.none() | timeouts)
    def submit(self, timeout: float, is_extendable: bool, hard: float | None) -> None:
        call = self._new_call(timeout, is_extendable, hard)
        call.future = self.rig.peer.submit(
            "m", {"n": call.number}, timeout, is_extendable=is_extendable, hard_timeout=hard
        )
        self._expect_request([call])

    @precondition(lambda self: self.state == OPEN)
    @rule(text=st.text(max_size=5))
    def notify(self, text: str) -> None:
        self.rig.peer.notify("note", {"text": text}, 1.0)
        assert self.rig.server_receive() == {"jsonrpc": "2.0", "method": "note", "params": {"text": text}}

    @precondition(lambda self: self.state == CLOSED)
    @rule()
    def call_after_close(self) -> None:
        assert isinstance(Background(self.rig.peer.request, "m", {}, 1.0).error(), NotConnected)

    @precondition(lambda self: any(call.future for call in self.open_calls))
    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        submitted = [call for call in self.open_calls if call.future is not None]
        call = submitted[pick % len(submitted)]
        assert call.future is not None
        assert call.future.cancel()
        self._end(self.open_calls, call)

    # --- what the server says -----------------------------------------------------------------------

    @precondition(lambda self: self.open_calls)
    @rule(pick=picks, value=st.none() | st.integers() | st.text(max_size=5), copies=st.integers(1, 2))
    def reply(self, pick: int, value: Any, copies: int) -> None:
        call = self._pick(pick)
        envelope = {"jsonrpc": "2.0", "id": self._request(call)["id"], "result": value}
        self.rig.server_send(*[envelope] * copies)
        assert call.reply() == envelope
        self._end(self.open_calls, call)

    @precondition(lambda self: self.open_calls)
    @rule(pick=picks)
    def malformed_reply(self, pick: int) -> None:
        call = self._pick(pick)
        self.rig.server_send({"jsonrpc": "2.0", "id": self._request(call)["id"], "result": 1, "error": 2})
        assert type(call.error()) is RemoteProtocolError
        self._end(self.open_calls, call)

    @precondition(lambda self: self.state == OPEN)
    @rule(pick=picks)
    def late_or_unknown_reply(self, pick: int) -> None:
        id_ = self.ended_ids[pick % len(self.ended_ids)] if self.ended_ids else "unknown"
        self.rig.server_send({"jsonrpc": "2.0", "id": id_, "result": "late"})
        self.rig.sync()

    @precondition(lambda self: self.open_calls)
    @rule(pick=picks)
    def heartbeat(self, pick: int) -> None:
        call = self._pick(pick)
        self.rig.heartbeat(self._request(call)["id"])
        self.rig.sync()
        if call.is_extendable:
            call.last_life = self.rig.clock.now()

    @precondition(lambda self: self.state == OPEN)
    @rule(id_=st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2))
    def foreign_heartbeat(self, id_: Any) -> None:
        self.rig.heartbeat(id_)
        self.rig.sync()

    @precondition(lambda self: self.state == OPEN)
    @rule(number=st.integers())
    def request_of_the_server(self, number: int) -> None:
        self.rig.server_send({"jsonrpc": "2.0", "method": "double", "params": {"n": number}, "id": number})
        assert self.rig.server_receive() == {"jsonrpc": "2.0", "id": number, "result": number * 2}

    # --- time ---------------------------------------------------------------------------------------

    @rule(units=st.integers(1, 48))
    def advance(self, units: int) -> None:
        target = self.rig.clock.now() + units * GRID
        while (event_at := min(self._events_until(target), default=None)) is not None:
            self._move_to(event_at - EPSILON)
            if self.state == OPEN:
                self.rig.sync()
            self.nothing_ends_by_itself()
            self._move_to(event_at)
            for calls in (self.open_calls, self.unsent_calls):
                for call in [call for call in calls if call.deadline == event_at]:
                    self._expect_timeout(calls, call)
            if self.state == RECONNECTING and self.retry_at == event_at:
                self._expect_attempt()
        self._move_to(target)

    def _events_until(self, target: float) -> Iterator[float]:
        for call in (*self.open_calls, *self.unsent_calls):
            if call.deadline <= target:
                yield call.deadline
        if self.state == RECONNECTING and self.retry_at <= target:
            yield self.retry_at

    def _move_to(self, at: float) -> None:
        self.rig.clock.advance(at - self.rig.clock.now())

    # --- what must have happened ----------------------------------------------------------------------

    def _expect_timeout(self, calls: list[ModelCall], call: ModelCall) -> None:
        error = call.error()
        assert type(error) is CallTimeout
        assert error.was_sent is (call.request is not None)
        assert error.waited_s == call.deadline - call.started
        self._end(calls, call)

    def _expect_all(self, calls: list[ModelCall], kind: type[Exception], **attributes: Any) -> None:
        errors = [call.error() for call in calls]
        assert len(set(map(id, errors))) == len(errors), "callers share an exception object"
        for error in errors:
            assert type(error) is kind
            assert {name: getattr(error, name) for name in attributes} == attributes
        for call in list(calls):
            self._end(calls, call)

    def _expect_pause(self) -> None:
        """The receive thread waits for its next attempt; calls made meanwhile wait, too."""
        self.rig.clock.wait_for_waiting(1 + len(self.unsent_calls))
        self.retry_at = self.rig.clock.now() + PAUSE

    def _expect_attempt(self) -> None:
        self.attempts += 1
        if self.failing_attempts:
            self.failing_attempts -= 1
            self.rig.dialers.wait_for_attempts(self.attempts)
            self._expect_pause()
            return
        self.rig.wait_for_state(OPEN)
        self.state = OPEN
        self.returns += 1
        waiting, self.unsent_calls = self.unsent_calls, []
        self._expect_request(waiting)
        self.rig.sync()

    def _expect_request(self, calls: list[ModelCall]) -> None:
        by_number = {call.number: call for call in calls}
        for _ in calls:
            request = self.rig.server_receive()
            call = by_number.pop(request["params"]["n"])
            call.request = request
            self.open_calls.append(call)

    # --- helpers ----------------------------------------------------------------------------------------

    def _new_call(self, timeout: float, is_extendable: bool, hard: float | None) -> ModelCall:
        return ModelCall(next(self.numbers), self.rig.clock.now(), timeout, is_extendable, hard)

    def _pick(self, pick: int) -> ModelCall:
        return self.open_calls[pick % len(self.open_calls)]

    def _request(self, call: ModelCall) -> dict[str, Any]:
        assert call.request is not None
        return call.request

    def _end(self, calls: list[ModelCall], call: ModelCall) -> None:
        calls.remove(call)
        if call.request is not None:
            self.ended_ids.append(call.request["id"])

    # --- what always holds ----------------------------------------------------------------------------

    @invariant()
    def the_state_is_the_models(self) -> None:
        assert self.rig.peer.lifecycle.state == self.state
        assert (self.rig.peer.lifecycle.connection is not None) is (self.state == OPEN)

    @invariant()
    def the_pending_table_holds_the_open_calls_and_no_others(self) -> None:
        connection = self.rig.peer.lifecycle.connection
        pending = {} if connection is None else connection.pending.snapshot()
        assert pending == {self._request(call)["id"]: "m" for call in self.open_calls}

    @invariant()
    def nothing_ends_by_itself(self) -> None:
        assert not any(call.is_over for call in (*self.open_calls, *self.unsent_calls))

    @invariant()
    def nothing_was_sent_that_nobody_expects(self) -> None:
        assert not self.rig.transport.server_has_message()

    @invariant()
    def the_hooks_were_called_once_each(self) -> None:
        assert (len(self.lost), len(self.restored)) == (self.losses, self.returns)

    def teardown(self) -> None:
        try:
            if hasattr(self, "rig"):
                self.close()
                thread = self.rig.peer.lifecycle._thread
                assert thread is not None
                assert not thread.is_alive()
                assert all(transport.is_disposed for transport in self.rig.dialers.transports)
        finally:
            self._patch.stop()


TestPeer = PeerMachine.TestCase
TestPeer.settings = settings(max_examples=80, stateful_step_count=40)
