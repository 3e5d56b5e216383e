"""The methods of Variables, functions and models: results, compared texts, pushes and their order (protocol §C)."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.backend.usage import zero_usage

from .rpc_client import RpcClient, RpcError, tag
from .scripted import model_answer

# --- variables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"obj_type": "__variable__"}, {"obj_type": "__parameter__"}])
def test_create_and_get_variable(rpc: RpcClient, params: dict[str, Any]) -> None:
    made = rpc.call("create_variable", data=[1, 2.5], role=None, requires_grad=True, **params)
    assert made["message"] == "Variable created successfully."
    assert rpc.pushes() == ["reply"]
    found = rpc.call("get_variable", variable_id=made["variable_id"])
    wanted = {"data": [1.0, 2.5], "role": None, "requires_grad": True, "is_leaf": True, "output_nr": 0, "grad": []}
    assert {key: found[key] for key in wanted} == wanted
    assert found["_retain_grad"] is False
    assert found["obj_type"] == params.get("obj_type", "__variable__")


@pytest.mark.parametrize(
    ("field", "value", "seen_as", "seen"),
    [
        ("data", [True, 1.0], "data", [1.0, 1.0]),
        ("role", "new", "role", "new"),
        ("requires_grad", True, "requires_grad", True),
        ("is_leaf", False, "is_leaf", False),
        ("_retain_grad", True, "_retain_grad", True),
        ("_output_nr", 3, "output_nr", 3),
        ("anything", {"x": 1}, "anything", {"x": 1}),
        ("data_", None, "data_", None),
    ],
)
def test_update_variable_echoes_and_sets(rpc: RpcClient, field: str, value: Any, seen_as: str, seen: Any) -> None:
    variable = rpc.variable("old", "role")
    params = {"variable_id": variable["variable_id"], "field": field, "value": value}
    result = rpc.call("update_variable", **params)
    assert {key: result[key] for key in params} == params
    assert repr(result["value"]) == repr(value)
    assert rpc.pushes() == ["reply"]
    assert rpc.get(variable)[seen_as] == seen


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("data", {"a": 1}, "an object"),
        ("role", 3, "`role` must be a string or null"),
        ("requires_grad", 1, "`requires_grad` must be a bool"),
        ("_output_nr", True, "`_output_nr` must be an integer"),
        ("_grad", ["x"], "`_grad` must be a Variable"),
        ("_grad_fn", "x", "Node with id 'x' not found in registry."),
    ],
)
def test_update_variable_refuses(rpc: RpcClient, field: str, value: Any, text: str) -> None:
    variable = rpc.variable("old", "role")
    with pytest.raises(RpcError) as caught:
        rpc.call("update_variable", variable_id=variable["variable_id"], field=field, value=value)
    assert text in caught.value.text
    assert rpc.get(variable)["data"] == "old"


def test_gradients_are_appended_and_replaced(rpc: RpcClient) -> None:
    variable, first, second = rpc.variable("x", "x", True), rpc.variable("f1"), rpc.variable("f2")
    result = rpc.call("append_grad", variable_id=variable["variable_id"], gradient=first)
    assert (result["variable_id"], result["gradient_id"]) == (variable["variable_id"], first["variable_id"])
    assert rpc.get(variable)["grad"] == [first]
    for value in ([second, first], []):
        rpc.call("update_variable", variable_id=variable["variable_id"], field="_grad", value=value)
        assert rpc.get(variable)["grad"] == value


# --- functions and backward -----------------------------------------------------------------------


def test_run_function_pushes_nodes_and_edges_before_the_reply(rpc: RpcClient) -> None:
    x, y = rpc.variable("abc", "first input", True), rpc.variable("def", "second input")
    output = rpc.run("Add", x, y)
    assert rpc.pushes() == ["heartbeat", "create_node", "create_node", "create_edge", "create_edge", "reply"]
    op, accumulator = rpc.pushed("create_node")
    assert (op["name"], accumulator["name"]) == ("AddBackward0", "AccumulateGrad")
    assert rpc.pushed("create_edge") == [
        {"from_node_id": op["node_id"], "to_node_id": accumulator["node_id"], "output_nr": 0},
        {"from_node_id": op["node_id"], "to_node_id": None, "output_nr": 0},
    ]
    assert output == {
        "variable_id": output["variable_id"],
        "data": "abcdef",
        "role": "first input and second input",
        "requires_grad": True,
        "_retain_grad": False,
        "_grad": [],
        "_output_nr": 0,
        "_grad_fn": op["node_id"],
        "is_leaf": False,
    }
    # The accumulator is the client's already, and is used again.
    rpc.run("Add", tag(output), x)
    assert [node["name"] for node in rpc.pushed("create_node")] == ["AddBackward0"]
    assert [edge["to_node_id"] for edge in rpc.pushed("create_edge")] == [op["node_id"], accumulator["node_id"]]


def test_no_grad_makes_no_nodes(rpc: RpcClient) -> None:
    x = rpc.variable("a", "x", True)
    output = rpc.run("Add", x, x, grad_enabled=False)
    assert (output["requires_grad"], output["_grad_fn"], output["is_leaf"]) == (False, None, True)
    assert rpc.pushes() == ["heartbeat", "reply"]


def test_split_gives_a_list(rpc: RpcClient) -> None:
    outputs = rpc.run("Split", rpc.variable("one", "x"), sep=" ")
    assert [output["data"] for output in outputs] == ["one"]


def test_backward_of_add(rpc: RpcClient) -> None:
    x, y = rpc.variable("abc", "first input", True), rpc.variable("def", "second input")
    output = tag(rpc.run("Add", x, y))
    gradient = rpc.variable("MY_FEEDBACK", "feedback")
    assert rpc.call("get_backprop_ids", variables=output)["variable_ids"] == [x["variable_id"]]
    assert rpc.backward([output], [gradient])["message"] == "Backward pass executed successfully."
    rpc.until("clear_backward")
    assert rpc.pushes() == ["heartbeat", "append_grad", "reply", "clear_backward"]
    (pushed,) = rpc.pushed("append_grad")
    text = "Here is the combined feedback we got for this specific first input and other variables: MY_FEEDBACK"
    assert pushed["variable_id"] == x["variable_id"]
    assert pushed["gradient"] == {"data": text, "role": "feedback to first input", "requires_grad": False}
    assert rpc.pushed("clear_backward") == [{"variable_ids": [x["variable_id"]]}]
    assert rpc.get(x)["grad"] == [{"__variable__": True, "variable_id": pushed["gradient_id"]}]


def test_all_ids_are_cleared_also_with_inputs(rpc: RpcClient) -> None:
    x, y = rpc.variable("a", "x", True), rpc.variable("b", "y", True)
    output = tag(rpc.run("Add", x, y))
    ids = rpc.call("get_backprop_ids", variables=output)["variable_ids"]
    rpc.backward(output, inputs=x)
    assert rpc.until("clear_backward")["params"]["variable_ids"] == ids
    assert [push["variable_id"] for push in rpc.pushed("append_grad")] == [x["variable_id"]]


def test_create_graph_keeps_the_graph_and_its_gradients_need_grad(rpc: RpcClient) -> None:
    x = rpc.variable("a", "x", True)
    output = tag(rpc.run("Add", x, x))
    rpc.backward(output, create_graph=True)
    assert rpc.pushed("append_grad")[0]["gradient"]["requires_grad"] is True
    rpc.backward(output)
    assert rpc.pushed("append_grad")[0]["gradient"]["requires_grad"] is False


def test_the_number_of_gradients_must_fit(rpc: RpcClient) -> None:
    x = rpc.variable("a", "x", True)
    output = tag(rpc.run("Add", x, x))
    with pytest.raises(RpcError) as caught:
        rpc.backward([output], [])
    assert caught.value.text == "There are 1 variables but 0 gradients."


# --- language models ------------------------------------------------------------------------------


def test_usage_comes_before_the_reply(rpc: RpcClient, model: dict[str, Any]) -> None:
    prompt = rpc.variable("Be kind.", "system prompt", True)
    messages = [{"role": "user", "content": [prompt]}]
    output = rpc.run("ChatCompletion", model, messages, None, temperature=0.5)
    assert output["data"] == "BE KIND."
    nodes = ["create_node", "create_node", "create_edge"]
    assert rpc.pushes() == ["heartbeat", "run_callable", "update_model", *nodes, "reply"]
    assert rpc.pushed("update_model") == [{"model_id": model["model_id"], "field": "_usage", "value": zero_usage()}]
    (call,) = rpc.pushed("run_callable")
    assert call == {
        "callable_id": "model",
        "args": [[{"role": "user", "content": "Be kind."}]],
        "kwargs": {"temperature": 0.5},
    }
    rpc.backward(tag(output), rpc.variable("Shorter."))
    rpc.until("clear_backward")
    assert rpc.pushes() == ["heartbeat", "run_callable", "update_model", "append_grad", "reply", "clear_backward"]
    assert rpc.gradients(prompt) == ["Shorter. for system prompt"]


def test_a_function_as_model_must_return_text(rpc: RpcClient) -> None:
    model = rpc.model(lambda messages: 3)
    with pytest.raises(RpcError) as caught:
        rpc.run("ChatCompletion", model, [{"role": "user", "content": ["x"]}])
    assert caught.value.text == "The function of a CallableModel must return a text, not int."
    assert rpc.pushes("heartbeat", "run_callable") == ["update_model", "reply"]


def test_going_back_without_a_model_says_what_to_do(rpc: RpcClient) -> None:
    model = rpc.model(model_answer)
    prompt = rpc.variable("x", "system prompt", True)
    output = tag(rpc.run("ChatCompletion", model, [{"role": "user", "content": [prompt]}]))
    with pytest.raises(RpcError) as caught:
        rpc.backward(output, rpc.variable("F"))
    assert caught.value.text == (
        "No global model client set for backward pass. Call `set_backward_model_client` to define one."
    )


def test_clear_model_usage_pushes_zeroes(rpc: RpcClient) -> None:
    usage = zero_usage()
    usage["prompt_tokens"], usage["cost"]["amount"] = 3, 1.5
    config = {"api_key": "sk-1", "max_retries": 2}
    made = rpc.call("create_model", class_type="AsyncOpenAI", provider="openai", config=config, usage=usage)
    assert rpc.call("clear_model_usage", model_id=made["model_id"])["model_id"] == made["model_id"]
    assert rpc.pushes() == ["update_model", "reply"]
    assert rpc.pushed("update_model") == [{"model_id": made["model_id"], "field": "_usage", "value": zero_usage()}]


@pytest.mark.parametrize(("class_type", "provider"), [("OpenAI", "other"), ("Other", "openai"), ("OpenAI", "callable")])
def test_unknown_models_are_refused(rpc: RpcClient, class_type: str, provider: str) -> None:
    with pytest.raises(RpcError) as caught:
        rpc.call("create_model", class_type=class_type, provider=provider, config={}, usage={})
    assert "Unsupported language model" in caught.value.text


def test_set_model_singleton_echoes(rpc: RpcClient) -> None:
    model = rpc.model(model_answer)
    args = {"temperature": 0.0}
    result = rpc.call(
        "set_model_singleton", model_id=model["model_id"], model_name="gpt-4o", client_args={}, completion_args=args
    )
    assert (result["model_id"], result["completion_args"]) == (model["model_id"], args)
