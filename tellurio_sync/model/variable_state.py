"""The state of a Variable on this side, and how the server is told of changes.

There are three ways to change an attribute:
  * ``variable.role = x`` is for the user.  The server is asked first, and the local value changes after it has accepted
    the change (protocol §F.5); inside ``with batch():`` it changes at once, and the server is told later.
  * ``variable._set_local("role", x)`` is for pushes of the server, and for changes that the server already knows.
  * ``_put`` is the same without a method call, for use inside this class hierarchy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ConnectionLost, UsageError, shorten_repr
from .batch.block import open_queue, wait_until_made
from .batch.changes import MADE_WITH, Change
from .call import tell
from .data import Data, normalise
from .graph import Node
from .session_link import SessionLink, current_link
from .suppression import is_suppressed

if TYPE_CHECKING:
    from typing_extensions import Self

    from .batch.queue import Queue
    from .variable import Variable

VARIABLE_TAG = "__variable__"
PARAMETER_TAG = "__parameter__"

_FLAG_FIELDS = frozenset({"requires_grad", "is_leaf", "_retain_grad"})
# Attributes that are sent when they are set; the names of §F.5. Properties send their changes themselves.
_SENT_FIELDS = _FLAG_FIELDS | {"role"}

# Sets an attribute on this side only. The __setattr__ of the class is for changes by the user.
_put = object.__setattr__


class VariableState:
    """The state of a Variable. Reading it takes no lock; the table in ``registries`` says which thread writes what."""

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
    _queue: Queue | None
    # The reason why it cannot be used with the server any more; None if it can.
    _lost: str | None
    _pending_data: bool
    _pending_grad: bool
    _pending_grad_fn_id: str | None
    # Objects that must live as long as this Variable (see ``registries``): the arguments that it was computed from, and
    # the nodes that the server made for its gradient.
    _arguments: tuple[object, ...]
    _accumulators: tuple[Node, ...]

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

    # --- for model/, autodiff/ and handlers: changes of this side only ---------------------------

    @classmethod
    def _received(
        cls, link: SessionLink | None, variable_id: str | None, data: Any, role: Any = "", requires_grad: Any = False
    ) -> Self:
        """A Variable that the server has made. Not registered yet.

        Raises:
            TypeError, ValueError: as the constructor.
        """
        variable = cls.__new__(cls)
        variable._fill(normalise(data), role, check_flag("requires_grad", requires_grad))
        _put(variable, "_link", link)
        _put(variable, "variable_id", variable_id)
        return variable

    def _set_local(self, name: str, value: object) -> None:
        """Set an attribute without telling the server."""
        _put(self, name, value)

    def _await_grad_fn(self, node_id: str) -> None:
        _put(self, "_pending_grad_fn_id", node_id)

    def _bind_grad_fn(self, node: Node | None) -> None:
        # The order matters: a thread that sees the flag clear reads the node without the lock.
        _put(self, "_grad_fn", node)
        _put(self, "_pending_grad_fn_id", None)

    def _holds_grad(self) -> bool:
        return self.is_leaf or self._retain_grad

    # --- telling the server ----------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FLAG_FIELDS:
            check_flag(name, value)
        # The class knows its slots, properties and methods; other private names are never sent.
        is_sent = name in _SENT_FIELDS or not (name.startswith("_") or hasattr(type(self), name))
        if is_sent:
            self._tell(Change(self, name, value))
        else:
            _put(self, name, value)

    def _tell(self, *changes: Change) -> None:
        """Send changes of this Variable to the server, in one round trip, and apply here the ones that it accepts.

        In an open batch they are applied at once and queued.  If the server does not know this Variable, or must not be
        told, they are only applied here.
        """
        if is_suppressed():
            if any(change.field in MADE_WITH for change in changes):
                self._wait_until_made()  # otherwise it would be made there with the values that the server must not get
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

    def _session_link(self) -> SessionLink:
        return self._link if self._link is not None else current_link()

    def _wait(self, flag: str) -> None:
        link = self._session_link()
        link.check_may_wait()
        link.registries.wait_while_pending(self, flag, link.pending_timeout)

    def _check_holds_grad(self) -> None:
        if not self._holds_grad():
            text = "Only leaves keep their gradient: call `retain_grad()` on a computed Variable before `backward()`."
            raise UsageError(text)

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

    # --- for a queue -----------------------------------------------------------------------------

    if not TYPE_CHECKING:  # for a type checker, the class would have every name

        def __getattr__(self, name: str) -> Any:
            if name == "variable_id":
                self._wait_until_made()
                return object.__getattribute__(self, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _known_id(self) -> str | None:
        """The id; None if there is none, or none yet. Does not wait."""
        return None if self._queue is not None else self.variable_id

    def _wait_until_made(self) -> None:
        """Wait until it is no longer queued; raises as ``batch.block.wait_until_made``."""
        queue = self._queue
        if queue is not None:
            wait_until_made(self, queue)

    def _enqueue(self, queue: Queue) -> None:
        _put(self, "_link", queue.link)
        _put(self, "_queue", queue)
        object.__delattr__(self, "variable_id")

    def _made(self, variable_id: str) -> None:
        """The server has made it."""
        assert self._link is not None
        # The order matters: a thread that reads the id uses it, and a thread that sees no queue reads the id.
        self._link.registries.variables.register(variable_id, self)  # type: ignore[arg-type]
        _put(self, "variable_id", variable_id)
        _put(self, "_queue", None)

    @property
    def _is_refused(self) -> bool:
        """Whether the server has refused to make it."""
        return self._lost is not None and self.variable_id is None

    def _refused(self, reason: str) -> None:
        """The server has refused to make it."""
        _put(self, "_lost", reason)
        _put(self, "variable_id", None)
        _put(self, "_queue", None)

    # --- for a restore ---------------------------------------------------------------------------

    def _creation(self) -> dict[str, Any]:
        """The parameters of ``create_variable`` for what this is now."""
        return {
            "data": self._data,
            "role": self.role,
            "requires_grad": self.requires_grad,
            "obj_type": self._TAG,
        }

    def _mark_lost(self, reason: str) -> None:
        _put(self, "_lost", reason)
        _put(self, "_pending_grad_fn_id", None)

    def _renewed(self, link: SessionLink, variable_id: str) -> None:
        """The server has a new Variable for this one, under this id."""
        _put(self, "_link", link)
        _put(self, "_lost", None)
        # The node that collects gradients belonged to the former Variable.
        _put(self, "_accumulators", ())
        former = self._known_id
        _put(self, "variable_id", variable_id)
        _put(self, "_queue", None)
        link.registries.variables.rename(former, variable_id, self)  # type: ignore[arg-type]


def _apply(changes: Sequence[Change]) -> None:
    for change in changes:
        change.apply()


def check_flag(name: str, value: object) -> bool:
    """``value``, if it is a bool; raises TypeError if not."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, not {value!r}")
    return value
