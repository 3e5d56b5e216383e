"""What is kept of questions to language models: what, for how long, and without which keys."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.backend.question_log import Forward, QuestionLog, Sample, asking, questions_by_step, sample_of
from tellurio_sync.backend.questions import Answer, Asked
from tellurio_sync.backend.store import Row, Store

from .conftest import RunningBackend
from .watched_run import WatchedRun


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def run_uuid(store: Store) -> str:
    project = store.create_project("local", "p", "P", "TEAM")
    assert project is not None
    run = store.create_run(project["uuid"], "r", None, "RUNNING")
    assert run is not None
    return str(run["uuid"])


def asked(run_uuid: str, text: str = "hello", **more: Any) -> Asked:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    given = Asked(
        purpose="forward",
        run_uuid=run_uuid,
        model_id="m",
        model_name="small",
        endpoint="",
        sample=None,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}],
        completion_args={},
        answer=Answer("fine", "let me think", usage=usage, cost=0.25),
        error=None,
        error_kind=None,
        tries=1,
        cost=0.25,
        started_at=time.time(),
        seconds=0.5,
    )
    return dataclasses.replace(given, **more)


def questions(store: Store) -> list[Row]:
    return store.read("SELECT * FROM questions ORDER BY number")


def texts(store: Store) -> list[str]:
    return [row["content"] for row in store.read("SELECT content FROM texts ORDER BY number")]


def test_a_question_is_kept_whole_and_each_text_once(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store)
    log.note(asked(run_uuid))
    log.note(asked(run_uuid, "goodbye", sample=1, purpose="critic"))
    first, second = questions(store)
    assert (first["answer"], first["thoughts"], first["cost"]) == ("fine", "let me think", 0.25)
    assert (first["prompt_tokens"], first["completion_tokens"], first["seconds"]) == (10, 5, 0.5)
    assert (second["purpose"], second["sample"], second["model"]) == ("critic", 1, "small")
    assert texts(store) == ["Be brief.", "hello", "goodbye"]
    rows = store.read("SELECT role, content FROM question_texts JOIN texts ON number = text WHERE question = 2")
    assert [(row["role"], row["content"]) for row in rows] == [("system", "Be brief."), ("user", "goodbye")]


def test_what_a_run_used_is_counted_by_model_and_purpose(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store)
    log.note(asked(run_uuid))
    log.note(asked(run_uuid, tries=3))
    log.note(asked(run_uuid, answer=None, error="no", error_kind="server", cost=0.0))
    log.note(
        asked(
            run_uuid, answer=Answer("again", usage={"prompt_tokens": 99}, cost=9.0, is_cached=True), tries=0, cost=None
        )
    )
    log.note(asked(run_uuid, answer=Answer("who knows"), cost=None))
    (used,) = store.read("SELECT * FROM usage")
    assert (used["questions"], used["cached"], used["errors"], used["retries"]) == (5, 1, 1, 2)
    assert (used["prompt_tokens"], used["completion_tokens"], used["cost"]) == (20, 10, 0.5)
    assert used["unpriced"] == 1


def test_questions_are_counted_by_the_step_that_they_led_to(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store)
    log.note(asked(run_uuid, tries=3))
    log.note(asked(run_uuid, purpose="optimizer", model_name="big"))
    log.end_step(run_uuid)
    log.end_step(run_uuid)
    log.note(asked(run_uuid, answer=None, error="no", error_kind="server", cost=0.0))
    log.note(asked(run_uuid, answer=None, error="no", error_kind="budget", tries=0, cost=None))
    log.note(asked(run_uuid, answer=Answer("again", usage={"prompt_tokens": 99}, is_cached=True), tries=0, cost=None))
    log.note(asked(run_uuid, answer=Answer("who knows"), cost=None))
    names = ("step", "kind", "model", "asked", "cached", "failed", "not_asked", "retries")
    more = ("prompt_tokens", "completion_tokens", "usd", "unpriced")
    assert [tuple(row[name] for name in names + more) for row in questions_by_step(store, run_uuid)] == [
        (1, "forward", "small", 1, 0, 0, 0, 2, 10, 5, 0.25, 0),
        (1, "optimizer", "big", 1, 0, 0, 0, 0, 10, 5, 0.25, 0),
        (3, "forward", "small", 2, 1, 1, 1, 0, 0, 0, 0.0, 1),
    ]


def test_of_a_run_from_before_steps_were_counted_the_sums_are_known(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store)
    log.note(asked(run_uuid))
    log.note(asked(run_uuid, answer=Answer("again", is_cached=True), tries=0, cost=None))
    store.write("DELETE FROM usage_by_step")
    (row,) = questions_by_step(store, run_uuid)
    assert (row["step"], row["kind"], row["asked"], row["cached"], row["usd"]) == (None, "forward", 1, 1, 0.25)


@pytest.mark.parametrize("run", ["", "no such run"])
def test_a_step_without_a_run_is_not_counted(store: Store, run: str) -> None:
    QuestionLog(store).end_step(run)
    assert store.read("SELECT * FROM steps") == []


@pytest.mark.parametrize("run", ["", "no such run"])
def test_nothing_is_kept_of_what_belongs_to_no_run(store: Store, run: str) -> None:
    QuestionLog(store).note(asked(run))
    assert (questions(store), texts(store), store.read("SELECT * FROM usage")) == ([], [], [])


def test_scores_go_to_the_answers_that_they_are_about(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store)
    sample = sample_of(["subject"], {"prompt": 3})
    forward = Forward(lambda index: sample)
    with asking(forward):
        log.note(asked(run_uuid, sample=1))
        log.note(asked(run_uuid, sample=0))
        log.note(asked(run_uuid, sample=1, purpose="critic"))
    log.note(asked(run_uuid, "elsewhere"))
    log.note_answers("answers", forward.numbers)
    log.note_scores("answers", [(1, "right"), (0.5, "half \ud83d")])
    log.note_scores("of another backend", [(0, "wrong")])
    rows = questions(store)
    assert [(row["score"], row["explanation"]) for row in rows] == [
        (0.5, "half ?"),
        (1.0, "right"),
        (None, None),
        (None, None),
    ]
    assert [row["sample_key"] for row in rows] == [sample.key, sample.key, None, None]
    prompts = store.read("SELECT * FROM question_prompts")
    assert [(row["question"], row["variable_id"], row["version"]) for row in prompts] == [
        (1, "prompt", 3),
        (2, "prompt", 3),
    ]


def test_a_sample_without_a_score_keeps_none(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store)
    forward = Forward(lambda index: Sample(b"", {}))
    with asking(forward):
        log.note(asked(run_uuid, sample=0))
        log.note(asked(run_uuid, sample=1))
    log.note_answers("answers", forward.numbers)
    log.note_scores("answers", [None, (1, "right")])
    assert [row["score"] for row in questions(store)] == [None, 1.0]


def test_the_switch_turns_it_off_but_for_the_counts(store: Store, run_uuid: str) -> None:
    QuestionLog(store, max_bytes=0).note(asked(run_uuid))
    assert (questions(store), texts(store)) == ([], [])
    assert store.read("SELECT questions FROM usage") == [{"questions": 1}]


def test_the_oldest_go_when_there_are_too_many(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store, max_bytes=20_000)
    for i in range(60):
        log.note(asked(run_uuid, f"{i}" * 500))
    kept = questions(store)
    assert 5 < len(kept) < 40
    assert kept[-1]["number"] == 60
    assert sum(row["size_bytes"] for row in kept) <= 20_000
    assert len(texts(store)) == len(kept) + 1, "with the questions their texts have gone; the prompt they share has not"
    assert texts(store)[0] == "Be brief."
    # Another backend on the same data, with another limit, goes on from there.
    log = QuestionLog(store, max_bytes=5_000)
    log.note(asked(run_uuid, "last"))
    assert sum(row["size_bytes"] for row in questions(store)) <= 5_000
    assert store.read("SELECT questions FROM usage") == [{"questions": 61}]


def test_the_old_go(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store, max_days=2)
    for age_days in (5, 3, 1):
        log.note(asked(run_uuid, f"{age_days} days", started_at=time.time() - age_days * 86400))
    assert texts(store) == ["Be brief.", "1 days"]


def test_with_a_run_its_questions_go(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store)
    for i in range(5):
        log.note(asked(run_uuid, str(i)))
    assert log.delete_some(run_uuid, 3)
    assert len(texts(store)) == 3
    assert not log.delete_some(run_uuid, 3)
    assert (questions(store), texts(store)) == ([], [])
    # Where the whole project is deleted at once, the next backend frees its texts.
    log.note(asked(run_uuid))
    store.delete_project("local", "p")
    QuestionLog(store)
    assert texts(store) == []


def test_no_key_stands_in_what_is_kept(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store)
    log.kept_out.add({"api_key": "sk-secret-1", "default_headers": {"X-Key": "sk-secret-2", "n": 1}})
    log.kept_out.add({"api_key": None, "default_headers": None})
    log.kept_out.add({"api_key": "none"})
    log.note(
        asked(run_uuid, "my key is sk-secret-1", answer=Answer("sk-secret-2!", "sk-secret-1?"), error="sk-secret-1")
    )
    everything = str(questions(store)) + str(texts(store))
    assert "secret" not in everything
    assert "my key is ***" in everything


def test_texts_that_the_database_cannot_take_are_kept_as_far_as_it_can(store: Store, run_uuid: str) -> None:
    log = QuestionLog(store)
    huge = Answer("\ud83d" + "x" * 1_100_000, usage={"prompt_tokens": 10**30, "completion_tokens": True})
    log.note(asked(run_uuid, "half a pair \ud83d", answer=huge, messages=[{"role": "user", "content": [1, None]}]))
    (row,) = questions(store)
    assert row["answer"].startswith("?xx")
    assert row["answer"].endswith(" more characters)")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (None, None)
    assert texts(store) == ["[1, null]"]


# --- from the wire ----------------------------------------------------------------------------------


def test_what_a_client_asks_is_kept_with_its_versions_and_scores(backend: RunningBackend, tmp_path: Path) -> None:
    run = WatchedRun(backend)
    prompt = run.parameter("Answer in capitals.", "system prompt")
    answers = {"Answer in capitals.": str.upper, "Answer as it is.": str}

    def model(messages: list[dict[str, str]]) -> str:
        found: Callable[[str], str] = answers[messages[0]["content"]]
        return found(messages[-1]["content"])

    lm = run.rpc.model(model)
    user = run.rpc.variable("{word}", "user prompt")
    chat = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [user]}]
    for text in answers:
        run.rpc.call("update_variable", variable_id=prompt["variable_id"], field="data", value=text)
        output = run.rpc.run("ChatCompletion", lm, chat, {"word": ["yes", "NO"]})
        run.rpc.run("ExactMatchEvaluator", {"__variable__": True, "variable_id": output["variable_id"]}, ["YES", "NO"])
    run.close()
    backend.stop()

    store = Store(tmp_path / "data")
    rows = store.read(
        "SELECT questions.*, version FROM questions JOIN question_prompts ON question = number ORDER BY number"
    )
    store.close()
    found = {(row["version"], row["sample"]): (row["answer"], row["score"]) for row in rows}
    assert found == {(1, 0): ("YES", 1.0), (1, 1): ("NO", 1.0), (2, 0): ("yes", 0.0), (2, 1): ("NO", 1.0)}
    keys = {(row["version"], row["sample"]): row["sample_key"] for row in rows}
    assert keys[1, 0] == keys[2, 0] != keys[1, 1] == keys[2, 1], "a sample stays the same under another prompt"
    assert "with the <DATA> field of the target variable ('YES')" in rows[0]["explanation"]
