from __future__ import annotations

import gc
import pickle
import threading

import pytest

from tellurio_sync.errors import RemoteError, RemoteProtocolError, UnknownVariable, UsageError
from tellurio_sync.model import CallableModel, Parameter, Variable
from tellurio_sync.model.graph import Node
from tellurio_sync.model.variable_state import bind_node, received, set_local
from tellurio_sync.optim import TGD, tgd
from tests.conftest import FAILSAFE
from tests.model.fake_link import Reader, lose, refusal, tag


@pytest.fixture
def model(link):
    return CallableModel(lambda messages: "")


@pytest.fixture
def parameter(link):
    return Parameter("old", "prompt")


def prompts():
    return [{"role": "system", "content": [Variable("improve", "prompt")]}]


def push_step(link, parameter, data="new", entries=1):
    """What the server pushes in a step, and the momentum entries of its reply."""
    wire = []
    for number in range(entries):
        copy_id, gradient_id = link.new_id("copy"), link.new_id("gradient")
        link.push(
            "create_variable",
            variable_id=copy_id,
            obj_type="__parameter__",
            data=parameter._data,
            role=parameter.role,
            requires_grad=True,
            _retain_grad=False,
            _grad=[],
            _output_nr=0,
            _grad_fn=None,
            is_leaf=True,
        )
        link.push("append_grad", variable_id=parameter.variable_id, gradient_id=gradient_id, gradient={"data": "g"})
        wire.append(
            [{"__parameter__": True, "variable_id": copy_id}, [{"__variable__": True, "variable_id": gradient_id}]]
        )
        link.push("update_variable", variable_id=parameter.variable_id, field="data", value=f"{data}{number}")
    return wire


def answer_steps(link, parameter, entries=1):
    def answer(params):
        assert parameter._pending_data
        state = [{"key": tag(parameter), "value": {"momentum_buffer": push_step(link, parameter, entries=entries)}}]
        return {"message": "Optimizer step executed successfully.", "state": state}

    link.answers["run_step"] = answer


def answer_functional(link, parameter, entries=1):
    def answer(params):
        assert parameter._pending_data
        return {
            "message": "Functional TGD optimization step executed successfully.",
            "momentum_buffer_list": [push_step(link, parameter, entries=entries)],
        }

    link.answers["run_optimizer_tgd"] = answer


# --- making one ---------------------------------------------------------------------------------


def test_what_is_sent(link, model, parameter):
    messages, hint = prompts(), Variable("hint")
    TGD([parameter], model, messages, {"a": hint}, ["short", hint], momentum=3, temperature=0)
    assert link.calls("create_optimizer") == [
        {
            "optimizer_name": "TGD",
            "params": [tag(parameter)],
            "defaults": {
                "model_client": {"__model_client__": True, "model_id": model.model_id},
                "messages": [{"role": "system", "content": [tag(messages[0]["content"][0])]}],
                "inputs": {"a": tag(hint)},
                "constraints": ["short", tag(hint)],
                "momentum": 3,
                "completion_args": {"temperature": 0},
            },
        }
    ]


def test_one_group_with_the_very_objects(link, model, parameter):
    messages = prompts()
    optimizer = TGD([parameter], model_client=model, messages=messages)
    (group,) = optimizer.param_groups
    assert set(group) == {
        "params", "model_client", "messages", "inputs", "constraints", "momentum", "completion_args",
    }  # fmt: skip
    assert group["params"] == [parameter]
    assert group["model_client"] is model
    assert group["messages"][0]["content"][0] is messages[0]["content"][0]
    assert optimizer.state == {}
    assert link.registries.optimizers.lookup(optimizer.optimizer_id) is optimizer


def test_default_messages_are_placeholders(link, model, parameter):
    optimizer = TGD([parameter], model)
    assert [(m["role"], m["content"][0].data, m["content"][0].role) for m in optimizer.defaults["messages"]] == [
        (
            kind,
            f"Placeholder for Textual Gradient Descent optimizer {kind} prompt",
            f"Textual Gradient Descent optimizer {kind} prompt",
        )
        for kind in ("system", "user")
    ]


