"""The backend forgets what nobody holds: counted in objects, not in bytes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync.backend import objects
from tellurio_sync.backend.objects import Edge, Model, Node, Objects, Optimizer, Variable

from .conftest import RunningBackend
from .rpc_client import FAILSAFE, RpcClient, RpcError, tag
from .scripted import ScriptedHost, grads

Connect = Callable[..., RpcClient]


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """What nothing needs is gone without the garbage collector, which may come late."""
    gc.collect()
    gc.disable()
    _of_other_tests.extend(item for item in gc.get_objects() if type(item) in _KINDS)
    yield
    _of_other_tests.clear()
    gc.enable()


_KINDS = (Variable, Node, Model, Optimizer)
_of_other_tests: list[Any] = []
"""Held, so that no new object gets the address of one of these."""


def alive(*kinds: type) -> int:
    """How many there are that this test has made."""
    former = set(map(id, _of_other_tests))
    return sum(type(item) in (kinds or _KINDS) and id(item) not in former for item in gc.get_objects())


def release(rpc: RpcClient, *tags: dict[str, Any], **more: list[str]) -> None:
    params = {"variable_ids": [one["variable_id"] for one in tags], **more}
    rpc.send_json({"jsonrpc": "2.0", "method": "release", "params": params})


class TestVariables:
    def test_one_is_forgotten(self, rpc: RpcClient) -> None:
        kept, gone = rpc.variable("kept"), rpc.variable("gone")
        release(rpc, gone)
        with pytest.raises(RpcError, match="not found"):
            rpc.get(gone)
        assert rpc.get(kept)["data"] == "kept"

    def test_no_reply_and_no_harm_whatever_the_ids(self, rpc: RpcClient) -> None:
        kept = rpc.variable("kept")
        rpc.frames = []
        for params in (
            {},
            {"variable_ids": ["nothing", 5, None, [], {}]},
            {"variable_ids": "x"},
            {"model_ids": [kept["variable_id"]], "optimizer_ids": [kept["variable_id"]]},
        ):
            rpc.send_json({"jsonrpc": "2.0", "method": "release", "params": params})
        assert rpc.get(kept)["data"] == "kept"
        assert rpc.pushes() == ["reply"]

    def test_what_a_graph_needs_stays_for_the_graph(self, rpc: RpcClient) -> None:
        """The client may let go of what it computed with: the feedback finds its way all the same."""
        prompt = rpc.variable("p", "prompt", requires_grad=True, parameter=True)
        rest = rpc.variable("x", "rest")
        inner = tag(rpc.run("Add", prompt, rest))
        outer = tag(rpc.run("Add", inner, rest))
        release(rpc, rest, inner)
        rpc.backward(outer, rpc.variable("bad", "feedback"))
        assert len(rpc.gradients(prompt)) == 1

    def test_a_leaf_that_was_let_go_of_gets_no_gradient(self, rpc: RpcClient) -> None:
        prompt = rpc.variable("p", "prompt", requires_grad=True)
        output = tag(rpc.run("Add", prompt, rpc.variable("x")))
        release(rpc, prompt)
        rpc.backward(output, rpc.variable("bad"))
        assert "append_grad" not in rpc.pushes()


class TestCounts:
    """In a process of its own the counts would be exact; here the backend is a thread, and nothing else runs."""

    def test_forward_and_backward_leave_nothing(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        prompt = rpc.variable("p", "prompt", requires_grad=True, parameter=True)
        counts = []
        for _ in range(3):
            gone = [rpc.variable("x", "rest"), rpc.variable("bad", "feedback")]
            for chat in (True, False):
                messages = [{"role": "user", "content": [prompt, gone[0]]}]
                gone.append(
                    tag(rpc.run("ChatCompletion", model, messages) if chat else rpc.run("Add", prompt, gone[0]))
                )
                rpc.backward(gone[-1], gone[1])
            gone += rpc.get(prompt)["grad"]
            rpc.call("update_variable", variable_id=prompt["variable_id"], field="_grad", value=[])
            release(rpc, *gone)
            rpc.get(prompt)
            counts.append(alive())
        assert counts[0] == counts[1] == counts[2]

    def test_forward_only_leaves_nothing_either(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        """An evaluation without no_grad: its graphs are never gone back through."""
        prompt = rpc.variable("p", "prompt", requires_grad=True, parameter=True)
        counts = []
        for _ in range(3):
            messages = [{"role": "user", "content": [prompt]}]
            answer = tag(rpc.run("ChatCompletion", model, messages, {"mail": ["a", "b"]}))
            score, explanation = rpc.run("ExactMatchEvaluator", answer, ["a", "b"])
            release(rpc, answer, tag(score), tag(explanation))
            rpc.get(prompt)
            counts.append(alive())
        assert counts[0] == counts[1] == counts[2]

    def test_optimizers_and_models(self, rpc: RpcClient) -> None:
        counts = []
        for i in range(3):
            model = rpc.model(lambda messages: "<IMPROVED>better</IMPROVED>", f"model-{i}")
            prompt = rpc.variable("p", "prompt", requires_grad=True, parameter=True)
            gradient = rpc.variable("bad")
            rpc.call("append_grad", variable_id=prompt["variable_id"], gradient=gradient)
            optimizer = rpc.call(
                "create_optimizer",
                optimizer_name="TGD",
                params=[prompt],
                defaults={"model_client": model, "momentum": 2},
            )["optimizer_id"]
            state = rpc.call("run_step", optimizer_id=optimizer)["state"]
            ((copy, _),) = state[0]["value"]["momentum_buffer"]
            release(rpc, prompt, gradient, copy, model_ids=[model["model_id"]], optimizer_ids=[optimizer])
            rpc.call("get_variable", variable_id=rpc.variable("x")["variable_id"])
            counts.append(alive(Model, Optimizer, Node))
            assert alive(Variable) == i + 1
        assert counts == [0, 0, 0]

    def test_an_ended_session_leaves_nothing(
        self, start_backend: Callable[..., RunningBackend], connect: Connect
    ) -> None:
        backend = start_backend(session_grace=0.001)
        rpc = connect(backend, X_Tellurio_Session="new")
        prompt = rpc.variable("p", "prompt", requires_grad=True, parameter=True)
        rpc.set_backward_model(rpc.model(lambda messages: "x"))
        rpc.run("Add", prompt, rpc.variable("x"))
        assert alive() > 0
        rpc.close()
        waited = threading.Event()
        for _ in range(20):  # looking at all objects of the process takes its time
            if alive() == 0:
                return
            waited.wait(FAILSAFE / 20)
        pytest.fail(f"{alive()} objects of a session that has ended")


class TestWhatNeedsIt:
    def test_an_optimizer_keeps_its_parameters_and_model(self, rpc: RpcClient) -> None:
        model = rpc.model(lambda messages: "<IMPROVED>better</IMPROVED>")
        prompt = rpc.variable("p", "prompt", requires_grad=True, parameter=True)
        constraint = rpc.variable("short", "constraint")
        defaults = {"model_client": model, "constraints": [constraint]}
        optimizer = rpc.call("create_optimizer", optimizer_name="TGD", params=[prompt], defaults=defaults)[
            "optimizer_id"
        ]
        rpc.call("append_grad", variable_id=prompt["variable_id"], gradient=rpc.variable("bad"))
        release(rpc, prompt, constraint, model_ids=[model["model_id"]])
        rpc.call("run_step", optimizer_id=optimizer)
        assert rpc.pushed("update_variable")[-1]["value"] == "better"

    def test_a_session_keeps_its_backward_model(self, rpc: RpcClient, model: dict[str, Any]) -> None:
        prompt = rpc.variable("p", "prompt", requires_grad=True, parameter=True)
        output = tag(rpc.run("ChatCompletion", model, [{"role": "user", "content": [prompt]}]))
        release(rpc, model_ids=[model["model_id"]])
        rpc.backward(output, rpc.variable("bad"))
        assert len(rpc.gradients(prompt)) == 1


class TestNodes:
    def test_a_long_chain_goes_without_a_deep_recursion(self) -> None:
        known = Objects()
        output = known.new_variable(data="first")
        for _ in range(100_000):
            node = known.new_node("AddBackward0")
            node.edges.append(Edge(output.grad_fn, 0, True))
            output = known.new_variable(data="next", grad_fn=node)
            node.add_outputs(output)
        ids = list(known.variables)
        del node, output
        known.release(ids, [], [])
        assert len(known.nodes) == 0
        assert alive(Variable) == 0

    def test_an_output_that_is_gone_counts_as_one_still(self) -> None:
        """The pieces of feedback stand in the order of the outputs."""
        host = ScriptedHost()
        leaf = host.variable("a b c", "leaf", True)
        first, second, third = host.run("Split", leaf)
        host.objects.release([first.variable_id, third.variable_id], [], [])
        del first, third
        host.backward(second, gradients=["f"])
        assert grads(leaf) == [
            "Here is the combined feedback we got for this specific leaf and other variables: "
            "<ITEM></ITEM><ITEM>f</ITEM><ITEM></ITEM>"
        ]


def test_ids_of_one_kind_do_not_name_another() -> None:
    known = Objects()
    variable = known.new_variable(data="x")
    known.release([variable.variable_id], [], [])
    assert known.variable(variable.variable_id) is variable
    for look_up in (known.model, known.optimizer):
        with pytest.raises(Exception, match="not found"):
            look_up(variable.variable_id)
    assert objects.Variable is Variable
