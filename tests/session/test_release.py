"""Variables that a program lets go of are gone at the backend, too, without a round trip of their own."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

import tellurio_sync as te

from ..backend.conftest import RunningBackend
from ..backend.scripted import answer_like_a_model
from ..conftest import FAILSAFE
from .conftest import KEY, MakeSession


def held_at(backend: RunningBackend) -> tuple[int, int, int]:
    """How many Variables, models and optimizers the backend holds for its clients."""
    counts: list[Any] = []
    done = threading.Event()

    def count() -> None:
        known = [session.objects for session in backend._backend._sessions._sessions.values()]
        counts.append(
            tuple(sum(len(getattr(one, kind)) for one in known) for kind in ("variables", "models", "optimizers"))
        )
        done.set()

    backend._loop.call_soon_threadsafe(count)
    assert done.wait(FAILSAFE)
    return counts[0]  # type: ignore[no-any-return]


def tell(session: te.Session) -> None:
    """Let what has gathered go out now: the next call takes it along."""
    gc.collect()
    session.registries.released._next_at = 0.0


def training(prompt: te.Parameter, model: te.CallableModel) -> Callable[[], None]:
    optimizer = te.TGD([prompt], model_client=model, momentum=2)

    def batch() -> None:
        optimizer.clear_grad()
        chat = [
            {"role": "system", "content": [prompt]},
            {"role": "user", "content": [te.Variable("{mail}", role="mail")]},
        ]
        answers = te.functional.chat_completion(model, chat, {"mail": ["a", "b"]})
        _, explanation = te.functional.exact_match_evaluator(answers, ["x", "y"])
        explanation.backward()
        optimizer.step()

    return batch


def test_a_training_holds_no_more_after_ten_batches_than_after_three(
    session: te.Session, backend: RunningBackend
) -> None:
    model = te.CallableModel(lambda messages, **arguments: answer_like_a_model(messages))
    te.set_backward_model_client(model)
    prompt = te.Parameter("p", role="prompt")
    batch = training(prompt, model)
    held = []
    for _ in range(10):
        batch()
        tell(session)
        prompt.role = "prompt"
        held.append(held_at(backend))
    assert held[3:] == [held[3]] * 7
    assert prompt.data == "p" + ", better" * 10
    del batch
    tell(session)
    prompt.role = "prompt"
    assert held_at(backend) == (1 + len(prompt.grad), 1, 0)


def test_it_needs_no_call_of_its_own(session: te.Session, backend: RunningBackend) -> None:
    for _ in range(1000):
        te.Variable("x")
    kept = te.Variable("kept")
    # A hundred at a time, each time with the call that is made anyway.
    assert held_at(backend)[0] <= 102
    tell(session)
    kept.role = "r"
    assert held_at(backend) == (1, 0, 0)


def test_a_restore_leaves_no_twins(session: te.Session, backend: RunningBackend) -> None:
    """What is made again is let go of under its former id."""
    variables = [te.Variable(str(i)) for i in range(5)]
    session.registries.mark_unsure(variables, at_once=True)
    tell(session)
    variables[0].role = "r"
    tell(session)
    variables[0].role = "s"
    assert held_at(backend) == (5, 0, 0)
    assert session.request("get_variable", {"variable_id": variables[4].variable_id})["data"] == "4"


@pytest.mark.parametrize("extensions", [[], ["release"], ["session"]])
def test_a_server_that_does_not_know_it_hears_nothing(
    make_session: MakeSession, backend: RunningBackend, extensions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where objects are the account's (protocol §C.3), somebody else may count on them."""
    monkeypatch.setattr("tellurio_sync.backend.connection.EXTENSIONS", extensions)
    session = make_session()
    session.login(KEY)
    with session.use(), session.init(None, "Other"):
        gone = te.Variable("x").variable_id
        tell(session)
        assert session.request("get_variable", {"variable_id": gone})["data"] == "x"
        assert held_at(backend)[0] == 1
