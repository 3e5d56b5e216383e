"""The backward pass through the graph (protocol §G.3).

A node is handled after all nodes behind it, so it has every piece of feedback on its outputs.  Feedback is never merged
on the way: a leaf gets one gradient per path, and a function goes backward once for each piece.  Nothing is changed
before everything is known: if a question fails, no gradient has been appended and the graph is still whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..data import Data, chars, check_chars
from ..objects import Node, Variable
from ..refused import Refused
from .concurrency import map_at_once
from .evaluators import Evaluator
from .op import Host, Op

# In a chain of diamonds each step doubles the number of paths; without this limit that would use up the memory.
MAX_GRADIENTS = 10_000


class Arrived(NamedTuple):
    """A gradient for a Variable."""

    variable: Variable
    data: Data


def backprop_variables(roots: Sequence[Variable]) -> list[Variable]:
    """The Variables that a pass from ``roots`` gives a gradient: leaves, and computed ones that retain it.

    Raises:
        Refused: a root has no graph.
    """
    nodes = reachable(roots)
    reached = {(root.grad_fn, root.output_nr) for root in roots}
    reached |= {(edge.target, edge.output_nr) for node in nodes for edge in node.edges if edge.is_open}
    return [
        variable
        for node in nodes
        for variable in node.outputs
        if variable.accepts_grad and (node, variable.output_nr) in reached
    ]


async def backward(
    host: Host,
    roots: Sequence[Variable],
    gradients: Sequence[Data],
    *,
    inputs: Sequence[Variable] | None = None,
    retain_graph: bool = False,
    on_arrival: Callable[[Node, int, Data], None] | None = None,
) -> list[Arrived]:
    """The gradients that arrive, in the order of their arrival; the caller appends them.

    Args:
        host: for questions.
        roots: where to start.
        gradients: one per root, None if it is left out.
        inputs: leaves; if given, only they get gradients, and only the way to them is worked on.
        retain_graph: keep what another pass would need.
        on_arrival: told of each piece of feedback on an output of a node, those on the way included.

    Raises:
        Refused: a root without graph, a missing gradient that is needed, inputs that are not leaves, a graph that was
            freed, more than :data:`MAX_GRADIENTS` gradients or too long ones, or no usable answer.
    """
    nodes = reachable(roots)
    wanted = _nodes_to(inputs, nodes) if inputs is not None else set(nodes)
    ops = _ops(node for node in nodes if node in wanted and not node.is_accumulator)
    arrived: list[Arrived] = []
    pending: dict[Node, list[list[Data]]] = {}
    budget = _Budget()

    def arrive(node: Node, output_nr: int, data: Data) -> None:
        budget.spend_path()
        slots = pending.setdefault(node, [])
        while len(slots) <= output_nr:
            slots.append([])
        slots[output_nr].append(data)
        if on_arrival is not None:
            on_arrival(node, output_nr, data)
        for variable in node.outputs:
            if variable.output_nr == output_nr and variable.accepts_grad and (inputs is None or variable in inputs):
                arrived.append(Arrived(variable, data))

    for root, data in zip(roots, _started(roots, gradients)):
        node = root.grad_fn
        if node in wanted and node is not None:
            arrive(node, root.output_nr, data)

    waiting = _incoming(nodes)
    ready = [node for node in nodes if not waiting[node]]
    while ready:
        work = [node for node in ready if node in ops and node in pending]
        results = await map_at_once(lambda node: _through(host, node, ops[node], pending[node], wanted, budget), work)
        for node, columns in zip(work, results):
            for column in columns:
                for edge, data in zip(node.edges, column):
                    if edge.target is not None and data is not None:
                        arrive(edge.target, edge.output_nr, data)
        ready = _next_ready(ready, waiting)

    if not retain_graph:
        for node in wanted:
            node.op = None
    return arrived


class _Budget:
    """How much one pass may still make."""

    def __init__(self) -> None:
        self._paths = self._chars = 0

    def spend_path(self) -> None:
        self._paths += 1
        if self._paths > MAX_GRADIENTS:
            raise Refused(f"This graph has more than {MAX_GRADIENTS} paths.")

    def spend(self, column: Iterable[Data]) -> None:
        self._chars += sum(map(chars, column))
        check_chars(self._chars)


async def _through(
    host: Host, node: Node, op: Op, slots: list[list[Data]], wanted: set[Node], budget: _Budget
) -> list[list[Data]]:
    """What one node passes on: once for each piece of feedback, with the pieces of several outputs side by side."""
    is_wanted = [edge.is_open and edge.target in wanted for edge in node.edges]
    columns: list[list[Data]] = []
    for i in range(max(len(slot) for slot in slots)):
        row = [slot[i] if i < len(slot) else None for slot in slots]
        row += [None] * (node.output_count - len(row))
        column = await op.backward(host, row, is_wanted)
        budget.spend(column)
        columns.append([data if is_wanted[k] else None for k, data in enumerate(column)])
    return columns


def _ops(nodes: Iterable[Node]) -> dict[Node, Op]:
    # Taken at the start, because another pass may free the graph while this one waits for a model.
    ops = {}
    for node in nodes:
        if node.op is None:
            raise Refused(
                "A second backward pass through this graph is not possible: the first pass has freed it. "
                "Pass retain_graph=True to the first pass."
            )
        ops[node] = node.op
    return ops


def _root_nodes(roots: Iterable[Variable]) -> list[Node]:
    nodes = []
    for root in roots:
        if not root.requires_grad or root.grad_fn is None:
            raise Refused("Variable does not require grad or does not have a grad_fn.")
        nodes.append(root.grad_fn)
    return nodes


def _started(roots: Sequence[Variable], gradients: Sequence[Data]) -> list[Data]:
    started: list[Data] = []
    for root, data in zip(roots, gradients):
        if data is None:
            is_evaluator = root.grad_fn is not None and isinstance(root.grad_fn.op, Evaluator)
            if isinstance(root.data, list) and not is_evaluator:
                raise Refused("A gradient can be left out for scalar outputs only; this Variable's data is a list.")
            data = ""
        started.append(data)
    return started


def reachable(roots: Iterable[Variable]) -> list[Node]:
    """The nodes that feedback can reach from ``roots``, each once, in the order in which they are found.

    Raises:
        Refused: a root has no graph.
    """
    found = dict.fromkeys(_root_nodes(roots))
    stack = list(found)
    while stack:
        for edge in stack.pop().edges:
            if edge.is_open and edge.target is not None and edge.target not in found:
                found[edge.target] = None
                stack.append(edge.target)
    return list(found)


def _incoming(nodes: list[Node]) -> dict[Node, int]:
    waiting = dict.fromkeys(nodes, 0)
    for node in nodes:
        for edge in node.edges:
            if edge.is_open and edge.target is not None:
                waiting[edge.target] += 1
    return waiting


def _next_ready(done: list[Node], waiting: dict[Node, int]) -> list[Node]:
    ready = []
    for node in done:
        for edge in node.edges:
            if edge.is_open and edge.target is not None:
                waiting[edge.target] -= 1
                if not waiting[edge.target]:
                    ready.append(edge.target)
    return ready


def _nodes_to(inputs: Sequence[Variable], nodes: list[Node]) -> set[Node]:
    """Those of ``nodes`` from which feedback reaches one of ``inputs``."""
    if not inputs:
        raise Refused("`inputs` must not be empty.")
    if not all(variable.is_leaf for variable in inputs):
        raise Refused("`inputs` must be leaves.")
    before: dict[Node, list[Node]] = {}
    for node in nodes:
        for edge in node.edges:
            if edge.is_open and edge.target is not None:
                before.setdefault(edge.target, []).append(node)
    stack = [node for node in nodes if node.is_accumulator and not set(node.outputs).isdisjoint(inputs)]
    wanted = set(stack)
    while stack:
        for node in before.get(stack.pop(), []):
            if node not in wanted:
                wanted.add(node)
                stack.append(node)
    return wanted
