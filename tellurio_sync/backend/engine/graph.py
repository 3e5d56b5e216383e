"""Recording what a function computed as a step of the graph (protocol §G.1)."""

from __future__ import annotations

from typing import NamedTuple

from ..data import normalised
from ..objects import ACCUMULATOR, Edge, Node, Objects, Variable
from .op import Op, Output


class Step(NamedTuple):
    """A recorded step: the outputs, and the new nodes."""

    outputs: list[Variable]
    new_nodes: list[Node]


def record(objects: Objects, op: Op, outputs: list[Output], *, grad_enabled: bool) -> Step:
    """Make Variables of ``outputs``; and a node for ``op`` if any operand needs a gradient and ``grad_enabled``."""
    needs_grad = grad_enabled and any(operand.requires_grad for operand in op.operands)
    variables = [
        objects.new_variable(
            data=normalised(output.data),
            role=output.role,
            requires_grad=needs_grad,
            is_leaf=not needs_grad,
            output_nr=i,
        )
        for i, output in enumerate(outputs)
    ]
    if not needs_grad:
        return Step(variables, [])

    node = objects.new_node(f"{op.name}Backward0", op)
    new_nodes = [node]
    for position, operand in enumerate(op.operands):
        if operand.requires_grad:
            target = operand.grad_fn or _accumulator(objects, operand.variable, new_nodes)
            node.edges.append(Edge(target, operand.output_nr if operand.grad_fn else 0, op.passes_to(position)))
        else:
            node.edges.append(Edge(None, 0, False))
    node.add_outputs(*variables)
    for variable in variables:
        variable.grad_fn = node
    return Step(variables, new_nodes)


def _accumulator(objects: Objects, leaf: Variable, new_nodes: list[Node]) -> Node:
    if leaf.accumulator is None:
        leaf.accumulator = objects.new_node(ACCUMULATOR)
        leaf.accumulator.add_outputs(leaf)
        new_nodes.append(leaf.accumulator)
    return leaf.accumulator
