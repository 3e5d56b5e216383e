"""TLS over a connected socket, with its cryptography in memory: OpenSSL never touches the socket.

So the bytes of a record are read and written as those of a plain connection are: many records in one system call, not
two for each; nobody holds OpenSSL's lock while the system is at work; a record that the socket takes only in part is
kept here, not in OpenSSL; and where Ctrl-C comes, what was encrypted and what was written can be told by looking.
``ssl.SSLSocket`` gives none of that.

| State | Written by | Guarded by |
|---|---|---|
| OpenSSL's, ``_incoming``, ``_outgoing`` | any thread | ``_lock``, held for no system call |
| ``written`` and what is on its way to it | the writer | the writer's role (see ``websocket``) |
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

RECORD_SIZE = 16 * 1024
"""Bytes: what one record holds at most (RFC 8446 §5.1)."""

_READ_SIZE = 64 * 1024
_ALL = (-1,)


class TlsStream:
    """The client's end of one TLS connection.

    At first one thread uses it as a blocking socket: ``do_handshake``, ``send`` and ``recv``, for the opening handshake
    of whatever is spoken over it.  Then it is a transport's: one thread at a time calls ``write``, another ``decrypt``.

    Args:
        sock: connected; owned from now on.
        context: of a client.
        server_hostname: whom the certificate must name.

    Attributes:
        sock: the socket.
        written: bytes of what ``write`` was given that the system took, in whole records.
        waits_for_server: whether ``write`` can go on only when ``decrypt`` was called.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str) -> None:
        self.sock = sock
        self.written = 0
        self.waits_for_server = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._lock = threading.Lock()
        # What is written goes through these, one after another. Each step is one store, or C code that leaves its mark,
        # so that after Ctrl-C the next writer goes on where it came (see ``write``).
        self._offered = 0  # bytes given to OpenSSL: those on their way, if anything is in `_outgoing` or `_records`
        self._records: list[bytes | memoryview] = []  # at most one item: what came out of `_outgoing`, not yet sent
        self._sent: list[int] = []  # at most one item: bytes that the socket took of it
        self._send_some = sock.send

    # --- as a blocking socket ----------------------------------------------------------------------

    def do_handshake(self) -> None:
        """Agree on keys, and check the server's certificate. Blocks, each wait at most the socket's time-out.

        Raises:
            OSError: the socket's, or ssl.SSLError.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._send_out()
                data = self.sock.recv(_READ_SIZE)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()  # OpenSSL raises what there is to say of that
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._send_out()  # the alert that tells the server why
                raise
            else:
                self._send_out()
                return

    def send(self, data: bytes) -> int:
        """Send all of it."""
        count = self._tls.write(data)
        self._send_out()
        return count

    def recv(self, size: int) -> bytes:
        """At most so many bytes; none at the end of the stream."""
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                self._send_out()
                data = self.sock.recv(_READ_SIZE)
                if not data:
                    return b""
                self._incoming.write(data)

    def _send_out(self) -> None:
        self.sock.sendall(self._outgoing.read())

    def gettimeout(self) -> float | None:
        return self.sock.gettimeout()

    def settimeout(self, timeout: float | None) -> None:
        self.sock.settimeout(timeout)

    def fileno(self) -> int:
        return self.sock.fileno()

    def shutdown(self, how: int) -> None:
        self.sock.shutdown(how)

    def close(self) -> None:
        self.sock.close()

    # --- a transport's -----------------------------------------------------------------------------

    def write(self, data: bytes | memoryview, offset: int) -> int:
        """Write as much of the beginning as a record holds, or go on with that.

        What OpenSSL has to say for itself goes first.

        Args:
            data: not empty. Until something of it is written, the same again, or more behind it.
            offset: where it begins, in bytes of all data before it.

        Returns:
            How many bytes of it are written: 0 while the socket has taken only a part of their record.

        Raises:
            BlockingIOError: the socket takes no more for now.
            ssl.SSLWantReadError: something of the server's has to be read first; see ``waits_for_server``.
            OSError: the connection is broken.
        """
        if self._sent:  # by a writer whom Ctrl-C interrupted
            self._account()
        elif self.written == offset:
            if not self._records:
                self._encrypt(data[:RECORD_SIZE])
            # C code from the call to the list: Ctrl-C cannot come between sending and noting how much.
            self._sent.extend(map(self._send_some, self._records))
            self._account()
        return self.written - offset

    def _encrypt(self, data: bytes | memoryview) -> None:
        failure: ssl.SSLError | None = None
        with self._lock:
            # What is there already was put there by `decrypt`, or by a writer whom Ctrl-C interrupted: then it is what
            # `data` begins with.
            if not self._outgoing.pending:
                self._offered = len(data)
                try:
                    self._tls.write(data)  # all or nothing: Python leaves OpenSSL's partial writes off
                except ssl.SSLError as exc:
                    self._offered = 0
                    failure = exc
            if self._outgoing.pending:
                self._records.extend(map(self._outgoing.read, _ALL))
                failure = None  # this goes first: it may be what the server waits for
            elif isinstance(failure, ssl.SSLWantReadError):
                self.waits_for_server = True
        if failure is not None:
            raise failure

    def _account(self) -> None:
        """Note what the socket took."""
        sent = self._sent[0]
        records = self._records[0]
        none_sent: list[int] = []
        if sent == len(records):
            none_left: list[bytes | memoryview] = []
            # Together, without a call between them, for Ctrl-C's sake.
            self.written += self._offered
            self._offered = 0
            self._records = none_left
            self._sent = none_sent
        else:  # of a record that is not whole nothing can be read: nothing of it is written yet
            rest: list[bytes | memoryview] = [memoryview(records)[sent:]]
            # Together, as above.
            self._records = rest
            self._sent = none_sent

    def may_be_beyond(self, offset: int) -> bool:
        """Whether, after Ctrl-C in ``write``, it may have written more than ``offset`` bytes."""
        return bool(self._sent) or self.written != offset

    @property
    def has_output(self) -> bool:
        """Whether OpenSSL has something to say for itself, as where the server asks for new keys: ``write`` says it."""
        return self._outgoing.pending > 0

    def decrypt(self, data: bytes, pieces: list[bytes]) -> None:
        """Take what was read from the socket, and append what it says to ``pieces``; an empty one ends the stream.

        The first time it also gives what the opening handshake has left; ``data`` may be empty.

        Raises:
            ssl.SSLError: it is not what the server sent; ``pieces`` has what came before.
        """
        with self._lock:
            if self._offered and not self._records and not self._outgoing.pending:
                self._offered = 0  # Ctrl-C came before OpenSSL took it: what is put out below is something else
            self._incoming.write(data)
            try:
                while True:
                    piece = self._tls.read(RECORD_SIZE)
                    pieces.append(piece)
                    # What is read is a whole record, or what `recv` left of it: OpenSSL keeps nothing back.
                    if not self._incoming.pending or not piece:
                        break
            except ssl.SSLWantReadError:
                pass  # a part of a record, or one that is OpenSSL's own
            self.waits_for_server = False
