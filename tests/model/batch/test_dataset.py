"""``te.variables()``: a data set, made in one round trip."""

from __future__ import annotations

import pytest

import tellurio_sync as te
from tellurio_sync.model import Variable, suppress_variable_notifications
from tests.model.fake_link import CREATE

# --- variables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        ((["a", "b"],), [("a", "", False), ("b", "", False)]),
        ((iter([["a", None], 2]), "role", True), [(["a", None], "role", True), (2, "role", True)]),
        ((["a", "b"], ["r", None]), [("a", "r", False), ("b", None, False)]),
        ((["a"], None), [("a", None, False)]),
    ],
)
def test_variables_are_made_in_order_and_in_one_round_trip(link, arguments, sent):
    made = te.variables(*arguments)
    assert link.bursts == [[CREATE] * len(sent)]
    assert [(variable.data, variable.role, variable.requires_grad) for variable in made] == sent
    params = [(each["data"], each["role"], each["requires_grad"]) for each in link.calls(CREATE)]
    assert params == sent
    assert [variable.variable_id for variable in made] == [f"variable-{n + 1}" for n in range(len(sent))]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((["a", {"b": 1}],), TypeError, "item 1"),
        ((["a", float("inf")],), ValueError, "item 1"),
        ((["a", "b"], ["r"]), ValueError, "2 items"),
        ((["a"], "r", "yes"), TypeError, "requires_grad"),
        ((["a"], 5), TypeError, "role must be a text or None.*not a int"),
        (("abc",), TypeError, "must be a list.*not a str"),
        ((b"abc",), TypeError, "must be a list.*not a bytes"),
        (({"a": 1},), TypeError, "must be a list.*not a dict"),
    ],
)
def test_nothing_is_sent_if_an_argument_is_wrong(link, arguments, error, text):
    with pytest.raises(error, match=text):
        te.variables(*arguments)
    assert link.calls() == []


def test_variables_join_an_open_batch(link):
    with te.batch():
        Variable("a")
        te.variables(["b", "c"])
        assert link.calls() == []
    assert link.bursts == [[CREATE] * 3]


def test_variables_under_suppression_are_local():
    with suppress_variable_notifications():
        (variable,) = te.variables(["a"])
    assert variable.variable_id is None
