"""References in messages (protocol §E), decoded on arrival.

A Variable among the arguments becomes an :class:`Operand`: a copy of its state when the request arrived.  So a request
sees the state at its place in the wire order, however long it runs and whatever arrives meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable as Function
from dataclasses import dataclass
from typing import Any

from .data import Data
from .objects import PARAMETER, VARIABLE, Model, Node, Objects, Variable
from .refused import Refused


@dataclass(frozen=True, eq=False, slots=True)
class Operand:
    """A Variable as it was when the request that uses it arrived."""

    variable: Variable
    data: Data
    role: str
    requires_grad: bool
    grad_fn: Node | None
    output_nr: int

    @classmethod
    def of(cls, variable: Variable) -> Operand:
        """The variable as it is now."""
        return cls(
            variable, variable.data, variable.role or "", variable.requires_grad, variable.grad_fn, variable.output_nr
        )


BUILTINS: dict[str, Function[..., Any]] = {each.__name__: each for each in (all, any, max, min, sum)}
"""Functions of Python that are computed here instead of at the client, which saves a round trip each."""


@dataclass(frozen=True, slots=True)
class Callable:
    """A function of the client, by its id.

    Attributes:
        builtin: the name of the function of Python that it is, if it is one that is computed here (protocol §E.1).
    """

    callable_id: str
    builtin: str | None = None


def decode(objects: Objects, value: Any) -> Any:
    """``value`` with its references resolved: Operand, Model, Callable; lists and objects recursively.

    Raises:
        UnknownVariable, UnknownModel: nothing with this id is known.
        Refused: a callable without an id.
    """
    if isinstance(value, list):
        return [decode(objects, item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get(VARIABLE) or value.get(PARAMETER):
        return Operand.of(objects.variable(value.get("variable_id")))
    if value.get("__model_client__"):
        return objects.model(value.get("model_id"))
    if value.get("__callable__"):
        callable_id = value.get("callable_id")
        if not isinstance(callable_id, str):
            raise Refused("A callable without callable_id.")
        builtin = value.get("builtin")
        return Callable(callable_id, builtin if isinstance(builtin, str) and builtin in BUILTINS else None)
    return {key: decode(objects, item) for key, item in value.items()}


def variables(objects: Objects, value: Any, name: str) -> list[Variable]:
    """The variables of a reference or a list of references; ``name`` says in an error what was wrong.

    Raises:
        UnknownVariable: nothing with this id is known.
        Refused: it is not a reference or a list of references.
    """
    tags = value if isinstance(value, list) else [value]
    for tag in tags:
        if not (isinstance(tag, dict) and (tag.get(VARIABLE) or tag.get(PARAMETER))):
            raise Refused(f"`{name}` must be a Variable or a list of Variables.")
    return [objects.variable(tag.get("variable_id")) for tag in tags]


def named_in(objects: Objects, value: Any) -> list[Variable | Model]:
    """The variables and models that ``value`` refers to; raises as :func:`decode`."""
    found: list[Variable | Model] = []
    stack = [decode(objects, value)]
    while stack:
        item = stack.pop()
        if isinstance(item, Operand):
            found.append(item.variable)
        elif isinstance(item, Model):
            found.append(item)
        elif isinstance(item, (list, dict)):
            stack += item.values() if isinstance(item, dict) else item
    return found


def plain(value: Any) -> Any:
    """The data of an operand; any other value unchanged."""
    return value.data if isinstance(value, Operand) else value


def output(variable: Variable) -> dict[str, Any]:
    """A variable as the result of a function (protocol §E.4)."""
    return {
        "variable_id": variable.variable_id,
        "data": variable.data,
        "role": variable.role,
        "requires_grad": variable.requires_grad,
        "_retain_grad": variable.retain_grad,
        "_grad": [],
        "_output_nr": variable.output_nr,
        "_grad_fn": variable.grad_fn.node_id if variable.grad_fn else None,
        "is_leaf": variable.is_leaf,
    }
