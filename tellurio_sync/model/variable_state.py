"""One side of what exists here and on the server: the state of a Variable, and how changes of it are told.

Three ways to change an attribute, and each has its place:
  * ``variable.role = x``: the user's.  The server is asked first, and the local value changes once it has accepted
    it (protocol §F.5); inside ``with batch():`` it changes at once, and the server is told later.
  * ``variable._set_local("role", x)``: the server's, and ours where the server knows already.
  * ``_put``: inside this class hierarchy, the same without a method call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ConnectionLost, UsageError
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
# Attributes that a plain set sends; the names of §F.5. Properties send what they set themselves.
_SENT_FIELDS = _FLAG_FIELDS | {"role"}

# Sets an attribute of this side only. __setattr__ of the class is for the user's sets.
_put = object.__setattr__


class VariableState:
    """The state of a Variable. Reading it takes no lock; ``registries`` says who writes what."""

    # Slots, because a data set is many Variables; __dict__ (made at first use) takes the names that users add.
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

    # Empty while it is queued in a batch: reading it then comes to ``__getattr__``, and costs nothing more otherwise.
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
    # What will make it on the server, None if that has been done, or will not be.
    _queue: Queue | None
    # Why it cannot be used with the server any more, None if it can.
    _lost: str | None
    _pending_data: bool
    _pending_grad: bool
    _pending_grad_fn_id: str | None
    # What must live as long as this Variable (see ``registries``): the arguments it was computed from, and the
    # nodes the server made for its gradient.
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
        """A Variable which the server has made. Not registered yet.

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
        # In this order: who sees the flag clear reads the node without the lock.
        _put(self, "_grad_fn", node)
        _put(self, "_pending_grad_fn_id", None)

    def _holds_grad(self) -> bool:
        return self.is_leaf or self._retain_grad

    # --- telling the server ----------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FLAG_FIELDS:
            check_flag(name, value)
        # Slots, properties and methods are known to the class; other private names are nobody's business.
        is_sent = name in _SENT_FIELDS or not (name.startswith("_") or hasattr(type(self), name))
        if is_sent:
            self._tell(Change(self, name, value))
        else:
            _put(self, name, value)

    def _tell(self, *changes: Change) -> None:
        """Tell the server of changes of this Variable, in one round trip, and apply those here that it accepts.

        In an open batch they are applied at once and queued.  If the server does not know this Variable, or is not to
        be told, they are only applied here.
        """
        if is_suppressed():
            if any(change.field in MADE_WITH for change in changes):
                self._wait_until_made()  # else it would be made there with what is to be kept from there
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
            # In this order: another thread may be making it in this moment.
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
        """How the server is told of this Variable (protocol §E.1).

        Raises:
            UsageError: the server does not know it.
        """
        if self.variable_id is None and self._lost is None:
            text = "was made under suppress_variable_notifications() or unpickled, so the server does not know it"
            raise UsageError(f"{self!r} {text}. Make a new Variable of its data.")
        self._check_not_lost()
        return {self._TAG: True, "variable_id": self.variable_id}

    def _check_not_lost(self) -> None:
        if self._lost is None:
            return
        if self._arguments:
            # As if the call had been waiting when that happened: a loop that tries its batch again computes this anew.
            raise ConnectionLost(self._lost, who="server", was_sent=False)
        raise UsageError(self._lost)

    # --- for a queue -----------------------------------------------------------------------------

    if not TYPE_CHECKING:  # it would have every name

        def __getattr__(self, name: str) -> Any:
            if name == "variable_id":
                self._wait_until_made()
                return object.__getattribute__(self, name)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def _known_id(self) -> str | None:
        """The id, None where there is none, or none yet. Does not wait."""
        return None if self._queue is not None else self.variable_id

    def _wait_until_made(self) -> None:
        """Return when it is no longer queued; raises as ``batch.block.wait_until_made``."""
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
        # In this order: who reads the id uses it, and who sees no batch reads the id.
        self._link.registries.variables.register(variable_id, self)  # type: ignore[arg-type]
        _put(self, "variable_id", variable_id)
        _put(self, "_queue", None)

    @property
    def _is_refused(self) -> bool:
        """Whether the server did not make it."""
        return self._lost is not None and self.variable_id is None

    def _refused(self, reason: str) -> None:
        """The server will not have it."""
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
        """The server has a new one for this, under this id."""
        _put(self, "_link", link)
        _put(self, "_lost", None)
        # The node that collects its gradients belonged to the former one.
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
