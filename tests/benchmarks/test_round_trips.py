"""The requests that each public operation makes, and in how many round trips, against the real backend.

One that grows is a defect: over a line of 50 ms each round trip costs 50 ms, on any machine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.optim.functional import tgd

from ..backend.scripted import language_model
from ..backend_process import KEY, BackendProcess
from .counting import Counts, counting

CREATE, UPDATE = "create_variable", "update_variable"
FUNCTION, BACKWARD = "run_function", ["get_backprop_ids", "run_backward"]


class World:
    """What the operations work on. ``ready`` begins the counting: what was done before is not part of it."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.lm = te.CallableModel(language_model)
        te.set_backward_model_client(self.lm)
        self.prompt = te.Parameter("prompt", "system prompt")
        self.variable = te.Variable("text", "role")
        self.other = te.Variable("other", "another role", requires_grad=True)
        self.user = te.Variable("{message}", "message")
        self.chat = [{"role": "system", "content": [self.prompt]}, {"role": "user", "content": [self.user]}]
        self.tgd = self.optimizer()
        self.answered = self.answer()
        self.computed = te.functional.add(self.prompt, self.variable)
        self.ready()

    def ready(self) -> None:
        self._counts.reset()

    def optimizer(self, **options: Any) -> te.TGD:
        return te.TGD([self.prompt], self.lm, **options)

    def answer(self) -> te.Variable:
        return te.functional.chat_completion(self.lm, self.chat, inputs={"message": ["a"]})

    def loss(self) -> te.Variable:
        _, explanation = te.functional.exact_match_evaluator(self.answer(), ["right"])
        self.ready()
        return explanation

    def backward(self) -> None:
        self.loss().backward()
        self.ready()


# --- the operations ---------------------------------------------------------------------------------------


def make_in_a_batch(w: World) -> None:
    with te.batch():
        for n in range(100):
            te.Variable(f"text {n}", "role").requires_grad = True
        te.Parameter("prompt")
        w.variable.data = "new"
        w.other.requires_grad_(False)


def chat_with_new_variables(w: World) -> None:
    with te.batch():
        chat = [{"role": "user", "content": [te.Variable("Answer {a} and {b}.")]}]
        inputs = {"a": te.Variable("this"), "b": [te.Variable("that"), te.Variable("those")]}
        te.functional.chat_completion(w.lm, chat, inputs=inputs)


def make_an_optimizer_in_a_batch(w: World) -> None:
    with te.batch():
        te.TGD([te.Parameter("one"), te.Parameter("two")], w.lm)


def add_in_place(w: World) -> None:
    w.variable += w.other


def step(w: World) -> None:
    w.backward()
    w.tgd.step()
    assert w.prompt.data


def step_of_a_changed_optimizer(w: World) -> None:
    w.tgd.param_groups[0]["constraints"] = ["Be short."]
    step(w)


def step_as_a_function(w: World) -> None:
    messages = w.tgd.defaults["messages"]
    w.backward()
    tgd([w.prompt], [w.prompt.grad], [[]], w.lm, messages, None, None, 0)


def train(w: World) -> None:
    """What a batch of training costs over all: five round trips."""
    explanation = w.loss()
    explanation = te.functional.exact_match_evaluator(w.answer(), ["right"])[1]
    explanation.backward()
    w.tgd.step()
    w.tgd.clear_grad()
    assert w.prompt.grad == []


def train_in_few_trips(w: World) -> None:
    """The same as ``te.fit`` does it: three round trips."""
    w.loss()
    clearing = w.tgd.clear_grad_with_next_call()
    explanation = te.functional.exact_match_evaluator(w.answer(), ["right"])[1]
    clearing.settle()
    w.tgd.backward_and_step(explanation)
    assert w.prompt.data != "prompt"


def pass_and_step_of_a_changed_optimizer(w: World) -> None:
    explanation = w.loss()
    w.tgd.param_groups[0]["constraints"] = ["Be short."]
    w.tgd.backward_and_step(explanation)


def clear_alone(w: World) -> None:
    w.tgd.clear_grad_with_next_call().settle()


