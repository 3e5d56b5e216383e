"""The 15 methods: results, compared texts, pushes and their order (PROTOCOL.md §C)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync.backend import long_methods
from tellurio_sync.backend.prompts import CRITIC, OPTIMIZER, read_blocks
from tellurio_sync.backend.usage import zero_usage

from .conftest import RunningBackend
from .rpc_client import RpcClient, RpcError, tag
from .scripted import answer_like_a_model


def model_answer(messages: list[dict[str, str]], **completion_args: Any) -> str:
    return answer_like_a_model(messages)


@pytest.fixture
def model(rpc: RpcClient) -> dict[str, Any]:
    """A function of the client as language model, and as model for backward passes."""
    found = rpc.model(model_answer)
    rpc.set_backward_model(found)
    return found


# --- variables ----------------------------------------------------------------------------------


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


# --- functions and backward ---------------------------------------------------------------------


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


# --- language models ----------------------------------------------------------------------------


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


# --- optimizers ---------------------------------------------------------------------------------


class Training:
    """A prompt, its optimizer, and ways to give it feedback."""

    def __init__(self, rpc: RpcClient, model: dict[str, Any], params: int = 1, **defaults: Any) -> None:
        self.rpc = rpc
        self.prompts = [rpc.variable(f"prompt {i}", "system prompt", True, parameter=True) for i in range(params)]
        placeholders = [
            {
                "role": role,
                "content": [rpc.variable(f"Placeholder for Textual Gradient Descent optimizer {role} prompt", role)],
            }
            for role in ("system", "user")
        ]
        self.defaults = {
            "model_client": model,
            "messages": placeholders,
            "inputs": {},
            "constraints": [],
            "momentum": 0,
            "completion_args": {},
            **defaults,
        }
        self.made = rpc.call("create_optimizer", optimizer_name="TGD", params=self.prompts, defaults=self.defaults)
        self.optimizer_id = self.made["optimizer_id"]

    def feedback(self, text: str, index: int = 0) -> dict[str, Any]:
        gradient = self.rpc.variable(text, "feedback")
        self.rpc.call("append_grad", variable_id=self.prompts[index]["variable_id"], gradient=gradient)
        return gradient

    def step(self) -> list[dict[str, Any]]:
        result = self.rpc.call("run_step", optimizer_id=self.optimizer_id)
        assert result["message"] == "Optimizer step executed successfully."
        self.rpc.until("clear_step")
        state: list[dict[str, Any]] = result["state"]
        return state

    def data(self, index: int = 0) -> Any:
        return self.rpc.get(self.prompts[index])["data"]


def test_create_optimizer(rpc: RpcClient, model: dict[str, Any]) -> None:
    training = Training(rpc, model)
    assert training.made["defaults"] == training.defaults
    assert training.made["state"] == []
    assert training.made["param_groups"] == [{**training.defaults, "params": training.prompts}]


def test_step(rpc: RpcClient, model: dict[str, Any]) -> None:
    training = Training(rpc, model, params=2)
    training.feedback("Be kinder.")
    state = training.step()
    assert rpc.pushes() == [
        "heartbeat",
        "run_callable",
        "update_model",
        "create_variable",
        "update_variable",
        "reply",
        "clear_step",
    ]
    (copy,) = rpc.pushed("create_variable")
    assert copy == {
        "variable_id": copy["variable_id"],
        "obj_type": "__parameter__",
        "data": "prompt 0",
        "role": "system prompt",
        "requires_grad": True,
        "_retain_grad": False,
        "_grad": [],
        "_output_nr": 0,
        "_grad_fn": None,
        "is_leaf": True,
    }
    prompt = training.prompts[0]["variable_id"]
    assert rpc.pushed("update_variable") == [{"variable_id": prompt, "field": "data", "value": "prompt 0, better"}]
    assert rpc.pushed("clear_step") == [{"variable_ids": [p["variable_id"] for p in training.prompts]}]
    assert state == [{"key": training.prompts[0], "value": {"momentum_buffer": []}}]
    assert [training.data(0), training.data(1)] == ["prompt 0, better", "prompt 1"]
    assert len(rpc.get(training.prompts[0])["grad"]) == 1, "gradients stay until they are cleared"


def test_clear_step_comes_a_while_after_the_reply(
    rpc: RpcClient, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fact 5: 20 ms at least; here so long that it does not come at all."""
    assert long_methods.CLEAR_STEP_DELAY >= 0.02
    monkeypatch.setattr(long_methods, "CLEAR_STEP_DELAY", 3600.0)
    training = Training(rpc, model)
    rpc.call("run_step", optimizer_id=training.optimizer_id)
    rpc.variable("x")
    assert rpc.pushes() == ["reply"]


