"""The WebSocket transport: framing of our own over a connected socket.

This module reads and writes the bytes itself, and does not use ``send`` and ``recv`` of websocket-client, because under
load these have one time-out for both directions, leave half a frame on the wire after a write time-out, let the reader
write pongs under the send lock, and do not limit incoming messages.

How bytes leave: ``send`` appends frames to the queue.  A thread that finds no writer becomes the writer, and writes
everything that all threads have queued (one system call for many callers), without ever waiting for the network.  What
the socket does not take stays at the head of the queue; the receive thread writes it when the socket is writable again.
So no caller can be stuck in a write, the receive thread never waits for one, and a frame is never torn: it is finished
later, or the whole connection ends.

The writer's role belongs to the call whose turn (an object of that call alone) is in ``_writer``.  A thread takes the
role under the queue's lock, and gives it back by one store without the lock.  A thread that queues before that store
sees a writer, which reads the queue again after the store.  A thread that queues later sees no writer, and writes.

Foreign code can run within a frame of ours: a signal handler after any call, a finaliser at any allocation.  It may
send, too.  Its turn takes over the turn that it interrupted, which it recognises by the thread, and the interrupted
turn finds out as soon as it goes on.  (Not over TLS, where a half encrypted record cannot be taken over: there a nested
message waits for the interrupted turn, and a call that would have to wait for that is refused, see ``is_held_up``.)

Ctrl-C can interrupt the main thread after any call that it makes, while it waits for a lock, and on Python 3.10 at a
jump.  So the role is taken and given back by plain stores, the state shows whether it is still held, and C code notes
what the socket has taken before Python can raise (see ``_write``).  After an interrupt the receive thread reads the
queue once more (see ``_leave``).  For the same reason there is no ``Condition``: inside its ``wait``, Ctrl-C can lose
the lock.  The lock is re-entrant, because a signal handler may send while its thread holds it.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_queue``, ``_queued`` (its end), ``_waiting_for_room`` | any thread | any thread | ``_queue_lock`` | asserts |
| ``_ending``, ``_is_closing``, ``is_over``, ``_is_disposed`` | any thread | any thread | the same | asserts |
| taking the writer's role: ``_writer`` | any thread | any thread | the same | only ``send``, ``_flush``, ``_write`` |
| giving it back: ``_writer`` | the writer | any thread | one store | the turn in it |
| ``_rest``, ``_taken``, ``_written``, ``stalled_since`` | the writer | any thread | the role | the same |
| ``_write_failure``, writes to the socket, which never waits | the writer | any thread | the role | the same |
| ``_decoder``, ``_receiver``, ``_messages``, ``wakeups`` | receive thread | the same | ownership | the ``Receiver`` |
| ``bytes_received``, ``_has_early``, ``_unanswered`` | receive thread | the same | ownership | the same |
| ``_send_some`` | the constructor; ``dispose`` | any thread | one store | – |
| TLS, if it is used | the writer, receive thread | the same | see ``tls`` | |

``_queue_lock`` is never held in a wait: foreign code that waits within a frame of ours gives it up.  A ``Receiver``
refuses a second thread.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from itertools import starmap
from types import BuiltinFunctionType
from typing import Any

from ..ownership import Without, is_held
from . import frames
from .base import Ending, NoRoom, Receipt, Transport, TransportEnded
from .frames import Close, FrameDecoder, FrameError, Ping, TextEncoder
from .readiness import READABLE, WOKEN, make_receiver
from .tls import FLAGS, TlsStream

DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024 * 1024
"""Bytes: the largest incoming message, all fragments together."""

HIGH_WATER = 1024 * 1024
"""Bytes that are queued and not written, beyond which ``send`` waits for room."""

_MAX_QUEUE = 256 * 1024 * 1024  # beyond this even replies are not queued: the server does not read
_READ_SIZE = 64 * 1024  # for a larger buffer the allocator would map and unmap memory at every read
_MAX_TLS_OUTPUT = 1024 * 1024  # beyond this the server asks again and again, and does not read the answers
_LONGEST_WAIT = 3600.0  # a lock does not accept a wait of centuries
_LAST_WORDS = 0.2  # seconds for another thread to write our close frame
(_FLAG,) = FLAGS
_OWN_FILES = {TlsStream.write.__code__.co_filename, ssl.SSLObject.write.__code__.co_filename, __file__}
_LAST_READS = 64  # a server that sends for ever must not keep a dead connection


class _NoReceipt:
    """Takes the place of a receipt that nobody wants."""

    end_offset: int | None = None


_NO_RECEIPT = _NoReceipt()


def _fill_in(receipts: Sequence[Receipt], encoded: list[bytes], start: int | None) -> None:
    """Note where each message of several ends; ``start`` None: nowhere, as none was queued."""
    end = start
    for frame, receipt in zip(encoded, receipts):
        if end is not None:
            end += len(frame)
        receipt.end_offset = end


class WebSocketTransport(Transport):
    """One open WebSocket.

    Args:
        stream: connected, its opening handshake done; owned from now on.
        max_message_size: bytes, > 0.
    """

    def __init__(self, stream: socket.socket | TlsStream, *, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE) -> None:
        self._tls = stream if isinstance(stream, TlsStream) else None
        self.can_nest: bool = self._tls is None
        self._sock = sock = stream.sock if isinstance(stream, TlsStream) else stream
        sock.settimeout(0)
        self._send_some = sock.send if self._tls is None else self._send_some_tls
        # The opening handshake may have read more than its own bytes; these do not make the socket readable again.
        self._has_early = self._tls is not None
        self._encoder = TextEncoder()
        self._decoder = FrameDecoder(max_message_size)
        self._messages: list[Any] = []  # whole messages: text or bytes
        self.bytes_received: int = 0

        # Re-entrant, for foreign code within a frame of ours. Nothing is called while it is held where a message is
        # queued or taken.
        self._queue_lock = threading.RLock()
        self.locks = (self._queue_lock,)
        self._waiting_for_room: set[threading.Lock] = set()
        self._queue: list[bytes] = []
        self._queued = 0  # offset of the end of what was queued, since the connection began
        self._is_closing = False
        self._ending: Ending | None = None
        self.is_over: bool = False  # one of these two; each call looks at it twice
        self._is_disposed = False

        self._writer: list[int] | None = None  # whose turn it is to write: a list of that turn alone, with its thread
        self._rest: bytes | memoryview = b""  # taken from the queue, not yet taken by the socket
        self._taken: list[int] = []  # bytes of the rest that the socket took, not yet accounted for
        self._written = 0
        self._write_failure: OSError | None = None
        self.stalled_since = None
        self._unanswered: bytes | None = None  # payload of the newest ping, while the server takes nothing

        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.settimeout(0)
        self._wake_out.settimeout(0)
        self.wakeups = []
        self._receiver = make_receiver(sock.fileno(), self._wake_in.fileno(), _READ_SIZE)

    # --- sending: any thread ---------------------------------------------------------------------

    def send(self, texts: list[str], receipts: Sequence[Receipt] | None = None, timeout: float | None = None) -> None:
        encoded = self._encoder.encode(texts)
        if timeout is not None and self._queued - self._written > HIGH_WATER:
            self._wait_for_room(timeout)
        turn = [threading.get_ident()]
        is_single = len(encoded) == 1
        if is_single:
            size = len(encoded[0])
            receipt: Any = _NO_RECEIPT if receipts is None else receipts[0]
        else:
            size = sum(map(len, encoded))
            receipt = _NO_RECEIPT
            for each in receipts or ():
                each.end_offset = -1  # until it is known, it counts as sent
        start: int | None = None
        try:
            # In each branch, from the first look to the last store, there is no call, no loop and, on Python 3.10, no
            # jump that is taken. Where one is, a signal handler or a finaliser can run, and send; and other threads go
            # on, one of which may give the writer's role back, which it does without the lock. So the other branch
            # makes its values by `and` and `or`, which jump without that, and its one `if` stands at the end.
            with self._queue_lock:
                if (
                    is_single and self._writer is None and not self._rest and not self._queue and not self.is_over
                ):  # the usual case: straight to the socket (after a failed write there is a rest)
                    receipt.end_offset = self._queued = self._queued + size
                    self._rest = encoded[0]
                    self._writer = turn
                else:
                    start = self._queued
                    is_over = self.is_over
                    is_overfull = timeout is None and start - self._written > _MAX_QUEUE
                    writer = self._writer
                    # A writer of this very thread was interrupted for us, and cannot go on before we are ready: its
                    # turn is taken over.
                    is_own = writer is not None and writer[0] == turn[0] and self.can_nest
                    is_free = writer is None or is_own
                    takes_role = is_free and self._write_failure is None and not is_over
                    queued = not is_over and encoded
                    end = not is_over and start + size
                    receipt.end_offset = end or None
                    self._queued = end or start
                    self._queue += queued or ()
                    if takes_role:
                        self._writer = turn
            if start is not None:  # not the usual case
                if not is_single and receipts is not None:
                    _fill_in(receipts, encoded, None if is_over else start)
                if is_over:  # not raised above: on Python 3.10, Ctrl-C can come when an exception leaves a ``with``
                    raise TransportEnded(self._ending or Ending("the connection is closing", "local"))
                if is_overfull:
                    self._abort_overfull()
            if self._writer is turn and not self._write(turn):
                self.wake()  # the receive thread goes on when the socket is writable
        except BaseException:
            if self._writer is turn:
                self._writer = None  # before any call: a second Ctrl-C may come, but the role is free
            self._leave()
            raise

    @property
    def bytes_sent(self) -> int:
        return self._written

    def was_sent(self, receipt: Receipt) -> bool:
        end_offset = receipt.end_offset  # once: a thread that finds the connection over takes it back
        if end_offset is None:
            return False
        with self._queue_lock:
            # The writer may have just made its system call, or Ctrl-C may have come right after it: what it may have
            # written counts as sent.
            is_uncertain = self._writer is not None or (
                self._tls is not None and self._tls.may_be_beyond(self._written)
            )
            uncertain = len(self._rest) if is_uncertain else sum(self._taken)
            return self._written + uncertain >= end_offset

    def ping(self) -> None:
        self._queue_control(frames.encode_frame(frames.PING, b""))

    def close(self, code: int, reason: str) -> None:
        frame = frames.encode_frame(frames.CLOSE, frames.close_payload(code, reason))
        self._queue_control(frame, is_last=True)

    def abort(self, ending: Ending) -> None:
        with self._queue_lock:
            self._ending = self._ending or ending
            self.is_over = True
            self._wake_senders_locked()
        self.wake()

    def _abort_overfull(self) -> None:
        self.abort(Ending(f"the server does not read: over {_MAX_QUEUE} bytes are waiting for it", "server"))

    def wake(self) -> None:
        # Under the lock that dispose() takes: the descriptor cannot be closed and reused in between.
        with self._queue_lock:
            if not self._is_disposed:
                try:
                    self._wake_out.send(b"\0", *FLAGS)
                except BlockingIOError:
                    pass  # a full pipe wakes as well

    def _queue_control(self, frame: bytes, *, is_last: bool = False) -> None:
        size = len(frame)
        with self._queue_lock:
            # RFC 6455 §5.5.1: nothing follows a close frame.
            if self.is_over:
                return
            is_overfull = self._queued - self._written > _MAX_QUEUE
            self._is_closing = self.is_over = is_last
            self._queued += size
            self._queue.append(frame)
            if is_last:
                self._wake_senders_locked()
        if is_overfull:
            self._abort_overfull()
        if not self._flush():
            self.wake()

    def _is_full(self) -> bool:
        return self._queued - self._written > HIGH_WATER and not self.is_over

    def _wait_for_room(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        turn = threading.Lock()
        turn.acquire()
        try:
            while True:
                with self._queue_lock:
                    if not self._is_full():
                        return
                    self._waiting_for_room.add(turn)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise NoRoom
                with Without(*self.locks):
                    turn.acquire(True, min(remaining, _LONGEST_WAIT))
        finally:
            with self._queue_lock:
                self._waiting_for_room.discard(turn)

    def _wake_senders_locked(self) -> None:
        assert is_held(self._queue_lock)
        # The threads take themselves out of the set. So if Ctrl-C interrupts this, the next call wakes the others.
        for turn in self._waiting_for_room:
            if turn.locked():
                turn.release()

    # --- writing: the thread that has the writer's role --------------------------------------------

    def _flush(self) -> bool:
        """Write what is queued, if no other thread writes; False if the socket takes no more for now."""
        turn = [threading.get_ident()]
        try:
            if self._has_unwritten():
                with self._queue_lock:  # as in `send`
                    writer = self._writer
                    is_own = writer is not None and writer[0] == turn[0] and self.can_nest
                    is_free = writer is None or is_own
                    if is_free:
                        self._writer = turn
            return self._writer is not turn or self._write(turn)
        except BaseException:
            if self._writer is turn:
                self._writer = None  # before any call: a second Ctrl-C may come, but the role is free
            self._leave()
            raise

    def _write(self, turn: list[int]) -> bool:
        """Write all that is queued, and give the role back; False if the socket takes no more for now, or failed.

        After each call a signal handler or a finaliser may have taken over the turn, written, and given the role back.
        So each store here stands directly behind a look at whose turn it is, and so does the system call. True also
        where the turn was taken over: who did that saw to the rest.
        """
        while True:
            taken = self._taken
            if taken:  # by the last turn of this loop, or of a writer that Ctrl-C interrupted
                rest = self._rest
                sent = taken[0]
                rest = b"" if sent == len(rest) else memoryview(rest)[sent:]
                fresh: list[int] = []
                # These stores stand together, without a call between them, so that Ctrl-C cannot separate them. Their
                # order matters because ``was_sent`` may read them at any moment: for an instant it may count unsent
                # bytes as sent, but never sent bytes as unsent.
                if self._writer is turn:
                    self._written += sent
                    self._rest = rest
                    self._taken = fresh
                    self.stalled_since = None
                if self._waiting_for_room:
                    self._wake_if_room()
            if self._queue and not self._rest:
                self._take_queue(turn)
            if not self._rest or self._ending is not None:
                # A thread that queues after this store finds no writer. A thread that queued before found one.
                if self._writer is turn:
                    self._writer = None
                else:
                    return True
                if not self._queue and not self._is_disposed:
                    return True
                with self._queue_lock:
                    self._close_if_disposed_locked()
                    has_unwritten = self._has_unwritten()
                    if has_unwritten and self._writer is None:  # as in `send`
                        self._writer = turn
                if self._writer is turn:
                    continue
                return True
            # With the arguments ready, nothing is allocated for the call: no finaliser can run before it.
            attempt = starmap(self._send_some, ((self._rest, _FLAG),))
            try:
                # Without a jump in between, at which Python 3.10 runs signal handlers. One piece of C code calls `send`
                # and stores the result: Ctrl-C cannot come in between.
                if self._writer is turn:
                    self._taken.extend(attempt)
                else:
                    return True
            except OSError as exc:
                if not self._is_of_the_system(exc):
                    raise  # a signal handler's
                if self._writer is not turn:
                    return True
                if isinstance(exc, (BlockingIOError, ssl.SSLWantReadError, InterruptedError)):
                    self.stalled_since = self.stalled_since or time.monotonic()
                else:
                    # Half a frame may have left, so nothing may follow it. What the server sent before is still read.
                    self._write_failure = exc
                break
        with self._queue_lock:
            if self._writer is turn:
                self._writer = None
            self._close_if_disposed_locked()
        return False

    def _is_of_the_system(self, exc: OSError) -> bool:
        """Whether an error came from the system call, and not from a signal handler that raised just then.

        Handlers raise what they like, also a TimeoutError; only the system's errors have a number, and come from C.
        """
        if isinstance(exc, ssl.SSLError):
            return not self._taken
        if self._taken or exc.errno is None or type(exc).__module__ != "builtins":
            return False
        send = self._send_some if self._tls is None else self._tls._send_some
        last = exc.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        is_patched = not isinstance(send, BuiltinFunctionType)
        return is_patched or last is None or last.tb_frame.f_code.co_filename in _OWN_FILES

    def _take_queue(self, turn: list[int]) -> None:
        """Move the queue to the rest, which is written completely, unless nothing can be written any more."""
        count = len(self._queue)
        whole = slice(count)
        taken = self._queue[whole]  # none any more, if a signal handler has written them just now
        rest = taken[0] if len(taken) == 1 else b"".join(taken)
        with self._queue_lock:
            # Not over, as `dispose` empties the queue; and still the writer, else it was written meanwhile.
            if self._writer is turn and self._ending is None and self._write_failure is None:
                # These stores stand together, without a call between them, so that Ctrl-C cannot separate them.
                self._rest = rest
                del self._queue[whole]

    def _wake_if_room(self) -> None:
        with self._queue_lock:
            if not self._is_full():
                self._wake_senders_locked()

    @property
    def is_held_up(self) -> bool:
        writer = self._writer
        return not self.can_nest and writer is not None and writer[0] == threading.get_ident()

    def _send_some_tls(self, data: bytes | memoryview, _: int) -> int:
        # If Ctrl-C comes before the caller stores the result, the next call returns it again.
        assert self._tls is not None
        return self._tls.write(data, self._written)

    def _leave(self) -> None:
        """After Ctrl-C, or a defect, in a turn: do what the turn has left undone.

        This is needed even if the turn was not the writer's: it may have given the role back without reading what was
        queued meanwhile.
        """
        with self._queue_lock:
            if self._writer is None:
                self._close_if_disposed_locked()
        self._wake_if_room()
        self.wake()

    def _has_unwritten(self) -> bool:
        return bool(self._queue or self._rest) and self._write_failure is None and self._ending is None

    # --- receiving: the receive thread ---------------------------------------------------------------

    def receive(self, timeout: float | None) -> list[str | bytes]:
        if self._ending is not None:
            raise TransportEnded(self._ending)
        # While another thread writes, the socket is writable, and to watch that would only make this loop turn. A
        # writer that leaves something unwritten wakes this thread.
        watches_writes = False
        if self._writer is None and (self._rest or self._queue) and self._has_unwritten():
            watches_writes = self._tls is None or not self._tls.waits_for_server
        try:
            if self._has_early:
                self._has_early = False
                timeout = 0.0
                self._on_records(b"")
            try:
                ready, data = self._receiver.receive(timeout, self.wakeups, watches_writes)
            except OSError as exc:
                raise TransportEnded(self._loss(exc)) from exc
            if ready & WOKEN:
                self._drain_wake()
            if data is not None:
                self._on_data(data) if self._tls is None or not data else self._on_records(data)
            elif ready & READABLE:
                self._read()
            if self._writer is None and (self._rest or self._queue) and self._has_unwritten():
                self._flush()
            if self._unanswered is not None and self.stalled_since is None:
                self._answer_ping(self._unanswered)
            if self._ending is not None:
                raise TransportEnded(self._ending)
            if self._write_failure is not None:
                self._read_to_the_end(self._write_failure)
        except TransportEnded as ended:
            self._let_writer_finish()
            with self._queue_lock:
                self._ending = self._ending or ended.ending
                self.is_over = True
            if not self._messages:
                raise
        messages, self._messages = self._messages, []
        return messages

    def _let_writer_finish(self) -> None:
        """Wait until another thread has written the close frame: what is still queued at the end is lost.

        That takes no longer than a system call, because a writer never waits for the network. The wait is bounded all
        the same.
        """
        end = time.monotonic() + _LAST_WORDS
        while self._writer is not None and self._is_closing and self._ending is None and time.monotonic() < end:
            time.sleep(0.0005)

    def _drain_wake(self) -> None:
        try:
            while len(self._wake_in.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def _read(self) -> bool:
        """Read once; False if there was nothing to read."""
        try:
            data = self._sock.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as exc:
            raise TransportEnded(self._loss(exc)) from exc
        self._on_data(data) if self._tls is None or not data else self._on_records(data)
        return True

    def _on_data(self, data: bytes) -> None:
        if not data:
            raise TransportEnded(self._end_of_stream())
        self.bytes_received += len(data)
        events: list[frames.Event] = []
        try:
            has_control = self._decoder.feed(data, events)
        except FrameError as exc:
            self._on_events(events)
            self.close(exc.code, str(exc))
            raise TransportEnded(Ending(str(exc), "server", exc.code)) from exc
        if has_control or self._messages:
            self._on_events(events)
        else:
            self._messages = events

    def _on_records(self, data: bytes) -> None:
        """As ``_on_data``, for TLS. Without data it handles what the opening handshake has left over."""
        tls = self._tls
        assert tls is not None
        self.bytes_received += len(data)  # a sign of life, also if it is only a part of a record
        pieces: list[bytes] = []
        failure = None
        has_answer = False
        try:
            has_answer = tls.decrypt(data, pieces)
        except OSError as exc:
            failure = exc
        for piece in pieces:
            self._on_data(piece)
        if failure is not None or has_answer:
            # TLS can send its own message (an alert, or new keys) together with a frame, so one is sent. RFC 6455
            # §5.5.3 allows a pong without a ping.
            self._queue_control(frames.encode_frame(frames.PONG, b""))
            if tls.output_size > _MAX_TLS_OUTPUT:
                raise TransportEnded(
                    Ending("the server asks for more and more TLS messages, and does not read them", "server")
                )
        if failure is not None:
            raise TransportEnded(self._loss(failure)) from failure

    def _on_events(self, events: list[frames.Event]) -> None:
        for event in events:
            if isinstance(event, (str, bytes)):
                self._messages.append(event)
            elif isinstance(event, Ping):
                self._answer_ping(event.payload)
            elif isinstance(event, Close):
                self._on_close(event)

    def _answer_ping(self, payload: bytes) -> None:
        """Answer at once; while the server takes nothing, only the newest of its pings, when it reads again.

        RFC 6455 §5.5.3 allows it. So a server that only asks does not fill this side's memory.
        """
        if self.stalled_since is not None:
            self._unanswered = payload
            return
        self._unanswered = None
        self._queue_control(frames.encode_frame(frames.PONG, payload))

    def _on_close(self, event: Close) -> None:
        # RFC 6455 §5.5.1: the end that did not start to close answers with a close frame of the same code.
        began = self._is_closing
        self.close(frames.NORMAL_CLOSURE if event.code == frames.NO_STATUS else event.code, "")
        if began:
            raise TransportEnded(Ending("closed", "local", event.code))
        reason = f": {event.reason}" if event.reason else ""
        if event.code == frames.MESSAGE_TOO_BIG:
            reason += "; it refused a message of this side as too big. Sent again, that would end the connection again"
        raise TransportEnded(Ending(f"the server closed it with code {event.code}{reason}", "server", event.code))

    def _end_of_stream(self) -> Ending:
        if self._is_closing:
            return Ending("closed", "local")
        return Ending("the server ended the stream without a close frame", "server")

    def _loss(self, exc: OSError) -> Ending:
        if self._is_closing:
            return Ending("closed", "local")
        return Ending(exc.strerror or str(exc) or type(exc).__name__, "network")

    def _read_to_the_end(self, failure: OSError) -> None:
        """Read what the server sent before it stopped reading: it may say why."""
        for _ in range(_LAST_READS):
            if not self._read():
                break
        raise TransportEnded(self._loss(failure))

    # --- the end ---------------------------------------------------------------------------------

    def dispose(self) -> None:
        with self._queue_lock:
            if self._is_disposed:
                return
            self._is_disposed = True
            self._ending = self._ending or Ending("the connection was disposed of", "local")
            self.is_over = True
            self._queue.clear()
            self._wake_senders_locked()
            if self._writer is None:
                self._close_descriptors()

    def _close_if_disposed_locked(self) -> None:
        assert is_held(self._queue_lock)
        # Idempotent. If a descriptor were closed while a thread writes, its number could belong to another file by the
        # time of the system call. So dispose() leaves the closing to the writer, if there is one.
        if self._is_disposed:
            self._close_descriptors()

    def forget_after_fork(self) -> None:
        # No lock: in the child, the lock of another thread stays taken for ever. No shutdown either: it would act on
        # the connection, which the child shares with its parent; closing a descriptor does not.
        self._is_disposed = True
        # The receiver has the number of a descriptor, which may soon belong to another file.
        self._ending = self._ending or Ending(
            "this process was forked, and the connection belongs to its parent", "local"
        )
        self.is_over = True
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self._sock.close()
        self._wake_in.close()
        self._wake_out.close()
        self._send_some = self._sock.send  # ends a reference circle, so that OpenSSL's memory is freed now, not later