def test_groups_override_the_defaults(link, model, parameter):
    other = Parameter("b")
    optimizer = TGD([{"params": [parameter], "momentum": 2}, {"params": other}], model, prompts(), momentum=1)
    assert [(group["params"], group["momentum"]) for group in optimizer.param_groups] == [
        ([parameter], 2),
        ([other], 1),
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (lambda p, m: ([], m), ValueError),
        (lambda p, m: (p, m), TypeError),
        (lambda p, m: ({"params": [p]}, m), TypeError),
        (lambda p, m: (["text"], m), TypeError),
        (lambda p, m: ([p, p], m), ValueError),
        (lambda p, m: ([{"params": [p]}, {"params": [p]}], m), ValueError),
        (lambda p, m: ([{"params": []}], m), ValueError),
        (lambda p, m: ([{"momentum": 1}], m), TypeError),
        (lambda p, m: ([p], "gpt-4o"), TypeError),
        (lambda p, m: ([p], m, "text"), TypeError),
        (lambda p, m: ([p], m, None, ["text"]), TypeError),
        (lambda p, m: ([p], m, None, None, "short"), TypeError),
        (lambda p, m: ([p], m, None, None, [1]), TypeError),
        (lambda p, m: ([p], m, None, None, None, -1), ValueError),
        (lambda p, m: ([p], m, None, None, None, 1.5), TypeError),
    ],
)
def test_bad_arguments_are_refused(link, model, parameter, arguments, error):
    with pytest.raises(error):
        TGD(*arguments(parameter, model))
    assert link.calls("create_optimizer") == []


def test_a_computed_variable_cannot_be_optimised(link, model, parameter):
    set_local(parameter, "is_leaf", False)
    with pytest.raises(UsageError, match="Only leaves"):
        TGD([parameter], model)


# --- stepping -----------------------------------------------------------------------------------


def test_a_step_gives_new_data_and_momentum(link, model, parameter):
    answer_steps(link, parameter)
    optimizer = TGD([parameter], model, prompts(), momentum=1)
    assert optimizer.step() == (None, None)
    assert parameter._pending_data
    reader = Reader(link, lambda: parameter.data)
    assert reader.is_waiting
    link.push("clear_step", variable_ids=[parameter.variable_id])
    assert reader.result() == "new0"
    gc.collect()
    ((copied, gradients),) = optimizer.state[parameter]["momentum_buffer"]
    assert (type(copied), copied.data, copied.role) == (Parameter, "old", "prompt")
    assert gradients == parameter.grad
    assert gradients[0].data == "g"


def test_entries_with_two_gradients_are_lists_all_the_same(link, model, parameter):
    """A list of two gradients must not be taken for a pair."""
    one, other = Variable("g1"), Variable("g2")
    entry = [tag(parameter), [tag(one), tag(other)]]
    state = [{"key": tag(parameter), "value": {"momentum_buffer": [entry], "note": [1, 2]}}]
    link.answers["run_step"] = lambda params: {"message": "Optimizer step executed successfully.", "state": state}
    optimizer = TGD([parameter], model, prompts())
    optimizer.step()
    assert optimizer.state == {parameter: {"momentum_buffer": [(parameter, [one, other])], "note": [1, 2]}}


def test_copies_that_the_state_has_dropped_are_let_go(link, model, parameter):
    answer_steps(link, parameter)
    optimizer = TGD([parameter], model, prompts(), momentum=1)
    for _ in range(5):
        optimizer.step()
        link.push("clear_step", variable_ids=[parameter.variable_id])
        optimizer.clear_grad()
        gc.collect()
        alive = [id_ for id_ in link.registries.variables.snapshot() if id_.startswith(("copy", "gradient"))]
        assert len(alive) == 2


