"""Requests that begin when an earlier one has ended, and functions of Python that the backend computes itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync.backend import long_methods

from .conftest import RunningBackend
from .rpc_client import RpcClient, RpcError
from .scripted import model_answer
from .test_cancel import Held, cancel
from .test_optimizer_methods import Training

Connect = Callable[..., RpcClient]


def chat(rpc: RpcClient, model: dict[str, Any], text: str, **more: Any) -> str:
    # Not rpc.variable: the frames so far stay.
    made = rpc.result(rpc.send("create_variable", data=text, role="question", requires_grad=False))
    messages = [{"role": "user", "content": [{"__variable__": True, "variable_id": made["variable_id"]}]}]
    params = {"function_name": "ChatCompletion", "args": [model, messages], "kwargs": {}, "grad_enabled": False}
    return rpc.send("run_function", **params, **more)


def positions(rpc: RpcClient, *wanted: str) -> list[int]:
    """Where the replies to these requests are among the frames."""
    ids = [frame.get("id") if "method" not in frame else None for frame in rpc.frames]
    return [ids.index(each) for each in wanted]


class TestAfter:
    def test_it_begins_when_the_earlier_one_has_been_answered(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        rpc.frames = []
        first = chat(rpc, model, "one", name="a")
        second = chat(rpc, model, "two", name="b", after="a")
        third = chat(rpc, model, "three", after="b")
        assert [rpc.result(each)["data"]["data"] for each in (first, second, third)]
        answered = positions(rpc, first, second, third)
        questions = [n for n, frame in enumerate(rpc.frames) if frame.get("method") == "run_callable"]
        assert questions[0] < answered[0] < questions[1] < answered[1] < questions[2] < answered[2]

    def test_a_step_sees_the_gradients_of_the_pass_before_it(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        training = Training(rpc, model)
        (prompt,) = training.prompts
        out = rpc.run("Add", prompt, rpc.variable("!", "mark"))
        gradient = rpc.variable("Be kinder.", "feedback")
        rpc.frames = []
        params = {"retain_graph": None, "create_graph": False, "inputs": None}
        start = {"__variable__": True, "variable_id": out["variable_id"]}
        backward = rpc.send("run_backward", variables=start, grad_variables=gradient, name="pass", **params)
        step = rpc.send("run_step", optimizer_id=training.optimizer_id, after="pass")
        assert rpc.result(step)["state"][0]["key"] == prompt
        seen = rpc.pushes("heartbeat", "run_callable")
        # Each pushes what it has done before its reply.
        assert seen.index("append_grad") < seen.index("reply") < seen.index("create_variable")
        assert positions(rpc, backward) < positions(rpc, step)
        rpc.until("clear_step")
        assert training.data() != "prompt 0"

    def test_it_is_not_begun_where_the_earlier_one_fails(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        def fails(messages: Any, **options: Any) -> str:
            raise ValueError("no")

        broken = rpc.model(fails, "broken")
        rpc.frames = []
        first, second = chat(rpc, broken, "one", name="a"), chat(rpc, model, "two", name="b", after="a")
        third = chat(rpc, model, "three", after="b")
        with pytest.raises(RpcError):
            rpc.result(first)
        for later in (second, third):
            with pytest.raises(RpcError) as refused:
                rpc.result(later)
            assert refused.value.text == "Not begun, because the request before it has failed."
        assert {push["callable_id"] for push in rpc.pushed("run_callable")} == {"broken"}

    def test_it_is_not_begun_where_the_earlier_one_is_cancelled(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        held = Held(rpc)
        messages = [{"role": "user", "content": [rpc.variable("one", "question")]}]
        params = {"function_name": "ChatCompletion", "args": [held.tag, messages], "kwargs": {}, "grad_enabled": False}
        first = held.begin("run_function", **params, name="a")
        second = chat(rpc, model, "two", after="a")
        cancel(rpc, first)
        with pytest.raises(RpcError, match="cancelled"):
            rpc.result(first)
        with pytest.raises(RpcError, match="has failed"):
            rpc.result(second)

    def test_cancelling_what_waits_leaves_the_earlier_one_alone(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        first = chat(rpc, model, "one", name="a")
        second = chat(rpc, model, "two", after="a")
        cancel(rpc, second)
        with pytest.raises(RpcError, match="cancelled"):
            rpc.result(second)
        assert rpc.result(first)["data"]["data"]

    def test_one_that_has_ended_long_ago(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        rpc.result(chat(rpc, model, "one", name="a"))
        assert rpc.result(chat(rpc, model, "two", after="a"))["data"]["data"]

    def test_wrong_arguments_of_the_later_one_are_its_error(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        first = chat(rpc, model, "one", name="a")
        second = rpc.send("run_step", after="a")
        assert rpc.result(first)
        with pytest.raises(RpcError) as missing:
            rpc.result(second)
        assert missing.value.error["data"] == {"missing_key": "optimizer_id"}

    @pytest.mark.parametrize("more", [{"after": "unknown"}, {"after": 1}, {"name": ""}, {"name": "x" * 101}])
    def test_bad_names(self, rpc: RpcClient, model: dict[str, Any], more: dict[str, Any]) -> None:
        with pytest.raises(RpcError) as refused:
            rpc.result(chat(rpc, model, "one", **more))
        assert refused.value.error["code"] == -32602
        rpc.variable("and the connection goes on")
        assert rpc.pushes("heartbeat") == ["reply"]

    def test_only_the_last_names_are_known(self, rpc: RpcClient) -> None:
        add = {"function_name": "Add", "args": [rpc.variable("a"), rpc.variable("b")], "kwargs": {}}
        for n in range(101):
            rpc.result(rpc.send("run_function", **add, grad_enabled=False, name=f"n{n}"))
        assert rpc.result(rpc.send("run_function", **add, grad_enabled=False, after="n1"))
        with pytest.raises(RpcError, match="names no earlier request"):
            rpc.result(rpc.send("run_function", **add, grad_enabled=False, after="n0"))

    def test_names_belong_to_a_connection(self, backend: RunningBackend, connect: Connect) -> None:
        one, other = connect(backend), connect(backend)
        one.result(chat(one, one.model(model_answer), "one", name="a"))
        with pytest.raises(RpcError, match="names no earlier request"):
            other.result(chat(other, other.model(model_answer), "two", after="a"))


def test_who_has_a_session_of_its_own_does_not_wait_for_clear_step(
    backend: RunningBackend, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol §K.6: it sets its flags before it asks."""
    monkeypatch.setattr(long_methods, "CLEAR_STEP_DELAY", 3600.0)
    rpc = connect(backend, X_Tellurio_Session="new")
    training = Training(rpc, rpc.model(model_answer))
    rpc.call("run_step", optimizer_id=training.optimizer_id)
    rpc.until("clear_step")
    assert rpc.pushes("heartbeat") == ["reply", "clear_step"]


