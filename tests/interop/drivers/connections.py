"""Many connections in a row, each with one call: a dead listener (protocol §A.2) shows as a call that times out.

By the class that the program's own calls use, which is ours where our client is under it.
"""

import asyncio

import harness
from afnio.tellurio import _client_manager, init

# Each costs a timeout.
ENOUGH = 3


async def connect_all(key, count, port):
    clients, sessions, lost = [], set(), []
    try:
        for number in range(count):
            client = _client_manager.TellurioWebSocketClient(port=port, default_timeout=10)
            clients.append(client)
            greeting = await client.connect(api_key=key)
            sessions.add(greeting["session_id"])
            try:
                params = {"data": str(number), "role": "probe", "requires_grad": False}
                reply = await client.call("create_variable", params)
                assert reply["result"]["variable_id"]
            except Exception as exc:  # noqa: BLE001 - every kind of failure is an observation
                lost.append([number, harness.error_of(exc)])
                if len(lost) == ENOUGH:
                    break
    finally:
        # Each takes a second: all at once.
        await asyncio.gather(*(client.close() for client in clients))
    return {"connected": len(clients), "sessions": len(sessions), "lost": lost}


def observe(key, namespace, count, ports):
    run = init(namespace, "Connections")
    observed = {name: asyncio.run(connect_all(key, count, port)) for name, port in ports.items()}
    run.finish()
    return observed


harness.main(observe)
