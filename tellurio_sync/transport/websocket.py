"""The WebSocket transport: our framing over a connected socket.

The bytes are ours, not websocket-client's, because of what its ``send`` and ``recv`` do under load: one
time-out for both directions, a write time-out that leaves half a frame on the wire, pongs written by the
reader under the send lock, and no limit on incoming messages.

How bytes leave: ``send`` appends frames to the queue; whoever finds nobody writing becomes the writer and
writes everything queued by everybody (one system call for many callers), without ever waiting for the
network.  What the socket does not take stays at the head of the queue, and the receive thread writes it
when the socket is writable again.  So no caller can be stuck in a write, the receive thread never waits
for one, and a frame is never torn: it is finished later or the whole connection ends.

The writer's role belongs to whoever's turn (an object of that call alone) is in ``_writer``.  It is taken
under the queue's lock, and given back by one store without it: whoever queues before that store saw a writer,
who looks at the queue again after it; whoever queues later finds nobody writing, and writes.

Ctrl-C can strike the main thread after any call it makes, while it waits for a lock and, on Python 3.10, at
a jump.  So the role is taken and given back by plain stores, whether it is still held can be told by looking,
and what the socket took is noted by C code before Python can raise (see ``_write``).  Who is struck leaves it to
the receive thread to look at the queue once more (see ``_leave``).  For the same reason the locks here are plain
ones: inside ``Condition.wait``, Ctrl-C can lose the lock.

| State | Written by | Guarded by |
|---|---|---|
| queue, offsets of what is queued, ``_ending`` | any thread | ``_queue_lock``, held for no call that waits |
| taking the writer's role | any thread | ``_queue_lock`` |
| rest, offset of what is written, writing to the socket | the writer | the role; the socket is non-blocking |
| decoder, receiver, ``wakeups``, ``bytes_received`` | receive thread | ownership |
| TLS, where there is any | the writer, receive thread | see ``tls`` |
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import Any

from . import frames
from .base import Ending, NoRoom, Receipt, Transport, TransportEnded
from .frames import Close, FrameDecoder, FrameError, Ping, TextEncoder
from .readiness import READABLE, WOKEN, make_receiver
from .tls import TlsStream

DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024 * 1024
"""Bytes: the largest incoming message, all fragments together."""

HIGH_WATER = 1024 * 1024
"""Bytes queued and unwritten beyond which ``send`` waits for room."""

_MAX_QUEUE = 256 * 1024 * 1024  # beyond this even replies are not queued: the server does not read
_READ_SIZE = 64 * 1024  # more would be mapped and unmapped by the allocator for every read
_MAX_TLS_OUTPUT = 1024 * 1024  # an answer has some hundred bytes: beyond this the server asks and does not read
_LONGEST_WAIT = 3600.0  # a lock refuses to wait for centuries
_LAST_WORDS = 0.2  # seconds for another thread to write our close frame
_LAST_READS = 64  # a server that sends for ever must not keep a dead connection


class WebSocketTransport(Transport):
    """One open WebSocket.

    Args:
        stream: connected, its opening handshake done; owned from now on.
        max_message_size: bytes, > 0.
    """

    def __init__(self, stream: socket.socket | TlsStream, *, max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE) -> None:
        self._tls = stream if isinstance(stream, TlsStream) else None
        self._sock = sock = stream.sock if isinstance(stream, TlsStream) else stream
        sock.settimeout(0)
        self._send_some = sock.send if self._tls is None else self._send_some_tls
        # The opening handshake may have read more than its own, which does not make the socket readable any more.
        self._has_early = self._tls is not None
        self._encoder = TextEncoder()
        self._decoder = FrameDecoder(max_message_size)
        self._messages: list[Any] = []  # whole messages: text or bytes
        self.bytes_received = 0

        self._queue_lock = threading.Lock()
        self._waiting_for_room: set[threading.Lock] = set()
        self._queue: list[bytes] = []
        self._queued = 0  # offset of the end of what was queued, since the connection began
        self._is_closing = False
        self._ending: Ending | None = None
        self._is_disposed = False

        self._writer: object | None = None  # whose turn it is to write
        self._rest: bytes | memoryview = b""  # taken from the queue, not yet taken by the socket
        self._taken: list[int] = []  # bytes of the rest that the socket took, not yet accounted for
        self._written = 0
        self._write_failure: OSError | None = None
        self.stalled_since = None

        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.settimeout(0)
        self._wake_out.settimeout(0)
        self.wakeups = []
        self._receiver = make_receiver(sock.fileno(), self._wake_in.fileno(), _READ_SIZE)

    # --- sending: any thread ---------------------------------------------------------------------

    def send(
        self, texts: list[str], receipts: Sequence[Receipt] | None = None, *, timeout: float | None = None
    ) -> None:
        encoded = self._encoder.encode(texts)
        if timeout is not None and self._queued - self._written > HIGH_WATER:
            self._wait_for_room(timeout)
        turn = object()
        is_single = len(encoded) == 1
        try:
            with self._queue_lock:
                is_over = self._ending is not None or self._is_closing
                is_overfull = timeout is None and self._queued - self._written > _MAX_QUEUE
                if not is_over:
                    end = self._queued
                    if receipts is None:
                        end += sum(map(len, encoded))
                    elif is_single:
                        end += len(encoded[0])
                        receipts[0].end_offset = end
                    else:
                        for frame, receipt in zip(encoded, receipts):
                            end += len(frame)
                            receipt.end_offset = end
                    # What is queued and how much it is: together, for Ctrl-C's sake, without a call or a jump between.
                    if self._writer is not None or self._write_failure is not None:
                        self._queued = end
                        self._queue += encoded
                    elif self._rest or self._queue or not is_single:
                        self._queued = end
                        self._queue += encoded
                        self._writer = turn
                    else:  # the usual case: straight to the socket
                        self._queued = end
                        self._rest = encoded[0]
                        self._writer = turn
            if is_over:  # not raised above: on Python 3.10, Ctrl-C can come where an exception leaves a ``with``
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
    def is_over(self) -> bool:
        return self._ending is not None or self._is_closing

    def was_sent(self, receipt: Receipt) -> bool:
        if receipt.end_offset is None:
            return False
        with self._queue_lock:
            # A writer at work may be just behind its system call, or was as Ctrl-C came: what it wrote counts as sent.
            is_uncertain = self._writer is not None or (
                self._tls is not None and self._tls.may_be_beyond(self._written)
            )
            uncertain = len(self._rest) if is_uncertain else sum(self._taken)
            return self._written + uncertain >= receipt.end_offset

    def ping(self) -> None:
        self._queue_control(frames.encode_frame(frames.PING, b""))

    def close(self, code: int, reason: str) -> None:
        frame = frames.encode_frame(frames.CLOSE, frames.close_payload(code, reason))
        self._queue_control(frame, is_last=True)

    def abort(self, ending: Ending) -> None:
        with self._queue_lock:
            if self._ending is None:
                self._ending = ending
            self._wake_senders_locked()
        self.wake()

    def _abort_overfull(self) -> None:
        self.abort(Ending(f"the server does not read: over {_MAX_QUEUE} bytes are waiting for it", "server"))

    def wake(self) -> None:
        # Under the lock that dispose() takes: the descriptor cannot be closed and reused in between.
        with self._queue_lock:
            if not self._is_disposed:
                try:
                    self._wake_out.send(b"\0")
                except BlockingIOError:
                    pass  # a full pipe wakes as well

    def _queue_control(self, frame: bytes, *, is_last: bool = False) -> None:
        size = len(frame)
        with self._queue_lock:
            # RFC 6455 §5.5.1: nothing follows a close frame.
            if self._is_closing or self._ending is not None:
                return
            is_overfull = self._queued - self._written > _MAX_QUEUE
            self._is_closing = is_last
            self._queued += size
            self._queue.append(frame)
            if is_last:
                self._wake_senders_locked()
        if is_overfull:
            self._abort_overfull()
        if not self._flush():
            self.wake()

    def _is_full(self) -> bool:
        return self._queued - self._written > HIGH_WATER and self._ending is None and not self._is_closing

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
                turn.acquire(True, min(remaining, _LONGEST_WAIT))
        finally:
            with self._queue_lock:
                self._waiting_for_room.discard(turn)

    def _wake_senders_locked(self) -> None:
        # They take themselves out of the set: Ctrl-C here, and the next who wakes them finds who was not.
        for turn in self._waiting_for_room:
            if turn.locked():
                turn.release()

    # --- writing: whoever has the writer's role ----------------------------------------------------

    def _flush(self) -> bool:
        """Write what is queued, if nobody else does; False if the socket takes no more of it for now."""
        turn = object()
        try:
            with self._queue_lock:
                if self._writer is None and self._has_unwritten():
                    self._writer = turn
            return self._writer is not turn or self._write(turn)
        except BaseException:
            if self._writer is turn:
                self._writer = None  # before any call: a second Ctrl-C may come, but the role is free
            self._leave()
            raise

    def _write(self, turn: object) -> bool:
        """Write all that is queued, and give the role back; False if the socket takes no more for now, or failed."""
        while True:
            if self._taken:  # by a writer whom Ctrl-C interrupted
                self._account()
            if self._queue and not self._rest:
                self._take_queue()
            if not self._rest or self._ending is not None:
                # From here on, who queues finds nobody writing. Who queued before found a writer.
                self._writer = None
                if not self._queue and not self._is_disposed:
                    return True
                with self._queue_lock:
                    self._close_if_disposed_locked()
                    if self._writer is not None or not self._has_unwritten():
                        return True
                    self._writer = turn
                continue
            try:
                # C code from the call to the list: Ctrl-C cannot come between sending and noting how much.
                self._taken.extend(map(self._send_some, (self._rest,)))
            except (BlockingIOError, ssl.SSLWantReadError, InterruptedError):
                self.stalled_since = self.stalled_since or time.monotonic()
                break
            except OSError as exc:
                # Half a frame may be out: nothing can follow it. What the server sent before is still read.
                self._write_failure = exc
                break
            self._account()
        with self._queue_lock:
            self._writer = None
            self._close_if_disposed_locked()
        return False

    def _take_queue(self) -> None:
        """Move the queue to the rest, which has been written, unless nothing can be written any more."""
        with self._queue_lock:
            if self._has_unwritten():
                rest = self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)
                fresh: list[bytes] = []
                # Together, without a call between them, for Ctrl-C's sake.
                self._rest = rest
                self._queue = fresh

    def _account(self) -> None:
        """Note what the socket took of the rest."""
        sent = self._taken[0]
        rest = b"" if sent == len(self._rest) else memoryview(self._rest)[sent:]
        fresh: list[int] = []
        # Together, without a call between them, for Ctrl-C's sake. In this order, for ``was_sent`` may look at any
        # moment: for an instant it may take unsent bytes for sent, but never sent ones for unsent.
        self._written += sent
        self._rest = rest
        self._taken = fresh
        self.stalled_since = None
        if self._waiting_for_room and not self._is_full():
            with self._queue_lock:
                self._wake_senders_locked()

    def _send_some_tls(self, data: bytes | memoryview) -> int:
        # If Ctrl-C comes before what this returns is noted, the next call returns it again.
        assert self._tls is not None
        return self._tls.write(data, self._written)

    def _leave(self) -> None:
        """After Ctrl-C, or a defect, in a turn: see to what it left undone.

        Also if it was not the writer's: it may have given the role back, and not have looked at what was queued
        meanwhile.
        """
        with self._queue_lock:
            if self._writer is None:
                self._close_if_disposed_locked()
            if not self._is_full():
                self._wake_senders_locked()
        self.wake()

    def _has_unwritten(self) -> bool:
        return bool(self._queue or self._rest) and self._write_failure is None and self._ending is None

    # --- receiving: the receive thread ---------------------------------------------------------------

    def receive(self, timeout: float | None) -> list[str | bytes]:
        if self._ending is not None:
            raise TransportEnded(self._ending)
        # While another thread is writing the socket is writable, and watching it would turn this loop for nothing.
        # A writer that leaves something unwritten wakes this thread.
        watches_writes = self._writer is None and bool(self._rest or self._queue) and self._has_unwritten()
        if watches_writes and self._tls is not None:
            watches_writes = not self._tls.waits_for_server
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
            if self._ending is not None:
                raise TransportEnded(self._ending)
            if self._write_failure is not None:
                self._read_to_the_end(self._write_failure)
        except TransportEnded as ended:
            self._let_writer_finish()
            with self._queue_lock:
                self._ending = self._ending or ended.ending
            if not self._messages:
                raise
        messages, self._messages = self._messages, []
        return messages

    def _let_writer_finish(self) -> None:
        """Let the close frame leave, if another thread is writing: what is queued when the connection is over is lost.

        It takes no longer than a system call, for a writer never waits for the network; bounded all the same.
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
        """Read once; False if nothing was there."""
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
        """As ``_on_data``, over TLS. Without data, what the opening handshake has left."""
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
            # A frame of ours is the occasion for TLS to say what it has to say: an alert, or new keys. RFC 6455 §5.5.3
            # allows a pong that was not asked for.
            self._queue_control(frames.encode_frame(frames.PONG, b""))
            if tls.output_size > _MAX_TLS_OUTPUT:
                raise TransportEnded(Ending("the server asks for more and more of TLS, and does not read it", "server"))
        if failure is not None:
            raise TransportEnded(self._loss(failure)) from failure

    def _on_events(self, events: list[frames.Event]) -> None:
        for event in events:
            if isinstance(event, (str, bytes)):
                self._messages.append(event)
            elif isinstance(event, Ping):
                self._queue_control(frames.encode_frame(frames.PONG, event.payload))
            elif isinstance(event, Close):
                self._on_close(event)

    def _on_close(self, event: Close) -> None:
        # RFC 6455 §5.5.1: the end that did not begin the closing answers with a close frame of the same code.
        began = self._is_closing
        self.close(frames.NORMAL_CLOSURE if event.code == frames.NO_STATUS else event.code, "")
        if began:
            raise TransportEnded(Ending("closed", "local", event.code))
        reason = f": {event.reason}" if event.reason else ""
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
        """Take what the server said before it stopped listening: perhaps why."""
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
            self._queue.clear()
            self._wake_senders_locked()
            if self._writer is None:
                self._close_descriptors()

    def _close_if_disposed_locked(self) -> None:
        # Idempotent. A descriptor closed under a writer could be another file's by the time of its system call. So
        # dispose() leaves the closing to the writer, if there is one.
        if self._is_disposed:
            self._close_descriptors()

    def forget_after_fork(self) -> None:
        # No lock: in the child another thread's lock stays taken for ever. No shutdown either: it acts on what the
        # child shares with its parent; closing a descriptor does not.
        self._is_disposed = True
        # The receiver has the number of a descriptor, which may soon be another's.
        self._ending = self._ending or Ending("this process was forked, and the connection is its parent's", "local")
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self._sock.close()
        self._wake_in.close()
        self._wake_out.close()
        self._send_some = self._sock.send  # no circle any more: what OpenSSL holds goes with this, not some time later
