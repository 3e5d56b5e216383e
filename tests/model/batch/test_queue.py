"""What a batch queues, and how it leaves: in one round trip, in order, in bounded numbers."""

from __future__ import annotations

import contextvars
import gc
import weakref
from contextlib import nullcontext

import pytest

import tellurio_sync as te
from tellurio_sync.errors import BatchFailed, ConnectionLost, LocalProtocolError
from tellurio_sync.model import Parameter, Variable, suppress_variable_notifications
from tellurio_sync.model.batch import queue
from tellurio_sync.model.session_link import use_link
from tellurio_sync.model.variable_state import known_id
from tellurio_sync.optim import TGD
from tests.model.fake_link import CREATE, UPDATE, fail_for, in_thread, lose, refusal, tag

# --- what leaves, and when ------------------------------------------------------------------------------------------


def test_many_variables_are_one_round_trip(link):
    with te.batch():
        made = [Variable(f"text {n}", "role", n == 1) for n in range(3)]
        made.append(Parameter("prompt", "system prompt"))
        assert link.calls() == []
        assert [variable.data for variable in made] == ["text 0", "text 1", "text 2", "prompt"]
    assert link.bursts == [[CREATE] * 4]
    assert [variable.variable_id for variable in made] == [f"variable-{n}" for n in range(1, 5)]
    assert [params["obj_type"] for params in link.calls(CREATE)] == ["__variable__"] * 3 + ["__parameter__"]
    assert all(link.registries.variables.lookup(variable.variable_id) is variable for variable in made)


def test_changes_leave_together_and_in_order(link):
    one, other = Variable("a"), Variable("b")
    with te.batch():
        one.data = "c"
        other.role = "new"
        one.data = "d"
        one.note = "mine"
        other.output_nr = 2
        assert (one.data, other.role, one.note, other.output_nr) == ("d", "new", "mine", 2)
    assert link.bursts == [[UPDATE] * 5]
    assert [(params["variable_id"], params["field"], params["value"]) for params in link.calls(UPDATE)] == [
        (one.variable_id, "data", "c"),
        (other.variable_id, "role", "new"),
        (one.variable_id, "data", "d"),
        (one.variable_id, "note", "mine"),
        (other.variable_id, "_output_nr", 2),
    ]


def test_new_variables_and_changes_of_others_share_the_round_trip(link):
    variable = Variable("a")
    with te.batch():
        Variable("b")
        variable.data = "c"
    assert link.bursts == [[CREATE, UPDATE]]


def test_a_change_of_a_new_variable_is_made_with_it(link):
    with te.batch():
        variable = Variable("a", "role")
        variable.data = "b"
        variable.role = "other"
        variable.requires_grad = True
    assert link.bursts == [[CREATE]]
    (sent,) = link.calls(CREATE)
    assert sent == {"data": "b", "role": "other", "requires_grad": True, "obj_type": "__variable__"}


def test_a_change_that_needs_the_id_takes_a_second_round_trip(link):
    other = Variable("other")
    with te.batch():
        variable = Variable("a")
        other.data = "x"
        variable.note = "mine"
        other.data = "y"
    assert link.bursts == [[CREATE, UPDATE], [UPDATE, UPDATE]]
    assert [(params["variable_id"], params["value"]) for params in link.calls(UPDATE)] == [
        (other.variable_id, "x"),
        (variable.variable_id, "mine"),
        (other.variable_id, "y"),
    ]


def test_gradients_may_be_new(link):
    variable = Variable("a")
    with te.batch():
        gradients = [Variable("g"), Variable("h")]
        variable.grad = gradients
        assert variable.grad == gradients
    assert link.bursts == [[CREATE, CREATE], [UPDATE]]
    assert link.calls(UPDATE)[0]["value"] == [tag(gradient) for gradient in gradients]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda v, src: v.requires_grad_(), ["requires_grad", "is_leaf"]),
        (lambda v, src: v.copy_(src), ["data", "role", "requires_grad"]),
    ],
)
@pytest.mark.parametrize("in_batch", [True, False])
def test_what_changes_several_attributes_is_one_round_trip(link, change, fields, in_batch):
    variable, source = Variable("a"), Variable("b", "source", True)
    if in_batch:
        with te.batch():
            change(variable, source)
            assert link.bursts == []
    else:
        change(variable, source)
    assert link.bursts == [[UPDATE] * len(fields)]
    assert [params["field"] for params in link.calls(UPDATE)] == fields


