"""Variable and Parameter: the data that is computed with and optimised (protocol §F).

Three rules:
  * A Variable mirrors one on the server.  To make one, or to set an attribute, is a call that blocks for a round trip.
    The local value changes only after the server has accepted it (protocol §F.5), so a refusal is raised where it
    happens.  Inside ``with batch():`` neither blocks (``batch.block``).  Under ``suppress_variable_notifications`` both
    are local.
  * While the server works on a Variable a *pending flag* is set, and reading ``data``, ``grad`` or ``grad_fn``
    waits for it.
  * Everything may be used from any thread.  If two threads set the same attribute, the server's order counts there.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..errors import UsageError, shorten_repr
from .batch.block import open_queue
from .batch.changes import CREATE, MADE_WITH, Change
from .call import Call, tell
from .data import Data, Shape, copy_data, is_scalar, leaves, map_leaves, normalise, shape_of
from .display import brief
from .graph import Node
from .reply_checks import check_echo, id_member
from .restorable import reference
from .session_link import current_link
from .suppression import is_suppressed
from .variable_state import (
    PARAMETER_TAG,
    VARIABLE_TAG,
    VariableState,
    check_flag,
    holds_grad,
    keep_arguments,
    made,
    received,
    set_local,
    wait_for_id,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..graph_picture import Graph

V = TypeVar("V", bound="Variable")

_FLAG_FIELDS = frozenset({"requires_grad", "is_leaf", "_retain_grad"})
# Attributes that are sent when they are set; the names of §F.5. Properties send their changes themselves.
_SENT_FIELDS = _FLAG_FIELDS | {"role"}


_NEAR = 0.8
"""How alike two names are, from 0 to 1, that are taken for a slip of the pen: ``dat`` and ``data`` have 0.86."""


Feedback = Literal["records", "batch_critic", "critic"]
"""What evaluators send backward: see ``autodiff.backward``."""


class Variable(VariableState):
    """A piece of text or a number (or a list of them: a batch) with a role, which may need a gradient.

    Args:
        data: str, int, float, bool or None, or lists of them nested to any depth; all strings or all numbers.
            Integers beside floats in a list become floats.
        role: what the data is for, in words; language models read it.
        requires_grad: whether feedback for it is wanted.

    Blocks for one round trip. Does not block inside ``with batch():`` (unless the data has a million characters or
    more), nor under ``suppress_variable_notifications``.

    Raises:
        TypeError: data of another type, or strings and numbers mixed; ``requires_grad`` is no bool.
        ValueError: NaN or infinity in the data (protocol §F.2).
        TellurioError: as ``TellurioWebSocketClient.call``.
    """

    __slots__ = ()

    def __init__(self, data: Data = "", role: str | None = "", requires_grad: bool = False) -> None:
        self._fill(normalise(data), role, check_flag("requires_grad", requires_grad))
        if not is_suppressed():
            self._share()

    def _share(self) -> None:
        link = current_link()
        queue = open_queue(link)
        if queue is not None and queue.add(self):
            return
        with Call(link) as call:
            result = call.request(CREATE, self._creation())
            made(self, link, id_member(CREATE, result, "variable_id"))

    # --- telling the server ----------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FLAG_FIELDS:
            check_flag(name, value)
        # The class knows its slots, properties and methods; other private names are never sent.
        is_sent = name in _SENT_FIELDS or not (name.startswith("_") or hasattr(type(self), name))
        if is_sent and name not in _SENT_FIELDS and name not in self.__dict__:
            _check_is_no_slip(name)
        if is_sent:
            self._tell(Change(self, name, value))
        else:
            set_local(self, name, value)

    def _tell(self, *changes: Change) -> None:
        """Send changes of this Variable to the server, in one round trip, and apply here the ones that it accepts.

        In an open batch they are applied at once and queued.  If the server does not know this Variable, or must not be
        told, they are only applied here.
        """
        if is_suppressed():
            if any(change.field in MADE_WITH for change in changes):
                wait_for_id(self)  # otherwise it would be made there with the values that the server must not get
            _apply(changes)
            return
        link = self._session_link()
        queue = open_queue(link)
        if queue is None or not all(change.is_plain for change in changes):
            if self.variable_id is None and self._lost is None:
                _apply(changes)
            else:
                tell(link, changes)
            return
        self._check_not_lost()
        for change in changes:
            # The order matters: another thread may be making it at this moment.
            if self._queue is None and self.variable_id is None:
                change.apply()
            elif not queue.add_change(change):
                tell(link, [change])

    def _wait(self, flag: str) -> None:
        link = self._session_link()
        link.check_may_wait()
        link.registries.wait_while_pending(self, flag, link.pending_timeout)

    def _check_holds_grad(self) -> None:
        if not holds_grad(self):
            text = "Only leaves keep their gradient: call `retain_grad()` on a computed Variable before `backward()`."
            raise UsageError(text)

    # --- attributes ------------------------------------------------------------------------------

    @property
    def data(self) -> Any:
        """The data. Reading waits while an optimizer step works on it; setting is one round trip, in a batch none.

        Read as ``Any``: only the caller knows which form of :data:`Data` it has.

        Raises:
            PendingTimeout: the announced change did not come in time.
            WouldDeadlock: read on the receive thread while pending.
            TypeError, ValueError: set to what the constructor refuses.
        """
        if self._pending_data:
            self._wait("_pending_data")
        return self._data

    @data.setter
    def data(self, data: Data) -> None:
        normalised = normalise(data)
        self._tell(Change(self, "data", normalised, "_data"))

    @property
    def shape(self) -> Shape:
        """The length of each axis of the data; ``()`` for a scalar. Does not wait."""
        return shape_of(self._data)

    @property
    def grad(self) -> list[Variable]:
        """The gradients: the live list, one element per path of each backward pass.

        Reading waits while a backward pass works on it; setting is one round trip, in a batch none.

        Raises:
            UsageError: not a leaf, and its gradient is not retained (protocol §F.3).
            PendingTimeout: the announced change did not come in time.
            TypeError: set to anything but a list of Variables.
        """
        if self._pending_grad:
            self._wait("_pending_grad")
        self._check_holds_grad()
        return self._grad

    @grad.setter
    def grad(self, gradients: list[Variable]) -> None:
        if not isinstance(gradients, list) or not all(isinstance(gradient, Variable) for gradient in gradients):
            raise TypeError(f"grad must be a list of Variables, not {shorten_repr(gradients)}")
        self._check_holds_grad()
        self._tell(Change(self, "_grad", list(gradients)))

    @property
    def output_nr(self) -> int:
        """Which output of its function this is, from 0. Setting is one round trip, in a batch none.

        Raises:
            TypeError: set to anything but an int >= 0.
        """
        return self._output_nr

    @output_nr.setter
    def output_nr(self, output_nr: int) -> None:
        check_output_nr(output_nr)
        self._tell(Change(self, "_output_nr", output_nr))

    @property
    def grad_fn(self) -> Node | None:
        """The node that computed it; None for a leaf. Waits for a node that the server has announced.

        Raises:
            PendingTimeout: the node did not come in time.
        """
        if self._pending_grad_fn_id is not None:
            self._wait("_pending_grad_fn_id")
        return self._grad_fn

    # --- gradients -------------------------------------------------------------------------------

    def append_grad(self, gradient: Variable) -> None:
        """Add one gradient, after the server has taken it. One round trip, also in a batch.

        Raises:
            TypeError: not a Variable.
            UsageError: not a leaf, and its gradient is not retained.
        """
        if not isinstance(gradient, Variable):
            raise TypeError(f"a gradient must be a Variable, not {type(gradient).__name__}")
        self._check_holds_grad()
        if is_suppressed() or (self.variable_id is None and self._lost is None):
            self._grad.append(gradient)
            return
        wait_for_id(gradient)
        with Call(self._session_link(), changes=[self]) as call:
            self._check_not_lost()
            gradient_reference = reference(gradient)
            params = {"variable_id": self.variable_id, "gradient": gradient_reference}
            result = call.request("append_grad", params)
            check_echo(
                "append_grad",
                result,
                {"variable_id": self.variable_id, "gradient_id": gradient_reference["variable_id"]},
            )
            self._grad.append(gradient)

    def retain_grad(self) -> None:
        """Keep the gradient of this computed Variable. One round trip, in a batch none.

        Raises:
            UsageError: it is a leaf, whose gradient is always kept.
        """
        if self.is_leaf:
            raise UsageError("Cannot call `retain_grad` on a leaf variable")
        self._retain_grad = True

    def requires_grad_(self, mode: bool = True) -> Self:
        """Set whether a gradient is wanted. This also decides again whether the Variable is a leaf.

        Two calls in one round trip; in a batch none.
        """
        is_leaf = not check_flag("requires_grad", mode) or self.grad_fn is None
        self._tell(Change(self, "requires_grad", mode), Change(self, "is_leaf", is_leaf))
        return self

    def backward(
        self,
        gradient: Variable | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Variable | Sequence[Variable] | None = None,
        max_failed: float | None = None,
        feedback: Feedback | None = None,
    ) -> None:
        """Compute the gradients of everything this was computed from; see ``autodiff.backward``. One round trip.

        Raises:
            UsageError: it does not require grad, or was not computed.
        """
        if not self.requires_grad or self.grad_fn is None:
            raise UsageError("Variable does not require grad or does not have a grad_fn.")
        from ..autodiff.backward_pass import backward

        backward(self, gradient, retain_graph, create_graph, inputs, max_failed, feedback)

    def graph(self) -> Graph:
        """What this was computed from, as a picture: a notebook shows it, ``.svg`` and ``.dot`` are texts.

        Does not block, except while the server works on this Variable. Feedback that Variables have got is written
        on their arrows.
        """
        from .picture import picture_of

        return picture_of(self)

    # --- arithmetic ------------------------------------------------------------------------------

    def __add__(self, other: Variable) -> Variable:
        """``autodiff.functional.add``. One round trip."""
        _check_addend(other)
        from ..autodiff.functional import add

        return add(self, other)

    def __iadd__(self, other: Variable) -> Self:
        """Change this Variable in place, there and here. Two round trips: the function, and the change."""
        _check_addend(other)
        from ..autodiff.functional import add
        from ..autodiff.grad_mode import is_grad_enabled

        is_recorded = is_grad_enabled()
        if is_recorded and self.is_leaf and self.requires_grad:
            # Protocol §F.6: its gradient would be collected for a value that no longer exists.
            text = "A leaf Variable that requires grad cannot be changed by `+=`: write `y = x + other`"
            raise UsageError(f"{text}, or do it under no_grad().")
        result = add(self, other)
        changes = [Change(self, "data", result.data, "_data"), Change(self, "role", result.role)]
        node = result.grad_fn
        if is_recorded:
            changes.append(Change(self, "requires_grad", result.requires_grad))
        if is_recorded and node is not None:
            # The former arguments are kept, because the new node leads to their node.
            new_arguments = [argument for argument in result._arguments if argument is not self]
            arguments = (self._arguments, *new_arguments)
            take_graph = partial(self._take_graph, node, arguments)
            changes += [Change(self, "_grad_fn", node.node_id, apply=take_graph), Change(self, "is_leaf", False)]
        self._tell(*changes)
        return self

    def _take_graph(self, node: Node, arguments: tuple[object, ...]) -> None:
        keep_arguments(self, arguments)
        self._session_link().registries.rebind_grad_fn(self, node)

    # --- copies ----------------------------------------------------------------------------------

    def detach(self) -> Variable:
        """A new Variable with the same data object and role, outside the graph. One round trip, in a batch none."""
        return Variable(self.data, self.role)

    def to(self, dtype: type[str] | type[int] | type[float] | type[bool] | None) -> Variable:
        """A new Variable with every leaf of the data converted; ``None`` stays, lists are new.

        One round trip, in a batch none.

        Args:
            dtype: ``str``, ``int``, ``float`` or ``bool``; None: convert nothing, copy the lists.

        Raises:
            TypeError: another dtype.
            ValueError: a leaf that cannot be converted.
        """
        if dtype is None:
            return Variable(copy_data(self.data), self.role, self.requires_grad)
        if dtype not in (str, int, float, bool):
            raise TypeError(f"dtype must be str, int, float, bool or None, not {dtype!r}")
        return Variable(map_leaves(self.data, dtype), self.role, self.requires_grad)

    def copy_(self, src: Variable) -> Self:
        """Copy data (lists are copied), role and ``requires_grad`` from ``src``.

        Three calls in one round trip; in a batch none.

        Raises:
            TypeError: ``src`` is no Variable.
            ValueError: the shapes differ.
        """
        if not isinstance(src, Variable):
            raise TypeError(f"copy_ takes a Variable, not {type(src).__name__}")
        data = src.data
        if self.shape != src.shape:
            raise ValueError(f"copy_ needs equal shapes: {self.shape} here, {src.shape} there")
        self._tell(
            Change(self, "data", copy_data(data), "_data"),
            Change(self, "role", src.role),
            Change(self, "requires_grad", src.requires_grad),
        )
        return self

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A new leaf with its own id (protocol §F.6), the same data, role and added attributes, and no gradients.

        One round trip, in a batch none.
        """
        if not self.is_leaf:
            raise UsageError("Only leaf Variables can be copied: use `detach()` first.")
        new = type(self)(copy_data(self.data), self.role, self.requires_grad)
        memo[id(self)] = new
        new.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle holds data, role, ``requires_grad`` and added attributes; an unpickled Variable is not shared."""
        return _unpickled, (type(self), self.data, self.role, self.requires_grad, dict(self.__dict__))

    # --- what it is ------------------------------------------------------------------------------

    def is_floating_point(self) -> bool:
        """Whether the data is a float, or a list whose leaves (at least one) are all floats, ``None`` aside."""
        present = [leaf for leaf in leaves(self.data) if leaf is not None]
        return bool(present) and all(isinstance(leaf, float) for leaf in present)

    def __format__(self, spec: str) -> str:
        """The whole data, for f-strings: ``str`` shortens it. Reads ``data``, which may wait."""
        return format(self.data if spec or isinstance(self.data, str) else str(self.data), spec)

    # These two do not wait, because logs and debuggers use them on any thread.
    def __str__(self) -> str:
        return f"variable({brief(self._data)}, role={brief(self.role)}, {self._shown_grad()})"

    def __repr__(self) -> str:
        return f"Variable(data={self._data!r}, role={self.role!r}, {self._shown_grad()})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In IPython: what ``str`` shows. A prompt of five thousand characters would fill the screen."""
        printer.text(str(self))

    def _repr_html_(self) -> str:
        """In a notebook: role, shortened data, gradients, and what the server still works on. Does not wait."""
        from .. import cards

        works_on = [name for name, is_on in (("data", self._pending_data), ("gradients", self._pending_grad)) if is_on]
        parts = [cards.text_block(self._data)]
        if self._lost is not None:
            parts.append(cards.table([("lost", self._lost)]))
        if works_on:
            parts.append(cards.table([("the server works on", " and ".join(works_on))]))
        if self._grad:
            number = f"{len(self._grad)} gradient{'s' if len(self._grad) > 1 else ''}"
            parts.append(cards.table([(number, brief(self._grad[0]._data))]))
        return cards.card(type(self).__name__, self.role or "", parts, self._shown_grad())

    def _shown_grad(self) -> str:
        node = self._grad_fn
        return f"requires_grad={self.requires_grad}" if node is None else f"grad_fn={node.name()}"


