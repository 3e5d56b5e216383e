"""What one session knows by id: variables, nodes, models, optimizers and callables.

| State | Written by | Read by |
|---|---|---|
| the tables | callers (own objects), receive thread (pushes) | any thread |
| pending flags of Variables | callers (set), receive thread (clear) | any thread; a clear one without the lock |
| ``_grad_fn`` and who waits for which node | callers (replies), receive thread (``create_node``) | any thread |
| edges of a node, gradient lists | callers, receive thread | any thread, without the lock |

All of it is guarded by ``Registries.lock``, which only ``model/`` and ``handlers`` take.
``Registries.lock`` is never held while sending, waiting for the server, or calling user code.  It is
re-entrant, because the garbage collector may run a finaliser of the user's at any allocation.

Lifetime.  The tables refer to their objects weakly: an object lives as long as somebody who can still
use it.  That is the user, and besides
  * a computed Variable, which keeps the arguments of its function (the server may append gradients to
    them, or run their callables, in the backward pass),
  * a leaf, which keeps the ``AccumulateGrad`` node that the server made for it once and names again later,
  * a gradient list, the state of an optimizer,
  * the set of Variables with a pending flag (the server will clear it by id), and
  * the holding area, between a push and the reply that refers to what was pushed.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet, WeakValueDictionary

from ..errors import PendingTimeout, UnknownVariable
from .holding import HoldingArea

if TYPE_CHECKING:
    from ..autodiff.backward_model import BackwardModel
    from ..optim.optimizer import Optimizer
    from .graph import Node
    from .language import ChatCompletionModel
    from .link import Link
    from .mirrored import Mirrored
    from .variable import Variable

T = TypeVar("T")


class WeakTable(Generic[T]):
    """Objects by id, referred to weakly. Thread-safe, does not block."""

    __slots__ = ("_lock", "_objects")

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._objects: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def register(self, id_: str, registered: T) -> None:
        """Make ``registered`` the object with this id, in place of any other."""
        with self._lock:
            self._objects[id_] = registered

    def lookup(self, id_: object) -> T | None:
        """The object with this id; None if there is none, or ``id_`` is no string."""
        if not isinstance(id_, str):
            return None
        with self._lock:
            return self._objects.get(id_)

    def __contains__(self, id_: object) -> bool:
        return self.lookup(id_) is not None

    def __len__(self) -> int:
        with self._lock:
            return len(self._objects)

    def snapshot(self) -> dict[str, T]:
        """An own dict of what is registered now."""
        with self._lock:
            return dict(self._objects)


class RegisteredCallable:
    """A function of the user's, and the id under which the server may call it. Who needs the id keeps this object."""

    __slots__ = ("__weakref__", "callable_id", "function")

    def __init__(self, callable_id: str, function: Callable[..., Any]) -> None:
        self.callable_id = callable_id
        self.function = function


class _Waiter:
    """One thread that waits for one pending flag."""

    __slots__ = ("flag", "make_error", "variable")

    def __init__(self, variable: Mirrored, flag: str) -> None:
        self.variable = variable
        self.flag = flag
        self.make_error: Callable[[], Exception] | None = None


