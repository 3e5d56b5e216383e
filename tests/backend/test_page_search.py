"""A search in the questions of a run: finds what a plain look at each finds, stops after a while, and goes on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.backend.history import History
from tellurio_sync.backend.page.queries import search as search_module
from tellurio_sync.backend.page.queries.samples import WantedSamples, count_of_samples, samples
from tellurio_sync.backend.page.queries.search import search
from tellurio_sync.backend.questions import Answer, Asked
from tellurio_sync.backend.store import Store

from .conftest import RunningBackend
from .test_page_story import Trained, part, plain
from .watched_run import Browser


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def new_run(store: Store) -> str:
    project = store.project("local", "p") or store.create_project("local", "p", "P", "TEAM")
    assert project is not None
    row = store.create_run(project["uuid"], None, None, "RUNNING")
    assert row is not None
    return str(row["uuid"])


def ask(history: History, run: str, message: str, answer: str | None = "yes", error: str | None = None) -> None:
    kept = None if answer is None else Answer(answer, "", usage={}, cost=None)
    history.questions.note(
        Asked(
            purpose="forward",
            run_uuid=run,
            model_id="m",
            model_name="small",
            endpoint="",
            sample=0,
            messages=[{"role": "system", "content": "Be Brief."}, {"role": "user", "content": message}],
            completion_args={},
            answer=kept,
            error=error,
            error_kind=None,
            tries=1,
            started_at=9e9,
            seconds=0.3,
            cost=None,
        )
    )


@pytest.fixture
def runs(store: Store) -> list[str]:
    return two_runs(store)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, str]]:
    """What many tests only read: a store, and the first of its runs."""
    store = Store(tmp_path_factory.mktemp("kept"))
    yield store, two_runs(store)[0]
    store.close()


def two_runs(store: Store) -> list[str]:
    """Two runs that asked by turns, from time to time about the same."""
    history, made = History(store), [new_run(store), new_run(store)]
    for i in range(60):
        answer = f"Ärger {i}" if i % 7 == 0 else "STRASSE" if i % 11 == 0 else None if i % 13 == 0 else "fine"
        ask(history, made[i % 2], f"mail {i // 4}", answer, None if answer else f"Time-out {i}")
    return made


def everything(store: Store, run: str, text: str, where: str, below: int, limit: int) -> list[int]:
    """Page by page until there is no more."""
    numbers: list[int] = []
    for _ in range(200):
        found = search(store, run, f"run_uuid = ? AND {where}", [run], text, limit=limit, below=below)
        assert len(found.numbers) <= limit
        numbers += found.numbers
        if not found.below:
            return numbers
        assert not below or found.below < below, "it goes on"
        below = found.below
    raise AssertionError("it does not end")


@pytest.mark.parametrize("at_once", [1, 3, 7, 1000])
@pytest.mark.parametrize("seconds", [0.0, 60.0])
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("mail 1", "TRUE"),
        ("MAIL 14", "TRUE"),
        ("be brief", "TRUE"),
        ("ÄRGER", "TRUE"),
        ("ärger 1", "TRUE"),
        ("straße", "TRUE"),
        ("time-out", "error IS NOT NULL"),
        ("mail", "error IS NOT NULL"),
        ("nobody said this", "TRUE"),
        ("%", "TRUE"),
    ],
)
def test_it_finds_what_a_look_at_each_finds(
    kept: tuple[Store, str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    where: str,
    seconds: float,
    at_once: int,
) -> None:
    monkeypatch.setattr(search_module, "SEARCH_SECONDS", seconds)
    monkeypatch.setattr(search_module, "QUESTIONS_AT_ONCE", at_once)
    store, run = kept
    wanted = []
    for row in store.read(f"SELECT * FROM questions WHERE run_uuid = ? AND {where} ORDER BY number DESC", run):
        messages = store.read(
            "SELECT content FROM question_texts JOIN texts ON number = text WHERE question = ?", row["number"]
        )
        parts = [row["answer"] or "", row["error"] or "", *(message["content"] for message in messages)]
        if any(text.casefold() in one.casefold() for one in parts):
            wanted.append(row["number"])
    assert everything(store, run, text, where, 0, 3) == wanted
    assert everything(store, run, text, where, 0, 500) == wanted


def test_it_stops_after_a_while(store: Store, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(search_module, "QUESTIONS_AT_ONCE", 10)
    found = search(store, runs[0], "run_uuid = ?", [runs[0]], "nobody said this", limit=50, below=0)
    assert found == ([], 41), "ten questions of this run, which are every second one of 60"


def test_no_question_is_read_that_is_not_shown(store: Store, runs: list[str]) -> None:
    """The latest ones come from an index, in order; without it all would be read, and sorted."""
    read, plans = store.read, []

    def explained(sql: str, *values: Any) -> list[dict[str, Any]]:
        plans.extend(row["detail"] for row in read(f"EXPLAIN QUERY PLAN {sql}", *values))
        return read(sql, *values)

    store.read = explained  # type: ignore[method-assign]
    assert len(samples(store, runs[0], WantedSamples(), limit=5)) == 5
    search(store, runs[0], "run_uuid = ?", [runs[0]], "mail", limit=5, below=0)
    assert count_of_samples(store, runs[0], WantedSamples(), 7) == 8, "more than 7"
    assert [plan for plan in plans if "TEMP B-TREE FOR ORDER BY" in plan] == []
    assert [
        plan for plan in plans if plan.startswith("SCAN") and "json_each" not in plan and "(subquery" not in plan
    ] == []


def test_the_page_says_how_far_it_has_looked(backend: RunningBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "SEARCH_SECONDS", 0.0)
    monkeypatch.setattr(search_module, "QUESTIONS_AT_ONCE", 4)
    with Browser(backend) as browser, contextlib.closing(Trained(backend)) as run:
        page = browser.look(f"{run.path}samples/?q=nowhere").text
        seen = [plain(part(page, "samples"))]
        while link := re.search(r'href="([^"]*)">Look further back', page):
            page = browser.look(f"{run.path}samples/{link[1].replace('&amp;', '&')}").text
            seen.append(plain(part(page, "samples")))
        found = plain(part(browser.look(f"{run.path}samples/?q=shout").text, "samples"))
    assert "Nothing found so far.0 found, looked back to question 8 Look further back" in seen[0]
    assert len(seen) == 3
    assert "No sample is like that." in seen[-1]
    assert "From the latest on0 found, looked through all earlier ones" in seen[-1]
    assert "4 found, looked back to question 8 Look further back" in found
