"""The queue of a batch: many Variables are made, and changed, in one round trip.

A *queued* Variable has no id yet; a *made* one has.  What is queued is sent at a **synchronisation point**:
  * the end of the block,
  * a use that needs an answer: reading the ``variable_id`` of a queued Variable, on any thread, or any other call of
    this session inside the block (a function, ``backward``, an optimizer, a model, ``append_grad``, ``init``),
  * the end of the run for which it was queued,
  * a full queue: more than ``_MOST_ITEMS`` items, or ``_MOST_CHARS`` characters.  A value that is that large alone is
    not queued but sent separately, so that it can fail separately.

A synchronisation point costs one round trip: everything is sent together, Variables first, then the changes in their
order.  A change of ``data``, ``role`` or ``requires_grad`` of a queued Variable needs no request: the Variable is made
with it.  Other changes of a queued Variable, and queued gradients, need its id, and take a second round trip.

What the server refuses, and what has no JSON form, is collected and raised at that point as one ``BatchFailed``, which
names each item.  If the connection is lost, ``ConnectionLost`` is raised, and as for single calls nothing has happened
that was not answered: queued Variables stay queued, with their changes, until the next synchronisation point or use.
All other changes are taken back here; if it is unknown whether the server has applied them, the restore makes that
right.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_variables``, ``_changes``, ``_chars`` | the block, the thread that sends | the same | ``_lock`` | asserts |
| errors for the block: ``_refusals``, ``_unanswered`` | the same | the same | ``_lock`` | asserts |
| chains of changes of one attribute: ``_last`` | the same | the same | ``_lock`` | asserts |
| ``is_open`` | the block, at its end | any thread | one store | – |
| ``_is_sending`` | the thread that sends | any thread | ``_sending``, held until all is answered | an assert |
| items that are being sent | the thread that sends | that thread | in no list: they are its own | – |
| id of a Variable | the thread that sends | any thread | order of stores: ``variable_state.made`` | – |

``_lock`` is never held while sending, waiting, or taking a lock of the registries.  Both locks are re-entrant, because
a signal handler or a finaliser of the user may run within any section; where that waits, it gives ``_lock`` up
(``ownership.Without``), and it may add items at any point.  The receive thread never waits for
``_sending``, because it has to deliver the replies for which the holder waits.  The thread that sends one queue never
waits for another queue: a change that involves a Variable of another queue waits before it is queued.  A restore waits
for no queue: it reads ``_known_id``.
"""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Union

from ... import forked
from ...errors import (
    BatchFailed,
    CallCancelled,
    ConnectionLost,
    LocalProtocolError,
    TellurioError,
    UsageError,
    shorten_repr,
)
from ...jsonrpc import encode
from ...ownership import Without, is_held
from ..riders import admitted
from ..session_link import Admission, SessionLink
from ..variable_state import enqueue, held_data, queue_of, wait_for_id
from .changes import Change
from .items import Creation, QueuedChange, is_refusal

if TYPE_CHECKING:
    from ..variable import Variable

_MOST_ITEMS = 4096
_MOST_CHARS = 2**20
_CHARS_OF_A_NUMBER = 8
_MOST_DEPTH = 20  # characters are counted down to this depth, because the value of an attribute may contain itself

Item = Union[Creation, QueuedChange]
Request = tuple[Item, Any]  # an item with its parameters, or with the error that explains why there are none


