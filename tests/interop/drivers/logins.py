"""Logging in with the right key, a wrong one and none; several times in one process."""

import asyncio
import os

import harness
from afnio import Variable
from afnio.tellurio import _client_manager, init, login
from afnio.tellurio.websocket_client import TellurioWebSocketClient


def observe(key, namespace):
    seen = {}
    del os.environ["TELLURIO_API_KEY"]
    seen["refused"] = {
        "no key, relogin": harness.attempt(login, relogin=True),
        "wrong key": harness.attempt(login, api_key="wrong"),
        "wrong key, relogin": harness.attempt(login, api_key="wrong", relogin=True),
    }
    seen["closed after a failure"] = _client_manager._default_ws_client.connection is None

    async def refused():
        client = TellurioWebSocketClient()
        try:
            await client.connect(api_key="wrong", retries=2, delay=0.01)
        except RuntimeError as exc:
            return str(exc)

    seen["wrong key at the WebSocket"] = asyncio.run(refused())

    seen["logins"] = [login(api_key=key, relogin=number > 0) for number in range(3)]
    # Objects of an earlier login stay valid (protocol §C.3).
    run = init(namespace, "Logins")
    variable = Variable("before", role="x")
    login(api_key=key, relogin=True)
    variable.data = "after"
    seen["data after another login"] = variable.data
    run.finish()
    return seen


harness.main(observe)
