"""One connection from its first message to its end: the receive loop and the calls that wait on it.

The loop (``run``), on the receive thread:
    1. wake the threads whose replies have come, then wait for messages, at most until the next timer
       (``Transport.receive``);
    2. tell replies from requests (``jsonrpc.answered_by``, ``jsonrpc.classify``);
    3. resolve a call, or give the message to the dispatcher.
However the loop ends (end of stream, broken frame, a bug of this package), it passes through one ``finally``, which
fails every waiting call.  So no caller waits for a thread that has ended.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| pending calls | callers, receive thread | the same | ``PendingTable`` | see there |
| when to look for expired calls: ``_next_expiry`` | callers, receive thread | receive thread | ``pending.lock`` | – |
| when it wakes: ``_planned_wake`` | receive thread | callers | order of stores: see ``_plan_wake`` | – |
| keepalive, opening: ``_opening``, ``_opening_failure`` | receive thread | receive thread | ownership | asserts |
| ``_bytes_seen``, ``_late_turns`` | receive thread | receive thread | ownership | – |
| ``_asked_for_a_turn`` | callers (append), receive thread | receive thread | one C call on a list each | – |
| ``_greeting``, ``_max_outgoing``, ``_certainly_small`` | receive thread, once | any thread | one store each | – |
| ``replies``, ``opened_at`` | receive thread | any thread | ownership | – |
| ``_large`` | callers | receive thread, at the end | one C call on a dict each | – |
| ``ending`` | receive thread, once | any thread | one store, before the calls are failed | an assert |
| ``receive_thread`` | ``run``, once | any thread | one store | – |
| ``_is_closed_by_user`` | any thread, once | any thread | one store | – |

A call that waits is failed by the receive thread, also for ``close``: Ctrl-C in the main thread cannot stop it.
At ``close`` it fails them before there is an ``ending``.  A call that could not be sent is failed by its own thread.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .. import jsonrpc
from ..deadlines import Clock
from ..errors import (
    CallTimeout,
    ClosedByUser,
    ConnectionLost,
    LocalProtocolError,
    RemoteProtocolError,
    WouldDeadlock,
    shorten_repr,
)
from ..events import LISTENERS
from ..jsonrpc import Batch, Invalid, Notification, Reply, Request
from ..ownership import Without
from ..secret import redact, redact_json
from ..speedups import Semaphore, make_semaphore, release_all
from ..transport.base import DialFailed, Ending, NoRoom, Transport, TransportEnded
from ..transport.frames import MESSAGE_TOO_BIG
from .dispatch import Dispatcher
from .futures import CallFuture
from .keepalive import Keepalive
from .pending import OpenCall, PendingCall, PendingTable
from .records import log
from .tally import Tally

_PAUSED = 1.0  # seconds by which a turn of the receive thread is late if the process was paused
_MOST_LATE_TURNS = 200  # each reads at most 64 KiB
_LONGEST_TURN = 1.0  # seconds that a caller whose time is over waits for the receive thread
_SHOWN = 4096  # characters or bytes of an unreadable message: more than an error shows, so that no key is cut
_LONGEST_SLEEP = 3600.0  # poll() refuses to wait for more than some weeks
# This many requests of a batch are framed and sent at a time, so that the server works on the first ones while the
# last ones are being framed. A thousand calls over a link of 50 ms take 1.20 round trips instead of 1.25.
_TOGETHER = 128
_LARGEST_SHARE = 0.1  # share of the receive thread's time that the search for expired calls may take
_LATEST_EXPIRY = 0.03  # seconds by which that limit may delay a time-out

_LARGE = 256 * 1024  # characters: no server is known that takes less in one message, and does not say so
_REMEMBERED_LARGE = 64

Opening = Callable[[Any], Any]
"""Reads the server's greeting: takes the decoded message, gives the result of ``open``, or raises ValueError."""

Cancellation = Callable[[Any, str], "str | None"]
"""Makes the message that tells the server that a call was given up: takes what ``Opening`` returned, and the id of the
request; None: the server does not want to know."""


