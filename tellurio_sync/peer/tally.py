"""What has happened on the connections of one peer: numbers, and the last things by name.

Always on, so it costs a call some twenty instructions, and holds no parameters, no results and no keys: methods,
request ids, times and reasons.  Envelopes themselves are kept only where that was asked for (see ``recording``).

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``errors``, ``heartbeats``, ``pushes``, ``lost`` | receive thread | any thread | ownership | – |
| ``reconnects``, ``failed_attempts``, ``past`` | receive thread | any thread | ownership | – |
| ``timeouts``, ``given_up``, ``waits_...`` | any thread | any thread | ``lock`` | only this module writes them |
| ``answers``, ``happened`` | any thread | any thread | one C call on a deque each | – |
| ``_told`` | any thread | any thread | one store | – |
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from heapq import nsmallest
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..deadlines import Clock
from ..errors import CallTimeout, shorten
from ..events import LISTENERS, Event, tell
from ..secret import redact

if TYPE_CHECKING:
    from .connection import Connection
    from .pending import OpenCall
    from .recording import Recorder

T = TypeVar("T")

KEPT_ANSWERS = 512
_KEPT = 64
_SHOWN = 12
_SHOWN_WAITING = 5
_SAME_MOMENT = 0.01  # seconds within which time-outs of many calls tell the same


class Past(NamedTuple):
    """The numbers of the connections that have ended. Replaced as a whole, so that any thread reads what fits together.

    Attributes:
        latest: the connection that has just been added, while it can still be taken for one that goes on.
    """

    answered: int = 0
    received: int = 0
    sent: int = 0
    latest: Connection | None = None


class Tally:
    """Counts for one peer, over all its connections.

    Args:
        clock: the clock of its calls.
        url: for events, without credentials.
        secrets: blotted out of what is shown.
        recorder: keeps envelopes, too; None: nothing does.

    Attributes:
        answers: of the last calls that were answered: method, start, end.
        happened: of the other things that happened last: when, and what.
        errors: replies that were errors.
        past: of the connections that have ended: replies, and bytes.
        timeouts, lost, given_up: calls that ended otherwise; those that were given up include the time-outs of
            registered calls, ``timeouts_registered``.
    """

    def __init__(
        self, clock: Clock, url: str = "", secrets: Iterable[str] = (), recorder: Recorder | None = None
    ) -> None:
        self.clock: Clock = clock
        self.url: str = url
        self.recorder: Recorder | None = recorder
        self._secrets = tuple(secrets)
        self.started: float = clock.now()
        self.lock: threading.RLock = threading.RLock()  # a signal handler may call while this thread has it
        self.errors: int = 0
        self.heartbeats: int = 0
        self.pushes: int = 0
        self.lost: int = 0
        self.reconnects: int = 0
        self.failed_attempts: int = 0
        self.past: Past = Past()
        self.timeouts: int = 0
        self.timeouts_registered: int = 0
        self.given_up: int = 0
        self.waits_for_room: int = 0
        self.waits_for_connection: int = 0
        self.answers: deque[tuple[str, float, float]] = deque(maxlen=KEPT_ANSWERS)
        self.happened: deque[tuple[float, str]] = deque(maxlen=_KEPT)
        self._told: tuple[float, tuple[str, ...]] | None = None

    # --- the receive thread ----------------------------------------------------------------------------

    def opened(self, is_first: bool) -> None:
        """A connection is open."""
        if not is_first:
            self.reconnects += 1
        self._note("the connection is open" if is_first else "the connection is open again")
        if LISTENERS:
            tell(Event("opened" if is_first else "reopened", self.url))

    def take_over(self, connection: Connection) -> None:
        """This connection has ended: from now on its numbers are counted here. Then it is put away, then ``ended``."""
        past, transport = self.past, connection.transport
        self.past = Past(
            past.answered + connection.replies,
            past.received + transport.bytes_received,
            past.sent + transport.bytes_sent,
            connection,
        )

    def ended(self, reason: str, *, was_open: bool) -> None:
        """The connection that was taken over is put away."""
        self.past = self.past._replace(latest=None)
        if was_open:
            self._note(f"the connection ended: {reason}")
            if LISTENERS:
                tell(Event("lost", self.url, text=reason))

    def attempt_failed(self, reason: str) -> None:
        """An attempt to connect has failed."""
        self.failed_attempts += 1
        self._note(f"an attempt to connect failed: {reason}")
        if LISTENERS:
            tell(Event("attempt failed", self.url, text=reason))

    def beat(self, call: OpenCall) -> None:
        """A heartbeat of this call has come."""
        self.heartbeats += 1
        self._note(f"heartbeat for {call.method} ({call.id})")
        if LISTENERS:
            tell(Event("heartbeat", self.url, call.method, call.id))

    def pushed(self, method: str) -> None:
        """The server has called, or told, something."""
        self.pushes += 1
        self.happened.append((self.clock.now(), method))

    def answer_other(self, call: OpenCall, *, is_error: bool) -> None:
        """A reply that is not a plain result: an error, or one that breaks the protocol."""
        self.errors += is_error
        self.answers.append((call.method, call.started, self.clock.now()))
        if LISTENERS:
            self.tell_end(call, "error" if is_error else "answered")

    def lose(self, calls: Iterable[OpenCall]) -> None:
        """These calls end because the connection has."""
        for call in calls:
            self.lost += 1
            if LISTENERS:
                self.tell_end(call, "lost")

    # --- any thread ------------------------------------------------------------------------------------

    def gave_up(self, call: OpenCall) -> None:
        """A registered call was given up: it timed out, was cancelled, interrupted, or could not be sent."""
        with self.lock:
            self.given_up += 1
        self._note(f"gave up {call.method} ({call.id})")
        if LISTENERS:
            self.tell_end(call, "timed out" if call.remaining(self.clock.now()) <= 0 else "given up")

    def waits(self, *, for_room: bool) -> None:
        """A caller has to wait before it can send: for room in the queue, or for a connection."""
        # Within the lock there is no call and no jump, here and below: a signal handler there could wait with it.
        with self.lock:
            self.waits_for_room += for_room
            self.waits_for_connection += not for_room

    def timeout(
        self,
        call: OpenCall,
        *,
        was_sent: bool,
        waiting: Callable[[], dict[str, OpenCall]] = dict,
        is_registered: bool = True,
    ) -> CallTimeout:
        """The error of a call that expires now, with what happened last.

        Args:
            waiting: gives the calls that wait at the moment; not asked by each of many calls that expire together.
            is_registered: whether it was in the table of calls, and so counts as given up, too.
        """
        with self.lock:
            self.timeouts += 1
            self.timeouts_registered += is_registered
        error = call.timeout_error(self.clock, was_sent)
        now, told = self.clock.now(), self._told
        if told is None or now - told[0] > _SAME_MOMENT:
            self._told = told = (now, self.recent([call, *(one for one in waiting().values() if one is not call)]))
        error.tell_recent(told[1])
        return error

    def tell_end(self, call: OpenCall, outcome: str) -> None:
        """Tell those that listen how a call ended, just now."""
        tell(Event("call ended", self.url, call.method, call.id, self.clock.now() - call.started, outcome))

    def recent(self, waiting: Collection[OpenCall] = ()) -> tuple[str, ...]:
        """What happened last, oldest first, in lines; without keys.

        Args:
            waiting: the calls that wait at the moment.
        """
        now = self.clock.now()
        answers = copied(self.answers)[-_SHOWN:]
        lines = [(end, f"{method} was answered after {end - start:.3f} s") for method, start, end in answers]
        lines += copied(self.happened)[-_SHOWN:]
        lines = sorted(lines)[-_SHOWN:]
        if self.recorder is not None:
            lines += self.recorder.lines()
        longest = nsmallest(_SHOWN_WAITING, waiting, key=lambda call: call.started)
        lines += [(call.started, f"{call.method} ({call.id}) began, and waits") for call in longest]
        if len(waiting) > len(longest):
            lines.append((longest[-1].started, f"{len(waiting) - len(longest)} more calls began later, and wait"))
        lines.sort(key=lambda line: line[0])
        return tuple(f"{now - when:.1f} s ago: {shorten(redact(text, *self._secrets), 400)}" for when, text in lines)

    def _note(self, text: str) -> None:
        self.happened.append((self.clock.now(), text))


def copied(ring: deque[T]) -> list[T]:
    """The items of a deque that other threads append to."""
    while True:
        try:
            return list(ring)
        except RuntimeError:  # one was appended meanwhile, by a thread that runs beside this one
            continue
