"""Going back: which gradients afnio gets, where, in which order, and when it is told that they are there."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.testing import ScriptedBackend

from .conftest import Drive


@pytest.fixture(scope="module")
def seen(drive: Drive, backend: ScriptedBackend) -> Any:
    return drive("backward", namespace=backend.namespace)


def combined(role: str, feedback: str) -> str:
    # Protocol §G.3.
    return f"Here is the combined feedback we got for this specific {role} and other variables: {feedback}"


def test_a_leaf_gets_one_gradient_per_path(seen: Any) -> None:
    found = dict(seen["paths"])
    feedback = "MY_FEEDBACK"
    for inputs in range(3, -1, -1):
        feedback = combined("a" + " and other" * inputs, feedback)
    assert found.pop("data") == [combined("a", "MY_FEEDBACK"), feedback]
    assert found == {
        "flags": {"a": [True, False]},
        "count": 2,
        "roles": ["feedback to a"] * 2,
        "needs grad": [False, False],
        "same list": True,
        "input without need": [0, []],
        "server has them": True,
        "intermediate": [],
    }


def test_retained_gradients(seen: Any) -> None:
    found = seen["retained"]
    assert found["ids"] == ["a", "b"]
    assert found["retained"] == [combined("a and other", "F")]
    assert found["leaf"] == [combined("a", combined("a and other", "F"))]
    assert found["c"]["error"]["type"] == "RuntimeError"


def test_the_graph_is_freed_unless_retained(seen: Any) -> None:
    found = seen["twice"]
    assert found["accumulated"] == 2
    assert "A second backward pass" in found["freed"]["error"]["text"]
    assert found["flag after the error"] is False


def test_inputs_restrict_where_gradients_arrive(seen: Any) -> None:
    """And the flags of all others fall too: reading them does not time out."""
    found = seen["inputs"]
    assert (found["a"], found["b"], found["waited"]) == (1, 0, False)
    assert "must be leaves" in found["not a leaf"]["error"]["text"]
    assert "must not be empty" in found["empty"]["error"]["text"]


def test_several_roots(seen: Any) -> None:
    assert seen["several"] == {
        "a": [combined("a", "X"), combined("a", "Y"), combined("a", "Y")],
        "b": [combined("b", "X")],
    }


def test_split(seen: Any) -> None:
    found = seen["splits"]
    assert found["first"] == [combined("sentence", "<ITEM>MY_FIRST_FEEDBACK</ITEM><ITEM></ITEM>")]
    assert found["role"] == "feedback to sentence"
    items = [f"<ITEM>{combined(f'split part {i} of sentence', 'F')}</ITEM>" for i in range(2)]
    assert found["both"] == [combined("sentence", "".join(items))]


def test_list_valued_outputs_need_a_gradient(seen: Any) -> None:
    assert "can be left out for scalar outputs only" in seen["lists"]["left out"]["error"]["text"]
    assert seen["lists"]["given"] == [[combined("x", "F"), combined("x", "G")]]


def test_create_graph(seen: Any) -> None:
    assert seen["create graph"] == {"needs grad": True, "again": {"value": None}}


def test_roots(seen: Any) -> None:
    text = "Variable does not require grad or does not have a grad_fn."
    assert seen["of a leaf"]["error"] == {"type": "RuntimeError", "text": text}
    assert seen["scalar without gradient"] == {"value": None}