class TestBuiltins:
    def score(self, rpc: RpcClient, reduction: dict[str, Any]) -> Any:
        prediction = rpc.variable(["a", "b", "c"], "answers")
        rpc.frames = []
        return rpc.run("ExactMatchEvaluator", prediction, ["a", "b", "x"], reduction, "reduction")[0]["data"]

    @pytest.mark.parametrize("function", [all, any, max, min, sum])
    def test_they_are_computed_here(self, rpc: RpcClient, function: Any) -> None:
        """Protocol §E.1. The client would not know the function: it is not called."""
        reduction = {"__callable__": True, "callable_id": "absent", "builtin": function.__name__}
        assert self.score(rpc, reduction) == function([1, 1, 0])
        assert "run_callable" not in rpc.pushes()

    @pytest.mark.parametrize("builtin", ["eval", "len", None, 1, ["sum"]])
    def test_all_others_are_called(self, rpc: RpcClient, builtin: Any) -> None:
        reduction = {**rpc.function(lambda scores: 17, "mine"), "builtin": builtin}
        assert self.score(rpc, reduction) == 17

    def test_one_that_fails(self, rpc: RpcClient) -> None:
        prediction = rpc.variable(["a"], "answers")
        function = {"__callable__": True, "callable_id": "absent", "builtin": "sum"}
        with pytest.raises(RpcError, match="sum: TypeError"):
            rpc.run("DeterministicEvaluator", prediction, ["a"], function, "purpose", None, None, None)
