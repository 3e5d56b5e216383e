from __future__ import annotations

import pytest

from tellurio_sync.client import server_methods
from tellurio_sync.errors import TellurioError
from tellurio_sync.jsonrpc import MissingParam, RpcError
from tellurio_sync.model import CallableModel, Parameter, Variable
from tellurio_sync.model.suppression import is_suppressed
from tellurio_sync.model.variable_state import set_local
from tests.model.fake_link import link, tag

__all__ = ["link"]

OK = {"message": "Ok"}
COPY = {
    "variable_id": "copy",
    "obj_type": "__parameter__",
    "data": [1, 2.0],
    "role": "r",
    "requires_grad": True,
    "_retain_grad": True,
    "_grad": [],
    "_output_nr": 2,
    "_grad_fn": None,
    "is_leaf": True,
}
COMPLETE = {
    "create_variable": COPY,
    "update_variable": {"variable_id": "v", "field": "role", "value": "r"},
    "append_grad": {"variable_id": "v", "gradient_id": "g", "gradient": {}},
    "create_node": {"node_id": "n", "name": "AddBackward0"},
    "create_edge": {"from_node_id": "n", "to_node_id": None, "output_nr": 0},
    "update_model": {"model_id": "m", "field": "_usage", "value": {}},
    "run_callable": {"callable_id": "c"},
    "clear_backward": {"variable_ids": []},
    "clear_step": {"variable_ids": []},
}


@pytest.mark.parametrize(("method", "key"), [(method, key) for method, params in COMPLETE.items() for key in params])
def test_a_missing_parameter_is_named(link, method, key):
    params = {name: value for name, value in COMPLETE[method].items() if name != key}
    with pytest.raises(MissingParam) as caught:
        link.push(method, **params)
    assert (caught.value.code, caught.value.data) == (-32602, {"missing_key": key})


# --- create_variable ----------------------------------------------------------------------------


@pytest.mark.parametrize(("obj_type", "cls"), [("__variable__", Variable), ("__parameter__", Parameter)])
def test_create_variable_registers_a_complete_variable(link, obj_type, cls):
    gradient = Variable("g")
    assert link.push("create_variable", **{**COPY, "obj_type": obj_type, "_grad": [tag(gradient)]}) == OK
    variable = link.registries.variables.lookup("copy")
    assert type(variable) is cls
    assert (variable.variable_id, variable.data, variable.role) == ("copy", [1.0, 2.0], "r")
    assert (variable.requires_grad, variable.is_leaf, variable._retain_grad) == (True, True, True)
    assert (variable.grad, variable.output_nr, variable.grad_fn) == ([gradient], 2, None)
    assert link.calls("create_variable")[1:] == []


def test_a_created_variable_belongs_to_the_session(link):
    link.push("create_variable", **COPY)
    variable = link.registries.variables.lookup("copy")
    variable.role = "new"
    assert link.calls("update_variable") == [{"variable_id": "copy", "field": "role", "value": "new"}]


@pytest.mark.parametrize(("node_id", "bound"), [("n", True), ("unknown", False)])
def test_create_variable_binds_a_node_that_is_known(link, node_id, bound):
    link.push("create_node", node_id="n", name="AddBackward0")
    link.push("create_variable", **{**COPY, "_grad_fn": node_id, "is_leaf": False})
    assert (link.registries.variables.lookup("copy").grad_fn is not None) is bound


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"obj_type": "t"}, ValueError, "Unsupported object type 't' for Variable or Parameter creation."),
        ({"obj_type": ["t"]}, ValueError, "Unsupported object type"),
        ({"data": {"a": 1}}, TypeError, "data must be"),
        ({"_output_nr": -1}, TypeError, "output_nr"),
        ({"variable_id": ""}, TypeError, "variable_id"),
        ({"requires_grad": 1}, TypeError, "requires_grad"),
        ({"_grad": {}}, TypeError, "_grad must be an array"),
        ({"_grad": [{"__variable__": True, "variable_id": "x"}]}, ValueError, "'x' not found"),
    ],
)
def test_create_variable_refuses(link, fields, error, text):
    with pytest.raises(error, match=text):
        link.push("create_variable", **{**COPY, **fields})
    assert "copy" not in link.registries.variables