def test_what_was_sent_is_not_kept(link):
    with te.batch():
        variable = Variable("a")
        variable.data = "b"
        variable.note = "mine"
        gone = weakref.ref(variable)
        assert variable.variable_id
        del variable
        gc.collect()
        assert gone() is None


def test_an_empty_batch_sends_nothing(link):
    with te.batch():
        pass
    assert te.variables([]) == []
    assert link.calls() == []


def test_a_bad_argument_is_refused_at_once(link):
    variable = Variable("a")
    with te.batch():
        for bad in (lambda: Variable(("a",)), lambda: setattr(variable, "data", {})):
            with pytest.raises(TypeError):
                bad()
    assert link.bursts == []


# --- a full queue ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2])
def test_a_full_queue_is_sent_on_the_way(link, monkeypatch, number):
    monkeypatch.setattr(queue, "_MOST_ITEMS", 10)
    with te.batch():
        for n in range(10 * number):
            Variable(str(n))
        assert [len(burst) for burst in link.bursts] == [10] * (number - 1)
        Variable("one more")
        assert [len(burst) for burst in link.bursts] == [10] * number
    assert [len(burst) for burst in link.bursts] == [*[10] * number, 1]


def test_a_value_that_contains_itself_is_refused_as_ever(link):
    variable, circle = Variable("a"), []
    circle.append(circle)
    with pytest.raises(BatchFailed, match="note of"), te.batch():
        variable.note = circle
    assert not hasattr(variable, "note")


def test_the_characters_of_other_values_count_too(link, monkeypatch):
    monkeypatch.setattr(queue, "_MOST_CHARS", 1000)
    variable = Variable("a")
    with te.batch():
        for _ in range(2):
            variable.note = {"a": ["x" * 600]}
        assert link.bursts == []
        variable.note = None
        assert link.bursts == [[UPDATE, UPDATE]]


@pytest.mark.parametrize("data", ["x" * 600, [["x" * 300], ["y" * 300]]])
def test_a_queue_is_full_by_its_characters_too(link, monkeypatch, data):
    monkeypatch.setattr(queue, "_MOST_CHARS", 1000)
    with te.batch():
        Variable(data)
        Variable(data)
        assert link.bursts == []
        Variable("")
        assert link.bursts == [[CREATE, CREATE]]


def test_the_queue_of_changes_is_bounded_too(link, monkeypatch):
    monkeypatch.setattr(queue, "_MOST_ITEMS", 10)
    variable = Variable("a")
    with te.batch():
        for n in range(25):
            variable.data = n
    assert [len(burst) for burst in link.bursts] == [10, 10, 5]
    assert [params["value"] for params in link.calls(UPDATE)] == list(range(25))


# --- what else is one round trip ------------------------------------------------------------------------------------


def test_an_optimizer_makes_its_prompts_together(link):
    TGD([Parameter("a")], None)
    assert link.bursts == [[CREATE, CREATE]]


def test_a_checkpoint_is_loaded_in_one_round_trip(link):
    parameter = Parameter("a")
    optimizer = TGD([parameter], None)
    link.bursts.clear()
    with suppress_variable_notifications():
        state = {0: {"momentum_buffer": [(Parameter("old"), [Variable("g"), Variable("h")])]}}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    assert link.bursts == [[CREATE] * 3]
    ((copied, gradients),) = optimizer.state[parameter]["momentum_buffer"]
    assert all(variable.variable_id for variable in (copied, *gradients))


