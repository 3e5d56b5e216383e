from __future__ import annotations

import gc

import pytest

from tellurio_sync.autodiff import Function, functional, no_grad
from tellurio_sync.autodiff.function import Split
from tellurio_sync.errors import RemoteError, RemoteProtocolError, UsageError
from tellurio_sync.model import CallableModel, Parameter, Variable, suppress_variable_notifications
from tests.model.fake_link import tag


@pytest.fixture
def model(link):
    return CallableModel(lambda messages: "")


def sent(link):
    return link.calls("run_function")[-1]


def two_outputs(link):
    link.answers["run_function"] = lambda params: {"data": [link.output(1), link.output("because")]}


def equal(prediction, target):
    return int(prediction == target)


def all_right(scores):
    return False


# --- the functional form ------------------------------------------------------------------------


def test_sum_sends_one_list(link):
    x, y = Variable(1), Variable(2)
    functional.sum((x, y))
    assert sent(link) == {"function_name": "Sum", "grad_enabled": True, "args": [[tag(x), tag(y)]], "kwargs": {}}


@pytest.mark.parametrize(
    ("arguments", "settings", "args"),
    [((), {}, [None, -1]), ((" ",), {}, [" ", -1]), ((), {"maxsplit": 1, "sep": ","}, [",", 1])],
)
def test_split_sends_all_by_position_with_defaults(link, arguments, settings, args):
    x = Variable("a b")
    link.answers["run_function"] = lambda params: {"data": [link.output("a"), link.output("b", _output_nr=1)]}
    parts = functional.split(x, *arguments, **settings)
    assert (sent(link)["function_name"], sent(link)["args"], sent(link)["kwargs"]) == ("Split", [tag(x), *args], {})
    assert [(part.data, part.output_nr) for part in parts] == [("a", 0), ("b", 1)]


def test_chat_completion(link, model):
    system, sample = Parameter("classify {a}"), Variable(["m1", "{c}"])
    messages = [{"role": "system", "content": [system]}, {"role": "user", "content": [sample, system]}]
    functional.chat_completion(model, messages, inputs={"a": "b", "c": sample}, temperature=0, model="gpt-4o")
    assert sent(link) == {
        "function_name": "ChatCompletion",
        "grad_enabled": True,
        "args": [
            {"__model_client__": True, "model_id": model.model_id},
            [
                {"role": "system", "content": [tag(system)]},
                {"role": "user", "content": [tag(sample), tag(system)]},
            ],
            {"a": "b", "c": tag(sample)},
        ],
        "kwargs": {"temperature": 0, "model": "gpt-4o"},
    }
    functional.chat_completion(None, messages)
    assert sent(link)["args"][0] is None
    assert sent(link)["args"][2] is None


def test_deterministic_evaluator_sends_all_seven(link):
    two_outputs(link)
    prediction, target = Variable("a"), Variable("b")
    score, explanation = functional.deterministic_evaluator(prediction, target, equal, "equality", all_right, max, "m")
    args = sent(link)["args"]
    assert args[:2] == [tag(prediction), tag(target)]
    assert [set(args[index]) for index in (2, 4)] == [{"__callable__", "callable_id"}] * 2
    # Protocol §E.1: the server may compute what Python has.
    assert (set(args[5]), args[5]["builtin"]) == ({"__callable__", "callable_id", "builtin"}, "max")
    assert (args[3], args[6]) == ("equality", "m")
    assert (score.data, explanation.data) == (1, "because")


def test_only_functions_of_python_are_named(link):
    class Named:
        __name__ = "sum"

        def __call__(self, scores):
            return 1

    def max(scores):
        return 1

    two_outputs(link)
    for mine in (Named(), max, len, [].count, "a".join):
        functional.exact_match_evaluator(Variable(["a"]), ["b"], mine, "m")
        assert set(sent(link)["args"][2]) == {"__callable__", "callable_id"}
    for of_python in (all, any, sum, min):
        functional.exact_match_evaluator(Variable(["a"]), ["b"], of_python, "m")
        assert sent(link)["args"][2]["builtin"] == of_python.__name__


def test_evaluators_fill_in_their_defaults(link, model):
    two_outputs(link)
    prediction = Variable("a")
    functional.deterministic_evaluator(prediction, "b", equal, "equality")
    args = sent(link)["args"]
    assert (args[4], args[5]["__callable__"], args[6]) == (None, True, "summation")
    functional.exact_match_evaluator(prediction, ["b"])
    args = sent(link)["args"]
    assert (args[1], args[2]["__callable__"], args[3]) == (["b"], True, "summation")
    functional.lm_judge_evaluator(model, [], prediction, temperature=1)
    args = sent(link)["args"]
    assert args[1:6] == [[], tag(prediction), None, None, None]
    assert (args[6]["__callable__"], args[7:]) == (True, ["summation", True])
    assert sent(link)["kwargs"] == {"temperature": 1}


def test_apply_sends_as_called(link):
    x = Variable("a b")
    Split.apply(x, sep=" ")
    assert (sent(link)["args"], sent(link)["kwargs"]) == ([tag(x)], {"sep": " "})

    class Own(Function):
        pass

    Own.apply()
    assert sent(link)["function_name"] == "Own"


