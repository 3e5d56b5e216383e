"""The graph behind a Variable as a picture: :meth:`Variable.graph`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from ..graph_picture import Arrow, Box, Graph
from .variable_state import PARAMETER_TAG, VariableState, arguments_of, holds_grad, tag_of

if TYPE_CHECKING:
    from .variable import Variable

# More could not be looked at.
MOST_VARIABLES = 150
_MOST_CHARS = 400


def picture_of(variable: Variable) -> Graph:
    """The graph behind ``variable``: of many Variables those that are nearest to it."""
    boxes: dict[str, Box] = {}
    arrows: list[Arrow] = []
    found: dict[int, Variable] = {id(variable): variable}
    ready = [variable]
    left_out = 0
    while ready:
        later: list[Variable] = []
        for one in ready:
            boxes[str(id(one))] = _box(one)
            node = one.grad_fn
            if node is None:
                continue
            function = node.node_id
            boxes[function] = Box(function, "function", node.name().removesuffix("Backward0"))
            arrows.append(Arrow(function, str(id(one)), _feedback(one)))
            for argument in dict.fromkeys(_variables(arguments_of(one))):
                if id(argument) not in found:
                    if len(found) >= MOST_VARIABLES:
                        left_out += 1
                        continue
                    found[id(argument)] = argument
                    later.append(argument)
                feedback = "" if argument.grad_fn is not None else _feedback(argument)
                arrows.append(Arrow(str(id(argument)), function, feedback))
        ready = later
    # Two outputs of one function share it, and its arrows.
    return Graph(list(boxes.values()), list(dict.fromkeys(arrows)), left_out)


def _box(variable: Variable) -> Box:
    kind: Any = "parameter" if tag_of(variable) == PARAMETER_TAG else "variable"
    return Box(str(id(variable)), kind, (variable.role or kind)[:_MOST_CHARS], _shown(variable.data))


def _feedback(variable: Variable) -> str:
    if not holds_grad(variable):
        return ""  # it keeps none
    return " ".join(filter(None, (_shown(gradient.data) for gradient in variable.grad)))[:_MOST_CHARS]


def _shown(data: object) -> str:
    return "" if data is None else str(data)[:_MOST_CHARS]


def _variables(arguments: object) -> Iterator[Variable]:
    if isinstance(arguments, VariableState):
        yield cast("Variable", arguments)
    elif isinstance(arguments, dict):
        for value in arguments.values():
            yield from _variables(value)
    elif isinstance(arguments, (list, tuple)):
        for value in arguments:
            yield from _variables(value)
