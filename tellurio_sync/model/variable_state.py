"""The state of a Variable on this side, and what the rest of the package may read and change of it.

The class has what a Variable is; ``variable`` has what a user can do with one, and tells the server.  The names of the
class are the user's: a new attribute of a Variable is sent to the server.  So the package uses the functions of this
module, and nothing else touches the private attributes.  None of the functions asks the server, waits for it, or takes
a lock, unless it says so.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| id, queue | the thread that makes it, later a restore | any thread | the order of stores in ``made`` | – |
| data, role and flags | callers (own changes), receive thread (pushes) | any thread | one store each | – |
| pending flags, node, gradient list | see ``registries`` | any thread | ``Registries.lock`` | see there |
| ``_arguments``, ``_accumulators`` | the call that computed it | ``autodiff``, a restore | one store each | – |
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from ..errors import ConnectionLost, UsageError, shorten_repr
from .data import Data, normalise
from .graph import Node
from .restorable import Restorable
from .session_link import SessionLink, current_link

if TYPE_CHECKING:
    from .variable import Variable

VARIABLE_TAG = "__variable__"
PARAMETER_TAG = "__parameter__"

PENDING_DATA = "_pending_data"
PENDING_GRAD = "_pending_grad"
"""The flags that are set while the server works on data or gradients."""

S = TypeVar("S", bound="VariableState")

set_local = object.__setattr__
"""``set_local(variable, name, value)`` sets an attribute on this side only, for pushes and for what the server knows.

