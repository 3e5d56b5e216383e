"""TGD of afnio's: steps, momentum, groups, flags, the functional form."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.backend.prompts import read_blocks
from tellurio_sync.testing import ScriptedBackend

from .conftest import Drive
from .script import answer


@pytest.fixture(scope="module")
def seen(drive: Drive, backend: ScriptedBackend) -> Any:
    backend.lm.always(answer)
    return drive("optimizers", namespace=backend.namespace, base_url=backend.lm.base_url)


def test_created(seen: Any) -> None:
    # Protocol §I.1.
    placeholder = "Placeholder for Textual Gradient Descent optimizer {} prompt"
    assert seen["created"] == {
        "state is empty": True,
        "group keys": ["completion_args", "constraints", "inputs", "messages", "model_client", "momentum", "params"],
        "same parameter": True,
        "same model": True,
        "momentum": 2,
        "completion_args": {"model": "gpt-4o"},
        "messages": [placeholder.format("system"), placeholder.format("user")],
    }


# Protocol §I.3, §F.4.
STEPS = {
    "flag": True,
    "data": "A, first feedback (0)",
    "flag after reading": False,
    "untouched": "untouched",
    "new variables": 1,
    "copy": ["A", "prompt", True, "Parameter", 0, []],
    "own gradients": [True],
    "gradients stay": 1,
    "cleared": [True, 0, []],
    # Of three steps the last two.
    "buffer": [
        ["A, first feedback (0)", ["second feedback"]],
        ["A, first feedback (0), second feedback (1)", ["third feedback"]],
    ],
    "data after three": "A, first feedback (0), second feedback (1), third feedback (2)",
    "server's data": "A, first feedback (0), second feedback (1), third feedback (2)",
    "closure": [1, 2],
}


@pytest.mark.parametrize("case", STEPS)
def test_steps(seen: Any, case: str) -> None:
    assert seen["steps"][case] == STEPS[case]


def test_without_momentum_nothing_is_kept(seen: Any) -> None:
    assert seen["without momentum"] == ["A, feedback (0)", []]


def test_groups(seen: Any) -> None:
    found = dict(seen["groups"])
    assert "more than once" in found.pop("twice")["error"]["text"]
    assert found.pop("none")["error"]["type"] in ("RuntimeError", "ValueError")
    assert found == {
        "same list": True,
        "momentum": [0, 1, 0],
        "constraints": [[], [], ["Be polite."]],
        "data": ["P, f (0)", "Q, f (0)", "R, f (0)"],
    }


def test_constraints_reach_the_language_model(seen: Any, backend: ScriptedBackend) -> None:
    constraints = [
        (read_blocks(prompt[1]["content"], "DATA")[0], found)
        for prompt in backend.lm.prompts
        if (found := read_blocks(prompt[1]["content"], "CONSTRAINT"))
    ]
    assert ("A", ["Be short."]) in constraints
    assert ("R", ["Be polite."]) in constraints
    assert ("P", ["Be polite."]) not in constraints


def test_functional_form(seen: Any) -> None:
    texts = ["P", "P, feedback (0)", "P, feedback (0), feedback (1)", "P, feedback (0), feedback (1), feedback (2)"]
    assert seen["functional"] == {
        "data": [[text, "Q"] for text in texts[1:]],
        "buffers": [[[text, ["feedback"]] for text in texts[1:3]], []],
        "own gradients": True,
    }


def test_a_failed_step_changes_nothing(seen: Any) -> None:
    found = seen["failing"]
    assert "gave no usable answer in 3 tries" in found["error"]["error"]["text"]
    assert "has no language model" in found["no model"]["error"]["text"]
    assert (found["flag"], found["data"]) == (False, "A")
