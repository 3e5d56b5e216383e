"""Recording and going back, protocol §G.1 and §G.3."""

from __future__ import annotations

import pytest

from tellurio_sync.backend.engine import backward as engine
from tellurio_sync.backend.engine.backward import backprop_variables
from tellurio_sync.backend.objects import Variable
from tellurio_sync.backend.refused import Refused

from .scripted import ScriptedHost, grads


def add(host: ScriptedHost, x: Variable, y: Variable) -> Variable:
    return host.run("Add", x, y)[0]


def test_no_graph_without_need_or_without_grad_mode() -> None:
    host = ScriptedHost()
    plain, needy = host.variable("a"), host.variable("b", requires_grad=True)
    for output in (add(host, plain, plain), host.run("Add", plain, needy, grad_enabled=False)[0]):
        assert (output.requires_grad, output.grad_fn, output.is_leaf) == (False, None, True)
    assert host.objects.nodes == {}


def test_edges_follow_the_arguments() -> None:
    host = ScriptedHost()
    leaf, plain = host.variable("a", requires_grad=True), host.variable("b")
    first = add(host, leaf, plain)
    second = add(host, first, leaf)
    assert first.grad_fn is not None
    assert second.grad_fn is not None
    assert [(edge.target, edge.output_nr) for edge in first.grad_fn.edges] == [(leaf.accumulator, 0), (None, 0)]
    assert [edge.target for edge in second.grad_fn.edges] == [first.grad_fn, leaf.accumulator]
    assert (first.grad_fn.name, leaf.accumulator.name if leaf.accumulator else "") == ("AddBackward0", "AccumulateGrad")


def test_an_edge_names_the_output_it_comes_from() -> None:
    host = ScriptedHost()
    parts = host.run("Split", host.variable("a b", requires_grad=True))
    output = add(host, parts[1], parts[0])
    assert output.grad_fn is not None
    assert [edge.output_nr for edge in output.grad_fn.edges] == [1, 0]


def test_a_leaf_gets_one_gradient_per_path() -> None:
    """The graph of protocol §F.4: a -> b -> c -> d -> e, and a -> e."""
    host = ScriptedHost()
    a, other = host.variable("a", "a", True), host.variable("x", "x")
    b = add(host, a, other)
    c = add(host, b, other)
    d = add(host, c, other)
    e = add(host, d, a)
    assert backprop_variables([e]) == [a]
    host.backward(e)
    assert len(grads(a)) == 2
    assert [v.grad for v in (b, c, d, e, other)] == [[]] * 5


def test_paths_through_a_computed_variable_stay_apart() -> None:
    host = ScriptedHost()
    a = host.variable("a", "a", True)
    b = add(host, a, host.variable("x"))
    host.backward(add(host, b, b), gradients=["F"])
    assert len(grads(a)) == 2


def test_retained_gradients() -> None:
    host = ScriptedHost()
    a = host.variable("a", "a", True)
    b = add(host, a, host.variable("x", "x"))
    c = add(host, b, host.variable("y", "y"))
    b.retain_grad = c.retain_grad = True
    assert set(backprop_variables([c])) == {a, b, c}
    host.backward(c, gradients=["F"])
    assert grads(c) == ["F"]
    assert grads(b) == ["Here is the combined feedback we got for this specific a and x and other variables: F"]
    assert len(grads(a)) == 1


def test_an_output_that_feedback_does_not_reach_is_not_announced() -> None:
    host = ScriptedHost()
    first, second = host.run("Split", host.variable("a b", "x", True))
    second.retain_grad = True
    assert second not in backprop_variables([first])


def test_the_graph_is_freed_unless_retained() -> None:
    host = ScriptedHost()
    a = host.variable("a", "a", True)
    output = add(host, a, a)
    host.backward(output, retain_graph=True)
    host.backward(output)
    assert len(grads(a)) == 4
    with pytest.raises(Refused) as caught:
        host.backward(output)
    assert "retain_graph=True" in caught.value.text
    assert len(grads(a)) == 4


def test_inputs_restrict_what_is_reached() -> None:
    host = ScriptedHost()
    a, b = host.variable("a", "a", True), host.variable("b", "b", True)
    model = host.model()
    answer = host.run("ChatCompletion", model, [{"role": "user", "content": [b]}])[0]
    output = add(host, answer, a)
    output.retain_grad = True
    asked = len(host.asked)
    host.backward(output, gradients=["F"], inputs=[a])
    assert (len(grads(a)), grads(b), grads(output)) == (1, [], [])
    assert len(host.asked) == asked, "nobody is asked for feedback that is not wanted"


@pytest.mark.parametrize("kind", ["empty", "computed"])
def test_inputs_must_be_leaves(kind: str) -> None:
    host = ScriptedHost()
    output = add(host, host.variable("a", "a", True), host.variable("b"))
    with pytest.raises(Refused) as caught:
        host.backward(output, inputs=[] if kind == "empty" else [output])
    assert "`inputs` must" in caught.value.text


def test_several_roots() -> None:
    host = ScriptedHost()
    a, b = host.variable("a", "a", True), host.variable("b", "b", True)
    x, y = add(host, a, b), add(host, b, b)
    host.backward(x, y, gradients=["F", "G"])
    assert (len(grads(a)), len(grads(b))) == (1, 3)


def test_a_root_without_graph_is_refused() -> None:
    host = ScriptedHost()
    for leaf in (host.variable("a"), host.variable("a", requires_grad=True)):
        with pytest.raises(Refused) as caught:
            host.backward(leaf)
        assert caught.value.text == "Variable does not require grad or does not have a grad_fn."


def test_lists_need_a_gradient() -> None:
    host = ScriptedHost()
    x = host.variable(["a", "b"], "x", True)
    with pytest.raises(Refused) as caught:
        host.backward(add(host, x, x))
    assert "scalar" in caught.value.text


def test_a_leaf_that_is_no_leaf_any_more_is_left_out() -> None:
    """`v += w` makes a leaf computed (protocol §F.6)."""
    host = ScriptedHost()
    v, w = host.variable("v", "v", True), host.variable("w", "w", True)
    result = add(host, v, w)
    v.grad_fn, v.is_leaf = result.grad_fn, False
    assert backprop_variables([v]) == [w]
    host.backward(v, gradients=["F"])
    assert (grads(v), len(grads(w))) == ([], 1)


def test_the_number_of_paths_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_GRADIENTS", 100)
    host = ScriptedHost()
    a = host.variable("a", "a", True)
    output = a
    for _ in range(8):
        output = add(host, output, output)
    with pytest.raises(Refused) as caught:
        host.backward(output)
    assert "more than 100 paths" in caught.value.text
    assert grads(a) == []