The ``__setattr__`` of the class is for changes by the user, which the server is told.
"""
_put = set_local
_NO_RECORDS: tuple[None, None] = (None, None)


class Making(Protocol):
    """What will make a queued Variable on the server: a queue of a batch."""

    @property
    def link(self) -> SessionLink: ...

    def wait_for(self, variable: Any) -> None:
        """Wait until the Variable is made or refused."""


class VariableState(Restorable):
    """The state of a Variable."""

    # Slots, because a data set has many Variables; __dict__ (made at first use) takes the names that users add.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_accumulators",
        "_arguments",
        "_data",
        "_grad",
        "_grad_fn",
        "_link",
        "_lost",
        "_output_nr",
        "_pending_data",
        "_pending_grad",
        "_pending_grad_fn_id",
        "_queue",
        "_records",
        "_retain_grad",
        "is_leaf",
        "requires_grad",
        "role",
        "variable_id",
    )
    _TAG: ClassVar[str] = VARIABLE_TAG

    # Unset while the Variable is queued in a batch: reading it then calls ``__getattr__``; otherwise it costs nothing.
    variable_id: str | None
    role: str | None
    requires_grad: bool
    is_leaf: bool
    _data: Data
    _grad: list[Variable]
    _grad_fn: Node | None
    _output_nr: int
    _retain_grad: bool
    _link: SessionLink | None
    # The queue that will make it on the server; None if it is made, or will not be made.
    _queue: Making | None
    # The reason why it cannot be used with the server any more; None if it can.
    _lost: str | None
    _pending_data: bool
    _pending_grad: bool
    _pending_grad_fn_id: str | None
    # Objects that must live as long as this Variable (see ``registries``): the arguments that it was computed from, and
    # the nodes that the server made for its gradient.
    _arguments: tuple[object, ...]
    _accumulators: tuple[Node, ...]
    # Of gradients: the data that it came with, and what the server has told with that (protocol §K.5).
    _records: tuple[Data, object]

    def _fill(self, data: Data, role: str | None, requires_grad: bool) -> None:
        _put(self, "variable_id", None)
        _put(self, "role", role)
        _put(self, "requires_grad", requires_grad)
        _put(self, "is_leaf", True)
        _put(self, "_data", data)
        _put(self, "_grad", [])
        _put(self, "_grad_fn", None)
        _put(self, "_output_nr", 0)
        _put(self, "_retain_grad", False)
        _put(self, "_link", None)
        _put(self, "_queue", None)
        _put(self, "_lost", None)
        _put(self, "_pending_data", False)
        _put(self, "_pending_grad", False)
        _put(self, "_pending_grad_fn_id", None)
        _put(self, "_arguments", ())
        _put(self, "_accumulators", ())
        _put(self, "_records", _NO_RECORDS)

    # --- the server's Variable (``restorable``) ----------------------------------------------------

    def _reference(self) -> dict[str, Any]:
        """The reference to this Variable in messages (protocol §E.1).

        Raises:
            UsageError: the server does not know it.
        """
        if self.variable_id is None and self._lost is None:
            text = "was made under suppress_variable_notifications() or unpickled, so the server does not know it"
            raise UsageError(f"{shorten_repr(self)} {text}. Make a new Variable of its data.")
        self._check_not_lost()
        return {self._TAG: True, "variable_id": self.variable_id}

    def _check_not_lost(self) -> None:
        if self._lost is None:
            return
        if self._arguments:
            # The same error as for a call that waits at the loss: a loop that tries its batch again computes this
            # again.
            raise ConnectionLost(self._lost, who="server", was_sent=False)
        raise UsageError(self._lost)

    def _creation(self) -> dict[str, Any]:
        """The parameters of ``create_variable`` for what this is now."""
        params: dict[str, Any] = {
            "data": self._data,
            "role": self.role,
            "requires_grad": self.requires_grad,
            "obj_type": self._TAG,
        }
        of_data, records = self._records
        if records is not None and of_data == self._data:  # else they are about something else
            params["records"] = records
        return params

    def _mark_lost(self, reason: str) -> None:
        _put(self, "_lost", reason)
        _put(self, "_pending_grad_fn_id", None)

    def _renewed(self, link: SessionLink, variable_id: str) -> None:
        """The server has a new Variable for this one, under this id."""
        _put(self, "_link", link)
        _put(self, "_lost", None)
        # The node that collects gradients belonged to the former Variable.
        _put(self, "_accumulators", ())
        former = known_id(self)
        _put(self, "variable_id", variable_id)
        _put(self, "_queue", None)
        link.registries.variables.rename(former, variable_id, self)  # type: ignore[arg-type]

    # --- an id that is not there yet --------------------------------------------------------------

    if not TYPE_CHECKING:  # for a type checker, the class would have every name

        def __getattr__(self, name: str) -> Any:
            if name == "variable_id":
                wait_for_id(self)
                return object.__getattribute__(self, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _session_link(self) -> SessionLink:
        return self._link if self._link is not None else current_link()


# --- reading --------------------------------------------------------------------------------------


def held_data(variable: VariableState) -> Data:
    """The data as it is here now, even while the server works on it."""
    return variable._data


def held_grad(variable: VariableState) -> list[Variable]:
    """The live gradient list as it is here now, even while the server works on it."""
    return variable._grad


def held_node(variable: VariableState) -> Node | None:
    """The node that computed it; None for a leaf, and while the node is awaited."""
    return variable._grad_fn


def awaited_node(variable: VariableState) -> str | None:
    """The id of the node that the server has announced and not pushed yet; None: there is none."""
    return variable._pending_grad_fn_id


def holds_grad(variable: VariableState) -> bool:
    """Whether it keeps gradients."""
    return variable.is_leaf or variable._retain_grad


def is_computed(variable: VariableState) -> bool:
    """Whether it belongs to a graph: the server cannot make it again."""
    return variable._grad_fn is not None or variable._pending_grad_fn_id is not None or bool(variable._arguments)


def arguments_of(variable: VariableState) -> tuple[object, ...]:
    """What it was computed from: empty for a leaf."""
    return variable._arguments


def tag_of(variable: VariableState) -> str:
    """The key that marks a reference to it: ``VARIABLE_TAG`` or ``PARAMETER_TAG``."""
    return variable._TAG


def accumulators(variable: VariableState) -> tuple[Node, ...]:
    """The nodes that the server made for its gradient."""
    return variable._accumulators


def own_link(variable: VariableState) -> SessionLink | None:
    """The session it belongs to; None: it has not been shared with one."""
    return variable._link


def session_of(variable: VariableState) -> SessionLink:
    """The session it belongs to, else the current one."""
    return variable._session_link()


def queue_of(variable: VariableState) -> Making | None:
    """What will make it on the server; None: it is made, or will not be."""
    return variable._queue


def known_id(variable: VariableState) -> str | None:
    """The id; None if there is none, or none yet. Does not wait."""
    return None if variable._queue is not None else variable.variable_id


def is_refused(variable: VariableState) -> bool:
    """Whether the server has refused to make it."""
    return variable._lost is not None and variable.variable_id is None


def fields_beyond_creation(variable: VariableState) -> Iterator[tuple[str, Any]]:
    """What ``create_variable`` does not take: field of ``update_variable`` and value, gradients as Variables."""
    for name, value in variable.__dict__.items():
        # Other private names were never sent.
        if not name.startswith("_"):
            yield name, value
    if variable._grad:
        yield "_grad", [gradient for gradient in variable._grad if gradient._lost is None]
    if not variable.is_leaf:
        yield "is_leaf", False
    if variable._retain_grad:
        yield "_retain_grad", True
    if variable._output_nr:
        yield "_output_nr", variable._output_nr


# --- changing -------------------------------------------------------------------------------------


def received(
    cls: type[S],
    link: SessionLink | None,
    variable_id: str | None,
    data: Any,
    role: Any = "",
    requires_grad: Any = False,
) -> S:
    """A Variable that the server has made. Not registered yet.

    Raises:
        TypeError, ValueError: as the constructor.
    """
    variable = cls.__new__(cls)
    variable._fill(normalise(data), role, check_flag("requires_grad", requires_grad))
    _put(variable, "_link", link)
    _put(variable, "variable_id", variable_id)
    return variable


def keep_records(variable: VariableState, records: object) -> None:
    """What the server knows of a gradient besides its data; given back to it when it makes the gradient again."""
    _put(variable, "_records", (variable._data, records))


def await_node(variable: VariableState, node_id: str) -> None:
    """Reading ``grad_fn`` waits from now on."""
    _put(variable, "_pending_grad_fn_id", node_id)


def bind_node(variable: VariableState, node: Node | None) -> None:
    """Give it its node, for which it waits no longer."""
    # The order matters: a thread that sees the flag clear reads the node without the lock.
    _put(variable, "_grad_fn", node)
    _put(variable, "_pending_grad_fn_id", None)


def keep_arguments(variable: VariableState, arguments: tuple[object, ...]) -> None:
    """What it was computed from lives as long as it does (see ``registries``)."""
    _put(variable, "_arguments", arguments)


def keep_accumulators(variable: VariableState, nodes: tuple[Node, ...]) -> None:
    """The nodes for its gradient live as long as it does (see ``registries``)."""
    _put(variable, "_accumulators", nodes)


# --- making it on the server ----------------------------------------------------------------------


def enqueue(variable: VariableState, queue: Making) -> None:
    """``queue`` will make it; until then it has no id."""
    _put(variable, "_link", queue.link)
    _put(variable, "_queue", queue)
    object.__delattr__(variable, "variable_id")


def wait_for_id(variable: VariableState) -> None:
    """Wait until it is no longer queued; raises as ``Queue.wait_for``."""
    queue = variable._queue
    if queue is not None:
        queue.wait_for(variable)


def made(variable: VariableState, link: SessionLink, variable_id: str) -> None:
    """The server has made it."""
    _put(variable, "_link", link)
    # The order matters: a thread that reads the id uses it, and a thread that sees no queue reads the id.
    link.registries.variables.register(variable_id, variable)  # type: ignore[arg-type]
    _put(variable, "variable_id", variable_id)
    _put(variable, "_queue", None)


def refused(variable: VariableState, reason: str) -> None:
    """The server has refused to make it."""
    _put(variable, "_lost", reason)
    _put(variable, "variable_id", None)
    _put(variable, "_queue", None)


def check_flag(name: str, value: object) -> bool:
    """``value``, if it is a bool; raises TypeError if not."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {value!r}")
    return value