def test_step_calls_the_closure_first(link, model, parameter):
    optimizer = TGD([parameter], model, prompts())
    pair = (Variable(1), Variable("because"))

    def closure():
        assert link.calls("run_step") == []
        return pair

    assert optimizer.step(closure) is pair
    assert len(link.calls("run_step")) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (RemoteError(-32603, "Internal error", {"exception": "no"}), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        ({"message": "Not done.", "state": []}, RemoteProtocolError),
        ({"message": "Optimizer step executed successfully."}, RemoteProtocolError),
        ({"message": "Optimizer step executed successfully.", "state": {}}, RemoteProtocolError),
        ({"message": "Optimizer step executed successfully.", "state": [{"key": 1}]}, RemoteProtocolError),
        ({"message": "Optimizer step executed successfully.", "state": [{"key": 1, "value": {}}]}, RemoteProtocolError),
        (
            {
                "message": "Optimizer step executed successfully.",
                "state": [{"key": {"__parameter__": True, "variable_id": "never"}, "value": {}}],
            },
            UnknownVariable,
        ),
    ],
)
def test_flags_are_reset_when_the_step_fails(link, model, parameter, answer, error):
    link.pending_timeout = 0.01
    optimizer = TGD([parameter], model, prompts())

    def respond(params):
        if isinstance(answer, BaseException):
            raise answer
        return answer

    link.answers["run_step"] = respond
    with pytest.raises(error):
        optimizer.step()
    assert (parameter.data, optimizer.state) == ("old", {})


def test_clear_grad_empties_the_live_lists(link, model, parameter):
    parameter.append_grad(Variable("g"))
    live = parameter.grad
    optimizer = TGD([parameter], model, prompts())
    optimizer.clear_grad()
    assert link.calls("clear_grad") == [{"optimizer_id": optimizer.optimizer_id}]
    assert live == []
    assert parameter.grad is live


def test_clear_grad_clears_nothing_when_the_server_refuses(link, model, parameter):
    parameter.append_grad(Variable("g"))
    link.answers["clear_grad"] = lambda params: {"message": "no"}
    with pytest.raises(RemoteProtocolError):
        TGD([parameter], model, prompts()).clear_grad()
    assert len(parameter.grad) == 1


def test_add_param_group(link, model, parameter):
    messages, other = prompts(), Parameter("b")
    optimizer = TGD([parameter], model, messages)
    groups = optimizer.param_groups
    optimizer.add_param_group({"params": other, "momentum": 2})
    assert link.calls("add_param_group") == [
        {
            "optimizer_id": optimizer.optimizer_id,
            "messages": [{"role": "system", "content": [tag(messages[0]["content"][0])]}],
            "param_group": {"params": [tag(other)], "momentum": 2},
        }
    ]
    assert optimizer.param_groups is groups
    assert groups[1]["params"] == [other]
    optimizer.step()
    assert len(link.calls("run_step")) == 1
    with pytest.raises(ValueError, match="twice"):
        optimizer.add_param_group({"params": [other]})


# --- what the server's optimizer does not know --------------------------------------------------


def test_a_changed_setting_counts_from_the_next_step(link, model, parameter):
    """Protocol §I.2."""
    answer_functional(link, parameter)
    optimizer = TGD([parameter], model, prompts(), temperature=0)
    optimizer.param_groups[0]["momentum"] = 5
    optimizer.step()
    assert link.calls("run_step") == []
    (params,) = link.calls("run_optimizer_tgd")
    assert (params["momentum"], params["params"], params["completion_args"]) == (
        5,
        [tag(parameter)],
        {"temperature": 0},
    )
    assert params["momentum_buffer_list"] == [[]]
    link.push("clear_step", variable_ids=[parameter.variable_id])
    assert parameter.data == "new0"
    (entry,) = optimizer.state[parameter]["momentum_buffer"]
    optimizer.step()
    sent = link.calls("run_optimizer_tgd")[1]
    assert sent["momentum_buffer_list"] == [[[tag(entry[0]), [tag(gradient) for gradient in entry[1]]]]]
    assert sent["grads"] == [[tag(gradient) for gradient in parameter.grad[:1]]]


def test_clear_grad_after_a_change_here(link, model, parameter):
    answer_functional(link, parameter)
    optimizer = TGD([parameter], model, prompts())
    optimizer.param_groups[0]["momentum"] = 5
    optimizer.step()
    link.push("clear_step", variable_ids=[parameter.variable_id])
    optimizer.clear_grad()
    assert parameter.grad == []
    assert link.calls("update_variable") == [{"variable_id": parameter.variable_id, "field": "_grad", "value": []}]