def test_placeholders_mean_our_own_prompts_and_stay(rpc: RpcClient, model: dict[str, Any]) -> None:
    training = Training(rpc, model)
    training.feedback("Be kinder.")
    training.step()
    ((system, _),) = rpc.pushed("run_callable")[0]["args"]
    assert system["content"].splitlines()[0] == OPTIMIZER
    placeholder = training.defaults["messages"][0]["content"][0]
    assert rpc.get(placeholder)["data"].startswith("Placeholder for")


def test_momentum_keeps_and_shows_the_last_versions(rpc: RpcClient, model: dict[str, Any]) -> None:
    training = Training(rpc, model, momentum=2)
    gradients = []
    for i in range(3):
        gradients.append(training.feedback(f"feedback {i}"))
        state = training.step()
        rpc.call("clear_grad", optimizer_id=training.optimizer_id)
    buffer = state[0]["value"]["momentum_buffer"]
    assert [rpc.get(copy)["data"] for copy, _ in buffer] == ["prompt 0, better", "prompt 0, better, better"]
    assert [entry[1] for entry in buffer] == [[gradients[1]], [gradients[2]]]
    training.feedback("feedback 3")
    rpc.call("run_step", optimizer_id=training.optimizer_id)
    user = rpc.pushed("run_callable")[0]["args"][0][1]["content"]
    history = [read_blocks(block, "FEEDBACK") for block in read_blocks(user, "HISTORY")]
    assert history == [["feedback 1"], ["feedback 2"]]


def test_inputs_constraints_and_own_messages_are_used(rpc: RpcClient) -> None:
    model = rpc.model(lambda messages, **args: "<IMPROVED>new</IMPROVED>")
    own = [{"role": "system", "content": [rpc.variable("Write like {author}.")]}]
    training = Training(
        rpc,
        model,
        messages=own,
        inputs={"author": rpc.variable("Ann")},
        constraints=["Be short.", rpc.variable("Be kind.")],
        completion_args={"temperature": 1},
    )
    training.feedback("F")
    training.step()
    (call,) = rpc.pushed("run_callable")
    system, user = call["args"][0]
    assert call["kwargs"] == {"temperature": 1}
    assert system["content"] == "Write like Ann."
    assert read_blocks(user["content"], "CONSTRAINT") == ["Be short.", "Be kind."]
    assert "<IMPROVED>" in user["content"]
    assert training.data() == "new"


@pytest.mark.parametrize("feedback", [[], [""]])
def test_without_feedback_nothing_changes(rpc: RpcClient, model: dict[str, Any], feedback: list[str]) -> None:
    training = Training(rpc, model)
    for text in feedback:
        training.feedback(text)
    assert training.step() == []
    assert rpc.pushes() == ["heartbeat", "reply", "clear_step"]
    assert training.data() == "prompt 0"


def test_a_failing_step_changes_nothing(rpc: RpcClient) -> None:
    answers = iter(["<IMPROVED>better</IMPROVED>", "bad", "bad", "bad"])
    training = Training(rpc, rpc.model(lambda messages: next(answers)), params=2)
    training.feedback("F", 0)
    training.feedback("F", 1)
    with pytest.raises(RpcError) as caught:
        rpc.call("run_step", optimizer_id=training.optimizer_id)
    assert "no usable answer in 3 tries" in caught.value.text
    assert [training.data(0), training.data(1)] == ["prompt 0", "prompt 1"]