# --- update_variable ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "attribute", "expected"),
    [
        ("data", [1, 2.0], "data", [1.0, 2.0]),
        ("role", "new", "role", "new"),
        ("is_leaf", True, "is_leaf", True),
        ("requires_grad", True, "requires_grad", True),
        ("_retain_grad", True, "_retain_grad", True),
        ("_output_nr", 4, "output_nr", 4),
        ("output_nr", 5, "output_nr", 5),
        ("_grad_fn", None, "grad_fn", None),
        ("foo", {"a": [1]}, "foo", {"a": [1]}),
        ("_grad", None, "grad", []),
        ("_grad", [], "grad", []),
    ],
)
def test_update_variable_sets_the_field_without_telling_the_server(link, field, value, attribute, expected):
    variable = Variable("a")
    assert link.push("update_variable", variable_id=variable.variable_id, field=field, value=value) == OK
    assert getattr(variable, attribute) == expected
    assert link.calls("update_variable") == []


def test_update_variable_replaces_the_gradients(link):
    variable, known = Variable("a"), Variable("known")
    variable.append_grad(Variable("old"))
    value = [
        {"data": "1", "role": "r", "requires_grad": True},
        {"data": "2", "variable_id": "two"},
        tag(known),
    ]
    link.push("update_variable", variable_id=variable.variable_id, field="_grad", value=value)
    assert [(g.data, g.role, g.requires_grad) for g in variable.grad[:1]] == [("1", "r", True)]
    assert [g.variable_id for g in variable.grad] == [None, "two", known.variable_id]
    assert link.registries.variables.lookup("two") is variable.grad[1]
    assert variable.grad[2] is known


def test_update_variable_binds_a_node_and_leaves_is_leaf(link):
    variable = Variable("a")
    link.push("create_node", node_id="n", name="AddBackward0")
    link.push("update_variable", variable_id=variable.variable_id, field="_grad_fn", value="n")
    assert (variable.grad_fn.name(), variable.is_leaf) == ("AddBackward0", True)


def test_update_variable_with_an_unknown_node(link):
    variable = Variable("a")
    with pytest.raises(ValueError) as caught:
        link.push("update_variable", variable_id=variable.variable_id, field="_grad_fn", value="not-in-registry")
    assert str(caught.value) == (
        "Node with id 'not-in-registry' not found in registry "
        f"when updating _grad_fn for variable '{variable.variable_id}'."
    )


@pytest.mark.parametrize("field", ["data", "role"])
def test_update_of_an_unknown_variable(link, field):
    with pytest.raises(TellurioError) as caught:
        link.push("update_variable", variable_id="not-in-registry", field=field, value="x")
    assert str(caught.value) == f"'NoneType' object has no attribute '{field}'"


@pytest.mark.parametrize(
    "field",
    [
        "__class__", "__dict__", "__init__", "_data", "_link", "_arguments", "_pending_data", "_anything",
        "variable_id", "grad", "grad_fn", "shape", "backward", "copy_", "to", "a b", "", 3, None,
        "__slots__", "__setattr__", "__getattribute__", "__reduce__", "__doc__", "_TAG", "_lost", "_tell", "_reference",
        "_renewed", "_accumulators", "_pending_grad", "_pending_grad_fn_id", "append_grad", "is_leaf ",
    ],
)  # fmt: skip
def test_fields_that_the_server_may_not_set_of_a_variable(link, field):
    variable = Variable("a")
    before = (type(variable), variable.variable_id, variable.data, variable._link, variable.__dict__.copy())
    with pytest.raises(AttributeError, match="The server cannot set"):
        link.push("update_variable", variable_id=variable.variable_id, field=field, value="x")
    assert before == (type(variable), variable.variable_id, variable.data, variable._link, variable.__dict__)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data", {"a": 1}),
        ("is_leaf", "yes"),
        ("requires_grad", 1),
        ("output_nr", -1),
        ("_grad", {}),
        ("_grad", ["text"]),
        ("_grad", [{"data": (), "extra": 1}]),
    ],
)
def test_values_that_a_field_cannot_have(link, field, value):
    variable = Variable("a")
    with pytest.raises(TypeError):
        link.push("update_variable", variable_id=variable.variable_id, field=field, value=value)


# --- append_grad and the clearing methods -------------------------------------------------------


