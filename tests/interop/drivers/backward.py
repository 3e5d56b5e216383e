"""Going back through graphs that need no language model: paths, flags, retained gradients and graphs."""

import time

import harness
import rpc
from afnio import Variable, autodiff
from afnio.autodiff.basic_ops import Add, Split
from afnio.tellurio import init


def v(data, role, requires_grad=True):
    return Variable(data, role=role, requires_grad=requires_grad)


def data_of(variables):
    return [variable.data for variable in variables]


def flags_set(action):
    """What ``action`` set the flag of awaited gradients to, per variable in the order of the sets."""
    seen = {}
    original = Variable.__setattr__

    def noting(self, name, value):
        if name == "_pending_grad":
            # Set for the first time before there is a role.
            seen.setdefault(self.__dict__.get("role"), []).append(value)
        original(self, name, value)

    Variable.__setattr__ = noting
    try:
        action()
    finally:
        Variable.__setattr__ = original
    return seen


def paths():
    """The graph a -> b -> c -> d -> e, with a second path a -> e (protocol §F.4)."""
    a, other = v("a", "a"), v("-", "other", False)
    b = Add.apply(a, other)
    c = Add.apply(b, other)
    d = Add.apply(c, other)
    e = Add.apply(d, a)
    for node, role in ((b, "b"), (c, "c"), (d, "d"), (e, "e")):
        node.role = role
    held = a.grad

    def go():
        e.backward(Variable("MY_FEEDBACK", role="gradient"))
        # Reading waits for what comes after the reply.
        assert a.grad

    flags = flags_set(go)
    return {
        "flags": {role: values for role, values in flags.items() if True in values},
        "count": len(a.grad),
        "data": data_of(a.grad),
        "roles": [gradient.role for gradient in a.grad],
        "needs grad": [gradient.requires_grad for gradient in a.grad],
        "same list": a.grad is held,
        "input without need": [len(other.grad), rpc.get(other)["grad"]],
        "server has them": [tag["variable_id"] for tag in rpc.get(a)["grad"]] == [g.variable_id for g in a.grad],
        "intermediate": rpc.get(c)["grad"],
    }


def retained():
    a, other = v("a", "a"), v("-", "other", False)
    b = Add.apply(a, other)
    b.retain_grad()
    c = Add.apply(b, other)
    reply = rpc.call("get_backprop_ids", variables={"__variable__": True, "variable_id": c.variable_id})
    ids = reply["result"]["variable_ids"]
    c.backward(Variable("F", role="gradient"))
    return {
        "ids": sorted({a.variable_id: "a", b.variable_id: "b"}.get(one, "?") for one in ids),
        "leaf": data_of(a.grad),
        "retained": data_of(b.grad),
        "c": harness.attempt(lambda: c.grad),
    }


def twice():
    a, other = v("a", "a"), v("-", "other", False)
    out = Add.apply(a, other)
    gradient = Variable("F", role="gradient")
    out.backward(gradient, retain_graph=True)
    out.backward(gradient)
    seen = {"accumulated": len(a.grad), "freed": harness.attempt(out.backward, gradient)}
    seen["flag after the error"] = a._pending_grad
    return seen


def inputs():
    a, b = v("a", "a"), v("b", "b")
    out = Add.apply(a, b)
    started = time.monotonic()
    autodiff.backward(out, grad_variables=Variable("F", role="gradient"), inputs=[a])
    seen = {"a": len(a.grad), "b": len(b.grad), "waited": time.monotonic() - started > 2.5}
    out = Add.apply(Add.apply(a, b), b)
    middle = Add.apply(a, b)
    top = Add.apply(middle, b)
    seen["not a leaf"] = harness.attempt(autodiff.backward, top, Variable("F", role="g"), inputs=[middle])
    seen["empty"] = harness.attempt(autodiff.backward, out, Variable("F", role="g"), inputs=[])
    return seen


def several():
    a, b = v("a", "a"), v("b", "b")
    x, y = Add.apply(a, b), Add.apply(a, a)
    autodiff.backward((x, y), grad_variables=(Variable("X", role="g"), Variable("Y", role="g")))
    return {"a": data_of(a.grad), "b": data_of(b.grad)}


def splits():
    x = v("one two", "sentence")
    first, second = Split.apply(x, sep=" ")
    first.backward(Variable("MY_FIRST_FEEDBACK", role="gradient"))
    both = v("one two", "sentence")
    first, second = Split.apply(both, sep=" ")
    Add.apply(first, second).backward(Variable("F", role="gradient"))
    return {"first": data_of(x.grad), "role": x.grad[0].role, "both": data_of(both.grad)}


def lists():
    x, y = v(["a", "b"], "x"), v(["c", "d"], "y")
    out = Add.apply(x, y)
    seen = {"left out": harness.attempt(out.backward)}
    out.backward(Variable(["F", "G"], role="gradient"))
    seen["given"] = data_of(x.grad)
    return seen


def create_graph():
    a, b = v("a", "a"), v("b", "b")
    out = Add.apply(a, b)
    out.backward(Variable("F", role="gradient"), create_graph=True)
    return {"needs grad": a.grad[0].requires_grad, "again": harness.attempt(out.backward, Variable("F", role="g"))}


def observe(namespace):
    run = init(namespace, "Backward")
    leaf = v("a", "leaf")
    scalar_out = Add.apply(v("a", "a"), v("b", "b"))
    seen = {
        "paths": paths(),
        "retained": retained(),
        "twice": twice(),
        "inputs": inputs(),
        "several": several(),
        "splits": splits(),
        "lists": lists(),
        "create graph": create_graph(),
        "of a leaf": harness.attempt(leaf.backward),
        "scalar without gradient": harness.attempt(scalar_out.backward),
    }
    run.finish()
    return seen


harness.main(observe)