def _check_is_no_slip(name: str) -> None:
    """Raises AttributeError if a new attribute has nearly the name of one that a Variable has."""
    near = difflib.get_close_matches(name, ("data", "role", "grad", "requires_grad"), 1, _NEAR)
    if near:
        raise AttributeError(f"A Variable has no attribute {name!r}: did you mean {near[0]!r}?")


class Parameter(Variable):
    """A Variable that is to be optimised: it needs a gradient, unless ``requires_grad`` is False."""

    __slots__ = ()
    _TAG = PARAMETER_TAG

    def __init__(self, data: Data = None, role: str | None = None, requires_grad: bool = True) -> None:
        super().__init__(data, role, requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n  {super().__repr__()}"


CLASS_BY_TAG: dict[str, type[Variable]] = {VARIABLE_TAG: Variable, PARAMETER_TAG: Parameter}


def sources_of(variables: Iterable[Variable]) -> set[Variable]:
    """All Variables that these were computed from, directly or not."""
    found: set[Variable] = set()
    stack: list[Any] = [variable._arguments for variable in variables]
    while stack:
        item = stack.pop()
        if isinstance(item, tuple):
            stack.extend(item)
        elif isinstance(item, Variable) and item not in found:
            found.add(item)
            stack.append(item._arguments)
    return found


def _apply(changes: Sequence[Change]) -> None:
    for change in changes:
        change.apply()


def is_scalar_variable(variable: Variable) -> bool:
    """Whether the data is one string, number or boolean."""
    return is_scalar(variable.data)


def check_output_nr(output_nr: object) -> None:
    """Raises TypeError unless ``output_nr`` is an int >= 0."""
    if not isinstance(output_nr, int) or isinstance(output_nr, bool) or output_nr < 0:
        raise TypeError(f"output_nr must be an int >= 0, not {output_nr!r}")


def _check_addend(other: object) -> None:
    if not isinstance(other, Variable):
        raise TypeError("Only Variables can be added to each other.")


def _unpickled(cls: type[V], data: Data, role: str | None, requires_grad: bool, added: dict[str, Any]) -> V:
    variable = received(cls, None, None, data, role, requires_grad)
    variable.__dict__.update(added)
    return variable
