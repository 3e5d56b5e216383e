"""No key stands in what the backend keeps: questions, versions of prompts, graphs, configurations."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.backend.kept_out import KeptOut
from tellurio_sync.backend.key_names import without_keys

from .conftest import KEY, RunningBackend
from .watched_run import Browser, WatchedRun

SECRET = "sk-live-0123456789abcdef"


@pytest.mark.parametrize(
    "config",
    [
        {"api_key": SECRET},
        {"default_headers": {"Authorization": f"Bearer {SECRET}"}},
        {"extra_headers": {"X-Key": SECRET}},
        {"default_query": {"key": SECRET}},
        {"extra_query": {"key": SECRET}},
        {"base_url": f"https://me:{SECRET}@example.com/v1"},
        {"base_url": f"https://example.com/v1?key={SECRET}"},
    ],
)
def test_wherever_a_key_is_given_it_is_found(config: dict[str, Any]) -> None:
    kept_out = KeptOut()
    kept_out.add(config)
    assert kept_out.clean(f"a {SECRET} b") == "a *** b"
    assert kept_out.clean_data([f"a{SECRET}", [SECRET], 1, None]) == ["a***", ["***"], 1, None]


@pytest.mark.parametrize(
    "config",
    [
        {"api_key": "ollama"},
        {"api_key": "EMPTY"},
        {"api_key": "not-needed"},
        {"api_key": None, "default_headers": None, "base_url": 7},
        {"default_headers": {"n": 1}},
        {"default_headers": {"X-Title": "are words", "HTTP-Referer": "words of this prompt"}},
        {"default_query": {"api-version": "not-needed at"}, "base_url": "https://example.com/?title=this%20prompt"},
        {"base_url": "http://[broken"},
    ],
)
def test_what_is_no_key_stays(config: dict[str, Any]) -> None:
    kept_out = KeptOut()
    kept_out.add(config)
    text = "ollama, EMPTY and not-needed at http://[broken are words of this prompt"
    assert kept_out.clean(text) == text


@pytest.mark.parametrize(
    ("name", "is_key"),
    [
        ("api_key", True),
        ("lm_api_key", True),
        ("lmApiKey", True),
        ("LM-API-KEY", True),
        ("password", True),
        ("hf_token", True),
        ("token", True),
        ("authorization", True),
        ("client_secret", True),
        ("max_tokens", False),
        ("eos_token", False),
        ("keyboard", False),
        ("primary_key", False),
        ("key", False),
        ("secretary", False),
    ],
)
def test_settings_that_are_keys_by_their_name(name: str, is_key: bool) -> None:
    config = {name: "some value", "nested": [{name: "some value"}], "lr": 0.1}
    instead = "***" if is_key else "some value"
    assert without_keys(config) == {name: instead, "nested": [{name: instead}], "lr": 0.1}
    assert without_keys({name: None}) == {name: None}


def test_no_key_is_in_the_database_or_on_a_page(backend: RunningBackend, tmp_path: Path) -> None:
    """Whatever a model, a user or a program writes into texts: keys are known from the models of the session."""
    data_dir = tmp_path / "data"
    run = WatchedRun(backend, config={"lm_api_key": SECRET + "-config"})
    run.rpc.call(
        "create_model",
        class_type="AsyncOpenAI",
        provider="openai",
        config={"api_key": SECRET, "base_url": f"http://127.0.0.1:1/v1?key={SECRET}-query"},
    )
    long = "x" * 390 + SECRET  # it is in the middle of the key that long texts of a graph are cut
    prompt = run.parameter(f"{long} {KEY}", f"role {SECRET}")
    output = run.rpc.run("Add", prompt, run.rpc.variable(f" {SECRET}", f"ending {SECRET}"))
    run.rpc.backward(
        {"__variable__": True, "variable_id": output["variable_id"]}, run.rpc.variable(f"say {SECRET}", "feedback")
    )
    run.step(prompt, f"better {SECRET}-query {SECRET}")
    with Browser(backend) as browser:
        for path in ("", "prompts/1/", "prompts/1/?version=1", "prompts/1/versions/1.json", "samples/", "samples/1/"):
            page = browser.look(run.path + path)
            assert page.status_code == 200, path
            assert SECRET[:9] not in page.text, path
            assert KEY not in page.text, path
        for path in ("graph/", "graph/graph.svg", "graph/graph.dot", "report.html"):
            assert SECRET[:9] not in browser.look(run.path + path).text, path
    run.close()
    backend.stop()
    for file in data_dir.iterdir():
        assert SECRET[:9].encode() not in file.read_bytes(), file.name
        assert KEY.encode() not in file.read_bytes() or file.name != "tellurio.sqlite3"
    with sqlite3.connect(data_dir / "tellurio.sqlite3") as db:
        contents = [row[0] for row in db.execute("SELECT content FROM parameters ORDER BY number")]
    db.close()
    assert "better *** ***" in contents[-1] or "better ***-query ***" in contents[-1]