def test_gradients_of_an_optimizer_that_is_here_are_cleared_in_one_round_trip(link):
    parameters = [Parameter("a"), Parameter("b")]
    optimizer = TGD(parameters, None)
    optimizer.load_state_dict(optimizer.state_dict())
    link.bursts.clear()
    for parameter in parameters:
        parameter.append_grad(Variable("g"))
    optimizer.clear_grad()
    assert link.bursts == [[UPDATE, UPDATE]]
    assert [parameter.grad for parameter in parameters] == [[], []]


# --- what is very large --------------------------------------------------------------------------------------


@pytest.fixture
def few_chars(monkeypatch):
    monkeypatch.setattr(queue, "_MOST_CHARS", 1000)


@pytest.mark.parametrize("data", ["x" * 1000, [["x" * 500, "y" * 500]]])
def test_a_very_large_variable_takes_no_others_along(link, few_chars, data):
    fail_for(link, CREATE, lambda params: params["data"] == data, lose)
    with te.batch():
        before = Variable("before")
        with pytest.raises(ConnectionLost):
            Variable(data)
        assert known_id(before) is not None
        after = Variable("after")
    assert after.variable_id
    assert link.bursts == [[CREATE], [CREATE]]


def test_a_very_large_change_takes_no_others_along(link, few_chars):
    old = Variable("old")
    with te.batch():
        new = Variable("new")
        old.role = "first"
        new.data = "x" * 1000
        assert [params["value"] for params in link.calls(UPDATE)] == ["first", "x" * 1000]
        assert new.data == "x" * 1000
    assert link.bursts == [[CREATE, UPDATE]]


def test_a_value_that_contains_itself_many_times_is_refused_as_ever(link):
    variable, circle = Variable("a"), []
    circle.extend([circle] * 6)
    with pytest.raises(LocalProtocolError), te.batch():
        variable.note = circle
    assert not hasattr(variable, "note")


# --- both sides end equal ----------------------------------------------------------------------------------------


def set_by_another_thread(link, variable):
    def change():
        with use_link(link):
            variable.data = "theirs"

    in_thread(change)


def pushed_by_the_server(link, variable):
    link.push(UPDATE, variable_id=variable.variable_id, field="data", value="theirs")


def set_under_suppression(link, variable):
    with suppress_variable_notifications():
        variable.data = "theirs"


@pytest.mark.parametrize("change", [set_by_another_thread, pushed_by_the_server, set_under_suppression])
@pytest.mark.parametrize("is_refused", [False, True])
def test_a_queued_change_wins_once_the_server_has_it(link, change, is_refused):
    variable = Variable("old")
    fail_for(link, UPDATE, lambda params: is_refused and params["value"] == "mine", refusal)
    with pytest.raises(BatchFailed) if is_refused else nullcontext(), te.batch():
        variable.data = "mine"
        change(link, variable)
        assert variable.data == "theirs"
    assert variable.data == ("theirs" if is_refused else "mine")
    assert link.calls(UPDATE)[-1]["value"] == "mine"


def test_what_is_set_while_a_change_is_sent_stays(link):
    variable, seen = Variable("old"), []
    with te.batch():
        context = contextvars.copy_context()

        def answer(params):
            if not seen:
                context.run(setattr, variable, "data", "later")
            seen.append(variable.data)
            return params

        link.answers[UPDATE] = answer
        variable.data = "sent"
        assert Variable("other").variable_id
        assert variable.data == "later"
    assert [params["value"] for params in link.calls(UPDATE)] == ["sent", "later"]
    assert seen == ["later", "later"]


def test_appending_to_a_queued_gradient_list_is_local_as_outside_of_a_batch(link):
    variable, gradient, other = Variable("v"), Variable("w"), Variable("x")
    for block in (nullcontext(), te.batch()):
        with block:
            variable.grad = [gradient]
            variable.grad.append(other)
        assert variable.grad == [gradient, other]
        assert link.calls(UPDATE)[-1]["value"] == [tag(gradient)]