def test_append_grad_appends_to_the_live_list(link):
    variable = Variable("a", requires_grad=True)
    live = variable.grad
    gradient = {"data": "better", "role": "feedback", "requires_grad": False}
    assert link.push("append_grad", variable_id=variable.variable_id, gradient_id="g", gradient=gradient) == OK
    assert [(g.variable_id, g.data, g.role, g.requires_grad) for g in live] == [("g", "better", "feedback", False)]
    assert link.registries.variables.lookup("g") is live[0]


def test_append_grad_fails(link):
    variable = Variable("a", requires_grad=True)
    with pytest.raises(TellurioError) as unknown:
        link.push("append_grad", variable_id="x", gradient_id="g", gradient={})
    assert str(unknown.value) == "'NoneType' object has no attribute 'append_grad'"
    with pytest.raises(TypeError, match="unexpected keyword argument 'extra'"):
        link.push("append_grad", variable_id=variable.variable_id, gradient_id="g", gradient={"extra": 1})
    set_local(variable, "is_leaf", False)
    with pytest.raises(RuntimeError, match=f"Failed to append gradient for variable with ID '{variable.variable_id}'"):
        link.push("append_grad", variable_id=variable.variable_id, gradient_id="g", gradient={})


@pytest.mark.parametrize(("method", "flag"), [("clear_backward", "_pending_grad"), ("clear_step", "_pending_data")])
def test_clearing_clears_the_known_and_reports_all_unknown(link, method, flag):
    """Protocol §D."""
    one, other = Variable("a"), Variable("b")
    link.registries.mark_pending([one, other], flag)
    with pytest.raises(ValueError) as caught:
        link.push(method, variable_ids=["x", one.variable_id, "y", other.variable_id])
    assert "Variable with id 'x', 'y' not found in registry." in str(caught.value)
    assert (getattr(one, flag), getattr(other, flag)) == (False, False)
    assert link.push(method, variable_ids=[one.variable_id]) == OK


# --- graph --------------------------------------------------------------------------------------


def test_nodes_and_edges(link):
    for node_id, name in (("op", "AddBackward0"), ("leaf", "AccumulateGrad")):
        assert link.push("create_node", node_id=node_id, name=name) == OK
    assert link.push("create_edge", from_node_id="op", to_node_id="leaf", output_nr=0) == OK
    assert link.push("create_edge", from_node_id="op", to_node_id=None, output_nr=1) == OK
    op, leaf = link.registries.nodes.lookup("op"), link.registries.nodes.lookup("leaf")
    assert op.name() == "AddBackward0"
    assert op.next_functions == ((leaf, 0), (None, 1))


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        (("not-in-registry", "n"), "from_node with id 'not-in-registry' not found in registry."),
        (("n", "not-in-registry"), "to_node with id 'not-in-registry' not found in registry."),
    ],
)
def test_an_edge_needs_both_ends(link, ends, text):
    link.push("create_node", node_id="n", name="AddBackward0")
    with pytest.raises(ValueError) as caught:
        link.push("create_edge", from_node_id=ends[0], to_node_id=ends[1], output_nr=0)
    assert str(caught.value) == text
    assert link.registries.nodes.lookup("n").next_functions == ()


# --- update_model -------------------------------------------------------------------------------


def test_update_model(link):
    model = CallableModel(lambda messages: "")
    assert link.push("update_model", model_id=model.model_id, field="_usage", value={"total_tokens": 1}) == OK
    assert model.get_usage() == {"total_tokens": 1}
    link.push("update_model", model_id=model.model_id, field="note", value="n")
    assert model.note == "n"
    with pytest.raises(TypeError):
        link.push("update_model", model_id=model.model_id, field="_usage", value=3)
    with pytest.raises(ValueError) as caught:
        link.push("update_model", model_id="not-in-registry", field="_usage", value={})
    assert str(caught.value) == (
        "Failed to update model with ID 'not-in-registry': Model with id 'not-in-registry' not found in registry."
    )


@pytest.mark.parametrize(
    "field",
    [
        "__class__", "__dict__", "__reduce__", "_config", "_link", "_model_id", "_function", "_registered", "_lost",
        "_has_consent", "_reference", "_creation", "model_id", "get_usage", "clear_usage", "describe", "provider",
        "class_type", "a b", "", 3, None,
    ],
)  # fmt: skip
def test_fields_that_the_server_may_not_set_of_a_model(link, field):
    model = CallableModel(lambda messages: "")
    before = (type(model), dict(model.__dict__))
    with pytest.raises(AttributeError, match="The server cannot set"):
        link.push("update_model", model_id=model.model_id, field=field, value="x")
    assert before == (type(model), model.__dict__)


