"""The objects of one session, by id: variables, nodes, models, optimizers and callables.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the tables, ``variables`` among them | callers, receive thread (pushes) | any thread | one C call on a dict each | – |
| entries of objects that are gone | the thread that drops the last reference | any thread | the same | – |
| ``backward_model`` | callers | any thread | one store | – |
| functions of the user, what they raised: ``_failures``, ... | callers, workers | the same | ``lock`` | – |
| pending flags, ``_pending``, ``_complete`` | callers, receive thread | any thread; a flag without it | ``lock`` | – |
| threads that wait for them: ``_waiters``, ``_losses`` | callers, receive thread | the same | ``lock`` | – |
| node of a Variable, and which ones wait for it | callers (replies), receive thread | any thread | ``lock`` | – |
| edges of a node, gradient lists | callers, receive thread | any thread, without ``lock`` | ``lock`` | – |
| calls under way: ``_changing``, ``_late`` | callers, receive thread | the same | ``lock`` | asserts |
| ``riders`` | see ``riders`` | | | |
| pushed objects, held for them (``pushed``): ``_holding`` | the same, workers | the same | ``lock`` | – |
| what they may take back: ``_undo`` | receive thread | the same | ``lock`` | asserts |
| ``unsure`` | callers, a restore | a restore | ``lock`` | only methods of this module write it |
| ``is_restore_due`` | callers, a restore | callers, without ``lock`` | ``lock`` to write it | the same |
| ids of objects | a restore; once, the thread that makes them | any thread | no call is under way | ``restore_gate`` |

``lock`` is ``Registries.lock``.  Only ``registries``, its tables and the gate of the session take it.
``Registries.lock`` is never held while sending, waiting for the server, or calling user code.  It is
re-entrant, because code of the user may run in the middle of any section that it guards: a signal handler, or a
finaliser that the garbage collector calls.  If that code calls the server, it gives the lock up meanwhile
(``ownership.Without``), because the reply comes through the receive thread, which takes it.  So each section is
written such that it may be interrupted by others: it iterates over copies, each of its steps is one store or one call
of C code, and what two threads look for at each other is published first and looked for afterwards.

Lifetime.  The tables refer to their objects weakly: an object lives as long as something can still use it.  That is the
user's own reference, and beside it
  * a computed Variable, which keeps the arguments of its function (the server may append gradients to
    them, or run their callables, in the backward pass),
  * a leaf, which keeps the ``AccumulateGrad`` node that the server made for it once and names again later,
  * a gradient list, the state of an optimizer,
  * the set of Variables with a pending flag (the server will clear it by id), and
  * the pushed objects (``pushed``), between a push and the reply that refers to it.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from weakref import WeakSet, WeakValueDictionary, ref

from ..errors import CallTimeout, ConnectionLost, PendingTimeout, RemoteError, TellurioError, UnknownVariable
from ..ownership import is_held
from .pushed import PushedObjects, size_of
from .released import Released
from .variable_state import await_node, awaited_node, bind_node, held_data, held_grad, set_local

if TYPE_CHECKING:
    from ..autodiff.backward_model import BackwardModel
    from ..optim.optimizer import Optimizer
    from .call import Call
    from .graph import GradientEdge, Node
    from .language import ChatCompletionModel
    from .riders import Board
    from .session_link import SessionLink
    from .variable import Variable
    from .variable_state import VariableState

T = TypeVar("T")


class _Entry(ref[Any]):
    """A weak reference that knows its place."""

    __slots__ = ("id",)

    id: str


class WeakTable(Generic[T]):
    """Objects by id, referred to weakly. Thread-safe, does not block.

    Args:
        gone: receives the id of each object that is gone, or has another id now; None: nothing wants to know.

    An object may go at any moment, on any thread, under any lock: so what then happens takes no lock.
    """

    __slots__ = ("_entries", "_forget", "gone", "lock")

    def __init__(self, lock: threading.RLock, gone: deque[str] | None = None) -> None:
        self.lock: threading.RLock = lock
        self.gone: deque[str] | None = gone
        self._entries: dict[str, _Entry] = {}
        # Not a bound method: the entries, and so the objects, would keep the table alive.
        self._forget = _forgetting(self._entries, gone)

    def register(self, id_: str, registered: T) -> None:
        """Make ``registered`` the object with this id; it replaces any other."""
        entry = _Entry(registered, self._forget)
        entry.id = id_
        self._entries[id_] = entry

    def rename(self, former: str | None, id_: str, registered: T) -> None:
        """Give ``registered`` this id, in place of the former one."""
        with self.lock:
            if former is not None and former != id_ and self.lookup(former) is registered:
                self._entries.pop(former, None)
                if self.gone is not None:
                    self.gone.append(former)
            self.register(id_, registered)

    def lookup(self, id_: object) -> T | None:
        """The object with this id; None if there is none, or if ``id_`` is not a string."""
        entry = self._entries.get(id_) if isinstance(id_, str) else None
        return None if entry is None else entry()

    def __contains__(self, id_: object) -> bool:
        return self.lookup(id_) is not None

    def __len__(self) -> int:
        return len(self._entries)

    def snapshot(self) -> dict[str, T]:
        """A new dict of the objects that are registered now."""
        found = [(id_, entry()) for id_, entry in self._entries.copy().items()]
        return {id_: registered for id_, registered in found if registered is not None}


def _forgetting(entries: dict[str, _Entry], gone: deque[str] | None) -> Callable[[_Entry], None]:
    def forget(entry: _Entry) -> None:
        if entries.get(entry.id) is entry:
            del entries[entry.id]
            if gone is not None:
                gone.append(entry.id)

    return forget


# A call was given up, and its late reply has not come: after so many later calls it is not waited for any more.
# Otherwise everything that is pushed meanwhile would be kept alive.
_MOST_CALLS_WAITED_FOR_LATE = 10_000


def _is_given_up(exc: BaseException | None) -> bool:
    """Whether a call that ended so may still happen on the server, and be answered."""
    if isinstance(exc, TellurioError):
        return isinstance(exc, CallTimeout) and exc.was_sent
    return exc is not None


class RegisteredCallable:
    """A function of the user, and the id under which the server may call it. It is registered as long as it is held."""

    __slots__ = ("__weakref__", "callable_id", "function")

    def __init__(self, callable_id: str, function: Callable[..., Any]) -> None:
        self.callable_id: str = callable_id
        self.function: Callable[..., Any] = function


class _Waiter:
    """One thread that waits for one pending flag."""

    __slots__ = ("flag", "make_error", "variable")

    def __init__(self, variable: VariableState, flag: str) -> None:
        self.variable = variable
        self.flag = flag
        self.make_error: Callable[[], Exception] | None = None


class _CallableFailure:
    """What a function of the user raised, for the error of the call that made the server run it."""

    __slots__ = ("__weakref__", "callable_id", "exception")

    def __init__(self, callable_id: str, exception: BaseException) -> None:
        self.callable_id = callable_id
        self.exception = exception


class Held(NamedTuple):
    """What one session holds, for a restore."""

    variables: tuple[Variable, ...]
    models: tuple[ChatCompletionModel, ...]
    optimizers: tuple[Optimizer, ...]
    backward_model: BackwardModel | None
    unsure: frozenset[Any]


class Registries:
    """The objects of one session.

    Args:
        link: the session, which pushed objects get.  May be set later (``registries.link``).
    """

    def __init__(self, link: SessionLink | None = None) -> None:
        self.link = link
        self.lock: threading.RLock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self.released: Released = Released()
        self.variables: WeakTable[Variable] = WeakTable(self.lock, self.released.variables)
        self.nodes: WeakTable[Node] = WeakTable(self.lock)
        self.models: WeakTable[ChatCompletionModel] = WeakTable(self.lock, self.released.models)
        self.optimizers: WeakTable[Optimizer] = WeakTable(self.lock, self.released.optimizers)
        self.callables: WeakTable[RegisteredCallable] = WeakTable(self.lock)
        self.backward_model: BackwardModel | None = None
        self._callables_by_identity: WeakValueDictionary[object, RegisteredCallable] = WeakValueDictionary()
        # Weak: they live as long as what is pushed meanwhile, so that no traceback keeps the user's objects for longer.
        self._failures: WeakValueDictionary[str, _CallableFailure] = WeakValueDictionary()
        self._unbound: WeakSet[Variable] = WeakSet()
        self._pending: dict[tuple[str, int], Variable] = {}
        # The flags whose call has been answered: the announced changes have come.
        self._complete: set[tuple[str, int]] = set()
        self._waiters: set[_Waiter] = set()
        self._losses = 0
        self._holding = PushedObjects()
        self._changing: dict[int, Call] = {}
        self._undo: dict[int, list[Callable[[], None]]] = {}  # by address of the Variable, which the functions hold
        self._late: dict[int, Call] = {}
        self._unsure: WeakSet[Any] = WeakSet()
        self.riders: Board = {}
        """What waits for the next call of each thread."""
        self.is_restore_due: bool = False
        """Whether the next call must wait for a restore, although the connection is the one that was restored."""

    def renew_after_fork(self) -> None:
        """In a forked child: all objects here are copies, and at the first use they become copies on the server, too.

        So parent and child do not change each other's objects.  The threads of the parent, which may have held the lock
        or been in a call, do not exist here.  Idempotent.
        """
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        tables = (self.variables, self.nodes, self.models, self.optimizers, self.callables)
        for table in tables:
            table.lock = self.lock
        self.released.clear()  # the parent's to release
        self._holding = PushedObjects()
        self._changing.clear()
        self._undo.clear()
        self._late.clear()
        self._waiters.clear()
        self.riders.clear()  # what is here is made again, as it is here
        self.fail_pending(lambda: ConnectionLost("this process was forked", who="local"))
        for table in (self.variables, self.models, self.optimizers):
            self.mark_unsure(table.snapshot().values())
        if self.backward_model is not None:
            self.mark_unsure([self.backward_model])

    # --- pushes and the calls that cause them ----------------------------------------------------

    def begin_call(self, call: Call) -> int:
        """Note the start of a call; returns its ticket. Until it is over, pushed objects stay alive."""
        released: list[object] = []
        with self.lock:
            ticket = self._holding.begin_call()
            for late in list(self._late.values())[:1] if self._late else ():
                if ticket - late.ticket > _MOST_CALLS_WAITED_FOR_LATE:
                    released = self._forget_late_locked(late)
            if call.changes:
                self._changing[ticket] = call
        del released
        return ticket

    def settle_call(self, call: Call) -> None:
        """Note that the reply to a call has come: earlier pushes are not taken back any more. On the receive thread."""
        with self.lock:
            call.is_answered = True
            if not call.ids:
                return
            # All pushes, although another running call may have caused some of them: a push does not name its call.
            for address in self._undo.keys() & call.ids:
                self._undo.pop(address, None)
            self._complete.update([key for key in list(self._pending) if key[1] in call.ids])

    def end_call(self, call: Call, exc: BaseException | None) -> None:
        """Note the end of a call, and how it ended. If the connection was lost, take back the pushes to its objects.

        A call that was given up (Ctrl-C, a time-out) is not over: the server may be about to push what it has done.
        """
        with self.lock:
            if call.is_over:
                return
            if exc is not None and _is_given_up(exc) and call.is_begun and not call.is_answered:
                self._late[call.ticket] = call
                self._unsure.update(call.changes)
                return
            call.is_over = True
            self._changing.pop(call.ticket, None)
            if exc is not None and isinstance(exc, ConnectionLost) and not call.is_answered:
                self._take_back_locked(call)
            if self._undo:
                self._forget_pushes_locked(call)
            # An exception without `was_sent` is Ctrl-C, or an error in the handling of the reply.
            if (
                exc is not None
                and not isinstance(exc, RemoteError)
                and call.is_begun
                and getattr(exc, "was_sent", True)
            ):
                self._unsure.update(call.changes)
            released = self._holding.end_call(call.ticket)
        # Dropped here, without the lock, because this may run finalisers of the user.
        del released

    def release_unseen(self, result: Any) -> None:
        """Let go of what the server has made for a call that was given up: nothing here will ever name it."""
        if not isinstance(result, dict):
            return
        data = result.get("data")
        made = [result, *(data if isinstance(data, list) else [data])]
        for table, key in (
            (self.variables, "variable_id"),
            (self.models, "model_id"),
            (self.optimizers, "optimizer_id"),
        ):
            for item in made:
                id_ = item.get(key) if isinstance(item, dict) else None
                if isinstance(id_, str) and id_ not in table and table.gone is not None:
                    table.gone.append(id_)

    def end_late(self, call: Call, *, has_happened: bool) -> None:
        """Note the late reply to a call that was given up: now the server and this side agree again."""
        with self.lock:
            if call.is_over:
                return
            if has_happened:
                self.settle_call(call)
            released = self._forget_late_locked(call)
            others = {address for other in list(self._late.values()) for address in other.ids}
            for item in call.changes:
                if id(item) not in others:
                    self._unsure.discard(item)
        del released

    def _forget_late_locked(self, call: Call) -> list[object]:
        """The call is over. Returns what is to be dropped without the lock."""
        assert is_held(self.lock)
        call.is_over = True
        self._late.pop(call.ticket, None)
        self._changing.pop(call.ticket, None)
        self._forget_pushes_locked(call)
        return self._holding.end_call(call.ticket)

    def _forget_pushes_locked(self, call: Call) -> None:
        """The call is over: no push to its objects is taken back any more, unless another call changes them, too."""
        assert is_held(self.lock)
        still = {address for other in list(self._changing.values()) for address in other.ids}
        for address in call.ids - still:
            self._undo.pop(address, None)

    def leave_to_restore(self, call: Call) -> None:
        """Take back what was pushed for this call, which was cut off, and mark all that it changes as unsure.

        For a call that does not fail by that. To be called before it ends: then no restore has begun, so the next one
        sees the marks, and whatever the caller changes here before it ends the call.
        """
        with self.lock:
            self._take_back_locked(call)
            self._unsure.update(call.changes)

    def _take_back_locked(self, call: Call) -> None:
        assert is_held(self.lock)
        for address in call.ids:
            for undo in reversed(self._undo.get(address, ())):
                undo()

    # --- what a restore has to see to ------------------------------------------------------------

    @property
    def unsure(self) -> frozenset[Any]:
        """Objects that the server may hold otherwise than they are here: a call that changes them was not answered."""
        with self.lock:
            return frozenset(_members(self._unsure))

    def mark_unsure(self, objects: Iterable[Any], *, at_once: bool = False) -> None:
        """The next restore makes these again on the server, as they are here.

        Args:
            objects: Variables, models, optimizers, the backward model.
            at_once: let no call begin before that. For what was changed here while no call was under way: the restore
                on this connection may be over, or may have looked at them already.
        """
        with self.lock:
            self._unsure.update(objects)
            if at_once:
                self.is_restore_due = True

    def begin_restore(self) -> Held:
        """All that a restore has to look at, as it is now. What is marked later is left to the next restore."""
        with self.lock:
            self.is_restore_due = False
            return Held(
                tuple(self.variables.snapshot().values()),
                tuple(self.models.snapshot().values()),
                tuple(self.optimizers.snapshot().values()),
                self.backward_model,
                frozenset(_members(self._unsure)),
            )

    def end_restore(self, objects: Iterable[Any]) -> None:
        """The server holds these as they are here."""
        with self.lock:
            for item in objects:
                self._unsure.discard(item)

    # --- pushes -----------------------------------------------------------------------------------

    def set_pushed(self, variable: Variable, name: str, value: object) -> None:
        """Set an attribute to what the server has pushed; it is taken back if the call that caused it is cut off."""

        def undo() -> None:
            # Not if the user has set the attribute since then.
            if getattr(variable, name) is value:
                set_local(variable, name, before)

        with self.lock:
            before = getattr(variable, name)
            set_local(variable, name, value)
            self._note_push_locked(variable, undo)

    def append_pushed_gradient(self, variable: Variable, gradient: Variable) -> None:
        """Append a gradient that the server has pushed; otherwise as ``set_pushed``."""
        with self.lock:
            gradients = held_grad(variable)
            gradients.append(gradient)
            self._note_push_locked(variable, lambda: _remove(gradients, gradient))

    def add_pushed_edge(self, start: Node, edge: GradientEdge) -> None:
        """Append an edge that the server has pushed to a node."""
        with self.lock:
            start.add_edge(edge)

    def _note_push_locked(self, variable: Variable, undo: Callable[[], None]) -> None:
        assert is_held(self.lock)
        if any(id(variable) in call.ids for call in list(self._changing.values())):
            self._undo.setdefault(id(variable), []).append(undo)

    def register_pushed_variable(self, variable_id: str, variable: Variable) -> None:
        """Register a pushed Variable, and hold it for the call that caused the push."""
        with self._changed:
            self.variables.register(variable_id, variable)
            released = self._holding.hold(variable, size_of(held_data(variable)) + size_of(variable.role))
            self._changed.notify_all()
        del released

    def register_pushed_node(self, node: Node) -> None:
        """Register a pushed node, hold it, and bind the Variables that wait for it."""
        with self._changed:
            self.nodes.register(node.node_id, node)
            released = self._holding.hold(node, size_of(node.node_id) + size_of(node.name()))
            for variable in _members(self._unbound):
                if awaited_node(variable) == node.node_id:
                    self._unbound.discard(variable)
                    bind_node(variable, node)
            self._changed.notify_all()
        del released

    def bind_grad_fn(self, variable: Variable, node_id: str) -> None:
        """Give ``variable`` its node now, or when the server pushes it (protocol §E.4).

        First it is noted that the Variable waits, and then the node is looked for; ``create_node`` on the receive
        thread registers the node, and then looks for Variables that wait. So at least one of the two sees the other.
        """
        with self.lock:
            await_node(variable, node_id)
            self._unbound.add(variable)
            node = self.nodes.lookup(node_id)
            if node is not None:
                self._unbound.discard(variable)
                bind_node(variable, node)

    def rebind_grad_fn(self, variable: Variable, node: Node | None) -> None:
        """Give ``variable`` this node, in place of any that it has or waits for."""
        with self._changed:
            bind_node(variable, node)
            self._unbound.discard(variable)
            self._changed.notify_all()

    # --- pending flags ---------------------------------------------------------------------------

    def mark_pending(self, variables: Iterable[Variable], flag: str) -> None:
        """Set ``flag`` on each Variable: reading waits from now on. They stay alive until it is cleared."""
        with self.lock:
            for variable in variables:
                set_local(variable, flag, True)
                self._pending[flag, id(variable)] = variable
                self._complete.discard((flag, id(variable)))

    def clear_pending(self, variables: Iterable[Variable], flag: str) -> None:
        """Clear ``flag`` on each Variable, and wake the threads that wait for it. Clear flags stay clear."""
        released = []
        with self._changed:
            for variable in variables:
                set_local(variable, flag, False)
                released.append(self._pending.pop((flag, id(variable)), None))
                self._complete.discard((flag, id(variable)))
            self._changed.notify_all()

    def fail_pending(self, make_error: Callable[[], Exception]) -> None:
        """The connection is lost: every thread that waits for a push raises its own ``make_error()`` at once.

        The flags are cleared, because the server will not clear them any more.  A thread that waits for the changes of
        an answered call goes on: they came before that reply (protocol §C.1).
        """
        with self._changed:
            # No late reply can come any more: these calls are cut off, too.
            dropped = []
            for call in list(self._late.values()):
                self._take_back_locked(call)
                dropped.append(self._forget_late_locked(call))
            self._losses += 1
            for waiter in self._waiters.copy():
                key = (waiter.flag, id(waiter.variable))
                if getattr(waiter.variable, waiter.flag) and key not in self._complete:
                    waiter.make_error = make_error
            released, self._pending = self._pending, {}
            self._complete.clear()
            for (flag, _), variable in released.items():
                set_local(variable, flag, False)
            self._changed.notify_all()

    def wait_while_pending(self, variable: VariableState, flag: str, timeout: float) -> None:
        """Block until ``flag`` of ``variable`` is clear (protocol §F.4), at most ``timeout`` seconds.

        Raises:
            PendingTimeout: the flag is still set.
            Exception: the error that ``fail_pending`` makes.
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
            UnknownVariable: it did not come in time, or cannot come any more because the connection was lost.
        """
        expires_at = time.monotonic() + timeout
        with self._changed:
            losses = self._losses
            while True:
                variable = self.variables.lookup(variable_id)
                if variable is not None:
                    return variable
                remaining = expires_at - time.monotonic()
                if remaining <= 0 or self._losses != losses:
                    text = f"Variable with variable_id {variable_id!r} not found"
                    raise UnknownVariable(text, variable_id=variable_id)
                self._changed.wait(remaining)

    # --- callables -------------------------------------------------------------------------------

    def note_failure(self, callable_id: str, exception: BaseException) -> None:
        """Keep what a callable has raised until the calls that run now are over."""
        failure = _CallableFailure(callable_id, exception)
        with self.lock:
            self._failures[callable_id] = failure
            released = self._holding.hold(failure)
        del released

    def failure_named_in(self, text: str) -> BaseException | None:
        """What a callable has raised whose id is in this text of an error; None if there is none."""
        with self.lock:
            failures = [failure() for failure in self._failures.valuerefs()]
        return next((one.exception for one in failures if one is not None and one.callable_id in text), None)

    def register_callable(self, function: Callable[..., Any]) -> RegisteredCallable:
        """The registration of ``function``: the same one as long as it is held somewhere (protocol §E.1)."""
        identity = _identity(function)
        with self.lock:
            registered = self._callables_by_identity.get(identity)
            if registered is None:
                registered = RegisteredCallable(str(uuid.uuid4()), function)
                self._callables_by_identity[identity] = registered
                self.callables.register(registered.callable_id, registered)
            return registered


def _members(weak: WeakSet[T]) -> list[T]:
    """What it holds now. A finaliser may change it while it is looked through: then once more."""
    while True:
        try:
            return list(weak)
        except RuntimeError:  # "Set changed size during iteration"
            continue


def _remove(gradients: list[Variable], gradient: Variable) -> None:
    for index in reversed(range(len(gradients))):
        if gradients[index] is gradient:
            del gradients[index]
            return


def _identity(function: Callable[..., Any]) -> object:
    # Every access to a method makes a new object, so a method is identified by its two parts. The registration holds
    # the function, so neither address can belong to another object while the registration is in the table.
    if isinstance(function, MethodType):
        return id(function.__self__), id(function.__func__)
    return id(function)