def test_add_param_group_and_clear_grad(rpc: RpcClient, model: dict[str, Any]) -> None:
    training = Training(rpc, model)
    extra = rpc.variable("extra", "extra", True, parameter=True)
    result = rpc.call(
        "add_param_group",
        optimizer_id=training.optimizer_id,
        messages=training.defaults["messages"],
        param_group={"params": [extra], "momentum": 1},
    )
    assert result["param_group"] == {**training.defaults, "params": [extra], "momentum": 1}
    for parameter in (training.prompts[0], extra):
        rpc.call("append_grad", variable_id=parameter["variable_id"], gradient=rpc.variable("F"))
    state = training.step()
    assert [len(entry["value"]["momentum_buffer"]) for entry in state] == [0, 1]
    cleared = rpc.call("clear_grad", optimizer_id=training.optimizer_id)
    assert cleared["message"] == "Gradients cleared successfully."
    assert [rpc.get(p)["grad"] for p in (training.prompts[0], extra)] == [[], []]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"optimizer_name": "SGD"}, "No optimizer named 'SGD'"),
        ({"params": []}, "at least one parameter"),
        ({"defaults": {"momentum": -1}}, "`momentum` must"),
        ({"defaults": {"momentum": True}}, "`momentum` must"),
        ({"defaults": {"constraints": [1]}}, "`constraints` must"),
        ({"defaults": {"messages": [{"role": "user"}]}}, "`role` and `content`"),
    ],
)
def test_create_optimizer_refuses(rpc: RpcClient, change: dict[str, Any], text: str) -> None:
    params = {"optimizer_name": "TGD", "params": [rpc.variable("x", "x", True)], "defaults": {}, **change}
    with pytest.raises(RpcError) as caught:
        rpc.call("create_optimizer", **params)
    assert text in caught.value.text


def test_a_parameter_belongs_to_one_group(rpc: RpcClient) -> None:
    x = rpc.variable("x", "x", True)
    with pytest.raises(RpcError) as caught:
        rpc.call("create_optimizer", optimizer_name="TGD", params=[{"params": [x]}, {"params": [x]}], defaults={})
    assert "more than once" in caught.value.text


def test_functional_tgd(rpc: RpcClient, model: dict[str, Any]) -> None:
    prompts = [rpc.variable(text, "system prompt", True, parameter=True) for text in ("one", "two")]
    gradient = rpc.variable("F", "feedback")

    def step(buffers: list[Any], grads: list[Any]) -> Any:
        result = rpc.call(
            "run_optimizer_tgd",
            params=prompts,
            grads=grads,
            momentum_buffer_list=buffers,
            model_client=model,
            messages=[{"role": "system", "content": [rpc.variable("Improve.")]}],
            inputs=None,
            constraints=None,
            momentum=2,
            completion_args={},
        )
        assert result["message"] == "Functional TGD optimization step executed successfully."
        assert rpc.until("clear_step")["params"]["variable_ids"] == [p["variable_id"] for p in prompts]
        return result["momentum_buffer_list"]

    rpc.functions["model"] = lambda messages: "<IMPROVED>new</IMPROVED>"
    buffers = step([[], []], [[gradient], []])
    assert [len(buffer) for buffer in buffers] == [1, 0]
    assert rpc.get(buffers[0][0][0])["data"] == "one"
    assert buffers[0][0][1] == [gradient]
    for _ in range(2):
        buffers = step(buffers, [[gradient], []])
    assert [rpc.get(copy)["data"] for copy, _ in buffers[0]] == ["new", "new"]
    assert [rpc.get(prompt)["data"] for prompt in prompts] == ["new", "two"]


# --- all together -------------------------------------------------------------------------------


def test_a_training_loop(backend: RunningBackend, rpc: RpcClient, connect: Callable[..., RpcClient]) -> None:
    """A prompt learns, in two steps, the words that the critic misses."""

    def learns(messages: list[dict[str, str]], **args: Any) -> str:
        first_line, user = messages[0]["content"].splitlines()[0], messages[-1]["content"]
        if first_line == CRITIC:
            return f"must say {read_blocks(user, 'TARGET')[0]}"
        if first_line == OPTIMIZER:
            wanted = read_blocks(user, "FEEDBACK")[0].split("must say ")[1].split()[0]
            return f"<IMPROVED>{wanted}</IMPROVED>"
        return answer_like_a_model(messages)

    model = rpc.model(learns)
    rpc.set_backward_model(model)
    training = Training(rpc, model)
    for _ in range(2):
        messages = [{"role": "user", "content": training.prompts}]
        answer = rpc.run("ChatCompletion", model, messages, None)
        score, explanation = rpc.run("ExactMatchEvaluator", tag(answer), "HELLO")
        rpc.backward(tag(explanation))
        training.step()
        rpc.call("clear_grad", optimizer_id=training.optimizer_id)
    assert training.data() == "HELLO"
    assert score["data"] == 1
