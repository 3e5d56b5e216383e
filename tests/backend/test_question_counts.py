"""The bill of questions: what counts as asked, cached and failed, of a session and of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.backend.question_counts import PURPOSES, Count, no_counts, note
from tellurio_sync.backend.question_log import QuestionLog
from tellurio_sync.backend.questions import Answer
from tellurio_sync.backend.store import Store

from .conftest import RunningBackend
from .rpc_client import RpcClient, RpcError
from .scripted import model_answer
from .test_question_log import asked as asked_of
from .watched_run import WatchedRun

USED = Answer("fine", usage={"prompt_tokens": 10, "completion_tokens": 5}, cost=0.25)
NO_ANSWER: dict[str, Any] = {"answer": None, "error": "no"}

CASES: dict[str, tuple[dict[str, Any], Count]] = {
    "answered": ({"answer": USED}, Count(asked=1, prompt_tokens=10, completion_tokens=5, usd=0.25)),
    "third try": ({"answer": USED, "tries": 3}, Count(1, retries=2, prompt_tokens=10, completion_tokens=5, usd=0.25)),
    "cached": ({"answer": dataclasses.replace(USED, is_cached=True), "tries": 0, "cost": None}, Count(cached=1)),
    "failed": ({**NO_ANSWER, "error_kind": "server", "tries": 4, "cost": 0.0}, Count(asked=1, failed=1, retries=3)),
    "not asked": ({**NO_ANSWER, "error_kind": "budget", "tries": 0, "cost": None}, Count(failed=1)),
    "no price": ({"answer": Answer("fine"), "cost": None}, Count(asked=1, unpriced=1)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_question_counts_the_same_in_a_session_and_in_a_run(case: str, tmp_path: Path) -> None:
    given, expected = CASES[case]
    store = Store(tmp_path)
    try:
        project = store.create_project("local", "p", "P", "TEAM")
        assert project is not None
        run = store.create_run(project["uuid"], "r", None, "RUNNING")
        assert run is not None
        log, counts = QuestionLog(store), no_counts()
        for purpose in ("critic", "critic", "forward"):
            asked = asked_of(str(run["uuid"]), purpose=purpose, **given)
            log.note(asked)
            note(counts, asked)
        assert counts["forward"] == expected
        twice = {name: 2 * value for name, value in dataclasses.asdict(expected).items()}
        assert dataclasses.asdict(counts["critic"]) == twice
        assert log.counts(str(run["uuid"])) == counts
        assert log.counts("another") == no_counts()
    finally:
        store.close()


def test_a_client_asks_for_its_session_and_its_run(
    backend: RunningBackend, connect: Callable[..., RpcClient], rpc: RpcClient
) -> None:
    model = rpc.model(model_answer)
    prompt = rpc.variable("be kind", "prompt", True)
    before = rpc.call("count_questions")
    rpc.run("ChatCompletion", model, [{"role": "user", "content": [prompt]}], {"x": ["a", "b"]})
    found = rpc.call("count_questions")
    assert before["session"] == {purpose: dataclasses.asdict(Count()) for purpose in PURPOSES}
    assert found["session"] == {**before["session"], "forward": dataclasses.asdict(Count(asked=2, unpriced=2))}
    other = connect(backend, X_Tellurio_Session="new")
    assert other.call("count_questions")["session"] == before["session"]


def test_what_failed_is_in_the_bill(rpc: RpcClient) -> None:
    def fails(messages: Any) -> str:
        raise RuntimeError("no")

    prompt = rpc.variable("be kind", "prompt", True)
    with pytest.raises(RpcError, match="no"):
        rpc.run("ChatCompletion", rpc.model(fails), [{"role": "user", "content": [prompt]}])
    assert rpc.call("count_questions")["session"]["forward"] == dataclasses.asdict(Count(1, failed=1, unpriced=1))


def test_a_run_counts_over_all_sessions(backend: RunningBackend) -> None:
    first = WatchedRun(backend)
    second = WatchedRun(backend)
    try:
        second.rpc.run_uuid = first.uuid
        for one in (first, second):
            one.rpc.run("ChatCompletion", one.rpc.model(model_answer), [{"role": "user", "content": "hello"}])
        found = second.rpc.call("count_questions")
        assert found["run"]["forward"]["asked"] == 2
        assert found["session"]["forward"]["asked"] == 2  # clients without a session of their own share one
        assert first.rpc.call("count_questions")["run"] == found["run"]
    finally:
        first.close()
        second.close()
