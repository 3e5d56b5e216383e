"""A lost connection, as the peer lives through it: a login makes it whole, and the objects are still there."""

import harness
from afnio import Variable
from afnio.autodiff.basic_ops import Add
from afnio.tellurio import _client_manager, init, login


def observe(key, namespace, pipe):
    run = init(namespace, "Lost")
    x = Variable("a", role="x", requires_grad=True)
    y = Add.apply(x, x)
    harness.signal(pipe)
    seen = {"lost": "error" in harness.attempt(Variable, "b", role="y")}
    seen["login"] = sorted(login(api_key=key, relogin=True))
    y.backward(Variable("F", role="gradient"))
    x.data = "after"
    seen["after"] = [x.data, len(x.grad), _client_manager._default_ws_client.connection is not None]
    run.finish()
    return seen


harness.main(observe)