# --- checkpoints --------------------------------------------------------------------------------


def test_a_checkpoint_is_plain_and_pickles(link, model, parameter):
    answer_steps(link, parameter)
    optimizer = TGD([parameter], model, prompts(), momentum=1)
    optimizer.step()
    link.push("clear_step", variable_ids=[parameter.variable_id])
    checkpoint = optimizer.state_dict()
    (group,) = checkpoint["param_groups"]
    assert group["params"] == [0]
    assert group["model_client"] == model.describe()
    assert list(checkpoint["state"]) == [0]
    assert checkpoint["state"][0]["momentum_buffer"][0][0].data == "old"
    assert pickle.loads(pickle.dumps(checkpoint))["param_groups"][0]["momentum"] == 1


def test_a_loaded_checkpoint_is_what_the_next_step_uses(link, model, parameter):
    """Protocol §I.2."""
    answer_steps(link, parameter)
    optimizer = TGD([parameter], model, prompts(), momentum=1)
    optimizer.step()
    link.push("clear_step", variable_ids=[parameter.variable_id])
    text = pickle.dumps(optimizer.state_dict())

    restored = TGD([parameter], model, prompts())
    restored.load_state_dict(pickle.loads(text), model)
    assert restored.param_groups[0]["momentum"] == 1
    assert restored.param_groups[0]["model_client"] is model
    answer_functional(link, parameter)
    restored.step()
    (params,) = link.calls("run_optimizer_tgd")
    ((copied, gradients),) = params["momentum_buffer_list"][0]
    sent = {p["data"] for p in link.calls("create_variable")}
    assert {"old", "g", "improve"} <= sent
    assert copied["__parameter__"] is True
    assert len(gradients) == 1


def test_a_checkpoint_needs_models_and_the_same_groups(link, model, parameter):
    optimizer = TGD([parameter], model, prompts())
    checkpoint = optimizer.state_dict()
    without = TGD([parameter], None, prompts())
    with pytest.raises(ValueError, match="callable model"):
        without.load_state_dict(checkpoint)
    with pytest.raises(ValueError, match="2 models for 1 groups"):
        optimizer.load_state_dict(checkpoint, [model, model])
    other = TGD([Parameter("a"), Parameter("b")], model, prompts())
    with pytest.raises(ValueError, match=r"groups of \[1\] parameters, this optimizer of \[2\]"):
        other.load_state_dict(checkpoint, model)


def test_a_checkpoint_takes_the_model_that_the_optimizer_has_here(link, model, parameter):
    checkpoint = pickle.loads(pickle.dumps(TGD([parameter], model, prompts(), momentum=3).state_dict()))
    for given in (None, [None]):
        optimizer = TGD([parameter], model, prompts())
        optimizer.load_state_dict(checkpoint, given)
        assert optimizer.param_groups[0]["model_client"] is model
        assert optimizer.param_groups[0]["momentum"] == 3


# --- the functional form ------------------------------------------------------------------------


def test_functional_tgd(link, model, parameter):
    answer_functional(link, parameter)
    gradient = Variable("g")
    buffers: list = [[]]
    before = buffers
    tgd([parameter], [[gradient]], buffers, model, prompts(), None, ["short"], 2, temperature=0)
    (params,) = link.calls("run_optimizer_tgd")
    assert params["params"] == [tag(parameter)]
    assert params["grads"] == [[tag(gradient)]]
    assert (params["inputs"], params["constraints"], params["momentum"]) == (None, ["short"], 2)
    assert params["completion_args"] == {"temperature": 0}
    assert buffers is before
    assert buffers[0][0][0].data == "old"
    link.push("clear_step", variable_ids=[parameter.variable_id])
    assert parameter.data == "new0"


