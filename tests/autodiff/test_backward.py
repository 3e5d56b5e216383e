from __future__ import annotations

import gc
import logging

import pytest

from tellurio_sync.autodiff import backward
from tellurio_sync.autodiff.backward_pass import set_default_feedback
from tellurio_sync.errors import ConnectionLost, RemoteError, RemoteProtocolError, UsageError, WouldDeadlock
from tellurio_sync.model import Parameter, Variable
from tellurio_sync.model.graph import Node
from tellurio_sync.model.variable_state import bind_node, received, set_local
from tests.model.fake_link import Reader, tag


@pytest.fixture
def graph(link):
    """A leaf and what was computed from it; the backward pass appends one gradient to the leaf."""
    leaf = Parameter("a", "r")
    node = Node("op", "AddBackward0")
    result = received(Variable, link, "result", "ab", "sum", True)
    set_local(result, "is_leaf", False)
    bind_node(result, node)
    set_local(result, "_arguments", (leaf,))
    link.registries.variables.register("result", result)
    link.answers["get_backprop_ids"] = lambda params: {"variable_ids": [leaf.variable_id]}
    return leaf, result


def append(link, leaf):
    def answer(params):
        assert leaf._pending_grad
        link.push("append_grad", variable_id=leaf.variable_id, gradient_id="g", gradient={"data": "better"})
        return {"message": "Backward pass executed successfully."}

    return answer


def test_what_is_sent_and_in_which_order(link, graph):
    leaf, result = graph
    gradient = Variable("feedback")
    result.backward(gradient, retain_graph=True, create_graph=True, inputs=[leaf])
    assert link.bursts == [["get_backprop_ids", "run_backward"]]  # one round trip
    assert link.calls()[-2:] == [
        ("get_backprop_ids", {"variables": tag(result)}),
        (
            "run_backward",
            {
                "variables": tag(result),
                "grad_variables": tag(gradient),
                "retain_graph": True,
                "create_graph": True,
                "inputs": [tag(leaf)],
            },
        ),
    ]


def test_several_starts_are_lists(link, graph):
    _, result = graph
    backward([result, result], [None, Variable("g")])
    (params,) = link.calls("run_backward")
    assert params["variables"] == [tag(result)] * 2
    assert params["grad_variables"][0] is None
    assert (params["retain_graph"], params["create_graph"], params["inputs"]) == (None, False, None)


def test_the_gradient_is_readable_when_the_server_says_so(link, graph):
    leaf, result = graph
    live = leaf.grad
    link.answers["run_backward"] = append(link, leaf)
    result.backward()
    assert leaf._pending_grad
    assert not result._pending_grad
    reader = Reader(link, lambda: leaf.grad)
    assert reader.is_waiting
    link.push("clear_backward", variable_ids=[leaf.variable_id])
    assert reader.result() is live
    assert [gradient.data for gradient in live] == ["better"]
    assert not leaf._pending_grad


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (RemoteError(-32603, "Internal error", {"exception": "no model"}), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        ({"message": "Not done."}, RemoteProtocolError),
    ],
)
def test_flags_are_reset_when_the_pass_fails(link, graph, answer, error):
    leaf, result = graph

    def respond(params):
        assert leaf._pending_grad
        if isinstance(answer, BaseException):
            raise answer
        return answer

    link.answers["run_backward"] = respond
    with pytest.raises(error):
        result.backward()
    assert leaf.grad == []


def test_unknown_receivers_are_warned_about(link, graph, caplog):
    leaf, result = graph
    link.answers["get_backprop_ids"] = lambda params: {"variable_ids": ["gone", leaf.variable_id]}
    with caplog.at_level(logging.WARNING, "tellurio_sync"):
        result.backward()
    assert "gone" in caplog.text
    assert leaf._pending_grad
    link.push("clear_backward", variable_ids=[leaf.variable_id])


def test_no_receivers_are_fine(link, graph):
    leaf, result = graph
    link.answers["get_backprop_ids"] = lambda params: {}
    result.backward()
    assert leaf.grad == []


def refuse(text):
    return lambda params: (_ for _ in ()).throw(RemoteError(-32603, "Internal error", {"exception": text}))


@pytest.mark.parametrize(
    "answer", [refuse("the graph is used up"), lambda params: {"variable_ids": "all"}, lambda params: 7]
)
def test_a_pass_counts_although_the_question_before_it_failed(link, graph, caplog, answer):
    """Both leave together. The server deals with them in order, but need not."""
    leaf, result = graph
    link.answers["get_backprop_ids"] = answer
    link.answers["run_backward"] = append(link, leaf)
    with caplog.at_level(logging.WARNING, "tellurio_sync"):
        result.backward()
    assert "did not say" in caplog.text
    assert [gradient.data for gradient in leaf.grad] == ["better"]


