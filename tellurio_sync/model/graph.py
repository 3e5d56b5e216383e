"""The mirrored graph: what the server has computed from what (protocol §F.7).

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``Node._edges`` | receive thread (pushes), callers | any thread, without the lock | ``Registries.lock`` | – |
"""

from __future__ import annotations

from typing import NamedTuple

ACCUMULATE_GRAD = "AccumulateGrad"
"""The name of the nodes that collect the gradients of a leaf."""


class Node:
    """One step of a computation on the server.

    Made by pushes of the server, and read by users.  Edges are added while the pushes of a function are handled; a
    user sees the node after that.
    """

    __slots__ = ("__weakref__", "_edges", "_name", "node_id")

    def __init__(self, node_id: str, name: str) -> None:
        self.node_id: str = node_id
        self._name = name
        self._edges: list[GradientEdge] = []

    def name(self) -> str:
        """The operation, such as ``AddBackward0`` or ``AccumulateGrad``."""
        return self._name

    @property
    def next_functions(self) -> tuple[GradientEdge, ...]:
        """Where gradients go from here: one edge per Variable argument, in order."""
        return tuple(self._edges)

    @next_functions.setter
    def next_functions(self, edges: tuple[GradientEdge, ...]) -> None:
        self._edges = list(edges)

    def add_edge(self, edge: GradientEdge) -> None:
        """Append an edge. The caller holds the model lock."""
        self._edges.append(edge)

    def __str__(self) -> str:
        return f"<{self._name} object at {id(self):#x}>"

    def __repr__(self) -> str:
        return f"<tellurio_sync.autodiff.function.{self._name} object at {id(self):#x}>"


class GradientEdge(NamedTuple):
    """One way that a gradient goes: to output ``output_nr`` of ``node``; nowhere if ``node`` is None."""

    node: Node | None
    output_nr: int

    def __str__(self) -> str:
        return f"({self.node}, {self.output_nr})"

    def __repr__(self) -> str:
        return str(self)
