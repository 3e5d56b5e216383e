"""A call that ends before its answer comes: the backend stops working on it, and both sides hold the same."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

import tellurio_sync as te
from tellurio_sync.errors import CallTimeout

from ..backend.conftest import RunningBackend
from ..backend.scripted import answer_like_a_model
from ..backend.test_cancel import running, until
from ..conftest import FAILSAFE
from .conftest import KEY, MakeSession


class Slow:
    """A model that answers when it may."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.asked = 0

    def __call__(self, messages: list[dict[str, str]], **arguments: object) -> str:
        self.asked += 1
        assert self.may_answer.wait(FAILSAFE)
        return answer_like_a_model(messages)


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.may_answer.set()


@pytest.fixture
def session(make_session: MakeSession) -> Iterator[te.Session]:
    session = make_session()
    session.login(KEY)
    with session.use(), session.init(None, "Given up"):
        yield session


@contextlib.contextmanager
def given_up(session: te.Session) -> Iterator[None]:
    """The call in this block is given up. No other has such a limit: on a busy machine one may take longer."""
    session.client.hard_timeout = 1.0
    try:
        with pytest.raises(CallTimeout):
            yield
    finally:
        session.client.hard_timeout = None


def test_a_batch_is_asked_no_further(session: te.Session, backend: RunningBackend, slow: Slow) -> None:
    question = te.Variable("{mail}", role="mail")
    with given_up(session):
        te.functional.chat_completion(
            te.CallableModel(slow), [{"role": "user", "content": [question]}], {"mail": [f"{i}" for i in range(40)]}
        )
    until(lambda: running(backend) == 0)
    slow.may_answer.set()
    te.Variable("the connection goes on")
    assert slow.asked < 40


def test_a_cancelled_future(session: te.Session, backend: RunningBackend, slow: Slow) -> None:
    model = te.CallableModel(slow)
    params = {"function_name": "ChatCompletion", "kwargs": {}, "grad_enabled": False}
    question = te.Variable("x", role="mail")._reference()
    args = [model._reference(), [{"role": "user", "content": [question]}]]
    future = session.submit("run_function", {**params, "args": args})
    until(lambda: running(backend) == 2)
    assert future.cancel()
    until(lambda: running(backend) == 0)


def momentum_step(slow: Slow) -> tuple[te.TGD, te.Parameter, Callable[[], None]]:
    prompt = te.Parameter("Answer.", role="prompt")
    optimizer = te.TGD([prompt], model_client=te.CallableModel(slow), momentum=2)

    def batch() -> None:
        optimizer.clear_grad()
        joined = te.functional.add(prompt, te.Variable(" Now.", role="haste"))
        joined.backward(te.Variable("Be polite.", role="feedback"))

    return optimizer, prompt, batch


def test_a_step_is_dropped_here_and_there(session: te.Session, backend: RunningBackend, slow: Slow) -> None:
    """The answer that comes late changes nothing; what the user sets stays; later steps work."""
    optimizer, prompt, batch = momentum_step(slow)
    batch()
    with given_up(session):
        optimizer.step()
    prompt.data = "I set this by hand."
    slow.may_answer.set()
    until(lambda: running(backend) == 0)
    there = session.request("get_variable", {"variable_id": prompt.variable_id})
    assert there["data"] == prompt.data == "I set this by hand."
    assert optimizer.state == {}
    for expected in ("I set this by hand., better", "I set this by hand., better, better"):
        batch()
        optimizer.step()
        assert prompt.data == expected
    assert len(optimizer.state[prompt]["momentum_buffer"]) == 2
    assert set(session.registries.unsure) == set()
