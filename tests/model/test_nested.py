"""A signal handler or a finaliser calls the server in the middle of a section that holds the lock of the model."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.errors import WouldDeadlock
from tellurio_sync.model import Variable, variable_state
from tellurio_sync.model.batch.queue import Queue
from tellurio_sync.model.graph import Node
from tellurio_sync.model.registries import Registries, WeakTable
from tellurio_sync.model.variable_state import known_id, received
from tellurio_sync.ownership import Without, is_held

from ..conftest import FAILSAFE, in_thread
from ..interrupts import strikes
from .fake_link import CREATE, FakeLink, link

__all__ = ["link"]


def test_a_call_gives_the_lock_up_until_it_is_over(link: FakeLink) -> None:
    """The receive thread takes it for each push, and when the reply comes."""
    kept = Variable("kept")
    was_free = []

    def answer(params: dict[str, Any]) -> Any:
        was_free.append(not is_held(link.registries.lock))
        link.push("update_variable", variable_id=kept.variable_id, field="role", value="pushed")
        return {"message": "created", "variable_id": "v"}

    link.answers[CREATE] = answer
    with link.registries.lock, link.registries.lock:
        assert Variable("made").variable_id == "v"
        assert is_held(link.registries.lock)
    assert not is_held(link.registries.lock)
    assert was_free == [True]
    assert kept.role == "pushed"


def test_it_has_the_lock_again_when_the_call_cannot_begin(link: FakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
    def admit() -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(link, "admit", admit)
    with link.registries.lock:
        with pytest.raises(RuntimeError, match="no"):
            Variable("made")
        assert is_held(link.registries.lock)


def test_the_receive_thread_does_not_give_it_up(link: FakeLink, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may not call anyway, and what it does under the lock is not taken apart."""
    given_up = []
    monkeypatch.setattr(Without, "__enter__", lambda self: given_up.append(1))

    def refuse() -> None:
        raise WouldDeadlock("on the receive thread")

    monkeypatch.setattr(link, "check_may_wait", refuse)
    with link.registries.lock, pytest.raises(WouldDeadlock):
        Variable("made")
    assert given_up == []


def test_a_queue_gives_up_both_locks_while_it_is_sent(link: FakeLink) -> None:
    """The thread that sends it may need the lock of the queue, for which this one waits."""
    was_free = []

    def answer(params: dict[str, Any]) -> Any:
        was_free.append((is_held(queue._lock), is_held(link.registries.lock)))
        return {"message": "created", "variable_id": "v"}

    link.answers[CREATE] = answer
    with te.batch() as block:
        queue = block._entries[0].queue
        made = Variable("made")
        with queue._lock, link.registries.lock:
            assert made.variable_id == "v"
            assert is_held(queue._lock)
            assert is_held(link.registries.lock)
    assert was_free == [(False, False)]


def test_a_node_that_comes_at_any_point_while_its_variable_is_bound(link: FakeLink) -> None:
    """Otherwise reading ``grad_fn`` waits for a push that has come already."""
    registries = link.registries
    nodes: list[Node] = []

    def push() -> None:
        nodes.append(Node(f"n{len(nodes)}", "AddBackward0"))
        with Without(registries.lock):
            in_thread(registries.register_pushed_node, nodes[-1])

    for strike in strikes(Registries, WeakTable, variable_state, act=push):
        variable = received(Variable, link, "v", "x")
        with strike:
            registries.bind_grad_fn(variable, f"n{len(nodes)}")
        if strike.where is not None:
            assert variable.grad_fn is nodes[-1], strike


def test_what_is_queued_at_any_point_of_the_queue_is_made(link: FakeLink) -> None:
    """By a signal handler, which runs inside the block of the thread that it interrupts."""
    nested: list[Variable] = []
    watched = (Queue.send, Queue._send_in_one_go, Queue._take_ready_locked)
    for strike in strikes(*watched, act=lambda: nested.append(Variable("nested"))):
        with strike, te.batch():
            made = [Variable("a"), Variable("b")]
            made[0].role = "r"
            assert made[0].variable_id
        assert all(known_id(variable) for variable in made), strike
        assert all(variable.variable_id for variable in nested), strike
        nested.clear()


def test_threads_take_the_lock_in_between(link: FakeLink) -> None:
    """As many as there are: none of them waits for the one that gave the lock up."""
    lock = link.registries.lock
    taken = threading.Event()

    def take() -> None:
        with lock:
            taken.set()

    with lock:
        with Without(lock):
            in_thread(take)
            assert taken.wait(FAILSAFE)
        assert is_held(lock)
    in_thread(take)
