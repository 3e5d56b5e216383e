"""The methods of optimizers: results, compared texts, pushes and their order (protocol §C); and a training loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync.backend import long_methods
from tellurio_sync.backend.prompts import CRITIC, OPTIMIZER, read_blocks

from .conftest import RunningBackend
from .rpc_client import RpcClient, RpcError, tag
from .scripted import answer_like_a_model


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


# --- optimizers -----------------------------------------------------------------------------------


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


def test_what_would_do_harm_is_asked_for_again_with_the_reason_and_then_refused(
    rpc: RpcClient, model: dict[str, Any]
) -> None:
    """Each answer loses the placeholder: the old data stays, the other parameter is rewritten, the user is told."""

    def answer(messages: list[dict[str, str]], **completion_args: Any) -> str:
        (data,) = read_blocks(messages[1]["content"], "VARIABLE")
        return "<IMPROVED>new</IMPROVED>" if "{mail}" in data else answer_like_a_model(messages)

    rpc.functions["model"] = answer
    training = Training(rpc, model, params=2, momentum=1)
    rpc.call("update_variable", variable_id=training.prompts[0]["variable_id"], field="data", value="Sum up: {mail}")
    training.feedback("Be kinder.", 0)
    training.feedback("Be kinder.", 1)
    result = rpc.call("run_step", optimizer_id=training.optimizer_id)
    asked = [push["args"][0] for push in rpc.pushed("run_callable")]
    assert [training.data(0), training.data(1)] == ["Sum up: {mail}", "prompt 1, better"]
    (told,) = result["told"]
    assert "'system prompt' keeps its data" in told
    assert "lost {mail}" in told
    assert [entry["key"] for entry in result["state"]] == [training.prompts[1]]
    assert len(rpc.get(training.prompts[0])["grad"]) == 1
    assert sorted(len(messages) for messages in asked) == [2, 2, 4, 6]
    assert any("lost {mail}" in messages[-1]["content"] for messages in asked)


def test_clear_step_comes_a_while_after_the_reply(
    rpc: RpcClient, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol §C.1: 20 ms at least; here so long that it does not come at all."""
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


# --- all together ---------------------------------------------------------------------------------


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
