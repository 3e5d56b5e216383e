"""Many Variables in one round trip: what is made and set inside ``with batch():`` is queued, and sent together.

A *queued* Variable has no id yet; one that is *made* has.  What is queued is sent at a **synchronisation point**:
  * the end of the block,
  * a use that needs an answer: reading the ``variable_id`` of a queued Variable, on any thread, or any other call of
    this session inside the block (a function, ``backward``, an optimizer, a model, ``append_grad``),
  * a full queue: one more than ``_MOST_ITEMS`` things, or ``_MOST_CHARS`` characters.

That costs one round trip: everything leaves in one go, Variables first, then the changes in their order.  A change of
``data``, ``role`` or ``requires_grad`` of a queued Variable is no request at all: it is made with it.  Other changes
of a queued Variable need its id, and take a second round trip.

What the server refuses, or JSON does not have, is collected and raised at that point as one ``BatchFailed``, which
names each.  If the connection is lost, that is raised, and as with single calls nothing has happened that was not
answered: queued Variables stay queued, until the next synchronisation point or use; changes are taken back here, and
where it is unknown what became of them on the server, the restore sees to it.

| State | Written by | Guarded by |
|---|---|---|
| what is queued, what is refused | who is in the block, who sends | ``_lock``, never held while waiting |
| what is on its way | who sends | ``_sending``, held until all is answered |
| id of a Variable | who sends | registered first, then the id, then ``_batch`` is cleared: in this order |

Both locks are re-entrant, because the garbage collector may run a finaliser of the user's at any allocation.
``_sending`` is never waited for on the receive thread, which would have to deliver what its holder waits for.  While
one batch is sent, nothing waits for another one: a change that involves what is queued elsewhere waits before it is
queued.  A restore waits for no batch: it reads ``_known_id``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..errors import (
    BatchFailed,
    ConnectionLost,
    LocalProtocolError,
    RemoteError,
    RemoteProtocolError,
    TellurioError,
    UsageError,
)
from ..jsonrpc import encode
from .changes import CREATE, MADE_WITH, UPDATE, Change, error_in
from .link import Admission, Link, current_link
from .replies import id_member

if TYPE_CHECKING:
    from .mirrored import Mirrored
    from .variable import Variable

log = logging.getLogger("tellurio_sync.session")

_MOST_ITEMS = 4096
_MOST_CHARS = 2**20
_MOST_DEPTH = 20  # to which characters are counted: an attribute's value may contain itself

_REFUSALS = (RemoteError, RemoteProtocolError, LocalProtocolError)


class Batch:
    """The queue of one block and one session. Thread-safe.

    Args:
        link: the session.

    Attributes:
        is_open: whether the block goes on.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.is_open = True
        # What is on its way is still in them.
        self._variables: list[Variable] = []
        self._changes: list[Change] = []
        self._chars = 0
        self._refusals: list[tuple[str, TellurioError]] = []
        self._renew_after_fork()
        _batches.add(self)

    def _renew_after_fork(self) -> None:
        # In the child. Whoever was sending in the parent does not exist here.
        self._lock = threading.RLock()
        self._sending = threading.RLock()
        self._is_sending = False

    # --- queueing --------------------------------------------------------------------------------

    def add(self, variable: Variable) -> None:
        """Queue a Variable to be made. Does not wait, unless the queue is full; then raises as ``settle``."""
        data = variable._data
        self._make_room(len(data) if type(data) is str else _chars_of(data))
        with self._lock:
            variable._queue(self)
            self._variables.append(variable)

    def add_change(self, change: Change) -> None:
        """Make a change here, and queue it to be told. Waits, and raises, as ``add``."""
        for variable in change.involves():
            elsewhere = variable._batch
            if elsewhere is not None and elsewhere is not self:
                elsewhere.settle_for(variable)
        self._make_room(_chars_of(change.value))
        with self._lock:
            change.make_at_once()
            self._changes.append(change)

    def _make_room(self, chars: int) -> None:
        if len(self._variables) + len(self._changes) >= _MOST_ITEMS or self._chars >= _MOST_CHARS:
            self.settle()
        self._chars += chars

    # --- sending ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """A synchronisation point: send all that is queued, and wait for it. Does nothing if nothing is.

        Raises:
            BatchFailed: what was refused since this was raised last.
            ConnectionLost, CallTimeout, NotConnected, WouldDeadlock: as ``TellurioWebSocketClient.call``; if something
                was refused as well, with that ``BatchFailed`` as the ``__cause__``.
        """
        try:
            self._send_all()
        except TellurioError as exc:
            refused = self._take_refusals()
            if refused is not None:
                raise exc from refused
            raise
        refused = self._take_refusals()
        if refused is not None:
            raise refused

    def settle_for(self, variable: Mirrored) -> None:
        """Wait until this Variable is made or refused. Elsewhere than in the block, refusals are left to be told there.

        Raises:
            UsageError: this very thread is making it, and has been interrupted by a finaliser that uses it.
            As ``settle``.
        """
        if self.is_open and open_batch(self.link) is not self:
            self._send_all()
        else:
            self.settle()
        if variable._batch is self:
            raise UsageError(f"{variable!r} is being made by this thread in this very moment: use it later.")

    def _take_refusals(self) -> BatchFailed | None:
        with self._lock:
            refusals, self._refusals = self._refusals, []
        return BatchFailed(refusals) if refusals else None

    def _send_all(self) -> None:
        if not (self._variables or self._changes):
            return
        self.link.check_may_wait()
        with self._sending:
            if self._is_sending:
                return  # a finaliser, in the middle of it
            self._is_sending = True
            try:
                while self._variables or self._changes:
                    self._send_in_one_go()
            finally:
                self._is_sending = False

    def _send_in_one_go(self) -> None:
        """One round trip, and what follows from the answers."""
        admission = self.link.admit()
        try:
            with self._lock:
                self._drop_made()
                self._chars = 0
                variables = self._variables.copy()
                creations = [(CREATE, variable._creation()) for variable in variables]
                changes, ready = self._ready_changes(set(variables))
            updates: list[tuple[Change, dict[str, Any]]] = []
            failures: list[tuple[Change, BaseException | None]] = []
            try:
                for change in changes:
                    try:
                        updates.append((change, change.params()))
                    except ConnectionLost as exc:
                        failures.append((change, exc))
                    except UsageError as exc:
                        change.take_back()
                        # Of a Variable that was refused itself, that is told already.
                        if change.variable._lost is None or change.variable.variable_id is not None:
                            self._refuse(str(change), exc)
                outcomes = _outcomes(admission, [*creations, *((UPDATE, params) for _, params in updates)])
            except BaseException as exc:
                self._fail([*failures, *((change, exc) for change, _ in updates)])
                raise
            finally:
                with self._lock:
                    del self._changes[:ready]
            unanswered = [self._finish(variable, outcome) for variable, outcome in zip(variables, outcomes)]
            with self._lock:
                self._drop_made()
            told = zip(updates, outcomes[len(creations) :])
            failures += [(change, error_in(outcome, params)) for (change, params), outcome in told]
            unanswered += self._fail(failures)
        finally:
            admission.leave()
        for error in unanswered:
            if error is not None:
                raise error

    def _drop_made(self) -> None:
        # Not only by a batch: a restore makes the gradients of what it makes.
        self._variables = [variable for variable in self._variables if variable._batch is self]

    def _ready_changes(self, variables: set[Variable]) -> tuple[list[Change], int]:
        """The changes that can be told beside these creations; and how many of the queue that deals with."""
        changes: list[Change] = []
        for index, change in enumerate(self._changes):
            if change.field in MADE_WITH and change.variable in variables:
                continue
            if variables and not variables.isdisjoint(change.involves()):
                return changes, index
            changes.append(change)
        return changes, len(self._changes)

    def _finish(self, variable: Variable, outcome: Any) -> TellurioError | None:
        """Give a Variable the id that it has got there. Returns the error that leaves it queued, else None."""
        try:
            if isinstance(outcome, TellurioError):
                raise outcome
            variable._made(id_member(CREATE, outcome, "variable_id"))
        except _REFUSALS as exc:
            self._refuse(str(variable), exc)
            variable._refused(f"the server did not take this {type(variable).__name__}: {exc}")
        except TellurioError as exc:
            return exc
        return None

    def _fail(self, outcomes: Sequence[tuple[Change, BaseException | None]]) -> list[TellurioError | None]:
        """Take back what has failed. Returns the errors that are no refusals."""
        failures = [(change, error) for change, error in outcomes if error is not None]
        for change, _ in reversed(failures):
            change.take_back()
        unanswered: list[TellurioError | None] = []
        for change, error in failures:
            if not isinstance(error, (RemoteError, LocalProtocolError)) and getattr(error, "was_sent", True):
                self.link.registries.unsure.add(change.variable)
            if isinstance(error, _REFUSALS):
                self._refuse(str(change), error)
            elif isinstance(error, TellurioError):
                unanswered.append(error)
        return unanswered

    def _refuse(self, what: str, error: TellurioError) -> None:
        with self._lock:
            self._refusals.append((what, error))


def _outcomes(admission: Admission, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
    """The results and errors of these requests, with that of one which JSON does not have in its place."""
    if not requests:
        return []
    try:
        return admission.request_many(requests)
    except LocalProtocolError:
        errors = [_encoding_error(params) for _, params in requests]
        if not any(errors):
            raise
    good = iter(_outcomes(admission, [request for request, error in zip(requests, errors) if error is None]))
    return [next(good) if error is None else error for error in errors]


def _encoding_error(params: dict[str, Any]) -> LocalProtocolError | None:
    try:
        encode(params)
    except LocalProtocolError as exc:
        return exc
    return None


def _chars_of(value: Any, depth: int = 0) -> int:
    """About how long this is on the wire."""
    if isinstance(value, str):
        return len(value)
    if depth == _MOST_DEPTH or not isinstance(value, (list, tuple, dict)):
        return 8
    return sum(_chars_of(item, depth + 1) for item in (value.values() if isinstance(value, dict) else value))


# --- who is in a block ----------------------------------------------------------------------------

_open: ContextVar[tuple[Batch, ...]] = ContextVar("tellurio_sync_open_batches", default=())


def open_batch(link: Link) -> Batch | None:
    """The batch of this session that this thread, or context, is inside; None if there is none. Does not block."""
    for queue in reversed(_open.get()):
        # A context may have been copied inside a block that is over.
        if queue.link is link and queue.is_open:
            return queue
    return None


@contextmanager
def batch() -> Iterator[None]:
    """Inside ``with batch():`` Variables are made, and their attributes set, without waiting for the server.

    All of it is sent in one go, in one round trip as a rule, at a *synchronisation point*: the end of the block; a
    use that needs an answer (reading ``variable_id`` of a new Variable, calling a function on one, any other call);
    or when some thousand are waiting.  Local values are there at once.

    For the current session, in this thread and context only.  May be nested: the inner end waits, too.  If the block
    is left by an exception, what is queued is sent all the same, and that exception goes on; what then goes wrong is
    logged, and added to its notes (Python 3.11).

    Raises:
        BatchFailed: at a synchronisation point: the server refused something; names each Variable, and why. A refused
            Variable cannot be used; a refused change is taken back.
        ConnectionLost, CallTimeout, NotConnected: at a synchronisation point. Changes that were not answered are taken
            back; Variables that are not made yet will be at the next one, or when they are used.
        WouldDeadlock: a synchronisation point on the receive thread.
    """
    link = current_link()
    before = _open.get()
    outer = open_batch(link)
    queue = outer or Batch(link)
    try:
        try:
            _open.set((*before, queue))
            yield
        finally:
            _open.set(before)  # not by a token: Ctrl-C may come before there is one
            if outer is None:
                queue.is_open = False
    except BaseException as exc:
        if outer is None:
            _settle_behind(exc, queue)
        raise
    queue.settle()


def _settle_behind(exc: BaseException, queue: Batch) -> None:
    """Send what is queued, but let ``exc`` be what the user sees."""
    try:
        queue.settle()
    except Exception as failure:  # noqa: BLE001 - whatever it is
        log.error("at the end of a batch that was left by %s: %s", type(exc).__name__, failure)
        if hasattr(exc, "add_note"):
            exc.add_note(f"At the end of the batch, {type(failure).__name__}: {failure}")


# --- fork -----------------------------------------------------------------------------------------

_batches: WeakSet[Batch] = WeakSet()


def _after_fork_in_child() -> None:
    for queue in list(_batches):
        queue._renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