def test_where_both_are_refused_the_first_one_says_why(link, graph):
    _, result = graph
    link.answers.update(get_backprop_ids=refuse("no such Variable"), run_backward=refuse("consequence"))
    with pytest.raises(RemoteError, match="no such Variable"):
        result.backward()


def test_a_refused_question_does_not_hide_that_the_pass_was_cut_off(link, graph):
    leaf, result = graph

    def cut(params):
        append(link, leaf)(params)
        raise ConnectionLost("cable cut", was_sent=True)

    link.answers.update(get_backprop_ids=refuse("no such Variable"), run_backward=cut)
    with pytest.raises(ConnectionLost):
        result.backward()
    assert leaf.grad == []
    assert {leaf, result} <= set(link.registries.unsure)


def test_who_waits_for_a_gradient(link):
    """Protocol §C: leaves that need one, and computed Variables that retain theirs; however far back."""
    needed, unneeded = Parameter("needed"), Variable("unneeded")

    def computed(*arguments, retains=False):
        variable = received(Variable, link, link.new_id("variable"), "x", "r", True)
        set_local(variable, "is_leaf", False)
        set_local(variable, "_retain_grad", retains)
        set_local(variable, "_arguments", ((), arguments))
        link.registries.variables.register(variable.variable_id, variable)
        return variable

    retained = computed(needed, unneeded, retains=True)
    plain = computed(retained, needed)
    start = computed(plain)
    all_of_them = (needed, unneeded, retained, plain, start)
    seen = []

    def answer(params):
        seen.extend(variable for variable in all_of_them if variable._pending_grad)
        return {"message": "Backward pass executed successfully."}

    link.answers["run_backward"] = answer
    link.answers["get_backprop_ids"] = lambda params: {"variable_ids": [needed.variable_id]}
    backward(start)
    assert seen == [needed, retained]
    assert [variable for variable in all_of_them if variable._pending_grad] == [needed]
    link.push("clear_backward", variable_ids=[needed.variable_id])


def test_a_receiver_lives_until_it_is_cleared(link, graph):
    leaf, result = graph
    leaf_id = leaf.variable_id
    result.backward()
    del leaf, graph
    link.answers.clear()
    gc.collect()
    assert link.push("clear_backward", variable_ids=[leaf_id]) == {"message": "Ok"}


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda v: backward([]), UsageError),
        (lambda v: backward(v, inputs=[]), RuntimeError),
        (lambda v: backward("text"), TypeError),
        (lambda v: backward([v, v], [Variable("g")]), UsageError),
        (lambda v: backward(v, ["text"]), TypeError),
        (lambda v: backward(v, "text"), TypeError),
        (lambda v: backward(v, inputs=["text"]), TypeError),
    ],
)
def test_arguments_are_checked_before_any_call(link, graph, call, error):
    _, result = graph
    with pytest.raises(error):
        call(result)
    assert link.calls("get_backprop_ids") == []


def test_the_receive_thread_cannot_run_a_pass(link, graph):
    _, result = graph
    import threading

    link._receive_thread = threading.get_ident()
    with pytest.raises(WouldDeadlock):
        result.backward()


# --- kinds of feedback --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extensions", "feedback", "sent"),
    [
        ({"feedback"}, None, "records"),
        ({"feedback"}, "records", "records"),
        ({"feedback"}, "critic", "critic"),
        ({"feedback"}, "batch_critic", "batch_critic"),
        (set(), None, None),
        (set(), "critic", None),
    ],
)
def test_nothing_is_asked_for_what_is_known_where_the_server_can_do_that(link, graph, extensions, feedback, sent):
    leaf, result = graph
    link.extensions = frozenset(extensions)
    link.answers["run_backward"] = append(link, leaf)
    result.backward(feedback=feedback)
    assert link.calls("run_backward")[0].get("feedback") == sent


def test_a_server_that_cannot_do_it_is_named(link, graph):
    leaf, result = graph
    for feedback in ("records", "batch_critic"):
        with pytest.raises(UsageError, match=f"does not know feedback='{feedback}'"):
            result.backward(feedback=feedback)
    assert not leaf._pending_grad


def test_the_default_can_be_chosen_for_the_process(link, graph):
    leaf, result = graph
    link.extensions = frozenset({"feedback"})
    link.answers["run_backward"] = append(link, leaf)
    set_default_feedback("critic")
    result.backward()
    assert link.calls("run_backward")[0]["feedback"] == "critic"
    with pytest.raises(ValueError, match="feedback must be"):
        set_default_feedback("praise")


@pytest.mark.parametrize("feedback", ["praise", True, 1])
def test_another_kind_of_feedback_is_refused(link, graph, feedback):
    with pytest.raises(ValueError, match="feedback must be 'records', 'batch_critic' or 'critic', not"):
        backward(graph[1], feedback=feedback)
