"""``run.questions()``: what a run asked, counted to the question, by a loop of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.errors import HttpStatusError, UsageError
from tellurio_sync.studio import Run


@pytest.fixture
def run(session: te.Session) -> Iterator[Run]:
    with session.init(None, "Questions") as run:
        yield run


def test_a_loop_is_counted_by_kind_and_step(run: Run) -> None:
    asked: list[Any] = []

    def model(messages: list[dict[str, str]], **options: object) -> str:
        asked.append(messages)
        text = str(messages)
        if "<IMPROVED>" in text:
            return "<IMPROVED>Answer right.</IMPROVED>"
        return '{"variable_1": "Be right."}' if "variable_1" in text else "wrong"

    lm = te.CallableModel(model)
    te.set_backward_model_client(lm)
    prompt = te.Parameter("Answer.", role="system prompt")
    chat = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [te.Variable("{n}", role="number")]}]
    optimizer = te.TGD([prompt], model_client=lm)
    assert run.questions().asked == 0
    for _ in range(2):
        optimizer.clear_grad()
        answer = te.functional.chat_completion(lm, chat, inputs={"n": ["1", "2", "3"]})
        te.functional.exact_match_evaluator(answer, ["right"] * 3)[1].backward()
        optimizer.step()
    te.functional.chat_completion(lm, chat, inputs={"n": ["1"]})
    ledger = run.questions()
    assert ledger.asked == len(asked)
    kinds = {step: {kind: count.asked for kind, count in part.by_kind.items()} for step, part in ledger.steps.items()}
    assert list(kinds) == [1, 2, 3]
    assert kinds[1] == kinds[2]
    assert (kinds[1]["forward"], kinds[1]["optimizer"]) == (3, 1)
    assert kinds[3] == {"forward": 1}, "after the last step"


def test_a_server_that_does_not_count_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(run.rest), "list_questions", lambda *path: None)
    with pytest.raises(UsageError, match="does not count"):
        run.questions()


def test_a_run_that_is_not_there(run: Run) -> None:
    with pytest.raises(HttpStatusError, match="no such run"):
        run.rest.list_questions("local", run.project.slug, "absent")


def test_an_offline_run_asks_nothing(session: te.Session) -> None:
    with session.init(None, "Offline", mode="offline") as kept, pytest.raises(UsageError, match="on this machine only"):
        kept.questions()
