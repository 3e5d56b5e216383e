"""What a server tells with a gradient is given back to it when it makes that gradient again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.client import server_methods
from tellurio_sync.model.registries import Registries
from tellurio_sync.model.restorable import creation
from tellurio_sync.model.variable_state import set_local

RECORDS = {"words": "bad", "besides": "", "records": []}


def pushed_gradient(**more: Any) -> te.Variable:
    owner: Any = SimpleNamespace(registries=Registries())
    described = {"variable_id": "leaf", "data": "d", "role": "r", "requires_grad": True}
    server_methods.create_variable(
        owner,
        {
            **described,
            "obj_type": "__parameter__",
            "_grad": [],
            "_output_nr": 0,
            "_grad_fn": None,
            "_retain_grad": False,
            "is_leaf": True,
        },
    )
    leaf = owner.registries.variables.lookup("leaf")
    gradient = {"data": "bad", "role": "feedback", "requires_grad": False, **more}
    server_methods.append_grad(owner, {"variable_id": "leaf", "gradient_id": "gradient", "gradient": gradient})
    made: te.Variable = leaf.grad[0]
    return made


def test_it_is_given_back_with_the_same_data() -> None:
    gradient = pushed_gradient(records=RECORDS)
    assert creation(gradient)["records"] == RECORDS
    set_local(gradient, "_data", "other")
    assert "records" not in creation(gradient)


@pytest.mark.parametrize("more", [{}, {"records": None}])
def test_where_nothing_was_told_nothing_is_given_back(more: dict[str, Any]) -> None:
    assert "records" not in creation(pushed_gradient(**more))