@pytest.mark.parametrize("obj_type", ["Variable", "__class__", "OpenAI", "", None, 3, ["__variable__"]])
def test_the_server_makes_variables_and_parameters_only(link, obj_type):
    with pytest.raises(ValueError, match="Unsupported object type"):
        link.push("create_variable", **{**COPY, "obj_type": obj_type})
    assert "copy" not in link.registries.variables


@pytest.mark.parametrize("callable_id", ["never-registered", "sum", "builtins.eval", "__import__", "", None, 3, {}])
def test_only_what_the_user_passed_is_called(link, callable_id):
    with pytest.raises(RpcError) as caught:
        server_methods.run_callable(link, {"callable_id": callable_id, "args": ["1"]})
    assert f"Callable with ID '{callable_id}' not found in registry." in caught.value.data["exception"]


def test_what_the_user_let_go_of_is_called_no_more(link):
    registered = link.registries.register_callable(lambda: "kept")
    callable_id = registered.callable_id
    del registered
    with pytest.raises(RpcError, match="Internal error"):
        server_methods.run_callable(link, {"callable_id": callable_id})


# --- run_callable -------------------------------------------------------------------------------


def run(link, function, *args, **kwargs):
    registered = link.registries.register_callable(function)
    params = {"callable_id": registered.callable_id, "args": list(args), "kwargs": kwargs}
    return registered.callable_id, server_methods.run_callable(link, params)


def test_run_callable_returns_what_the_function_returns(link):
    _, result = run(link, lambda x, y=0: [x, y], {"__variable__": True, "variable_id": "v"}, y=None)
    assert result == {"message": "Ok", "data": [{"__variable__": True, "variable_id": "v"}, None]}
    registered = link.registries.register_callable(lambda: "no arguments")
    assert server_methods.run_callable(link, {"callable_id": registered.callable_id})["data"] == "no arguments"


def raising(error):
    def function():
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (raising(ValueError("bad")), "Failed to run callable with ID '{}': bad"),
        (raising(RuntimeError("bad")), "Exception during execution of callable with ID '{}': bad"),
        (raising(KeyError("k")), "Exception during execution of callable with ID '{}': KeyError: 'k'"),
        (raising(SystemExit(3)), "Exception during execution of callable with ID '{}': SystemExit: 3"),
        (raising(KeyboardInterrupt()), "Exception during execution of callable with ID '{}': KeyboardInterrupt"),
        (
            lambda: {1},
            "Exception during execution of callable with ID '{}': Result of callable with ID '{}' is not "
            "JSON-serializable: {{1}} (Object of type set is not JSON serializable)",
        ),
    ],
)
def test_a_failing_callable_is_answered_with_its_text(link, function, text):
    registered = link.registries.register_callable(function)
    callable_id = registered.callable_id
    with pytest.raises(RpcError) as caught:
        server_methods.run_callable(link, {"callable_id": callable_id})
    assert (caught.value.code, caught.value.message) == (-32603, "Internal error")
    assert caught.value.data == {"exception": text.format(callable_id, callable_id)}


@pytest.mark.parametrize("value", [float("nan"), [float("inf")]])
def test_a_callable_must_not_return_what_json_does_not_have(link, value):
    with pytest.raises(RpcError) as caught:
        run(link, lambda: value)
    assert "is not JSON-serializable" in caught.value.data["exception"]


@pytest.mark.parametrize("callable_id", ["unknown", 3, None, []])
def test_an_unknown_callable(link, callable_id):
    with pytest.raises(RpcError) as caught:
        server_methods.run_callable(link, {"callable_id": callable_id})
    begin = f"Failed to run callable with ID '{callable_id}'"
    assert caught.value.data["exception"] == f"{begin}: Callable with ID '{callable_id}' not found in registry."


def test_a_callable_may_make_variables_in_its_session(link):
    from tellurio_sync.model.session_link import use_link
    from tests.model.fake_link import FakeLink

    def function():
        assert not is_suppressed()
        return Variable("made").variable_id

    registered = link.registries.register_callable(function)
    with use_link(FakeLink()):
        server_methods.run_callable(link, {"callable_id": registered.callable_id})
    assert [params["data"] for params in link.calls("create_variable")] == ["made"]
