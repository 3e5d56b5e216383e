"""Arguments of the wrong kind are refused in words, and are no defect of the backend."""

from __future__ import annotations

from typing import Any

import pytest

from .lm_endpoint import LmEndpoint
from .rpc_client import RpcClient, RpcError


@pytest.mark.parametrize(
    "usage",
    [
        7,
        [1],
        "x",
        {"total_tokens": "7"},
        {"prompt_tokens_details": 3},
        {"cost": {"amount": "free"}},
        {"cost": {"unpriced_tokens": "x"}},
    ],
)
def test_usage_of_another_form(rpc: RpcClient, usage: Any, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RpcError) as caught:
        rpc.call("create_model", class_type="OpenAI", provider="openai", config={}, usage=usage)
    assert "`usage` has another form" in caught.value.text
    assert not caplog.records


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": None, "cost": None, "more": [1]}])
def test_usage_may_leave_things_out(rpc: RpcClient, usage: Any) -> None:
    made = rpc.call("create_model", class_type="OpenAI", provider="openai", config={}, usage=usage)
    rpc.call("clear_model_usage", model_id=made["model_id"])
    (push,) = rpc.pushed("update_model")
    assert push["value"]["total_tokens"] == 0
    assert push["value"]["cost"] == {"amount": 0.0, "currency": "USD"}


@pytest.mark.parametrize("completion_args", [[1], "x", 7])
def test_completion_arguments_that_are_no_object(rpc: RpcClient, model: dict[str, Any], completion_args: Any) -> None:
    prompt = rpc.variable("x", "prompt", True, parameter=True)
    defaults = {"model_client": model, "completion_args": completion_args}
    with pytest.raises(RpcError) as caught:
        rpc.call("create_optimizer", optimizer_name="TGD", params=[prompt], defaults=defaults)
    assert "`completion_args` must be an object" in caught.value.text


@pytest.mark.parametrize(("grads", "buffers"), [([7], [[]]), ([[]], [7]), ([None], [[]])])
def test_gradients_and_buffers_that_are_no_lists(
    rpc: RpcClient, model: dict[str, Any], grads: Any, buffers: Any
) -> None:
    prompt = rpc.variable("x", "prompt", True, parameter=True)
    with pytest.raises(RpcError) as caught:
        rpc.call("run_optimizer_tgd", params=[prompt], grads=grads, momentum_buffer_list=buffers, model_client=model)
    assert "must be a list" in caught.value.text


def test_a_function_in_the_place_of_a_model_may_have_an_argument_of_any_name(rpc: RpcClient) -> None:
    model = rpc.model(lambda messages, **args: str(sorted(args)))
    answer = rpc.run("ChatCompletion", model, [{"role": "user", "content": ["hi"]}], function=1)
    assert answer["data"] == "['function']"


def test_arguments_that_are_no_json(rpc: RpcClient) -> None:
    with LmEndpoint(lambda request: "hello") as endpoint:
        made = rpc.call(
            "create_model", class_type="OpenAI", provider="openai", config={"base_url": endpoint.url}, usage={}
        )
        model = {"__model_client__": True, "model_id": made["model_id"]}
        with pytest.raises(RpcError) as caught:
            rpc.run("ChatCompletion", model, [{"role": "user", "content": ["hi"]}], model="m", stop=model)
        assert "cannot be sent as JSON" in caught.value.text
        assert endpoint.requests == []
