"""The methods that the server may call (protocol §D); a subclass of the client may override them."""

from __future__ import annotations

from typing import Any, Protocol

from ..model.registries import Registries
from ..peer.dispatch import Method
from . import server_methods

_ON_WORKER = frozenset({"rpc_run_callable"})
_RPC = "rpc_"


class _Extends(Protocol):
    """The peer, as a heartbeat sees it."""

    def extend(self, request_id: object) -> None: ...


class ServerCalls:
    """The requests and notifications of the server: each ``rpc_...`` method is one, and takes its params."""

    registries: Registries
    _peer: _Extends | None

    def rpc_heartbeat(self, params: dict[str, Any]) -> Any:
        """Extend the deadline of the call that the server is still working on. Unknown ids change nothing."""
        peer = self._peer
        if peer is not None:
            peer.extend(params.get("id"))
        return None

    def rpc_create_variable(self, params: dict[str, Any]) -> Any:
        """Register a Variable or Parameter that the server made."""
        return server_methods.create_variable(self.registries, params)

    def rpc_update_variable(self, params: dict[str, Any]) -> Any:
        """Change one documented field of a Variable (protocol §D.1)."""
        return server_methods.update_variable(self.registries, params)

    def rpc_append_grad(self, params: dict[str, Any]) -> Any:
        """Append a gradient to a Variable."""
        return server_methods.append_grad(self.registries, params)

    def rpc_create_node(self, params: dict[str, Any]) -> Any:
        """Register a node of the graph."""
        return server_methods.create_node(self.registries, params)

    def rpc_create_edge(self, params: dict[str, Any]) -> Any:
        """Append an edge to a node."""
        return server_methods.create_edge(self.registries, params)

    def rpc_update_model(self, params: dict[str, Any]) -> Any:
        """Change one documented field of a language model, such as its usage."""
        return server_methods.update_model(self.registries, params)

    def rpc_run_callable(self, params: dict[str, Any]) -> Any:
        """Run a function of the user. On a worker thread."""
        return server_methods.run_callable(self.registries, params)

    def rpc_clear_backward(self, params: dict[str, Any]) -> Any:
        """The gradients of these Variables are complete."""
        return server_methods.clear_backward(self.registries, params)

    def rpc_clear_step(self, params: dict[str, Any]) -> Any:
        """The data of these Parameters is up to date."""
        return server_methods.clear_step(self.registries, params)


def methods_of(calls: ServerCalls) -> dict[str, Method]:
    """The handlers by method name: every ``rpc_...`` method of the object's class and of its bases."""
    return {
        name[len(_RPC) :]: Method(getattr(calls, name), on_worker=name in _ON_WORKER)
        for name in dir(type(calls))
        if name.startswith(_RPC)
    }