class Connection:
    """One connection. Made open; used until ``ending`` is set.

    Args:
        transport: owned from now on.
        dispatcher: answers the server's requests.
        opening: reads the greeting; None: the server sends none.
        opening_timeout: seconds, > 0, for the greeting.
        keepalive: when to ping.
        write_timeout: seconds, > 0, after which the connection ends if the server takes nothing of what is written.
        clock: the clock of all deadlines.
        on_open: called on the receive thread with what ``opening`` returned.
        cancellation: see ``Cancellation``.
        secrets: blotted out of what the server says, wherever that is shown.
        tally: counts what happens; None: one of its own.
    """

    def __init__(
        self,
        transport: Transport,
        dispatcher: Dispatcher,
        *,
        opening: Opening | None,
        opening_timeout: float,
        keepalive: Keepalive,
        write_timeout: float,
        clock: Clock,
        on_open: Callable[[Any], None],
        cancellation: Cancellation | None = None,
        secrets: Sequence[str] = (),
        tally: Tally | None = None,
    ) -> None:
        self.transport = transport
        self._tally = tally or Tally(clock)
        self._can_nest = transport.can_nest
        self.pending: PendingTable = PendingTable(dispatcher.lock, transport.locks)
        self.ending: Ending | None = None
        self.receive_thread: int | None = None
        self._dispatcher = dispatcher
        self._opening = opening
        self._opening_failure: DialFailed | None = None
        self._opening_deadline = clock.now() + opening_timeout
        self._keepalive = keepalive
        self._write_timeout = write_timeout
        self._clock = clock
        self._on_open = on_open
        self._cancellation = cancellation
        self._greeting: Any = None
        self._max_outgoing: int | None = None  # bytes of a message that the server takes; None: it does not say
        self._certainly_small = _LARGE  # characters of a message that no server refuses for its size
        self._large: dict[str, int] = {}  # the latest large requests: id to bytes
        self.pending.on_given_up = self._tell_given_up
        self._secrets = secrets
        self.replies: int = 0
        self._note_answer = self._tally.answers.append  # each look-up counts
        self.opened_at: float = clock.now()
        self._bytes_seen = 0
        self._asked_for_a_turn: list[Semaphore] = []
        self._late_turns = 0
        self._next_expiry = math.inf  # not later than the first deadline of a submitted call
        self._planned_wake = clock.now()  # no caller has to wake the thread before its first turn
        self._is_closed_by_user = False

    # --- callers -----------------------------------------------------------------------------------

    def check_may_wait(self) -> None:
        """Raise ``WouldDeadlock`` on the receive thread, or where what is sent would wait for this same thread."""
        if threading.get_ident() == self.receive_thread:
            raise WouldDeadlock(
                "This is the receive thread, which alone can deliver the reply: a blocking call here would wait for "
                "itself. Do it on another thread, or use submit()."
            )
        if not self._can_nest and self.transport.is_held_up:
            raise WouldDeadlock(
                "This code runs within a call that this same thread was sending over TLS (a signal handler or a "
                "finaliser), and nothing else can be sent before that goes on: a blocking call here would wait for "
                "itself. Do it on another thread, or use submit()."
            )

    def start(self, call: OpenCall, texts: list[str]) -> None:
        """Register the call and send its request, the only one of ``texts``. Waits for room until its deadline at most.

        Raises:
            ConnectionLost: the connection is over; nothing was sent.
            CallTimeout: there was no room to send within the deadline; nothing was sent.
            LocalProtocolError: it is longer than the server takes; nothing was sent.
        """
        calls = (call,)
        if len(texts[0]) > self._certainly_small:
            self._check_sizes(calls, texts)
        self.pending.put(call.id, call)
        self._send(calls, texts, calls)

    def start_many(self, calls: Sequence[OpenCall], texts: list[str]) -> None:
        """As ``start``, for several: their requests are sent together. Waits at most until the first deadline."""
        count = len(calls)
        if max(map(len, texts)) > self._certainly_small:
            self._check_sizes(calls, texts)
        for call in calls:
            self.pending.put(call.id, call)
        if count <= _TOGETHER:
            self._send(calls, texts, calls)
            return
        self._send(calls[:_TOGETHER], texts[:_TOGETHER], calls)
        for start in range(_TOGETHER, count, _TOGETHER):
            some = calls[start : start + _TOGETHER]
            try:
                self._send(some, texts[start : start + _TOGETHER], some)
            except (ConnectionLost, CallTimeout) as error:
                self._fail_unsent(calls[start:], error)
                return

    def _check_sizes(self, calls: Sequence[OpenCall], texts: list[str]) -> None:
        """Refuse what the server would refuse, and remember what it might: it may not say what it takes."""
        for call, text in zip(calls, texts):
            if len(text) <= self._certainly_small:
                continue
            size = jsonrpc.utf8_size(text)
            if self._max_outgoing is not None and size > self._max_outgoing:
                del text  # see peer.peer
                del texts[:]
                raise LocalProtocolError(
                    f"the message for {call.method!r} is too big: it has {size} bytes, and the server takes at most "
                    f"{self._max_outgoing} (its max_message_size). Nothing was sent; send less at once."
                )
            self._large[call.id] = size
            if len(self._large) > _REMEMBERED_LARGE:
                self._large.pop(next(iter(self._large)), None)

    def _fail_unsent(self, calls: Sequence[OpenCall], error: ConnectionLost | CallTimeout) -> None:
        """Fail the calls of a batch that were not sent. The calls that were sent may still be answered."""
        for call in calls:
            if self.pending.give_up(call):
                if isinstance(error, ConnectionLost):
                    call.fail(self.lost(Ending(error.reason, error.who, error.code), was_sent=False))
                else:
                    call.fail(self._timeout(call, was_sent=False))

    def wait(self, call: PendingCall) -> dict[str, Any]:
        """The reply of a started call. Blocks until it comes or the call's deadline passes.

        Raises:
            CallTimeout, ConnectionLost, RemoteProtocolError: how the call ended.
        """
        if call.reply is None and call.error is None:
            pending = self.pending
            if pending.has_first() or pending.has_last():
                with Without(*pending.locks):
                    return self.wait(call)
        while not call.wait(self._clock):
            # After a pause of the whole process (Ctrl-Z, a suspended laptop) heartbeats, or the reply, may have come
            # that were not read yet.
            if self._catch_up() and (call.is_done or call.remaining(self._clock.now()) > 0):
                continue
            if self.pending.give_up(call):
                # A queued request may still be written: it cannot be taken back.
                raise self._timeout(call, was_sent=call.end_offset is not None)
            # The receive thread has taken the call at the last moment, and is about to set its outcome.
            call.wait_outcome(self._clock)
            break
        reply = call.reply
        if reply is not None:
            return reply
        assert call.error is not None
        raise call.error

    def _catch_up(self) -> bool:
        """Wait until the receive thread has dealt with everything that has come by now; False if it does not soon."""
        if self.receive_thread is None:
            return False
        semaphore = make_semaphore()
        self._asked_for_a_turn.append(semaphore)
        self.transport.wake()
        return semaphore.acquire(True, _LONGEST_TURN)

    def notify(self, call: OpenCall, texts: list[str]) -> None:
        """Send one text that needs no reply. Waits for room as ``start`` does; ``call`` has the deadline."""
        if len(texts[0]) > self._certainly_small:
            self._check_sizes([call], texts)
        self._send([call], texts, None)

    def _send(self, calls: Sequence[OpenCall], texts: list[str], receipts: Sequence[OpenCall] | None) -> None:
        try:
            try:
                self.transport.send(texts, receipts, 0.0)
            except NoRoom:
                self._tally.waits(for_room=True)
                is_receive_thread = threading.get_ident() == self.receive_thread
                timeout = None if is_receive_thread else max(0.0, calls[0].remaining(self._clock.now()))
                self.transport.send(texts, receipts, timeout)
        except NoRoom:
            del texts[:]  # see peer.peer
            raise self._timeout(calls[0], was_sent=False, is_registered=receipts is not None) from None
        except TransportEnded as ended:
            del texts[:]
            raise self.lost(ended.ending, was_sent=False) from ended
        except BaseException:
            del texts[:]
            raise

    def _timeout(self, call: OpenCall, *, was_sent: bool, is_registered: bool = True) -> CallTimeout:
        return self._tally.timeout(call, was_sent=was_sent, waiting=self.pending.copy, is_registered=is_registered)

    def _tell_given_up(self, call: OpenCall) -> None:
        """Count it, and tell the server that nothing waits for a long call any more. Never blocks.

        Also for a call that may not have been sent: an id that the server does not know has no effect there. Without
        room it is not sent.
        """
        self._tally.gave_up(call)
        text = None
        if call.is_extendable and self._cancellation is not None:
            text = self._cancellation(self._greeting, call.id)
        if text is not None and not self.send_at_once(text):
            log.debug("! the server could not be told that request %s was given up", call.id)

    def send_at_once(self, text: str) -> bool:
        """Send a text that needs no reply, if there is room for it. Never blocks. Returns whether it was queued."""
        try:
            self.transport.send([text], None, 0.0)
        except (NoRoom, TransportEnded):
            return False
        return True

    def extend(self, request_id: object) -> None:
        """Note a heartbeat of the call with this id. Unknown ids have no effect."""
        call = self.pending.get(request_id)
        if call is not None and call.is_extendable:
            call.extend(self._clock.now())
            self._tally.beat(call)

    def lost(self, ending: Ending, was_sent: bool | None) -> ConnectionLost:
        """A new error object that says how the connection ended."""
        cls = ClosedByUser if self._is_closed_by_user else ConnectionLost
        return cls(self._redact(ending.reason), who=ending.who, was_sent=was_sent, code=ending.code)

    def _redact(self, text: str) -> str:
        return redact(text, *self._secrets)

    def close(self) -> None:
        """Begin the orderly end: refuse open requests, fail waiting calls, send a close frame. Does not wait."""
        self._is_closed_by_user = True
        self._dispatcher.refuse_open_requests()
        self.transport.close(1000, "")
        self.transport.wake()

    def forget_calls(self) -> None:
        """At the end of the process: the calls go on waiting, and end with it. ``close`` follows."""
        self._is_closed_by_user = True
        self.pending.take_all()

    def abort(self, reason: str) -> None:
        """End the connection at once, without waiting for the server. Any thread."""
        self._is_closed_by_user = True
        self.transport.abort(Ending(reason, "local"))

    # --- the receive thread ------------------------------------------------------------------------

    def run(self) -> Ending:
        """The receive loop. Returns how the connection ended; by then every waiting call has failed."""
        self.receive_thread = threading.get_ident()
        ending = Ending("the receive loop failed", "local")
        try:
            if self._opening is None:
                self._on_open(None)
            clock, transport, keepalive = self._clock, self.transport, self._keepalive  # each look-up in self counts
            now = clock.now()
            while True:
                wake_at = self._plan_wake()
                sleep = wake_at - now
                asked = self._asked_for_a_turn
                messages = transport.receive(
                    0.0 if sleep < 0.0 else sleep if sleep < _LONGEST_SLEEP else _LONGEST_SLEEP
                )
                count = len(messages)
                is_late = count > 1 and self._is_late(wake_at)
                for message in messages:
                    self._on_message(message)
                    # Many messages in a row must not delay the time-outs of submitted calls.
                    if count > 1 and not is_late and clock.now() >= self._next_expiry:
                        self._expire_futures()
                if asked and not count:
                    self._asked_for_a_turn = []
                    release_all(asked)
                del messages  # otherwise they stay alive until the next ones come
                now = clock.now()
                bytes_received = transport.bytes_received
                if bytes_received != self._bytes_seen:
                    self._bytes_seen = bytes_received
                    keepalive.last_life = now
                if now >= wake_at and not (count and self._is_late(wake_at)):
                    self._run_timers(now)
                # Only after the transport accepts nothing more: before that, a thread that has registered a call may be
                # about to send it.
                if self._is_closed_by_user and transport.is_over:
                    self._fail_waiting_at_close()
        except TransportEnded as ended:
            ending = ended.ending._replace(reason=self._redact(ended.ending.reason))
        except Exception as exc:  # noqa: BLE001 - told to all that wait, and logged
            log.exception("! the receive loop failed")
            ending = Ending(f"internal error: {type(exc).__name__}: {exc}", "local")
        finally:
            release_all(self.transport.wakeups)
            release_all(self._asked_for_a_turn)
            # The order matters: after dispose() nothing can be sent any more, so was_sent is final.
            self.transport.dispose()
            assert self.ending is None
            self.ending = ending
            self.receive_thread = None
            calls = self.pending.take_all()
            self._tally.lose(calls)
            too_large = self._too_large(calls, ending)
            for call in calls:
                if call is too_large:
                    call.fail(_refused_for_size(call, self._large[call.id]))
                else:
                    call.fail(self.lost(ending, was_sent=self.transport.was_sent(call)))
            # What refers to this connection, or to the client, which holds it: no circle is left.
            self.pending.on_given_up = None
            self._on_open, self._opening = _nothing, None
        log.debug("= ended: %s (%s)", ending.reason, ending.who)
        return ending

    def _too_large(self, calls: list[OpenCall], ending: Ending) -> OpenCall | None:
        """The call whose request the server refused for its size (close code 1009), if it can be told."""
        if ending.who != "server" or ending.code != MESSAGE_TOO_BIG:
            return None
        large = [call for call in calls if call.id in self._large]
        return max(large, key=lambda call: self._large[call.id], default=None)

    def _is_late(self, wake_at: float) -> bool:
        """Whether this turn comes so late that the whole process was paused: what has come is read before timers run.

        A storm of messages may also make turns late; so it holds timers up for a number of turns only.
        """
        if self._clock.now() < wake_at + _PAUSED or self._late_turns >= _MOST_LATE_TURNS:
            self._late_turns = 0
            return False
        self._late_turns += 1
        return True

    def _fail_waiting_at_close(self) -> None:
        release_all(self.transport.wakeups)  # before the callbacks of failing futures run
        # Nothing is queued behind the close frame any more. What is queued before it may still be written.
        ending = Ending("close() was called", "local")
        calls = self.pending.take_all()
        self._tally.lose(calls)
        for call in calls:
            call.fail(self.lost(ending, was_sent=call.end_offset is not None))

    @property
    def opening_failure(self) -> DialFailed | None:
        """The fault of the greeting; None if it was right, or if the connection ended before it came."""
        return self._opening_failure

    def _on_message(self, message: str | bytes) -> None:
        try:
            if isinstance(message, bytes):
                raise jsonrpc.MalformedText("expected a text message, got a binary one")
            value = jsonrpc.decode(message)
        except jsonrpc.MalformedText as exc:
            release_all(self.transport.wakeups)
            self._on_malformed(exc, message)
            return
        call = jsonrpc.answered_by(value, self.pending.pop)
        if call is not None:
            # Before the caller goes on, which may ask at once. No method of the tally, which would cost as much again.
            self.replies += 1
            self._note_answer((call.method, call.started, self._clock.now()))
            if LISTENERS:
                self._tally.tell_end(call, "answered")
            call.resolve(value, self.transport.wakeups)
            return
        # Wake the threads that have replies before anything else is done or logged, because that may take time, or
        # may need a lock that one of them holds.
        release_all(self.transport.wakeups)
        envelope = jsonrpc.classify(value)
        if isinstance(envelope, Reply):
            self._on_reply(envelope)
        elif self._opening is not None and isinstance(envelope, (Invalid, Batch)):
            self._fail_opening(f"the first message is not a greeting: {shorten_repr(value, redact=self._redact)}")
        else:
            if isinstance(envelope, (Request, Notification)):
                self._tally.pushed(envelope.method)
            self._dispatcher.handle(envelope)

    def _on_malformed(self, exc: Exception, message: str | bytes) -> None:
        if self._opening is not None:
            shown = shorten_repr(message[:_SHOWN], redact=self._redact)
            self._fail_opening(f"the first message is not JSON: {shown}")
        error = jsonrpc.RpcError(jsonrpc.PARSE_ERROR, "Parse error", {"error": str(exc)})
        # JSON-RPC 2.0 §5: the id could not be read, so it is null (protocol §B.1).
        self._dispatcher.handle(Invalid(None, error, message[:_SHOWN]))

    def _on_reply(self, reply: Reply) -> None:
        if self._secrets and (
            reply.problem is not None or "error" in reply.envelope or self._opening is not None
        ):  # what is shown, in an error of ours, instead of being used
            reply = Reply(reply.id, *redact_json([reply.envelope, reply.problem], *self._secrets))
        if self._opening is not None:
            # No call can be pending yet, so this is the greeting; its id is not checked (protocol §A.2).
            self._on_greeting(self._opening, reply)
            return
        call = self.pending.take(reply.id)
        if call is not None:
            self.replies += 1
            self._tally.answer_other(call, is_error=reply.problem is not None or "error" in reply.envelope)
            if reply.problem is None:
                call.resolve(reply.envelope, self.transport.wakeups)
            else:
                call.fail(RemoteProtocolError(reply.problem, received=shorten_repr(reply.envelope)))
        elif self.pending.was_given_up(reply.id):
            log.debug("< reply %s came late; its call was given up", reply.id)
            on_late = self.pending.take_late(reply.id)
            if on_late is not None and reply.problem is None:
                on_late(reply.envelope)
        else:
            # At the end of the process its calls are forgotten; their replies are of no interest then.
            level = logging.DEBUG if self._is_closed_by_user else logging.WARNING
            log.log(level, "! reply to an unknown request: id %s", shorten_repr(reply.id, redact=self._redact))

    def _on_greeting(self, opening: Opening, reply: Reply) -> None:
        assert threading.get_ident() == self.receive_thread
        try:
            greeting = opening(reply.envelope)
        except ValueError as exc:
            self._fail_opening(str(exc))
        self._opening = None
        self._greeting = greeting
        self.opened_at = self._clock.now()
        limit: int | None = getattr(greeting, "max_message_size", None)
        self._max_outgoing = self._dispatcher.max_outgoing = limit
        if limit is not None:  # UTF-8 takes four bytes for a character at most
            self._certainly_small = min(_LARGE, limit // 4)
        self._on_open(greeting)

    def _fail_opening(self, text: str) -> NoReturn:
        self._opening_failure = DialFailed("greeting", text)
        raise TransportEnded(Ending(text, "server"))

    # --- timers: the receive thread ------------------------------------------------------------------

    def watch_expiry(self, expires_at: float) -> None:
        """Let the receive thread look for expired submitted calls, for which no thread waits, by ``expires_at``."""
        if expires_at >= self._next_expiry:
            return
        with self.pending.lock:
            self._next_expiry = min(self._next_expiry, expires_at)
        if expires_at < self._planned_wake:
            self.transport.wake()

    def _plan_wake(self) -> float:
        """When the receive thread must check its timers, if no message comes before."""
        # Not by min(): four calls of it in each turn took one hundredth of the time of a call.
        wake_at = self._keepalive.next_at
        if self._next_expiry < wake_at:
            wake_at = self._next_expiry
        if self._opening is not None:
            wake_at = min(wake_at, self._opening_deadline)
        stalled_since = self.transport.stalled_since
        if stalled_since is not None:
            wake_at = min(wake_at, stalled_since + self._write_timeout)
        # A caller lowers the expiry and then reads the plan; this thread stores the plan and then reads the expiry. So
        # at least one of the two sees the other's store, without a lock in every turn.
        self._planned_wake = wake_at
        return self._next_expiry if self._next_expiry < wake_at else wake_at

    def _run_timers(self, now: float) -> None:
        assert threading.get_ident() == self.receive_thread
        if self._keepalive.is_dead(now):
            self.transport.abort(Ending("the server did not answer a ping in time", "network"))
        elif self._keepalive.is_ping_due(now):
            self._keepalive.note_ping(now)
            self.transport.ping()
        else:
            self._keepalive.plan()
        stalled_since = self.transport.stalled_since
        if stalled_since is not None and now >= stalled_since + self._write_timeout:
            self.transport.abort(Ending(f"the server took nothing for {self._write_timeout:g} s", "network"))
        if self._opening is not None and now >= self._opening_deadline:
            self._fail_opening("no greeting came in time")
        if now >= self._next_expiry:
            self._expire_futures()

    def _expire_futures(self) -> None:
        release_all(self.transport.wakeups)  # before the callbacks of expired futures run
        now = self._clock.now()
        # Reset first: a call that is submitted meanwhile lowers it again.
        with self.pending.lock:
            self._next_expiry = math.inf
        next_at = math.inf
        for call in self.pending.copy().values():
            # If a call is not queued yet, its caller checks the deadline itself, and then calls watch_expiry.
            if isinstance(call, CallFuture) and call.end_offset is not None:
                expires_at = call.expires_at
                if expires_at > now:
                    next_at = min(next_at, expires_at)
                elif self.pending.give_up(call):
                    call.fail(self._timeout(call, was_sent=True))
        # The scan of ten thousand calls takes milliseconds. If each expires at a different time, some are ended late.
        end = self._clock.now()
        pause = min((end - now) / _LARGEST_SHARE, _LATEST_EXPIRY)
        self.watch_expiry(max(next_at, end + pause))


def _nothing(_: Any) -> None:
    """In the place of a hook that is not called any more."""


def _refused_for_size(call: OpenCall, size: int) -> LocalProtocolError:
    error = LocalProtocolError(
        f"the request {call.method!r} has {size} bytes, and is too big for the server: it ended the connection with "
        "code 1009 (message too big). Sent again, it would do so again: send less at once."
    )
    error.was_sent = True
    return error