class Queue:
    """The items that one block has queued for one session. Thread-safe.

    Args:
        link: the session.
        open_queue: gives the queue of the block that the thread is in.

    Attributes:
        is_open: whether the block is still open.
    """

    def __init__(self, link: SessionLink, open_queue: Callable[[SessionLink], Queue | None]) -> None:
        self.link = link
        self._open_queue = open_queue
        self.is_open: bool = True
        self._variables: list[Variable] = []
        self._changes: list[QueuedChange] = []
        self._last: dict[tuple[Variable, str], QueuedChange] = {}  # the last change of each chain
        self._chars = 0
        self._refusals: list[tuple[str, TellurioError]] = []
        self._unanswered: TellurioError | None = None  # the error for which another thread has taken changes back
        self._renew_locks()
        forked.renew(self)

    def _renew_locks(self) -> None:
        self._lock = threading.RLock()
        self._sending = threading.RLock()
        self._is_sending = False

    def renew_after_fork(self) -> None:
        # In the child. It is in no block, and the thread that was sending does not exist here. All objects are made
        # again on the server, as they are here, so only the changes that a queued Variable is not made with are still
        # to be sent.
        self._renew_locks()
        self.is_open = False
        self._refusals.clear()
        self._unanswered = None
        self._last.clear()
        former = self._changes
        self._changes = []
        with self._lock:
            for queued in former:
                if queue_of(queued.change.variable) is not None:
                    self._queue_change_locked(queued.change)

    # --- queueing --------------------------------------------------------------------------------

    def add(self, variable: Variable) -> bool:
        """Queue a Variable; False, and nothing is done, if it is so large that it must be sent separately.

        Does not wait, unless the queue is full or the block is over; then raises as ``settle``.
        """
        chars = _chars_of(held_data(variable))
        if chars >= _MOST_CHARS:
            return False
        self._make_room()
        with self._lock:
            self._chars += chars
            enqueue(variable, self)
            self._variables.append(variable)
        self._send_if_late()
        return True

    def add_change(self, change: Change) -> bool:
        """Apply a plain change here, and queue it; returns, waits and raises as ``add``."""
        chars = _chars_of(change.value)
        if chars >= _MOST_CHARS:
            return False
        for variable in change.involves():
            if queue_of(variable) is not self:
                wait_for_id(variable)  # in another queue
        self._make_room()
        with self._lock:
            self._chars += chars
            self._queue_change_locked(change)
        self._send_if_late()
        return True

    def _queue_change_locked(self, change: Change) -> None:
        assert is_held(self._lock)
        queued = QueuedChange(change, self._lock)
        attribute = change.variable, change.name
        queued.apply(self._last.get(attribute))
        self._last[attribute] = queued
        self._changes.append(queued)

    def _make_room(self) -> None:
        if len(self._variables) + len(self._changes) >= _MOST_ITEMS or self._chars >= _MOST_CHARS:
            self.settle()

    def _send_if_late(self) -> None:
        # A context may have been copied inside a block that has ended meanwhile. Then nothing else would send this.
        if not self.is_open:
            self.settle()

    def wait_for(self, variable: Any) -> None:
        """Wait until this queued Variable is made or refused. Its block raises the refusals, not a call outside of it.

        Raises:
            UsageError: this thread is making it, and is interrupted by a finaliser that uses it.
            As ``settle``.
        """
        if self.is_open and self._open_queue(self.link) is not self:
            self.send()
        else:
            self.settle()
        if queue_of(variable) is self:
            raise UsageError(f"{shorten_repr(variable)} is being made by this thread at this moment: use it later.")

    # --- sending ---------------------------------------------------------------------------------

    def settle(self) -> None:
        """A synchronisation point: send everything that is queued, and wait for the answers.

        Raises:
            BatchFailed: the items that were refused since this was raised last.
            ConnectionLost, CallTimeout, NotConnected, WouldDeadlock: as ``TellurioWebSocketClient.call``; changes were
                taken back, by this thread or another one. If items were refused as well, that ``BatchFailed`` is the
                ``__cause__``.
        """
        try:
            self.send()
            self._raise_unanswered()
        except BaseException as exc:
            self.give_up()
            refused = self._take_refusals() if isinstance(exc, TellurioError) else None
            if refused is not None:
                raise exc from refused
            raise
        refused = self._take_refusals()
        if refused is not None:
            raise refused

    def send(self) -> None:
        """As ``settle``, for code outside of the block: the block raises the refusals later."""
        if not (self._variables or self._changes or self._is_sending):
            return
        self.link.check_may_wait()
        # This may be a signal handler or a finaliser, in the middle of a section of this thread.
        with Without(self._lock, self.link.registries.lock), self._sending:
            if self._is_sending:
                return  # a finaliser calls this while the same thread is sending
            self._is_sending = True
            try:
                while self._variables or self._changes:
                    self._send_in_one_go()
            finally:
                self._is_sending = False
                with self._lock:
                    if not self._changes:
                        self._last.clear()  # all are decided

    def give_up(self) -> None:
        """Take back the changes that wait. Variables stay queued, with their changes, until they are used.

        Does not wait.
        """
        with self._lock:
            self._unanswered = None
            waiting, self._changes = self._changes, []
            for queued in waiting:
                if queue_of(queued.change.variable) is None:
                    queued.take_back()
                else:
                    self._changes.append(queued)

    def _raise_unanswered(self) -> None:
        with self._lock:
            error, self._unanswered = self._unanswered, None
        if error is not None:
            # A new object, because the other thread has raised this one.
            raise copy.copy(error) from error

    def _take_refusals(self) -> BatchFailed | None:
        with self._lock:
            refusals, self._refusals = self._refusals, []
        return BatchFailed(refusals) if refusals else None

    def _send_in_one_go(self) -> None:
        """Make one round trip, and apply the answers."""
        assert is_held(self._sending)
        undecided: deque[Item] = deque()
        errors: list[TellurioError] = []
        admission = admitted(self.link)
        try:
            with self._lock:
                creations, changes = self._take_ready_locked()
                undecided.extend((*creations, *changes))
                requests: list[Request] = [(creation, creation.params()) for creation in creations]
            requests += [(change, _params_of(change)) for change in changes]
            for (item, params), outcome in zip(requests, _outcomes(admission, requests)):
                error = item.receive(outcome, params)
                undecided.popleft()
                if error is not None and is_refusal(error):
                    self._refuse(item, error)
                elif error is not None:
                    self._leave_to_tell(item, error)
                    errors.append(error)
        except BaseException as exc:
            # Also after Ctrl-C.
            for left in undecided:
                left.fail(exc)
                self._leave_to_tell(left, exc)
            raise
        finally:
            admission.leave()
        if errors:
            raise errors[0]

    def _take_ready_locked(self) -> tuple[list[Creation], list[QueuedChange]]:
        """What can be sent now: all Variables, and the changes that need none of their ids."""
        assert is_held(self._lock)
        # Some may be made already: a restore makes the gradients of the Variables that it makes.
        some = self._variables[:]
        self._variables[: len(some)] = [variable for variable in some if queue_of(variable) is self]
        self._chars = 0
        new = set(self._variables)
        ready = list(takewhile(lambda q: q.is_made_with(new) or new.isdisjoint(q.change.involves()), self._changes))
        del self._changes[: len(ready)]
        return [Creation(variable) for variable in self._variables], [q for q in ready if not q.is_made_with(new)]

    def _refuse(self, item: Item, error: TellurioError) -> None:
        if not item.is_told:
            with self._lock:
                self._refusals.append((str(item), error))

    def _leave_to_tell(self, item: Item, error: BaseException) -> None:
        """A change was taken back, perhaps by another thread: the block must raise that. A Variable is still queued."""
        if isinstance(item, QueuedChange):
            if not isinstance(error, TellurioError):
                error = CallCancelled(f"The batch was interrupted by {type(error).__name__} while it was sent.")
            with self._lock:
                self._unanswered = error


