"""Variables: created, updated, read back; errors of the server."""

import harness
import rpc
from afnio import Variable
from afnio.cognitive import Parameter
from afnio.tellurio import init, suppress_variable_notifications
from afnio.tellurio._variable_registry import VARIABLE_REGISTRY


def server_view(variable):
    keys = ("data", "role", "requires_grad", "is_leaf", "output_nr", "grad", "_retain_grad")
    return {key: rpc.get(variable)[key] for key in keys}


def observe(namespace):
    seen = {}
    run = init(namespace, "Variables")
    v = Variable("green", role="a colour", requires_grad=True)
    seen["new"] = server_view(v)
    seen["is registered"] = VARIABLE_REGISTRY.get(v.variable_id) is v
    seen["a parameter"] = server_view(Parameter(data="p", role="r"))
    seen["without obj_type"] = rpc.call("create_variable", data="x", role=None, requires_grad=False)["result"][
        "message"
    ]

    v.data = "blue"
    v.role = "another colour"
    seen["updated"] = server_view(v)
    v.requires_grad_(False)
    v.output_nr = 3
    v.note = {"any": ["value"]}
    v.is_leaf = False
    v.retain_grad()
    seen["updated further"] = server_view(v)

    with_grad = Variable("g", role="leaf", requires_grad=True)
    gradient = Variable("feedback", role="gradient")
    with_grad.append_grad(gradient)
    seen["appended"] = server_view(with_grad)["grad"] == [{"__variable__": True, "variable_id": gradient.variable_id}]
    other = Variable("other", role="gradient")
    with_grad.grad = [other]
    seen["replaced"] = server_view(with_grad)["grad"] == [{"__variable__": True, "variable_id": other.variable_id}]

    seen["data"] = []
    for data in ("text", 1, 2.5, True, None, ["a", None], [[1, 2], [3]], [1, 2.5], [True, 1.0], [], "ü" * 40):
        sent = Variable(data, role="data")
        seen["data"].append([sent.data, rpc.get(sent)["data"]])
        sent.data = data
        seen["data"].append([sent.data, rpc.get(sent)["data"]])

    target = Variable("old", role="target")
    target.copy_(v)
    seen["copied"] = server_view(target)
    with suppress_variable_notifications():
        target.role = "kept here"
    seen["suppressed"] = [target.role, server_view(target)["role"]]

    seen["big"] = len(rpc.call("create_variable", data="x" * 2**21, role="", requires_grad=False)["result"]["message"])
    seen["unknown method"] = rpc.call("invalid_method")["error"]
    seen["missing parameter"] = rpc.call("create_variable", role="", requires_grad=False)["error"]
    seen["unknown variable"] = rpc.call("get_variable", variable_id="nobody")["error"]
    seen["bad type"] = rpc.call("create_variable", data="", role="", requires_grad=False, obj_type="x")["error"]
    seen["still serves"] = server_view(Variable("last", role=""))["data"]
    run.finish()
    return seen


harness.main(observe)
