"""The objects of one session: variables, graph nodes, language models, optimizers.

They belong to a session (see ``sessions``), not to a connection, so that ids stay valid when a client connects again
(protocol §C.3).  Only the event loop's thread uses them; changes that must be seen together are made between two
awaits.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..errors import UnknownModel, UnknownNode, UnknownVariable
from .data import Data
from .refused import Refused

if TYPE_CHECKING:
    from .engine.op import Op
    from .history import History
    from .lm.budget import Budget

VARIABLE = "__variable__"
PARAMETER = "__parameter__"

# The name of the nodes at which gradients of leaves arrive (protocol §F.7).
ACCUMULATOR = "AccumulateGrad"


@dataclass(eq=False, slots=True)
class Variable:
    """A Variable or Parameter as the server sees it.

    Attributes:
        obj_type: ``"__variable__"`` or ``"__parameter__"``.
        grad: gradients that arrived and were not cleared, oldest first.
        grad_fn: the node that computed it.
        accumulator: for a leaf: the node at which its gradients arrive, made at its first use.
        attributes: the attributes that a user has added; kept, without meaning here.
    """

    variable_id: str
    data: Data = ""
    role: str | None = ""
    requires_grad: bool = False
    obj_type: str = VARIABLE
    is_leaf: bool = True
    retain_grad: bool = False
    output_nr: int = 0
    grad: list[Variable] = field(default_factory=list)
    grad_fn: Node | None = None
    accumulator: Node | None = None
    attributes: dict[str, Any] | None = None

    @property
    def tag(self) -> dict[str, Any]:
        """The reference to it in messages (protocol §E.1)."""
        return {self.obj_type: True, "variable_id": self.variable_id}

    @property
    def accepts_grad(self) -> bool:
        """Whether a gradient that arrives here is kept (protocol §F.3)."""
        return self.requires_grad and (self.is_leaf or self.retain_grad)


@dataclass(eq=False, slots=True)
class Edge:
    """An edge from a node to the node that made one of its operands.

    Attributes:
        target: None for an operand that needs no gradient.
        is_open: whether feedback flows along it; the target of an evaluator, for example, gets none.
    """

    target: Node | None
    output_nr: int
    is_open: bool


@dataclass(eq=False, slots=True)
class Node:
    """One step of the graph.

    Attributes:
        op: the function, with everything that its backward pass needs; None for an accumulator, and after it was freed.
        outputs: the variables that it computed; for an accumulator: the leaf.
    """

    node_id: str
    name: str
    op: Op | None = None
    edges: list[Edge] = field(default_factory=list)
    outputs: list[Variable] = field(default_factory=list)

    @property
    def is_accumulator(self) -> bool:
        """Whether gradients end here."""
        return self.name == ACCUMULATOR


@dataclass(eq=False, slots=True)
class Model:
    """A language model as the client described it (protocol §H)."""

    model_id: str
    provider: str
    config: dict[str, Any] = field(repr=False)
    usage: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BackwardModel:
    """The model of all backward passes (protocol §H.4)."""

    model: Model
    completion_args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Version:
    """A parameter before a step, and the gradients that it had then."""

    copy: Variable
    gradients: tuple[Variable, ...]


@dataclass(eq=False, slots=True)
class Optimizer:
    """An optimizer; ``groups`` in wire form, each with all settings and its ``params``."""

    optimizer_id: str
    defaults: dict[str, Any]
    groups: list[dict[str, Any]]
    momentum: dict[Variable, list[Version]] = field(default_factory=dict)


class Objects:
    """Everything that the clients of one session made. Not thread-safe: the event loop's thread only.

    Attributes:
        history: keeps what happens in runs, for people to look at; None: nothing is kept.
    """

    def __init__(self, history: History | None = None) -> None:
        self.history = history
        self.variables: dict[str, Variable] = {}
        self.nodes: dict[str, Node] = {}
        self.models: dict[str, Model] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.backward_model: BackwardModel | None = None
        self.budgets: dict[str, Budget] = {}

    def new_variable(self, **attributes: Any) -> Variable:
        """A new registered Variable."""
        variable = Variable(new_id(), **attributes)
        self.variables[variable.variable_id] = variable
        return variable

    def copy_of(self, variable: Variable) -> Variable:
        """A new registered leaf with the same data, role, type and need of gradients, without gradients."""
        return self.new_variable(
            data=copy.deepcopy(variable.data),
            role=variable.role,
            requires_grad=variable.requires_grad,
            obj_type=variable.obj_type,
        )

    def new_node(self, name: str, op: Op | None = None) -> Node:
        """A new registered node."""
        node = Node(new_id(), name, op)
        self.nodes[node.node_id] = node
        return node

    def variable(self, variable_id: object) -> Variable:
        """The variable with this id. Raises UnknownVariable."""
        found = self.variables.get(variable_id) if isinstance(variable_id, str) else None
        if found is None:
            text = f"Variable with variable_id '{variable_id}' not found"
            raise UnknownVariable(text, variable_id=variable_id)
        return found

    def model(self, model_id: object) -> Model:
        """The model with this id. Raises UnknownModel."""
        found = self.models.get(model_id) if isinstance(model_id, str) else None
        if found is None:
            raise UnknownModel(f"Model with model_id '{model_id}' not found", model_id=model_id)
        return found

    def node(self, node_id: object) -> Node:
        """The node with this id. Raises UnknownNode."""
        found = self.nodes.get(node_id) if isinstance(node_id, str) else None
        if found is None:
            raise UnknownNode(f"Node with id '{node_id}' not found in registry.", node_id=node_id)
        return found

    def optimizer(self, optimizer_id: object) -> Optimizer:
        """The optimizer with this id. Raises Refused."""
        found = self.optimizers.get(optimizer_id) if isinstance(optimizer_id, str) else None
        if found is None:
            raise Refused(f"Optimizer with optimizer_id '{optimizer_id}' not found")
        return found


def new_id() -> str:
    """A new random id."""
    return str(uuid4())