def _params_of(change: QueuedChange) -> dict[str, Any] | TellurioError:
    try:
        return change.params()
    except (UsageError, ConnectionLost) as exc:
        return exc


def _outcomes(admission: Admission, requests: Sequence[Request]) -> list[Any]:
    """The results and errors of these; for a request without parameters, or without a JSON form, the reason."""
    bad = {index: params for index, (_, params) in enumerate(requests) if isinstance(params, TellurioError)}
    good = [(item, params) for item, params in requests if not isinstance(params, TellurioError)]
    results = iter(_sent(admission, good))
    return [bad[index] if index in bad else next(results) for index in range(len(requests))]


def _sent(admission: Admission, requests: Sequence[Request]) -> Sequence[Any]:
    if not requests:
        return []
    try:
        return admission.request_many([(item.method, params) for item, params in requests])
    except LocalProtocolError:
        # Nothing was sent.
        checked = [(item, _encodable(params)) for item, params in requests]
        if not any(isinstance(params, TellurioError) for _, params in checked):
            raise
        return _outcomes(admission, checked)


def _encodable(params: Any) -> Any:
    try:
        encode(params)
    except LocalProtocolError as exc:
        return exc
    return params


def _chars_of(value: Any) -> int:
    """About how long this value is on the wire; stops counting at ``_MOST_CHARS``."""
    if isinstance(value, str):
        return len(value)
    chars = 0
    stack = [(value, 0)]
    while stack and chars < _MOST_CHARS:
        item, depth = stack.pop()
        if isinstance(item, str):
            chars += len(item)
        elif depth == _MOST_DEPTH or not isinstance(item, (list, tuple, dict)):
            chars += _CHARS_OF_A_NUMBER
        else:
            stack.extend((each, depth + 1) for each in (item.values() if isinstance(item, dict) else item))
    return chars
