"""A restore has the connection's objects for itself: it waits for the calls inside, and lets none in."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

from tellurio_sync.deadlines import MONOTONIC, Deadline
from tellurio_sync.model import Variable
from tellurio_sync.session.restore_gate import Admission, RestoreGate

from ..conftest import FAILSAFE, in_thread, wait_until
from ..interrupts import strikes
from ..model.fake_link import FakeLink, link
from ..peer.rig import Background

__all__ = ["link"]


class Client:
    """Answers the questions of a restore, and notes whether a call was inside meanwhile."""

    default_timeout = FAILSAFE

    def __init__(self) -> None:
        self.asks = threading.Event()
        self.is_inside = False
        self.was_inside: list[bool] = []

    def call_many_on(self, connection: Any, calls: Any, timeout: float | None, *_: Any) -> list[Any]:
        self.was_inside.append(self.is_inside)
        self.asks.set()
        return [{"error": {"code": -32603, "message": "unknown", "data": {}}} for _ in calls]


def connection() -> Any:
    return SimpleNamespace(ending=None)


def test_a_restore_waits_until_the_calls_inside_have_left(link: FakeLink) -> None:
    variable = Variable("p")
    client: Any = Client()
    gate = RestoreGate(link, lambda: "run-1", None)  # type: ignore[arg-type]
    gate.restore_on(client, connection(), "s", None)
    client.asks.clear()
    client.was_inside.clear()
    admission = gate.admit(lambda: client)
    client.is_inside = True
    restoring = Background(gate.restore_on, client, connection(), "s", None)
    wait_until(lambda: in_thread(gate._enter, client, None) is None, "the gate was not shut")
    assert not client.asks.wait(0.2)  # nothing can be awaited here: it must not ask, however long it has
    client.is_inside = False
    gate.leave(admission)
    restoring.result()
    assert client.was_inside
    assert not any(client.was_inside)
    assert variable.variable_id


def test_a_call_of_the_restoring_thread_itself_is_not_waited_for(link: FakeLink) -> None:
    """As when a finaliser of the user calls the server in the middle of a call."""
    variable = Variable("p")
    client: Any = Client()
    gate = RestoreGate(link, lambda: "run-1", None)  # type: ignore[arg-type]
    gate.restore_on(client, connection(), "s", None)

    def nested() -> None:
        gate.admit(lambda: client)
        gate.restore_on(client, connection(), "s", None)

    in_thread(nested)
    assert len(client.was_inside) >= 2
    assert variable.variable_id


def test_a_call_whose_thread_waits_for_the_restore_is_not_waited_for(link: FakeLink) -> None:
    """As when a signal handler interrupts a call on the lost connection, and calls while another thread restores."""
    variable = Variable("p")
    client: Any = Client()
    gate = RestoreGate(link, lambda: "run-1", None)  # type: ignore[arg-type]
    gate.restore_on(client, connection(), "s", None)
    fresh = connection()
    is_inside = threading.Event()

    def interrupted() -> None:
        admission = gate.admit(lambda: client)
        is_inside.set()
        wait_until(lambda: in_thread(gate._enter, client, None) is None, "the gate was not shut")
        gate.restore_on(client, fresh, "s", Deadline(FAILSAFE, MONOTONIC.now()))  # as `admit` does in the handler
        gate.leave(gate.admit(lambda: client))
        gate.leave(admission)

    calling = Background(interrupted)
    assert is_inside.wait(FAILSAFE)
    restoring = Background(gate.restore_on, client, fresh, "s", None)
    restoring.result()
    calling.result()
    assert variable.variable_id
    # From now on that thread's calls are waited for as all others'.
    client.asks.clear()
    assert gate._held_up == set()
    admission = gate.admit(lambda: client)
    restoring = Background(gate.restore_on, client, connection(), "s", None)
    wait_until(lambda: in_thread(gate._enter, client, None) is None, "the gate was not shut")
    assert not client.asks.wait(0.2)  # nothing can be awaited here: it must not ask, however long it has
    gate.leave(admission)
    restoring.result()


def test_a_restore_that_becomes_due_at_any_point_while_a_call_enters_sees_it_or_keeps_it_out(link: FakeLink) -> None:
    """A signal handler gives up the lock under which calls enter; then others may shut the gate."""
    kept = Variable("p")
    client: Any = Client()
    gate = RestoreGate(link, lambda: "run-1", None)  # type: ignore[arg-type]
    gate.restore_on(client, connection(), "s", None)
    seen: list[bool] = []

    def shut() -> None:
        link.registries.mark_unsure([kept], at_once=True)
        seen.append(len(gate._inside) > 0)

    for strike in strikes(RestoreGate, Admission, WeakSet, act=shut):
        with strike:
            admission = gate._enter(client, None)
            assert admission is None or seen != [False], strike
            if admission is not None:
                gate.leave(admission)
        link.registries.begin_restore()
        seen.clear()