def ride_in_a_batch(w: World) -> None:
    with te.batch():
        w.tgd.clear_grad_with_next_call()
        te.Variable("new")


def load_a_checkpoint(w: World) -> None:
    with te.suppress_variable_notifications():
        versions = [(te.Parameter(f"version {n}"), [te.Variable("better")]) for n in range(10)]
    saved = {**w.tgd.state_dict(), "state": {0: {"momentum_buffer": versions}}}
    w.tgd.load_state_dict(saved, w.lm)


def clear_grad_of_a_loaded_optimizer(w: World) -> None:
    w.tgd.load_state_dict(w.tgd.state_dict(), w.lm)
    w.tgd.clear_grad()


def look(w: World) -> None:
    assert w.computed.grad_fn is not None
    assert (w.prompt.data, w.prompt.grad, w.prompt.shape) == ("prompt", [], ())
    w.tgd.state_dict()
    w.lm.get_usage()
    te.get_backward_model_client()


OPERATIONS: dict[str, tuple[Callable[[World], Any], list[str], int]] = {
    "Variable(...)": (lambda w: te.Variable("text", "role"), [CREATE], 1),
    "Parameter(...)": (lambda w: te.Parameter("text", "role"), [CREATE], 1),
    "variables([...])": (lambda w: te.variables(["text"] * 1000, "role"), [CREATE] * 1000, 1),
    "batch()": (make_in_a_batch, [*[CREATE] * 101, *[UPDATE] * 3], 1),
    "reading data, grad, usage, a state_dict": (look, [], 0),
    "variable.data = ...": (lambda w: setattr(w.variable, "data", "other"), [UPDATE], 1),
    "variable.role = ...": (lambda w: setattr(w.variable, "role", "other"), [UPDATE], 1),
    "variable.requires_grad = ...": (lambda w: setattr(w.variable, "requires_grad", True), [UPDATE], 1),
    "variable.grad = ...": (lambda w: setattr(w.variable, "grad", [w.other]), [UPDATE], 1),
    "variable.note = ...": (lambda w: setattr(w.variable, "note", "mine"), [UPDATE], 1),
    "variable.requires_grad_()": (lambda w: w.variable.requires_grad_(), [UPDATE, UPDATE], 1),
    "variable.retain_grad()": (lambda w: w.computed.retain_grad(), [UPDATE], 1),
    "variable.append_grad(g)": (lambda w: w.prompt.append_grad(w.variable), ["append_grad"], 1),
    "variable.copy_(...)": (lambda w: w.variable.copy_(w.other), [UPDATE] * 3, 1),
    "variable.detach()": (lambda w: w.variable.detach(), [CREATE], 1),
    "variable.to(...)": (lambda w: w.variable.to(str), [CREATE], 1),
    "copy.deepcopy(variable)": (lambda w: copy.deepcopy(w.variable), [CREATE], 1),
    "variable + variable": (lambda w: w.prompt + w.variable, [FUNCTION], 1),
    "variable += variable": (add_in_place, [FUNCTION, *[UPDATE] * 5], 2),
    "sum": (lambda w: te.functional.sum([w.prompt, w.variable, w.other]), [FUNCTION], 1),
    "split": (lambda w: te.functional.split(w.prompt, "o"), [FUNCTION], 1),
    "chat_completion": (lambda w: w.answer(), [FUNCTION], 1),
    "chat_completion with 4 new Variables, in a batch": (chat_with_new_variables, [*[CREATE] * 4, FUNCTION], 2),
    "exact_match_evaluator": (
        lambda w: te.functional.exact_match_evaluator(w.answered, ["right"]),
        [FUNCTION],
        1,
    ),
    "deterministic_evaluator": (
        lambda w: te.functional.deterministic_evaluator(w.answered, ["right"], lambda a, b: 1, "nothing"),
        [FUNCTION],
        1,
    ),
    "lm_judge_evaluator": (
        lambda w: te.functional.lm_judge_evaluator(
            te.CallableModel(lambda messages: '{"score": 1, "explanation": "good"}'), w.chat[:1], w.answered
        ),
        ["create_model", FUNCTION],
        2,
    ),
    "loss.backward()": (lambda w: w.loss().backward(), BACKWARD, 1),
    "CallableModel(...)": (lambda w: te.CallableModel(str), ["create_model"], 1),
    "OpenAI(...)": (lambda w: te.OpenAI(api_key="none"), ["create_model"], 1),
    "model.clear_usage()": (lambda w: w.lm.clear_usage(), ["clear_model_usage"], 1),
    "set_backward_model_client(model)": (
        lambda w: te.set_backward_model_client(te.get_backward_model_client().client, completion_args={"seed": 1}),
        ["set_model_singleton"],
        1,
    ),
    "set_backward_model_client(path)": (
        lambda w: te.set_backward_model_client("openai/gpt-4o", {"api_key": "none"}),
        ["create_model", "set_model_singleton"],
        2,
    ),
    "set_backward_model_client, the same again": (lambda w: te.set_backward_model_client(w.lm), [], 0),
    "TGD([parameter], model)": (lambda w: w.optimizer(), [CREATE, CREATE, "create_optimizer"], 2),
    "TGD([parameter], model, messages)": (
        lambda w: w.optimizer(messages=w.tgd.defaults["messages"]),
        ["create_optimizer"],
        1,
    ),
    "TGD([2 new Parameters], model), in a batch": (
        make_an_optimizer_in_a_batch,
        [*[CREATE] * 4, "create_optimizer"],
        2,
    ),
    "optimizer.step()": (step, ["run_step"], 1),
    "optimizer.step(), changed here": (step_of_a_changed_optimizer, ["run_optimizer_tgd"], 1),
    "functional tgd": (step_as_a_function, ["run_optimizer_tgd"], 1),
    "optimizer.clear_grad()": (lambda w: w.tgd.clear_grad(), ["clear_grad"], 1),
    "optimizer.clear_grad(), loaded": (clear_grad_of_a_loaded_optimizer, [UPDATE], 1),
    "optimizer.add_param_group(...)": (
        lambda w: w.tgd.add_param_group({"params": [w.other]}),
        ["add_param_group"],
        1,
    ),
    "optimizer.load_state_dict(...), 20 Variables": (load_a_checkpoint, [CREATE] * 20, 1),
    "optimizer.clear_grad_with_next_call(), settled": (clear_alone, ["clear_grad"], 1),
    "optimizer.clear_grad_with_next_call(), in a batch": (ride_in_a_batch, ["clear_grad", CREATE], 1),
    "optimizer.backward_and_step(loss)": (
        lambda w: w.tgd.backward_and_step(w.loss()),
        [*BACKWARD, "run_step"],
        1,
    ),
    "optimizer.backward_and_step(loss), changed here": (
        pass_and_step_of_a_changed_optimizer,
        [*BACKWARD, "run_optimizer_tgd"],
        2,
    ),
    "a batch of training, in few round trips": (
        train_in_few_trips,
        ["clear_grad", FUNCTION, FUNCTION, *BACKWARD, "run_step"],
        3,
    ),
    "a batch of training": (train, [FUNCTION, FUNCTION, *BACKWARD, "run_step", "clear_grad"], 5),
}
"""Operation: the requests that it makes, in order, and the round trips that they take."""


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    with counting(monkeypatch) as counts:
        yield counts


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    pytest.importorskip("aiohttp")
    with BackendProcess(tmp_path_factory.mktemp("backend")) as backend:
        yield backend


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_round_trips_of_an_operation(operation: str, backend: BackendProcess, counts: Counts) -> None:
    run, requests, trips = OPERATIONS[operation]
    local = {"http_base_url": "http://127.0.0.1", "http_port": backend.port}
    with te.Session(**local, ws_base_url="ws://127.0.0.1", ws_port=backend.port) as session:
        session.login(KEY)
        te.init(None, "Round trips")
        run(World(counts))
        # Nobody waits for this notification: it goes along with another message.
        made = [method for method in counts.requests if method != "release"]
        assert (made, counts.trips) == (requests, trips)
