"""The objects of one session: variables, graph nodes, language models, optimizers.

They belong to a session (see ``sessions``), not to a connection, so that ids stay valid when a client connects again
(protocol §C.3).  Only the event loop's thread uses them; changes that must be seen together are made between two
awaits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from ..errors import UnknownModel, UnknownNode, UnknownVariable
from .data import Data
from .question_counts import Counts, no_counts
from .refused import Refused

if TYPE_CHECKING:
    from .engine.op import Op
    from .engine.replay import Replay
    from .history import History
    from .lm.budget import Budget
    from .records import Recorded

VARIABLE = "__variable__"
PARAMETER = "__parameter__"

# The name of the nodes at which gradients of leaves arrive (protocol §F.7).
ACCUMULATOR = "AccumulateGrad"


class _Referable:
    """May be referred to weakly, in spite of slots."""

    __slots__ = ("__weakref__",)


@dataclass(eq=False, slots=True)
class Variable(_Referable):
    """A Variable or Parameter as the server sees it.

    Attributes:
        obj_type: ``"__variable__"`` or ``"__parameter__"``.
        grad: gradients that arrived and were not cleared, oldest first.
        grad_fn: the node that computed it.
        accumulator: for a leaf: the node at which its gradients arrive, made at its first use.
        attributes: the attributes that a user has added; kept, without meaning here.
        learnt: of a gradient: what it knows of samples; None: its data is all.
        replay: of a gradient: to try new data on its samples, where an optimizer wants that.
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
    learnt: Recorded | None = None
    replay: Replay | None = None

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
class Node(_Referable):
    """One step of the graph.

    It lives as long as a variable that it computed, or a later step.  It does not keep its outputs alive, so there are
    no circles, and what nothing needs any more is gone at once, without the garbage collector.

    Attributes:
        op: the function, with everything that its backward pass needs; None for an accumulator, and after it was freed.
        output_count: how many variables it computed.
    """

    node_id: str
    name: str
    op: Op | None = None
    edges: list[Edge] = field(default_factory=list)
    output_count: int = 0
    _outputs: list[ref[Variable]] = field(default_factory=list)

    @property
    def outputs(self) -> list[Variable]:
        """The variables that it computed, for an accumulator the leaf; those that still exist."""
        return [variable for one in self._outputs if (variable := one()) is not None]

    def add_outputs(self, *variables: Variable) -> None:
        """Note what it computed."""
        self._outputs += map(ref, variables)
        self.output_count += len(variables)

    @property
    def is_accumulator(self) -> bool:
        """Whether gradients end here."""
        return self.name == ACCUMULATOR


@dataclass(eq=False, slots=True)
class Model(_Referable):
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


@dataclass(frozen=True, slots=True)
class Rejected:
    """Data that was no better than that of a parameter, ``instead_of``; and how it did, in words."""

    data: Data
    instead_of: Data
    score: str


@dataclass(eq=False, slots=True)
class Optimizer(_Referable):
    """An optimizer; ``groups`` in wire form, each with all settings and its ``params``.

    Attributes:
        uses: the variables and models that the groups name; they exist as long as it does.
    """

    optimizer_id: str
    defaults: dict[str, Any]
    groups: list[dict[str, Any]]
    momentum: dict[Variable, list[Version]] = field(default_factory=dict)
    uses: list[Variable | Model] = field(default_factory=list)


class Objects:
    """Everything that the clients of one session made. Not thread-safe: the event loop's thread only.

    The client holds what is in the tables, until it releases it.  A released object exists as long as something that
    the client still holds needs it: a graph, an optimizer, a gradient list.

    Attributes:
        history: keeps what happens in runs, for people to look at; None: nothing is kept.
        question_counts: of all questions so far.
        tries_before: whether an optimizer wants to try new data before it is adopted.
        rejected: of parameters: what was tried last and was no better.
    """

    def __init__(self, history: History | None = None) -> None:
        self.history = history
        self.question_counts: Counts = no_counts()
        self.tries_before = False
        self.rejected: WeakKeyDictionary[Variable, Rejected] = WeakKeyDictionary()
        self.variables: dict[str, Variable] = {}
        self.nodes: WeakValueDictionary[str, Node] = WeakValueDictionary()
        self.models: dict[str, Model] = {}
        self.optimizers: dict[str, Optimizer] = {}
        self.backward_model: BackwardModel | None = None
        self.budgets: dict[str, Budget] = {}
        # Objects that were released but still exist, because something needs them and may name them.
        self._released: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def release(self, variable_ids: Iterable[Any], model_ids: Iterable[Any], optimizer_ids: Iterable[Any]) -> None:
        """The client has let go of these objects; unknown ids have no effect."""
        tables: list[tuple[dict[str, Any], Iterable[Any]]] = [
            (self.optimizers, optimizer_ids),
            (self.variables, variable_ids),
            (self.models, model_ids),
        ]
        for table, ids in tables:
            for id_ in ids:
                found = table.pop(id_, None) if isinstance(id_, str) else None
                if found is not None:
                    self._released[id_] = found
                # The last reference, where there was no other: before the next one, so that it is gone from above.
                del found

    def clear(self) -> None:
        """The client is gone and will not come back."""
        for table in (self.optimizers, self.variables, self.models):
            table.clear()
        self.backward_model = None

    def _find(self, table: Mapping[str, Any], kind: type, id_: object) -> Any:
        if not isinstance(id_, str):
            return None
        found = table.get(id_)
        if found is None:
            found = self._released.get(id_)
        return found if isinstance(found, kind) else None

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
        found: Variable | None = self._find(self.variables, Variable, variable_id)
        if found is None:
            text = f"Variable with variable_id '{variable_id}' not found"
            raise UnknownVariable(text, variable_id=variable_id)
        return found

    def model(self, model_id: object) -> Model:
        """The model with this id. Raises UnknownModel."""
        found: Model | None = self._find(self.models, Model, model_id)
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
        found: Optimizer | None = self._find(self.optimizers, Optimizer, optimizer_id)
        if found is None:
            raise Refused(f"Optimizer with optimizer_id '{optimizer_id}' not found")
        return found


def new_id() -> str:
    """A new random id."""
    return str(uuid4())
