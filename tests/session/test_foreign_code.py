"""Signal handlers and finalisers that use objects, at any point of the object model: nothing stands still."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.errors import WouldDeadlock
from tellurio_sync.model import call, pushed, registries
from tellurio_sync.session import default, restore_gate

from ..backend.scripted import answer_like_a_model
from ..conftest import FAILSAFE
from ..finalisers import Circle, Finaliser, collected_always
from ..interrupts import strikes
from .conftest import KEY, MakeSession

WATCHED = (registries, pushed, call, restore_gate)
SOON = 10.0
"""Seconds: far more than a call takes. What takes as long is seen as a failure."""


@pytest.fixture
def session(make_session: MakeSession) -> Iterator[te.Session]:
    made = make_session(default_timeout=SOON)
    made.login(KEY)
    with made.use(), made.init(None, "Test"):
        yield made


class Handler:
    """What a user may do in a signal handler or a finaliser, one kind of it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.shared = te.Variable("before", role="r")
        self.refused = 0
        self.done = 0
        self.model = te.CallableModel(lambda messages, **_: self.shared.role or "") if kind == "chat" else None

    def __call__(self) -> None:
        try:
            if self.kind == "make":
                assert te.Variable("x", role="h").variable_id
            elif self.kind == "set":
                self.shared.role = f"role {self.done}"
            elif self.kind == "add":
                assert te.functional.add(self.shared, self.shared).data == "beforebefore"
            else:
                assert self.model is not None
                assert self.model.complete("p") == self.shared.role
            self.done += 1
        except WouldDeadlock:
            self.refused += 1


def a_variable() -> None:
    variable = te.Variable("x", role="r")
    variable.role = "s"
    assert variable.variable_id


def a_function() -> None:
    one = te.Variable("x", role="r", requires_grad=True)
    summed = te.functional.add(one, one)
    assert summed.data == "xx"
    assert summed.grad_fn is not None


def a_pass() -> None:
    one = te.Parameter("x", role="r")
    te.functional.add(one, one).backward(te.Variable("bad", role="feedback"))
    assert len(one.grad) == 2


OUTER: dict[str, Callable[[], None]] = {"variable": a_variable, "function": a_function, "pass": a_pass}
COMBINATIONS = [("make", "variable"), ("set", "variable"), ("add", "function"), ("chat", "variable"), ("make", "pass")]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "outer"), COMBINATIONS)
def test_a_signal_handler_may_use_objects_at_any_point(session: te.Session, kind: str, outer: str) -> None:
    """It works each time, at once: other threads, among them the one that receives, never wait for it."""
    if outer == "pass":
        te.set_backward_model_client(te.CallableModel(lambda messages, **_: answer_like_a_model(messages)))
    handler = Handler(kind)
    for strike in strikes(*(WATCHED if outer != "pass" else (registries, pushed)), act=handler):
        try:
            with strike:
                OUTER[outer]()
        except BaseException as exc:
            raise AssertionError(f"{kind} in {outer}: {strike}") from exc
    assert handler.refused == 0
    assert handler.done > 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["make", "set", "add"])
def test_a_finaliser_may_use_objects_wherever_the_collector_runs(session: te.Session, kind: str) -> None:
    """The collector runs at every allocation that it may run at, in all threads."""
    handler = Handler(kind)

    def use_objects() -> None:
        with session.use():
            handler()

    finalise = Finaliser(use_objects)

    def work() -> None:
        try:
            with session.use():
                for _ in range(15):
                    Circle(finalise)
                    a_function()
        except BaseException as exc:  # noqa: BLE001 - looked at below
            finalise.failures.append(exc)

    threads = [threading.Thread(target=work) for _ in range(2)]
    with collected_always():
        for thread in threads:
            thread.start()
        work()
        for thread in threads:
            thread.join(4 * FAILSAFE)
            assert not thread.is_alive(), "it stands still"
    assert finalise.failures == []
    assert handler.done > 10


def test_a_call_within_a_restore_of_the_same_thread_says_so_at_once(
    session: te.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for the restore, which waits for it."""
    outcomes: list[Any] = []
    kept = te.Variable("x", role="r")
    real = restore_gate.restore

    def restore(*args: Any) -> Any:
        try:
            te.Variable("y", role="r")
        except BaseException as exc:  # noqa: BLE001 - looked at below
            outcomes.append(exc)
        return real(*args)

    monkeypatch.setattr(restore_gate, "restore", restore)
    session.registries.mark_unsure([kept], at_once=True)
    kept.role = "s"
    assert [type(outcome) for outcome in outcomes] == [WouldDeadlock]
    assert "restore" in str(outcomes[0])
    assert kept.role == "s"


def test_a_signal_handler_may_be_the_first_to_use_the_default_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within the first use, and then both have the same one."""
    found: list[te.Session] = []
    for strike in strikes(default, te.Session.__init__, act=lambda: found.append(te.default_session())):
        monkeypatch.setattr(default, "_default", None)
        found.clear()
        with strike:
            found.append(te.default_session())
        assert set(found) == {te.default_session()}, strike