def test_grad_mode_is_sent(link):
    with no_grad():
        functional.add(Variable(1), Variable(2))
    assert sent(link)["grad_enabled"] is False


@pytest.mark.parametrize(
    "call",
    [
        lambda v, m: functional.add(v, "text"),
        lambda v, m: functional.sum(v),
        lambda v, m: functional.sum([v, 1]),
        lambda v, m: functional.split("text"),
        lambda v, m: functional.chat_completion("gpt-4o", []),
        lambda v, m: functional.chat_completion(m, "text"),
        lambda v, m: functional.chat_completion(m, [{"role": "user", "content": "text"}]),
        lambda v, m: functional.chat_completion(m, [{"role": "user", "content": ["text"]}]),
        lambda v, m: functional.chat_completion(m, [{"content": [v]}]),
        lambda v, m: functional.chat_completion(m, [], inputs=[v]),
        lambda v, m: functional.chat_completion(m, [], inputs={1: v}),
        lambda v, m: functional.chat_completion(m, [], inputs={"a": 1}),
        lambda v, m: functional.chat_completion(m, [], inputs={"a": ["text", v]}),
        lambda v, m: functional.deterministic_evaluator(v, "t", None, "p"),
        lambda v, m: functional.deterministic_evaluator("v", "t", equal, "p"),
        lambda v, m: functional.exact_match_evaluator(v, "t", reduction_fn="sum"),
        lambda v, m: functional.exact_match_evaluator(v, object()),
        lambda v, m: functional.lm_judge_evaluator(m, [], "text"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused_before_any_call(link, model, call):
    variable = Variable("a")
    with pytest.raises(TypeError):
        call(variable, model)
    assert link.calls("run_function") == []


def test_taken_names_are_refused(link, model):
    with pytest.raises(ValueError, match="prediction"):
        functional.lm_judge_evaluator(model, [], Variable("a"), inputs={"prediction": "b"})


def test_a_variable_the_server_does_not_know_is_refused(link):
    with suppress_variable_notifications():
        variable = Variable("a")
    with pytest.raises(UsageError, match="does not know it"):
        functional.add(variable, Variable("b"))


@pytest.mark.parametrize("result", [None, {}, {"data": None}, {"data": []}])
def test_a_reply_without_outputs_is_an_error(link, result):
    link.answers["run_function"] = lambda params: result
    with pytest.raises(RemoteProtocolError):
        functional.add(Variable(1), Variable(2))


def test_a_wrong_number_of_outputs_is_an_error(link):
    with pytest.raises(RemoteProtocolError, match="score and explanation"):
        functional.exact_match_evaluator(Variable("a"), "b")
    two_outputs(link)
    with pytest.raises(RemoteProtocolError, match="2 outputs"):
        functional.add(Variable(1), Variable(2))


def test_the_servers_error_text_is_the_users(link):
    def fail(params):
        raise RemoteError(-32603, "Internal error", {"exception": "unequal lengths"})

    link.answers["run_function"] = fail
    with pytest.raises(RuntimeError, match=r"^unequal lengths$"):
        functional.add(Variable(1), Variable(2))


# --- the graph ----------------------------------------------------------------------------------


def test_the_graph_is_there_when_the_function_returns(link):
    def answer(params):
        link.push("create_node", node_id="op", name="AddBackward0")
        link.push("create_node", node_id="leaf", name="AccumulateGrad")
        link.push("create_edge", from_node_id="op", to_node_id="leaf", output_nr=0)
        link.push("create_edge", from_node_id="op", to_node_id=None, output_nr=0)
        return {"data": link.computed("ab", "op")}

    link.answers["run_function"] = answer
    result = functional.add(Parameter("a"), Variable("b"))
    gc.collect()
    assert result.grad_fn.name() == "AddBackward0"
    assert [(edge.node and edge.node.name(), edge.output_nr) for edge in result.grad_fn.next_functions] == [
        ("AccumulateGrad", 0),
        (None, 0),
    ]
    assert not result.is_leaf


def test_an_anonymous_leaf_receives_its_gradient(link):
    """Only the output is kept by the user; the server still sends a gradient to the argument."""

    def answer(params):
        link.push("create_node", node_id="op", name="AddBackward0")
        return {"data": link.computed("ab", "op")}

    link.answers["run_function"] = answer
    result = functional.add(Variable("a", requires_grad=True), Variable("b"))
    gc.collect()
    leaf_id = link.calls("run_function")[0]["args"][0]["variable_id"]
    link.push("append_grad", variable_id=leaf_id, gradient_id="g", gradient={"data": "better"})
    assert link.registries.variables.lookup(leaf_id).grad[0].data == "better"
    del result
    assert leaf_id not in link.registries.variables


def test_the_functions_of_an_evaluator_live_as_long_as_its_outputs(link):
    def answer(params):
        link.push("create_node", node_id="op", name="DeterministicEvaluatorBackward0")
        return {"data": [link.computed(1, "op"), link.computed("because", "op", _output_nr=1)]}

    link.answers["run_function"] = answer
    score, explanation = functional.deterministic_evaluator(Parameter("a"), "b", lambda p, t: 1, "p")
    del score
    assert len(link.registries.callables) == 2
    del explanation
    assert len(link.registries.callables) == 0
