"""``with te.batch():`` which threads are in the block, what waits, and how the block is left."""

# ruff: noqa: PT012 - what is tested is which block an error ends

from __future__ import annotations

import contextvars
import copy
import logging
import pickle
import sys

import pytest

import tellurio_sync as te
from tellurio_sync.errors import CallTimeout, NotConnected
from tellurio_sync.model import CallableModel, Parameter, Variable, suppress_variable_notifications
from tellurio_sync.model.session_link import use_link
from tellurio_sync.model.variable_state import known_id, received, set_local
from tellurio_sync.optim import TGD
from tests.model.fake_link import CREATE, UPDATE, FakeLink, fail_for, in_thread, lose, refusal

# --- what waits -----------------------------------------------------------------------------------------------------


def use_in_a_function(link, variable):
    te.functional.add(variable, variable)


def use_in_a_backward_pass(link, variable):
    start = received(Variable, link, "start", "x", "r", True)
    set_local(start, "is_leaf", False)
    te.backward([start], [variable])


@pytest.mark.parametrize(
    "use",
    [
        lambda link, variable: variable.variable_id,
        lambda link, variable: hasattr(variable, "variable_id"),
        lambda link, variable: variable._reference(),
        use_in_a_function,
        use_in_a_backward_pass,
        lambda link, variable: TGD([variable], None),
        lambda link, variable: Parameter.append_grad(variable, variable),
        lambda link, variable: CallableModel(str),
    ],
)
def test_a_use_waits_for_all_that_is_queued(link, use):
    with te.batch():
        variable, other = Variable("a", requires_grad=True), Variable("b")
        use(link, variable)
        assert set(link.bursts[0]) == {CREATE}
        assert None not in (known_id(variable), known_id(other))
    assert sum(burst.count(CREATE) for burst in link.bursts[1:]) == 0


def test_reading_anything_else_does_not_wait(link):
    with te.batch():
        variable = Variable("a", "role")
        assert (variable.data, variable.role, variable.shape, variable.grad, variable.grad_fn) == (
            "a",
            "role",
            (),
            [],
            None,
        )
        assert "role" in repr(variable)
        pickle.dumps(variable)
        assert not hasattr(variable, "nothing")
        copy.copy(variable)
        assert link.calls() == []


def test_another_thread_waits_too(link):
    with te.batch():
        variable = Variable("a")
        assert in_thread(lambda: variable.variable_id) == "variable-1"
        assert link.bursts == [[CREATE]]
    assert link.bursts == [[CREATE]]


def test_other_threads_are_not_in_the_block(link):
    with te.batch():

        def make():
            with use_link(link):
                return known_id(Variable("b"))

        assert in_thread(make) == "variable-1"
        assert link.bursts == []


def test_a_copied_context_is_in_the_block_until_it_ends(link):
    with te.batch():
        context = contextvars.copy_context()
        context.run(Variable, "a")
        assert link.calls() == []
    assert link.bursts == [[CREATE]]
    assert known_id(context.run(Variable, "b")) == "variable-2"


def test_a_batch_may_be_nested_and_the_inner_end_waits(link):
    with te.batch():
        Variable("a")
        with te.batch():
            Variable("b")
        assert link.bursts == [[CREATE, CREATE]]
        Variable("c")
        assert len(link.bursts) == 1
    assert link.bursts == [[CREATE, CREATE], [CREATE]]


def test_a_batch_is_of_one_session(link):
    other = FakeLink()
    with te.batch():
        Variable("a")
        with use_link(other):
            assert known_id(Variable("b")) == "variable-1"
            with te.batch():
                Variable("c")
                with use_link(link):
                    Variable("d")
                assert len(other.calls()) == 1
            assert len(other.calls()) == 2
        assert link.calls() == []
    assert link.bursts == [[CREATE, CREATE]]


# --- suppression ----------------------------------------------------------------------------------------------------


def test_suppressed_variables_and_changes_are_not_queued(link):
    other = Variable("other")
    link.requests.clear()
    with te.batch():
        with suppress_variable_notifications():
            variable = Variable("a")
            other.data = "b"
        variable.role = "local"
    assert (variable.variable_id, variable.role, other.data) == (None, "local", "b")
    assert link.calls() == []


def test_a_suppressed_change_does_not_slip_into_the_making(link):
    with te.batch():
        variable = Variable("a")
        with suppress_variable_notifications():
            variable.data = "b"
    assert (variable.data, link.calls(CREATE)[0]["data"]) == ("b", "a")
    assert link.calls(UPDATE) == []


# --- how a block is left --------------------------------------------------------------------------------------------


def test_an_exception_of_the_block_goes_on_and_the_queue_is_sent(link):
    with pytest.raises(KeyError, match="mine"), te.batch():
        variable = Variable("a")
        raise KeyError("mine")
    assert link.bursts == [[CREATE]]
    assert known_id(variable) is not None


def test_an_exception_of_the_block_is_not_masked(link, caplog):
    fail_for(link, CREATE, lambda params: True, refusal)
    caplog.set_level(logging.ERROR, "tellurio_sync.session")
    with pytest.raises(KeyError, match="mine") as caught, te.batch():
        Variable("a")
        raise KeyError("mine")
    assert "no room" in caplog.text
    if sys.version_info >= (3, 11):
        assert "no room" in caught.value.__notes__[0]


def test_an_exception_that_leaves_an_inner_block_is_the_outer_ones_business(link):
    with te.batch():
        with pytest.raises(KeyError), te.batch():
            Variable("a")
            raise KeyError
        assert link.bursts == []
    assert link.bursts == [[CREATE]]


def test_after_the_block_all_is_as_before(link):
    with te.batch():
        pass
    assert known_id(Variable("a")) == "variable-1"
    assert link.bursts == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), lose(), CallTimeout(), NotConnected()])
def test_who_leaves_by_ctrl_c_or_a_loss_is_not_kept_waiting(link, error):
    old = Variable("old")
    with pytest.raises(type(error)) as caught, te.batch():
        new = Variable("new")
        old.data, new.data, new.note = "changed", "newer", "mine"
        raise error
    assert caught.value is error
    assert link.bursts == []
    assert old.data == "old"
    assert new.variable_id
    assert (new.data, link.calls(CREATE)[-1]["data"]) == ("newer", "newer")
    assert [params["value"] for params in link.calls(UPDATE)] == ["mine"]


def test_a_batch_may_be_kept_and_used_again_also_inside_itself(link):
    block = te.batch()
    for _ in range(2):
        with block:
            Variable("a")
            with block:
                Variable("b")
            Variable("c")
    assert link.bursts == [[CREATE, CREATE], [CREATE]] * 2
    assert known_id(Variable("d")) is not None


def test_a_batch_may_be_a_decorator(link):
    @te.batch()
    def make(depth):
        Variable("a")
        return make(depth - 1) if depth else None

    make(1)
    assert link.bursts == [[CREATE, CREATE]]
