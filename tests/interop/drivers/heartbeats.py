"""Signs of life of long-running requests, seen by a client that notes them."""

import asyncio

import harness
from afnio.tellurio import init
from afnio.tellurio.websocket_client import TellurioWebSocketClient


class Noting(TellurioWebSocketClient):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.beats = []

    def rpc_heartbeat(self, params):
        self.beats.append(params["id"])
        return super().rpc_heartbeat(params)


async def calls(key):
    client = Noting(default_timeout=10)
    await client.connect(api_key=key)
    seen = {}

    async def call(method, **params):
        client.beats.clear()
        reply = await client.call(method, params)
        seen[method] = [len(client.beats), set(client.beats) == {reply["id"]}]
        return reply["result"]

    made = await call("create_variable", data="a", role="x", requires_grad=True)
    tag = {"__variable__": True, "variable_id": made["variable_id"]}
    added = await call("run_function", function_name="Add", grad_enabled=True, args=[tag, tag], kwargs={})
    out = {"__variable__": True, "variable_id": added["data"]["variable_id"]}
    feedback = await client.call("create_variable", {"data": "f", "role": "", "requires_grad": False})
    gradient = {"__variable__": True, "variable_id": feedback["result"]["variable_id"]}
    await call(
        "run_backward", variables=out, grad_variables=gradient, retain_graph=None, create_graph=False, inputs=None
    )
    defaults = {"model_client": None, "messages": [], "inputs": {}, "constraints": [], "momentum": 0}
    defaults["completion_args"] = {}
    optimizer = await call("create_optimizer", optimizer_name="TGD", params=[gradient], defaults=defaults)
    await call("run_step", optimizer_id=optimizer["optimizer_id"])
    empty = {"params": [gradient], "grads": [[]], "momentum_buffer_list": [[]]}
    await call("run_optimizer_tgd", **empty, **defaults)
    await client.close()
    return seen


def observe(key, namespace):
    run = init(namespace, "Heartbeats")
    seen = asyncio.run(calls(key))
    run.finish()
    return seen


harness.main(observe)
