from __future__ import annotations

import gc

import pytest

from tellurio_sync.errors import RemoteProtocolError, UnknownModel, UnknownVariable, UsageError
from tellurio_sync.model import CallableModel, Parameter, Variable, suppress_variable_notifications
from tellurio_sync.model.call import Call
from tellurio_sync.model.wire import decode_outputs, deserialise, link_of, serialise
from tests.model.fake_link import FakeLink


def answer(messages):
    return "text"


def test_variables_and_models_become_references(link):
    variable, parameter, model = Variable("a"), Parameter("b"), CallableModel(answer)
    keep: list = []
    value = [variable, (parameter, {"model": model, 1: None}), "text", 1, 2.5, True]
    assert serialise(value, link.registries, keep) == [
        {"__variable__": True, "variable_id": variable.variable_id},
        (
            {"__parameter__": True, "variable_id": parameter.variable_id},
            {"model": {"__model_client__": True, "model_id": model.model_id}, 1: None},
        ),
        "text",
        1,
        2.5,
        True,
    ]
    assert keep == [variable, parameter, model]


@pytest.mark.parametrize("function", [len, str, answer, lambda: 1, [].append])
def test_callables_become_ids_that_last_as_long_as_they_are_kept(link, function):
    keep: list = []
    first = serialise(function, link.registries, keep)
    assert first == serialise(function, link.registries, keep)
    assert first["__callable__"] is True
    assert link.registries.callables.lookup(first["callable_id"]).function == function
    keep.clear()
    assert link.registries.callables.lookup(first["callable_id"]) is None


@pytest.mark.parametrize("value", [object(), {1}, b"a", [[b"a"]]])
def test_what_has_no_form_is_refused(link, value):
    with pytest.raises(TypeError, match=r"^Cannot serialize object of type (object|set|bytes): "):
        serialise(value, link.registries, [])


def test_a_variable_without_an_id_is_refused(link):
    with suppress_variable_notifications():
        variable = Variable("a")
    with pytest.raises(UsageError, match="the server does not know it"):
        serialise([variable], link.registries, [])


def test_references_become_the_registered_objects(link):
    variable, parameter, model = Variable("a"), Parameter("b"), CallableModel(answer)
    wire = serialise({"x": [variable, parameter], "y": model, "z": (1, None)}, link.registries, [])
    assert deserialise(wire, link.registries) == {"x": [variable, parameter], "y": model, "z": (1, None)}


@pytest.mark.parametrize(
    ("wire", "error", "text"),
    [
        ({"__variable__": True, "variable_id": "x"}, UnknownVariable, "Variable with variable_id 'x' not found"),
        ({"__parameter__": 1, "variable_id": "x"}, UnknownVariable, "Parameter with variable_id 'x' not found"),
        ({"__model_client__": True, "model_id": "x"}, UnknownModel, "Model with model_id 'x' not found"),
        ([{"__variable__": True}], UnknownVariable, "Variable with variable_id None not found"),
        ({1}, TypeError, "Cannot deserialize object of type <class 'set'>"),
    ],
)
def test_unknown_references_are_errors(link, wire, error, text):
    with pytest.raises(error, match=text) as caught:
        deserialise(wire, link.registries)
    assert isinstance(caught.value, (ValueError, TypeError))


def test_the_session_of_the_arguments_wins_over_the_current_one(link):
    variable = Variable("a")
    other = FakeLink()
    from tellurio_sync.model.session_link import use_link

    with use_link(other):
        assert link_of(({"x": [1, variable]},)) is link
        assert link_of((1, "a")) is other


# --- outputs ------------------------------------------------------------------------------------


def test_one_output_is_a_variable_and_several_are_a_tuple(link):
    single = decode_outputs(link.output("a", role="r", _retain_grad=True, _output_nr=2), link, ())
    assert (single.data, single.role, single._retain_grad, single.output_nr) == ("a", "r", True, 2)
    assert link.registries.variables.lookup(single.variable_id) is single
    pair = decode_outputs([link.output("a"), link.output([1, 2.0])], link, ())
    assert [output.data for output in pair] == ["a", [1.0, 2.0]]
    assert isinstance(pair, tuple)


def test_an_output_is_always_a_new_object(link):
    variable = Variable("a")
    output = decode_outputs(link.output("b", variable_id=variable.variable_id), link, ())
    assert output is not variable
    assert link.registries.variables.lookup(variable.variable_id) is output


@pytest.mark.parametrize("wire", [3, "a", [3], {"data": "a"}, {"variable_id": "v"}])
def test_other_outputs_are_refused(link, wire):
    text = "Deserialization only supports Variable or Tuple\\[Variable\\], but got: <class '(int|str|dict)'>"
    with pytest.raises(TypeError, match=text):
        decode_outputs(wire, link, ())


@pytest.mark.parametrize("key", ["role", "requires_grad", "_retain_grad", "_grad", "_output_nr", "_grad_fn", "is_leaf"])
def test_an_output_must_be_complete(link, key):
    wire = link.output()
    del wire[key]
    with pytest.raises(RemoteProtocolError, match=key):
        decode_outputs(wire, link, ())


@pytest.mark.parametrize("fields", [{"_grad_fn": "n"}, {"variable_id": 3}, {"_grad_fn": 3, "requires_grad": True}])
def test_an_output_that_contradicts_itself_is_refused(link, fields):
    with pytest.raises(RemoteProtocolError):
        decode_outputs(link.output(**fields), link, ())


def test_a_computed_output_keeps_its_arguments_and_others_do_not(link):
    keep: list = []
    serialise([Variable("a"), len], link.registries, keep)
    link.push("create_node", node_id="node", name="AddBackward0")
    computed = decode_outputs(link.computed(), link, tuple(keep))
    plain = decode_outputs(link.output(), link, tuple(keep))
    keep.clear()
    assert len(link.registries.callables) == 1
    assert plain._arguments == ()
    del computed
    gc.collect()
    assert len(link.registries.callables) == 0


def test_the_accumulator_of_a_leaf_lives_as_long_as_the_leaf(link):
    """The server announces it once, and names it again for every later function on this leaf."""
    leaf, sample = Variable("a", requires_grad=True), Variable("b")

    def use(number, leaf):
        with Call(link):
            link.push("create_node", node_id=f"op{number}", name="AddBackward0")
            if number == 0:
                link.push("create_node", node_id="leaf", name="AccumulateGrad")
            link.push("create_edge", from_node_id=f"op{number}", to_node_id="leaf", output_nr=0)
            link.push("create_edge", from_node_id=f"op{number}", to_node_id=None, output_nr=0)
            return decode_outputs(link.computed(node_id=f"op{number}"), link, (leaf, sample))

    for number in range(3):
        output = use(number, leaf)
        assert output.grad_fn.next_functions[0].node is link.registries.nodes.lookup("leaf")
        del output
        gc.collect()
        assert set(link.registries.nodes.snapshot()) == {"leaf"}
    assert sample._accumulators == ()
    del leaf
    assert len(link.registries.nodes) == 0