class Registries:
    """The objects of one session.

    Args:
        link: the session's link; objects which the server pushes get it.  May be set later (``registries.link``).
    """

    def __init__(self, link: Link | None = None) -> None:
        self.link = link
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self.variables: WeakTable[Variable] = WeakTable(self.lock)
        self.nodes: WeakTable[Node] = WeakTable(self.lock)
        self.models: WeakTable[ChatCompletionModel] = WeakTable(self.lock)
        self.optimizers: WeakTable[Optimizer] = WeakTable(self.lock)
        self.callables: WeakTable[RegisteredCallable] = WeakTable(self.lock)
        self.backward_model: BackwardModel | None = None
        self._callables_by_identity: WeakValueDictionary[object, RegisteredCallable] = WeakValueDictionary()
        self._unbound: WeakSet[Variable] = WeakSet()
        self._pending: dict[tuple[str, int], Variable] = {}
        self._waiters: set[_Waiter] = set()
        self._holding = HoldingArea()

    # --- pushes and the calls that cause them ----------------------------------------------------

    @contextmanager
    def awaiting_pushes(self) -> Iterator[None]:
        """Inside it, what the server pushes stays alive. Wrap it around a call and the decoding of its reply."""
        with self.lock:
            ticket = self._holding.begin_call()
        try:
            yield
        finally:
            with self.lock:
                released = self._holding.end_call(ticket)
            # Dropped here, without the lock: this may run finalisers of the user's.
            del released

    def register_pushed_variable(self, variable_id: str, variable: Variable) -> None:
        """Register a Variable which the server has made, and hold it for the call that caused it."""
        with self._changed:
            self.variables.register(variable_id, variable)
            released = self._holding.hold(variable)
            self._changed.notify_all()
        del released

    def register_pushed_node(self, node: Node) -> None:
        """Register a node which the server has made, hold it, and bind the Variables that wait for it."""
        with self._changed:
            self.nodes.register(node.node_id, node)
            released = self._holding.hold(node)
            for variable in list(self._unbound):
                if variable._pending_grad_fn_id == node.node_id:
                    self._unbound.discard(variable)
                    variable._bind_grad_fn(node)
            self._changed.notify_all()
        del released

    def bind_grad_fn(self, variable: Variable, node_id: str) -> None:
        """Give ``variable`` its node now, or when the server pushes it (PROTOCOL.md §E.4).

        Looking for the node and noting that it is waited for is one step under the lock, so a
        ``create_node`` on the receive thread cannot slip in between (§M 30).
        """
        with self.lock:
            node = self.nodes.lookup(node_id)
            if node is not None:
                variable._bind_grad_fn(node)
            else:
                variable._await_grad_fn(node_id)
                self._unbound.add(variable)

    def rebind_grad_fn(self, variable: Variable, node: Node | None) -> None:
        """Give ``variable`` this node, whatever it had or waits for."""
        with self._changed:
            variable._bind_grad_fn(node)
            self._unbound.discard(variable)
            self._changed.notify_all()

    # --- pending flags ---------------------------------------------------------------------------

    def mark_pending(self, variables: Iterable[Variable], flag: str) -> None:
        """Set ``flag`` on each: reading waits from now on. They stay alive until it is cleared."""
        with self.lock:
            for variable in variables:
                variable._set_local(flag, True)
                self._pending[flag, id(variable)] = variable

    def clear_pending(self, variables: Iterable[Variable], flag: str) -> None:
        """Clear ``flag`` on each and wake who waits for it. Clear flags stay clear."""
        released = []
        with self._changed:
            for variable in variables:
                variable._set_local(flag, False)
                released.append(self._pending.pop((flag, id(variable)), None))
            self._changed.notify_all()

    def fail_pending(self, make_error: Callable[[], Exception]) -> None:
        """The connection is gone: every thread that waits for a flag raises its own ``make_error()`` at once.

        The flags are cleared, since nobody will clear them any more; the changes they announce came
        before the reply of their call (PROTOCOL.md §C.1), or that call fails by itself.
        """
        with self._changed:
            for waiter in self._waiters:
                if getattr(waiter.variable, waiter.flag):
                    waiter.make_error = make_error
            released, self._pending = self._pending, {}
            for (flag, _), variable in released.items():
                variable._set_local(flag, False)
            self._changed.notify_all()

    def wait_while_pending(self, variable: Mirrored, flag: str, timeout: float) -> None:
        """Block until ``flag`` of ``variable`` is clear (PROTOCOL.md §F.4), at most ``timeout`` seconds.

        Raises:
            PendingTimeout: the flag is still set.
            Exception: what ``fail_pending`` was given.
        """
        expires_at = time.monotonic() + timeout
        waiter = _Waiter(variable, flag)
        with self._changed:
            self._waiters.add(waiter)
            try:
                while waiter.make_error is None and getattr(variable, flag):
                    remaining = expires_at - time.monotonic()
                    if remaining <= 0:
                        raise PendingTimeout(flag, variable_id=variable.variable_id, waited_s=timeout)
                    self._changed.wait(remaining)
            finally:
                self._waiters.discard(waiter)
        if waiter.make_error is not None:
            raise waiter.make_error()

    def wait_for_variable(self, variable_id: str, timeout: float) -> Variable:
        """The Variable with this id; blocks until the server has pushed it, at most ``timeout`` seconds.

        Raises:
            UnknownVariable: it did not come.
        """
        expires_at = time.monotonic() + timeout
        with self._changed:
            while True:
                variable = self.variables.lookup(variable_id)
                if variable is not None:
                    return variable
                remaining = expires_at - time.monotonic()
                if remaining <= 0:
                    text = f"Variable with variable_id {variable_id!r} not found"
                    raise UnknownVariable(text, variable_id=variable_id)
                self._changed.wait(remaining)

    # --- callables -------------------------------------------------------------------------------

    def register_callable(self, function: Callable[..., Any]) -> RegisteredCallable:
        """The registration of ``function``: the same one as long as somebody keeps it (PROTOCOL.md §M 16)."""
        identity = _identity(function)
        with self.lock:
            registered = self._callables_by_identity.get(identity)
            if registered is None:
                registered = RegisteredCallable(str(uuid.uuid4()), function)
                self._callables_by_identity[identity] = registered
                self.callables.register(registered.callable_id, registered)
            return registered


def _identity(function: Callable[..., Any]) -> object:
    # Every access to a method makes a new object, so a method is known by its two parts. The registration holds
    # the function, hence neither address can be given to another object while it is in the table.
    if isinstance(function, MethodType):
        return id(function.__self__), id(function.__func__)
    return id(function)
