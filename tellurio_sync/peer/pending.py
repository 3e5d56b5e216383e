"""Requests waiting for their replies.

Only the thread that takes a call out of the table resolves, fails or drops it.  Taking it out is one atomic
step, so a reply and a time-out at the same moment cannot both win.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``PendingTable`` | callers, receive thread, exit | any | one C call on a dict each | – |
| ids given up | callers, receive thread | receive thread | ``lock`` | only the table has it |
| outcome: ``reply``, ``error`` | the thread that took it out | the waiting caller | order of stores | taken once |
| ``_worker_wait``, then ``_semaphore`` | the waiting caller | the thread that ends the call | order of stores | – |
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ..deadlines import Clock, Deadline
from ..errors import CallTimeout
from ..ownership import owned
from ..speedups import Semaphore, make_semaphore
from .workers import POOLS, WorkerWait, wait_of_worker

_REMEMBERED_IDS = 1000


class OpenCall(Deadline):
    """One request that waits for a reply, and its deadline: one object for both, to make each call cheaper.

    Args:
        id_: the id of the request.
        method: for error texts.
        timeout: seconds, > 0.
        now: the time of the start.
        hard_timeout: as ``Deadline``.
        is_extendable: whether heartbeats move the deadline.
    """

    __slots__ = ("end_offset", "id", "is_extendable", "method")

    def __init__(
        self,
        id_: str,
        method: str,
        timeout: float,
        now: float,
        hard_timeout: float | None = None,
        is_extendable: bool = False,
    ) -> None:
        # The same as Deadline.__init__, without calling it: that saves 0.2 of the 26 us of a call.
        self.timeout = timeout
        self.started = now
        self.last_sign_of_life: float | None = None
        self.hard_limit: float = math.inf if hard_timeout is None else now + hard_timeout
        self.id: str = id_
        self.method: str = method
        self.is_extendable: bool = is_extendable
        self.end_offset: int | None = None  # the transport's receipt

    def resolve(self, reply: dict[str, Any], wakeups: list[Semaphore]) -> None:
        """Store the reply, and add to ``wakeups`` the semaphores to release. Only for the thread that took it out."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """Store an error, a new object for this call only. Only for the thread that took the call out."""
        raise NotImplementedError

    def timeout_error(self, clock: Clock, was_sent: bool) -> CallTimeout:
        """The error of this call, if it expires now."""
        now = clock.now()
        return CallTimeout(
            method=self.method,
            request_id=self.id,
            waited_s=now - self.started,
            last_heartbeat_age_s=self.silent_for(now),
            was_sent=was_sent,
        )


OnLate = Callable[[dict[str, Any]], None]
"""Takes the reply of a call that was given up before: on the receive thread; it must neither block nor raise."""


class PendingCall(OpenCall):
    """One request, and the thread that waits for its reply."""

    __slots__ = ("_semaphore", "_worker_wait", "error", "on_late", "on_reply", "reply")

    def __init__(
        self,
        id_: str,
        method: str,
        timeout: float,
        now: float,
        hard_timeout: float | None = None,
        is_extendable: bool = False,
        on_reply: Callable[[], None] | None = None,
        on_late: OnLate | None = None,
    ) -> None:
        # The same as OpenCall.__init__, and for the same reason.
        self.timeout = timeout
        self.started = now
        self.last_sign_of_life = None
        self.hard_limit = math.inf if hard_timeout is None else now + hard_timeout
        self.id = id_
        self.method = method
        self.is_extendable = is_extendable
        self.end_offset = None
        self.reply: dict[str, Any] | None = None
        self.error: BaseException | None = None
        self.on_reply: Callable[[], None] | None = on_reply
        self.on_late: OnLate | None = on_late
        # The waiting thread makes it: most calls of a batch are over before anything waits for them.
        self._semaphore: Semaphore | None = None
        self._worker_wait: WorkerWait | None = None

    # The thread that ends the call stores the outcome and then reads the semaphore. The thread that waits stores a
    # semaphore and then reads the outcome. So at least one of the two sees the other's store. A worker stores its wait
    # before the semaphore, and begins it afterwards.

    def resolve(self, reply: dict[str, Any], wakeups: list[Semaphore]) -> None:
        if self.on_reply is not None:
            self.on_reply()
        self.reply = reply
        if self._semaphore is not None:
            if self._worker_wait is not None:
                self._worker_wait.end()
            wakeups.append(self._semaphore)

    def fail(self, error: BaseException) -> None:
        self.error = error
        if self._semaphore is not None:
            if self._worker_wait is not None:
                self._worker_wait.end()
            self._semaphore.release()

    def hand_over_late(self) -> None:
        """For the waiting thread, which is interrupted: if the reply has come already, it is a late one now."""
        if self.reply is not None and self.on_late is not None:
            self.on_late(self.reply)

    @property
    def is_done(self) -> bool:
        return self.reply is not None or self.error is not None

    def wait(self, clock: Clock) -> bool:
        """Wait until the call is done (True) or its deadline, as heartbeats left it, has passed (False)."""
        if self.reply is not None or self.error is not None:
            return True
        self._worker_wait = wait = wait_of_worker() if POOLS else None
        self._semaphore = semaphore = make_semaphore()
        try:
            if wait is not None:
                wait.begin()
            while self.reply is None and self.error is None:
                remaining = self.expires_at - clock.now()
                if remaining <= 0:
                    return False
                clock.wait(semaphore, remaining)
        finally:
            if wait is not None:
                wait.leave()
        return True

    def wait_outcome(self, clock: Clock) -> None:
        """Wait for a call that another thread has taken out of the table and is about to end."""
        self._semaphore = semaphore = make_semaphore()
        while not self.is_done:
            clock.wait(semaphore, 1.0)


class PendingTable:
    """The calls of one connection that wait for a reply, by id. Thread-safe, never blocks.

    The dict needs no lock: to add, to take out and to copy are single steps of C code, and the keys are plain
    strings, whose hash and comparison are C code as well.

    Args:
        lock: that of the worker pool, which the receive thread may need as well: so a thread that is about to wait has
            one lock less to look at. None: one of its own.
        locks: of the transport, which the receive thread may need.

    Attributes:
        is_forked: whether this is the copy in a forked child: its calls belong to the parent and never end here.
        lock: guards the ids given up, and what the connection keeps of deadlines; see the argument.
        locks: what the receive thread may need. A signal handler or a finaliser can run while this thread holds one; a
            thread that waits for a reply gives them up meanwhile (see ``ownership.Without``).
        has_first, has_last: whether this thread holds the first, or the last, of the locks; it takes them in their
            order, so it holds one of these two if it holds any.
        on_given_up: called with each call that was given up, on the thread that does so; it must not block.
    """

    def __init__(self, lock: threading.RLock | None = None, locks: Sequence[threading.RLock] = ()) -> None:
        self.is_forked = False
        self.on_given_up: Callable[[OpenCall], None] | None = None
        self._calls: dict[str, OpenCall] = {}
        # Re-entrant: a signal handler may call while this thread has it.
        self.lock: threading.RLock = lock or threading.RLock()
        self.locks: tuple[threading.RLock, ...] = (self.lock, *locks)
        self.has_first: Callable[[], bool] = owned(self.locks[0])
        self.has_last: Callable[[], bool] = owned(self.locks[-1])
        # The ids of calls that were given up, so that a late reply is recognised. Bounded: the oldest ids go first.
        self._given_up: OrderedDict[str, OnLate | None] = OrderedDict()
        # Take out by id, and note nothing. It is C code: Ctrl-C cannot interrupt it in a thread that was interrupted
        # while it gave a call up, and it costs each reply less than ``take``.
        self.pop: Callable[[str, None], OpenCall | None] = self._calls.pop
        # Register by id, before the request is sent: the reply may come before ``send`` returns.
        self.put: Callable[[str, OpenCall], None] = self._calls.__setitem__

    def take(self, id_: object) -> OpenCall | None:
        """Take out the call with this id; None if it is not in the table."""
        return self._calls.pop(id_, None) if type(id_) is str else None

    def give_up(self, call: OpenCall) -> bool:
        """Take the call out, because nothing waits for it any more; False if another thread took it, and ends it."""
        taken: list[OpenCall] = []
        self.give_up_into(taken, call)
        if taken:
            self.tell_given_up(call)
        return bool(taken)

    def tell_given_up(self, call: OpenCall) -> None:
        """After ``give_up_into``: call ``on_given_up``."""
        if self.on_given_up is not None:
            self.on_given_up(call)

    def give_up_into(self, taken: list[OpenCall], call: OpenCall) -> None:
        """As ``give_up``; if the call was taken out it is in ``taken``, also if Ctrl-C interrupts this."""
        if call.id not in self._calls:
            return
        # Noted before it is taken out, so that a reply that comes in between is recognised as late.
        with self.lock:
            self._given_up[call.id] = call.on_late if isinstance(call, PendingCall) else None
            if len(self._given_up) > _REMEMBERED_IDS:
                self._given_up.popitem(last=False)
        try:
            # Taking it out and storing it are one piece of C code: Ctrl-C cannot come in between.
            taken.extend(map(self._calls.pop, (call.id,)))
        except KeyError:
            with self.lock:
                self._given_up.pop(call.id, None)

    def take_all(self) -> list[OpenCall]:
        """Take out all calls."""
        taken = []
        for id_ in self._calls.copy():
            call = self._calls.pop(id_, None)
            if call is not None:
                taken.append(call)
        return taken

    def get(self, id_: object) -> OpenCall | None:
        """The call with this id, left in the table."""
        return self._calls.get(id_) if type(id_) is str else None

    def copy(self) -> dict[str, OpenCall]:
        """The calls as they are now, left in the table."""
        return self._calls.copy()

    def was_given_up(self, id_: object) -> bool:
        """Whether this side gave up the call with this id recently."""
        with self.lock:
            return isinstance(id_, str) and id_ in self._given_up

    def take_late(self, id_: object) -> OnLate | None:
        """What wants the late reply with this id; None: nothing does, or it has had it."""
        with self.lock:
            if not isinstance(id_, str) or id_ not in self._given_up:
                return None
            on_late, self._given_up[id_] = self._given_up[id_], None
            return on_late

    def snapshot(self) -> dict[str, str]:
        """Request id to method."""
        return {id_: call.method for id_, call in self._calls.copy().items()}
