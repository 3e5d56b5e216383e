"""Callables that ask further callables: agents, judges, routers. Whatever the depth and the number, it ends."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import tellurio_sync as te

from ..conftest import FAILSAFE


def ask(model: te.CallableModel, *mails: str) -> Any:
    """The answers of a batch of these; of one, if there is one."""
    question = te.Variable("{mail}", role="mail")
    chat = [{"role": "user", "content": [question]}]
    return te.functional.chat_completion(model, chat, inputs={"mail": list(mails) if len(mails) > 1 else mails[0]}).data


def agent(inner: te.CallableModel) -> te.CallableModel:
    return te.CallableModel(lambda messages, **_: f"agent: {ask(inner, messages[-1]['content'])}")


@pytest.mark.parametrize(("threads", "depth", "batch"), [(6, 1, 10), (1, 3, 8), (4, 2, 8)])
def test_every_answer_comes(session: te.Session, threads: int, depth: int, batch: int) -> None:
    model = te.CallableModel(lambda messages, **_: messages[-1]["content"])
    for _ in range(depth):
        model = agent(model)
    models = [model]  # kept alive for all threads

    def work(number: int) -> Any:
        with session.use():
            return ask(models[0], *(f"mail {number} {n}" for n in range(batch)))

    with ThreadPoolExecutor(threads) as pool:
        answers = [future.result(4 * FAILSAFE) for future in [pool.submit(work, n) for n in range(threads)]]
    for number, answer in enumerate(answers):
        assert answer == ["agent: " * depth + f"mail {number} {n}" for n in range(batch)]


def test_a_tree_of_callables_ends(session: te.Session) -> None:
    """Each asks a batch of eight, on three levels: 584 functions, most of which wait."""
    leaf = te.CallableModel(lambda messages, **_: "x")
    middle = te.CallableModel(lambda messages, **_: "".join(ask(leaf, *"12345678")))
    top = te.CallableModel(lambda messages, **_: "".join(ask(middle, *"12345678")))
    assert ask(top, *"12345678") == ["x" * 64] * 8


def test_callables_that_wait_for_threads_of_their_own_end(session: te.Session) -> None:
    """Nobody can see that these workers wait for the server. One is added each time that nothing moves."""
    pool = session.client._peer.lifecycle.pool  # type: ignore[union-attr]
    pool._patience = 0.05
    inner = te.CallableModel(lambda messages, **_: "in")

    def fan_out(messages: Any, **_: Any) -> str:
        answers: list[str] = []

        def work() -> None:
            with session.use():
                answers.append(ask(inner, "a"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(FAILSAFE)
        return answers[0]

    outer = te.CallableModel(fan_out)
    assert ask(outer, *map(str, range(40))) == ["in"] * 40