@pytest.mark.parametrize(
    "reply",
    [
        {"message": "no", "momentum_buffer_list": [[]]},
        {"message": "Functional TGD optimization step executed successfully."},
        {"message": "Functional TGD optimization step executed successfully.", "momentum_buffer_list": []},
        {"message": "Functional TGD optimization step executed successfully.", "momentum_buffer_list": [[["a"]]]},
    ],
)
def test_functional_tgd_resets_flags_on_a_bad_reply(link, model, parameter, reply):
    link.answers["run_optimizer_tgd"] = lambda params: reply
    buffers: list = [[]]
    with pytest.raises(RemoteProtocolError):
        tgd([parameter], [[]], buffers, model, prompts(), None, None, 0)
    assert (parameter.data, buffers) == ("old", [[]])


def test_functional_tgd_checks_its_lists(link, model, parameter):
    with pytest.raises(ValueError, match="1 params, 2 grads"):
        tgd([parameter], [[], []], [[]], model, prompts(), None, None, 0)
    with pytest.raises(ValueError, match="momentum"):
        tgd([parameter], [[]], [[]], model, prompts(), None, None, -1)
    assert link.calls("run_optimizer_tgd") == []


# --- accept -------------------------------------------------------------------------------------


def test_accept_is_a_setting_where_the_server_knows_it(link, model, parameter):
    link.extensions = frozenset({"accept"})
    TGD([parameter], model, prompts(), accept="batch")
    TGD([parameter], model, prompts())
    sent = [params["defaults"] for params in link.calls("create_optimizer")]
    assert sent[0]["accept"] == "batch"
    assert "accept" not in sent[1]
    assert "accept" not in sent[0]["completion_args"]


def test_a_server_that_cannot_try_is_named_and_nothing_is_sent(link, model, parameter):
    with pytest.raises(UsageError, match="cannot try new data"):
        TGD([parameter], model, prompts(), accept="batch")
    with pytest.raises(UsageError, match="cannot try new data"):
        TGD([{"params": [parameter], "accept": "batch"}], model, prompts())
    assert link.calls("create_optimizer") == []


@pytest.mark.parametrize("accept", ["always", True, 1])
def test_another_kind_of_acceptance_is_refused(link, model, parameter, accept):
    with pytest.raises(ValueError, match="accept must be 'batch' or None"):
        TGD([parameter], model, prompts(), accept=accept)


def test_what_was_rejected_is_counted_and_logged_whoever_made_the_step(link, model, parameter, caplog):
    link.extensions = frozenset({"accept"})
    caplog.set_level("INFO")
    optimizer = TGD([parameter], model, prompts(), accept="batch")
    rejected = {"rejected": ["The parameter keeps its data: score 1."]}
    answer_steps(link, parameter)
    there = link.answers["run_step"]
    link.answers["run_step"] = lambda params: {**there(params), **rejected}
    optimizer.step()
    assert optimizer.rejected == 1
    answer_functional(link, parameter)
    here = link.answers["run_optimizer_tgd"]
    link.answers["run_optimizer_tgd"] = lambda params: {**here(params), **rejected}
    optimizer.param_groups[0]["momentum"] = 1
    optimizer.step()
    assert optimizer.rejected == 2
    assert link.calls("run_optimizer_tgd")[0]["accept"] == "batch"
    assert [record.getMessage() for record in caplog.records].count("= The parameter keeps its data: score 1.") == 2


# --- a pass and a step in one round trip ----------------------------------------------------------------


@pytest.fixture
def computed(link, parameter):
    """What was computed from the parameter."""
    result = received(Variable, link, "result", "ab", "sum", True)
    set_local(result, "is_leaf", False)
    bind_node(result, Node("op", "AddBackward0"))
    set_local(result, "_arguments", (parameter,))
    link.registries.variables.register("result", result)
    link.answers["get_backprop_ids"] = lambda params: {"variable_ids": [parameter.variable_id]}
    link.extensions = frozenset({"after"})
    return result


PASS_AND_STEP = ["get_backprop_ids", "run_backward", "run_step"]


def answer_pass(link, parameter):
    def answer(params):
        assert parameter._pending_grad
        assert parameter._pending_data
        link.push("append_grad", variable_id=parameter.variable_id, gradient_id="g", gradient={"data": "better"})
        return {"message": "Backward pass executed successfully."}

    link.answers["run_backward"] = answer


