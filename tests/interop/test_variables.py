"""Variables as afnio makes and changes them, and as the backend then shows them."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.testing import ScriptedBackend

from .conftest import Drive


@pytest.fixture(scope="module")
def seen(drive: Drive, backend: ScriptedBackend) -> Any:
    return drive("variables", namespace=backend.namespace)


NEW = {
    "data": "green",
    "role": "a colour",
    "requires_grad": True,
    "is_leaf": True,
    "output_nr": 0,
    "grad": [],
    "_retain_grad": False,
}

UPDATED = {**NEW, "data": "blue", "role": "another colour"}
FURTHER = {**UPDATED, "requires_grad": False, "is_leaf": False, "output_nr": 3, "_retain_grad": True}


def test_new(seen: Any) -> None:
    assert seen["new"] == NEW
    assert seen["a parameter"] == {**NEW, "data": "p", "role": "r"}
    assert seen["is registered"]
    assert seen["without obj_type"] == "Variable created successfully."


def test_changed(seen: Any) -> None:
    assert seen["updated"] == UPDATED
    assert seen["updated further"] == FURTHER
    assert seen["copied"] == {**NEW, "data": "blue", "role": "another colour", "requires_grad": False}
    assert seen["suppressed"] == ["kept here", "another colour"]


def test_gradients(seen: Any) -> None:
    assert seen["appended"]
    assert seen["replaced"]


def test_both_sides_have_the_same_data(seen: Any) -> None:
    assert len(seen["data"]) == 22
    for here, there in seen["data"]:
        assert here == there
        assert type(here) is type(there)


def test_messages_over_a_mebibyte_are_taken(seen: Any) -> None:
    """Protocol §A.7."""
    assert seen["big"] > 0


# Protocol §B.2.
ERRORS = {
    "unknown method": (-32601, "Method 'invalid_method' not found.", {"method": "invalid_method"}),
    "missing parameter": (-32602, "Missing key: data", {"missing_key": "data"}),
    "unknown variable": (-32603, "Internal error", {"exception": "Variable with variable_id 'nobody' not found"}),
    "bad type": (
        -32603,
        "Internal error",
        {"exception": "Unsupported object type 'x' for Variable or Parameter creation."},
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(seen: Any, case: str) -> None:
    error = seen[case]
    assert (error["code"], error["message"], error["data"]) == ERRORS[case]


def test_an_error_ends_nothing(seen: Any) -> None:
    assert seen["still serves"] == "last"
