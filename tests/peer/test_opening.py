"""Opening: the greeting, and the attempts to connect. Memory transports, clock moved by hand."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tellurio_sync.peer.lifecycle import CLOSED, OPEN
from tellurio_sync.transport.base import DialFailed

from ..conftest import FAILSAFE
from .rig import GREETING, LOST, Background, Rig, WatchedTransport, failure, refused, unreachable

# --- the greeting -----------------------------------------------------------------------------------


def test_open_returns_what_the_greeting_says() -> None:
    with Rig() as rig:
        assert rig.peer.lifecycle.state == "connecting"
        assert rig.peer.lifecycle.open(1, 0) == "s"
        assert rig.peer.lifecycle.state == OPEN


def test_without_an_opening_it_is_open_at_once() -> None:
    with Rig("silent", opening=None) as rig:
        assert rig.peer.lifecycle.open(1, 0) is None
        assert rig.peer.lifecycle.state == OPEN


@pytest.mark.parametrize("before", [0.0, 5.0, 9.999])
def test_a_late_greeting_is_waited_for(before: float) -> None:
    with Rig("silent") as rig:
        opening = Background(rig.peer.lifecycle.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        rig.clock.advance(before)
        transport.server_send(GREETING)
        assert opening.result() == "s"


@pytest.mark.parametrize(
    "greeting",
    [
        GREETING,
        '{"result":{"session_id":"s"}}',
        '{"jsonrpc":"2.0","result":{"session_id":"s"},"id":0}',
        '{"jsonrpc":"2.0","result":{"session_id":"s"},"id":"greeting"}',
        '{"jsonrpc":"2.0","result":{"session_id":"s","more":1},"id":null,"more":[]}',
    ],
)
def test_only_the_session_id_of_the_greeting_is_looked_at(greeting: str) -> None:
    """Protocol §A.2: no other field is checked."""
    with Rig("silent") as rig:
        opening = Background(rig.peer.lifecycle.open, 1, 0)
        rig.dialers.wait_for_transport(0).server_send(greeting)
        assert opening.result() == "s"


def test_a_greeting_glued_to_the_next_messages_loses_none_of_them() -> None:
    seen: list[Any] = []
    done = threading.Event()

    def push(params: dict[str, Any]) -> None:
        seen.append(params["n"])
        if len(seen) == 3:
            done.set()

    with Rig("silent", methods={"push": push}) as rig:
        opening = Background(rig.peer.lifecycle.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        push_text = '{{"jsonrpc":"2.0","method":"push","params":{{"n":{}}}}}'
        transport.server_send(push_text.format(0), GREETING, push_text.format(1), push_text.format(2))
        assert opening.result() == "s"
        assert done.wait(FAILSAFE)
        assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    "message",
    [
        '{"jsonrpc":"2.0","error":{"code":1,"message":"no"},"id":null}',
        '{"jsonrpc":"2.0","result":{},"id":null}',
        '{"jsonrpc":"2.0","result":null,"id":null}',
        '{"jsonrpc":"2.0","result":{"session_id":null},"id":null}',
        '{"jsonrpc":"2.0","result":{"session_id":5},"id":null}',
        '{"jsonrpc":"2.0","result":[],"id":null}',
        '{"jsonrpc":"2.0","result":"s","id":"x"}',
        "not json",
        "",
        "[" * 100_000,
        b"binary",
        "[]",
        "1",
        "null",
        "{}",
        '{"session_id":"s"}',
        '{"jsonrpc":"1.0","method":"greeting"}',
    ],
)
@pytest.mark.parametrize("is_glued", [False, True])
def test_a_wrong_greeting_fails_at_once_and_closes_the_socket(message: Any, is_glued: bool) -> None:
    with Rig("silent") as rig:
        opening = Background(rig.peer.lifecycle.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        transport.server_send(message, *[GREETING] * is_glued)
        error = failure(opening)
        assert (error.stage, error.attempts) == ("greeting", 1)
        assert transport.is_disposed
        assert rig.peer.lifecycle.state == CLOSED


def test_a_greeting_that_never_comes_ends_at_its_own_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, receive = threading.Event(), WatchedTransport.receive
    monkeypatch.setattr(WatchedTransport, "receive", lambda *args: (reads.set(), receive(*args))[1])
    with Rig("silent", opening_timeout=10.0) as rig:
        opening = Background(rig.peer.lifecycle.open, 1, 0)
        transport = rig.dialers.wait_for_transport(0)
        assert reads.wait(FAILSAFE), "from now on its time counts"
        rig.clock.wait_for_waiting()
        rig.clock.advance(9.999)
        assert opening.is_running
        rig.clock.advance(0.001)
        error = failure(opening)
        assert (error.stage, str(error)) == ("greeting", "no greeting came in time")
        assert transport.is_disposed


def test_a_connection_that_ends_before_its_greeting_is_a_failed_attempt() -> None:
    with Rig("silent") as rig:
        opening = Background(rig.peer.lifecycle.open, 1, 0)
        rig.dialers.wait_for_transport(0).server_end(LOST)
        error = failure(opening)
        assert (error.stage, str(error)) == ("greeting", "reset")


# --- attempts ---------------------------------------------------------------------------------------


def test_attempts_are_made_delay_seconds_apart() -> None:
    with Rig(unreachable(), refused(503), "greet") as rig:
        opening = Background(rig.peer.lifecycle.open, 3, 5.0)
        for attempt in (1, 2):
            rig.dialers.wait_for_attempts(attempt)
            rig.clock.wait_for_waiting(2)  # the opener and the pausing receive thread
            rig.clock.advance(4.999)
            rig.clock.wait_for_waiting(2)
            assert rig.dialers.attempts == attempt
            rig.clock.advance(0.001)
        assert opening.result() == "s"
        assert rig.dialers.attempts == 3


def test_after_the_last_attempt_its_failure_is_told() -> None:
    with Rig(default=unreachable()) as rig:
        opening = Background(rig.peer.lifecycle.open, 3, 0)
        error = failure(opening)
        assert (error.stage, error.attempts, rig.dialers.attempts) == ("TCP", 3, 3)
        assert rig.peer.lifecycle.state == CLOSED


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_tried_again(status: int) -> None:
    with Rig(default=refused(status)) as rig:
        error = failure(Background(rig.peer.lifecycle.open, 3, 5.0))
        assert (error.status, error.attempts, rig.dialers.attempts) == (status, 1, 1)


def test_a_defect_while_dialling_is_told_as_such() -> None:
    with Rig(default=ZeroDivisionError("our own bug")) as rig:
        error = failure(Background(rig.peer.lifecycle.open, 3, 0))
        assert str(error) == "ZeroDivisionError: our own bug"
        assert rig.peer.lifecycle.state == CLOSED


def test_an_attempt_that_hangs_beyond_all_timeouts_is_left_behind() -> None:
    """As a name server that does not answer: the look-up of a name cannot be interrupted."""
    with Rig("hang", dial_timeout=5.0, opening_timeout=10.0) as rig:
        opening = Background(rig.peer.lifecycle.open, 2, 1.0)
        rig.dialers.wait_for_attempts(1)
        rig.clock.wait_for_waiting(1)
        rig.clock.advance(2 * 15 + 1)
        rig.clock.wait_for_waiting(1)
        assert opening.is_running
        rig.clock.advance(1)
        error = opening.error()
        assert isinstance(error, DialFailed)
        assert (error.stage, error.attempts) == ("DNS", 1)
        assert rig.peer.lifecycle.state == CLOSED
