"""A package with the names of afnio that ``tellurio_sync.afnio`` takes hold of, written for these tests."""

from __future__ import annotations

import sys
import threading
import types
from contextlib import contextmanager


class Loop:
    """In the place of afnio's event loop thread: notes what it is given."""

    def __init__(self):
        self.ran = []

    def run(self, coroutine):
        self.ran.append(coroutine.cr_code.co_name)
        coroutine.close()
        return "by the loop"


class Original:
    """In the place of afnio's client class: ``rpc_`` handlers that note what they are given."""

    def __init__(self, base_url=None, port=None, default_timeout=30):
        self.base_url, self.port, self.default_timeout = base_url, port, default_timeout
        self.api_key = None
        self.connection = None
        self.pushed = []

    async def connect(self, api_key=None, retries=3, delay=5):
        self.api_key, self.connection = api_key, object()

    async def call(self, method, params, timeout=None):
        return "original"

    async def close(self):
        self.connection = None

    async def rpc_heartbeat(self, params):
        self.pushed.append(("heartbeat", params))

    async def rpc_update_model(self, params):
        raise ValueError("no such model")

    async def rpc_append_grad(self, params):
        return {"message": params["gradient"]}

    async def rpc_run_callable(self, params):
        return {"message": "Ok", "data": threading.current_thread().name}


for _name in ("create_variable", "update_variable", "create_node", "create_edge", "clear_backward", "clear_step"):

    def _make(name):
        async def handler(self, params):
            self.pushed.append((name, params, sys.modules["afnio._variable"].is_variable_notify_suppressed()))
            return {"message": "Ok"}

        return handler

    setattr(Original, f"rpc_{_name}", _make(_name))


class Variable:
    variable_id = "v"

    def _wait_for_pending(self, attr_name, timeout=3, interval=0.01):
        return "original"


class Run:
    """In the place of afnio's runs: notes what it is told."""

    def __init__(self, uuid="run-1"):
        self.uuid, self.name, self.description = uuid, "first", None
        self.organization = types.SimpleNamespace(slug="alice")
        self.project = types.SimpleNamespace(slug="p", display_name="P")
        self.told = []

    def log(self, name, value, step=None, client=None):
        self.told.append((name, value, step, client))

    def finish(self, client=None, status="COMPLETED"):
        self.told.append(("finish", client, status))
        return "finished"


def modules(registered):
    """Name to module of the fake; ``registered``: what its registry knows."""

    @contextmanager
    def suppress_variable_notifications():
        yield "original"

    def is_variable_notify_suppressed():
        return "original"

    def _wait_for_variable(variable_id, timeout=3, interval=0.01):
        return "original"

    async def _login(client, ws_client, api_key=None, relogin=False):
        await ws_client.connect(api_key=api_key)
        return "logged in"

    def get_active_run():
        return types.SimpleNamespace(uuid="run")

    contents = {
        "afnio": {},
        "afnio.tellurio": {"suppress_variable_notifications": suppress_variable_notifications},
        "afnio.tellurio._variable_registry": {
            "suppress_variable_notifications": suppress_variable_notifications,
            "is_variable_notify_suppressed": is_variable_notify_suppressed,
            "get_variable": registered.get,
        },
        "afnio.tellurio._eventloop": {"_event_loop_thread": Loop()},
        "afnio.tellurio._auth": {"_login": _login},
        "afnio.tellurio.run_context": {"get_active_run": get_active_run},
        "afnio.tellurio._client_manager": {
            "TellurioWebSocketClient": Original,
            "_default_ws_client": None,
            "get_default_clients": lambda: (types.SimpleNamespace(base_url="http://127.0.0.1", port=9, api_key="k"), 0),
        },
        "afnio.tellurio.run": {"Run": type("Run", (), dict(vars(Run)))},
        "afnio._variable": {
            "Variable": type("Variable", (), dict(vars(Variable))),
            "is_variable_notify_suppressed": is_variable_notify_suppressed,
        },
        "afnio.optim": {},
        "afnio.optim.optimizer": {"_wait_for_variable": _wait_for_variable},
        "afnio.optim.tgd": {"waits": _wait_for_variable},
    }
    made = {}
    for name, names in contents.items():
        made[name] = types.ModuleType(name)
        vars(made[name]).update(names)
    return made
