"""The object that afnio uses as its WebSocket client, and the client of this package behind it.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``connection``, ``api_key`` of the bridge | ``connect``, ``close`` | any thread | one attribute store each | – |
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from ..client import TellurioWebSocketClient
from ..deadlines import check_timeout
from ..errors import ConnectionLost, NotConnected
from ..jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from .pushes import Pushes
from .trampoline import drive

log: logging.Logger = logging.getLogger("tellurio_sync.afnio")

REPEATABLE = frozenset(
    {
        *("create_variable", "update_variable", "get_variable", "create_model", "clear_model_usage"),
        *("set_model_singleton", "run_function", "get_backprop_ids", "create_optimizer", "clear_grad"),
    }
)
"""Methods that may be called once more when it is not known whether the server has acted.

What a first call may have made there is used by nobody. A function that is run again asks its language model, and calls
the functions of the user, once more.
"""

_DEFAULT_TIMEOUT = 30.0


class PushClient(TellurioWebSocketClient):
    """Our client; what the server pushes goes to the handlers of afnio's own client class.

    Args:
        handlers: an object with afnio's ``rpc_...`` coroutines; never connected itself.
        pushes: is told of each.
        options: of ``TellurioWebSocketClient``.
    """

    def __init__(self, handlers: Any, pushes: Pushes, **options: Any) -> None:
        self._handlers = handlers
        self._pushes = pushes
        super().__init__(**options)

    def _headers(self) -> list[str]:
        # The session is the account's, as for any other client: what afnio made on one connection it uses on another.
        return [header for header in super()._headers() if not header.startswith("X-Tellurio-Session")]

    def _applied(self, name: str, params: dict[str, Any]) -> Any:
        with self._pushes.applying():
            return _handled(getattr(self._handlers, name), params)

    def rpc_heartbeat(self, params: dict[str, Any]) -> Any:
        """Extend the deadline of the call; afnio keeps a note of it, too."""
        super().rpc_heartbeat(params)
        return self._applied("rpc_heartbeat", params)

    def rpc_create_variable(self, params: dict[str, Any]) -> Any:
        """See ``TellurioWebSocketClient``; so for all of these."""
        return self._applied("rpc_create_variable", params)

    def rpc_update_variable(self, params: dict[str, Any]) -> Any:
        """Change a field of a Variable."""
        return self._applied("rpc_update_variable", params)

    def rpc_append_grad(self, params: dict[str, Any]) -> Any:
        """Append a gradient."""
        return self._applied("rpc_append_grad", params)

    def rpc_create_node(self, params: dict[str, Any]) -> Any:
        """Register a node."""
        return self._applied("rpc_create_node", params)

    def rpc_create_edge(self, params: dict[str, Any]) -> Any:
        """Append an edge."""
        return self._applied("rpc_create_edge", params)

    def rpc_update_model(self, params: dict[str, Any]) -> Any:
        """Change a field of a model."""
        return self._applied("rpc_update_model", params)

    def rpc_clear_backward(self, params: dict[str, Any]) -> Any:
        """Gradients are complete."""
        return self._applied("rpc_clear_backward", params)

    def rpc_clear_step(self, params: dict[str, Any]) -> Any:
        """Parameters are up to date."""
        return self._applied("rpc_clear_step", params)

    def rpc_run_callable(self, params: dict[str, Any]) -> Any:
        """Run a function of the user; on a worker thread, where it may call the server."""
        return _handled(self._handlers.rpc_run_callable, params)


def _handled(handler: Callable[[dict[str, Any]], Any], params: dict[str, Any]) -> Any:
    """Run one of afnio's handlers; its errors in the form that its own client sends them in (protocol §B.1)."""
    try:
        return drive(handler(params))
    except KeyError as exc:
        text = str(exc.args[0]) if exc.args else str(exc)
        raise RpcError(INVALID_PARAMS, f"Missing key: {text}", {"missing_key": text}) from exc
    except Exception as exc:
        raise RpcError(INTERNAL_ERROR, "Internal error", {"exception": str(exc)}) from exc


def make_bridge_class(original: Any, pushes: Pushes, **options: Any) -> Any:
    """A subclass of afnio's client class that uses the connection of this package.

    Args:
        original: afnio's ``TellurioWebSocketClient``.
        pushes: see ``PushClient``.
        options: further arguments of the client of this package.
    """

    class Bridge(original):  # type: ignore[misc]  # of a package that is not typed
        """afnio's WebSocket client over ``tellurio_sync``. Its coroutines block, and never suspend."""

        def __init__(self, base_url: Any = None, port: Any = None, default_timeout: Any = _DEFAULT_TIMEOUT) -> None:
            super().__init__(base_url, port, default_timeout)
            self.client = PushClient(
                self,
                pushes,
                base_url=base_url,
                port=port,
                default_timeout=check_timeout(default_timeout or _DEFAULT_TIMEOUT),
                active_run=_active_run,
                on_lost=pushes.connection_lost,
                **options,
            )

        async def connect(self, api_key: Any = None, retries: int = 3, delay: float = 5) -> dict[str, Any]:
            if api_key is not None:
                self.api_key = api_key
            greeting = self.client.connect(self.api_key, retries, delay)
            self.connection: Any = self.client  # what afnio looks at is whether there is one
            return greeting

        async def call(self, method: str, params: dict[str, Any], timeout: Any = None) -> Any:
            return _called(self.client, method, params, timeout or None)

        async def close(self) -> None:
            self.client.close()
            self.connection = None

        async def __aenter__(self) -> Any:
            if self.connection is None:
                await self.connect(self.api_key)
            return self

    Bridge.__qualname__ = Bridge.__name__ = original.__name__
    return Bridge


def _called(client: TellurioWebSocketClient, method: str, params: dict[str, Any], timeout: float | None) -> Any:
    """The reply. A call that a lost connection cut off is made again: if it was not sent, or is ``REPEATABLE``.

    Not after its time-out has passed.
    """
    seconds = client.default_timeout if timeout is None else check_timeout(timeout)
    deadline = time.monotonic() + seconds
    while True:
        try:
            return client.call(method, params, timeout)
        except ConnectionLost as lost:
            # ClosedByUser is one, too: then there is no connection to wait for, and the next try says so.
            if (lost.was_sent and method not in REPEATABLE) or time.monotonic() >= deadline:
                raise
            log.info("again, after a lost connection: %s", method)
        except NotConnected as exc:
            raise RuntimeError("WebSocket is not connected") from exc


def _active_run() -> Any:
    from importlib import import_module

    return import_module("afnio.tellurio.run_context").get_active_run()