def test_pass_and_step_are_sent_together(link, model, parameter, computed):
    answer_pass(link, parameter)
    answer_steps(link, parameter)
    optimizer = TGD([parameter], model, prompts(), momentum=1)
    link.bursts.clear()
    optimizer.backward_and_step(computed)
    assert link.bursts == [PASS_AND_STEP]
    (backward,), (step,) = link.calls("run_backward"), link.calls("run_step")
    assert (backward["name"], step) == (step["after"], {"optimizer_id": optimizer.optimizer_id, "after": step["after"]})
    assert (parameter._pending_grad, parameter._pending_data) == (True, True)
    link.push("clear_backward", variable_ids=[parameter.variable_id])
    link.push("clear_step", variable_ids=[parameter.variable_id])
    assert parameter.data == "new0"
    assert [gradient.data for gradient in parameter.grad] == ["better", "g"]
    assert len(optimizer.state[parameter]["momentum_buffer"]) == 1


def test_each_step_waits_for_the_pass_of_its_own_thread(link, model, parameter, computed):
    """Both passes are under way at once: each has a name of its own."""
    answer_steps(link, parameter)
    first, second = (TGD([parameter], model, prompts()) for _ in range(2))
    inner = threading.Thread(target=second.backward_and_step, args=(computed,))

    def answer(params):
        if not inner.ident:
            inner.start()
            inner.join(FAILSAFE)
        return {"message": "Backward pass executed successfully."}

    link.answers["run_backward"] = answer
    first.backward_and_step(computed)
    names = [params["name"] for params in link.calls("run_backward")]
    after = {params["optimizer_id"]: params["after"] for params in link.calls("run_step")}
    assert len(set(names)) == 2
    assert after == {first.optimizer_id: names[0], second.optimizer_id: names[1]}


@pytest.mark.parametrize("how", ["another server", "a changed group"])
def test_else_they_are_two_calls(link, model, parameter, computed, how):
    optimizer = TGD([parameter], model, prompts())
    link.answers["get_backprop_ids"] = lambda params: {"variable_ids": []}
    link.bursts.clear()
    if how == "another server":
        link.extensions = frozenset()
    else:
        optimizer.param_groups[0]["constraints"] = ["Be short."]
    optimizer.backward_and_step(computed)
    assert link.bursts == [PASS_AND_STEP[:2]]
    assert "name" not in link.calls("run_backward")[0]
    assert link.calls()[-1][0] == ("run_step" if how == "another server" else "run_optimizer_tgd")
    assert "after" not in link.calls()[-1][1]


@pytest.mark.parametrize("failing", ["run_backward", "run_step"])
@pytest.mark.parametrize("error", [refusal, lose, KeyboardInterrupt])
def test_what_fails_of_them_is_raised_and_nothing_waits_for_ever(link, model, parameter, computed, failing, error):
    def fail(params):
        raise error()

    link.answers[failing] = fail
    if failing == "run_backward" and error is not KeyboardInterrupt:
        link.answers["run_step"] = lambda params: (_ for _ in ()).throw(refusal("Not begun, because ..."))
    optimizer = TGD([parameter], model, prompts())
    with pytest.raises(type(error()), match=r"no room|cable cut|^$"):
        optimizer.backward_and_step(computed)
    is_done = failing == "run_step" and error is not KeyboardInterrupt
    assert parameter._pending_data is False
    assert parameter._pending_grad is is_done  # the server has named it: it clears the flag
    assert optimizer.state == {}


def test_a_function_of_the_user_that_failed_is_the_cause(link, model, parameter, computed):
    mine = ValueError("mine")
    optimizer = TGD([parameter], model, prompts())
    callable_id = model._registered.callable_id

    def fail(params):
        link.registries.note_failure(callable_id, mine)
        raise refusal(f"callable {callable_id} failed")

    link.answers["run_step"] = fail
    with pytest.raises(RemoteError) as failed:
        optimizer.backward_and_step(computed)
    assert failed.value.__cause__ is mine
