"""Every function that needs no language model, in its three entry layers: outputs, graph, errors."""

import harness
import rpc
from afnio import Variable, cognitive, is_grad_enabled, no_grad
from afnio.autodiff.basic_ops import Add, Split, Sum
from afnio.autodiff.evaluator import DeterministicEvaluator, ExactMatchEvaluator
from afnio.cognitive import functional
from afnio.tellurio import init
from afnio.tellurio._node_registry import NODE_REGISTRY
from afnio.tellurio._variable_registry import PENDING_GRAD_FN_ASSIGNMENTS


def shown(variable):
    """What a user sees of an output."""
    return {
        "data": variable.data,
        "role": variable.role,
        "requires_grad": variable.requires_grad,
        "is_leaf": variable.is_leaf,
        "output_nr": variable.output_nr,
        "grad_fn": edges_of(variable.grad_fn),
    }


def edges_of(node):
    """A node's name, with the name and the output number of each of its edges."""
    if node is None:
        return None
    return [node.name(), [[edge[0] and edge[0].name(), edge[1]] for edge in node.next_functions]]


def all_shown(outputs):
    return [shown(output) for output in outputs]


def exact(prediction, target):
    return int(prediction == target)


def graph():
    seen = {}
    x = Variable("abc", role="first input", requires_grad=True)
    y = Variable("def", role="second input", requires_grad=False)
    z = Add.apply(x, y)
    seen["add"] = shown(z)
    seen["registered"] = NODE_REGISTRY.get(z.grad_fn.node_id) is z.grad_fn
    seen["waiting"] = [key for key in PENDING_GRAD_FN_ASSIGNMENTS if key]
    seen["reused accumulator"] = Add.apply(x, x).grad_fn.next_functions[0][0] is z.grad_fn.next_functions[0][0]
    parts = Split.apply(z, sep="c")
    seen["split is a tuple"] = isinstance(parts, tuple)
    seen["of a part"] = edges_of(Add.apply(parts[1], y).grad_fn)
    seen["no grad needed"] = shown(Add.apply(y, y))
    with no_grad():
        seen["grad mode"] = is_grad_enabled()
        seen["no grad"] = shown(Add.apply(x, y))
    seen["server's view"] = {key: rpc.get(z)[key] for key in ("data", "is_leaf", "output_nr", "requires_grad")}
    added = Variable("sum", role="sum")
    added += x
    seen["in place"] = [added.data, added.role, added.requires_grad]
    return seen


def text_ops():
    v = lambda data, role="x", grad=True: Variable(data, role=role, requires_grad=grad)
    seen = {
        "add numbers": shown(v(1) + v(2, "y")),
        "add lists": shown(v(["a", "b"]) + v(["c", "d"], "y")),
        "sum numbers": shown(Sum.apply([v(1), v(2, "y"), v(3, "z")])),
        "sum texts": shown(functional.sum([v("abc", "first input"), v("def", "second input")])),
        "sum lists": shown(cognitive.Sum()([v([1, 2]), v([3, 4], "y")])),
        "split": all_shown(Split.apply(v("afnio is great!", "sentence"), sep=" ")),
        "split functional": all_shown(functional.split(v("a-b-c", "sentence"), "-", 1)),
        "split module": all_shown(cognitive.Split()(v("a b", "sentence"))),
        "split list": all_shown(Split.apply(v(["a b c", "d"], "sentence"))),
        "add functional": shown(functional.add(v("a"), v("b", "y"))),
        "add module": shown(cognitive.Add()(v("a"), v("b", "y"))),
    }
    seen["errors"] = {
        "list and scalar": harness.attempt(Add.apply, v(["a"]), v("b")),
        "lengths": harness.attempt(Add.apply, v(["a"]), v(["b", "c"])),
        "null": harness.attempt(Add.apply, v(None), v("b")),
        "no arguments": harness.attempt(Add.apply),
    }
    return seen


def evaluators():
    v = lambda data, role="colour", grad=True: Variable(data, role=role, requires_grad=grad)
    red = v("red", "target", grad=False)

    def mean(scores):
        return sum(scores) / len(scores)

    def fails(prediction, target):
        raise ValueError("the function's own text")

    return {
        "deterministic": all_shown(
            DeterministicEvaluator.apply(v("green"), red, exact, "exact match", None, None, None)
        ),
        "target is a text": all_shown(
            functional.deterministic_evaluator(v("red"), "red", exact, "exact match", None, None, None)
        ),
        "batch": all_shown(
            DeterministicEvaluator.apply(
                v(["green", "red"]),
                v(["red", "red"], "target", grad=False),
                exact,
                "exact match",
                None,
                sum,
                "summation",
            )
        ),
        "batch, mean": all_shown(
            functional.deterministic_evaluator(v(["a", "b"]), ["a", "c"], exact, "sameness", None, mean, "mean")
        ),
        "batch, not reduced": all_shown(
            DeterministicEvaluator.apply(v(["a", "b"]), ["a", "c"], exact, "sameness", None, None, None)
        ),
        "exact": all_shown(ExactMatchEvaluator.apply(v("green"), red)),
        "exact, batch": all_shown(functional.exact_match_evaluator(v(["green", "red"]), ["red", "red"])),
        "exact, module": all_shown(cognitive.ExactMatchEvaluator()(v(["a", "b"]), ["a", "b"])),
        "errors": {
            "lengths": harness.attempt(ExactMatchEvaluator.apply, v(["a", "b"]), ["a"]),
            "purpose": harness.attempt(DeterministicEvaluator.apply, v("a"), "a", exact, "", None, None, None),
            "function": harness.attempt(DeterministicEvaluator.apply, v("a"), "a", fails, "x", None, None, None),
        },
    }


def observe(namespace):
    run = init(namespace, "Functions")
    seen = {"graph": graph(), "text ops": text_ops(), "evaluators": evaluators()}
    run.finish()
    return seen


harness.main(observe)
