"""TLS over a connected socket, with the cryptography in memory: OpenSSL never touches the socket.

So the bytes of TLS are read and written as those of a plain connection: many records in one system call, not two calls
for each.  OpenSSL's lock is not held during system calls.  A record of which the socket has taken only a part is kept
here, not in OpenSSL.  After Ctrl-C the state shows what was encrypted and what was written.  ``ssl.SSLSocket`` offers
none of that.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| OpenSSL's state, ``_incoming``, ``_outgoing``, ``_offered`` | any thread | any thread | ``_lock`` | no other has it |
| ``written``, and the record in work: ``_records``, ``_sent`` | the writer | the writer | its role | ``websocket`` |
| ``_decrypter``, ``waits_for_server`` | receive thread; the writer | the same | one store each | – |

``_lock`` is not held during system calls.  The writer's role is that of ``websocket``.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading

RECORD_SIZE = 16 * 1024
"""Bytes: the most that one record holds (RFC 8446 §5.1)."""

FLAGS: tuple[int] = (getattr(socket, "MSG_NOSIGNAL", 0),)
"""For every ``send``: a far end that has gone must not kill a process that left SIGPIPE to the system."""

_READ_SIZE = 64 * 1024
_ALL = (-1,)


def check_context(context: ssl.SSLContext) -> None:
    """Raise ValueError if ``TlsStream`` would bypass an override in this context, such as an own certificate check."""
    kind = type(context)
    makes_sockets = kind.wrap_socket is not ssl.SSLContext.wrap_socket or context.sslsocket_class is not ssl.SSLSocket
    makes_objects = kind.wrap_bio is not ssl.SSLContext.wrap_bio or context.sslobject_class is not ssl.SSLObject
    if makes_sockets and not makes_objects:
        raise ValueError(
            "ssl_context overrides wrap_socket or sslsocket_class, which would not be used: TLS is done in "
            "memory here, so give it a wrap_bio or sslobject_class that does the same"
        )


class TlsStream:
    """The client's end of one TLS connection.

    First one thread uses it as a blocking socket (``do_handshake``, ``send``, ``recv``) for the opening handshake.
    Then a transport uses it: one thread at a time calls ``write``, another one ``decrypt``.

    Args:
        sock: connected; owned from now on.
        context: the TLS context of a client.
        server_hostname: the name that the certificate must have.

    Attributes:
        sock: the socket.
        written: how many bytes given to ``write`` the system has taken, in whole records.
        waits_for_server: whether ``write`` can go on only after ``decrypt`` was called.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, server_hostname: str) -> None:
        self.sock = sock
        self.written: int = 0
        self.waits_for_server: bool = False
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self._lock = threading.Lock()
        # Data on its way out passes through these, one after another. Each step is one store, or C code that records
        # what it did, so that after Ctrl-C the next writer continues at the right place (see ``write``).
        # How many bytes given to OpenSSL are on their way, if `_outgoing` or `_records` holds anything.
        self._offered = 0
        # At most one item: bytes taken out of `_outgoing` and not yet sent.
        self._records: list[bytes | memoryview] = []
        # At most one item: how many of these bytes the socket has taken.
        self._sent: list[int] = []
        self._decrypter: int | None = None  # the thread that is decrypting, if any
        self._send_some = sock.send

    # --- as a blocking socket ----------------------------------------------------------------------

    def do_handshake(self) -> None:
        """Agree on keys, and check the server's certificate. Blocks; each wait takes at most the socket's time-out.

        Raises:
            OSError: an error of the socket, or ssl.SSLError.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                if not self._receive_more():
                    self._incoming.write_eof()  # OpenSSL raises the error that fits
            except ssl.SSLError:
                self._send_alert()
                raise
            else:
                self._send_out()
                return

    def send(self, data: bytes) -> int:
        """Send all of ``data``. That the server has gone is not reported here: its last words, read next, say more.

        Raises:
            OSError: an error of the socket.
        """
        count = self._tls.write(data)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self._send_out()
        return count

    def recv(self, size: int) -> bytes:
        """Read at most ``size`` bytes; none at the end of the stream.

        Raises:
            OSError: an error of the socket, or ssl.SSLError.
        """
        while True:
            try:
                return self._tls.read(size)
            except ssl.SSLWantReadError:
                if not self._receive_more():
                    return b""
            except ssl.SSLError:
                self._send_alert()
                raise

    def _receive_more(self) -> bool:
        """Send what OpenSSL has put out, and read what it needs; False at the end of the stream."""
        self._send_out()
        data = self.sock.recv(_READ_SIZE)
        self._incoming.write(data)
        return bool(data)

    def _send_alert(self) -> None:
        with contextlib.suppress(OSError):
            self._send_out()

    def _send_out(self) -> None:
        data = self._outgoing.read()
        if data:  # an empty send makes Linux report and forget that the server is gone, before its last words are read
            self.sock.sendall(data, *FLAGS)

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
        """Write as much of the beginning of ``data`` as one record holds, or continue with that.

        OpenSSL's own messages are written first.

        Args:
            data: not empty. Until a part of it is written, each call must pass the same data, or more behind it.
            offset: where ``data`` begins, in bytes of all data before it.

        Returns:
            How many bytes of ``data`` are written: 0 while the socket has taken only a part of their record.

        Raises:
            BlockingIOError: the socket takes no more for now.
            ssl.SSLWantReadError: a message of the server has to be read first; see ``waits_for_server``.
            OSError: the connection is broken.
        """
        if self._sent:  # left by a writer that Ctrl-C interrupted
            self._account()
        elif self.written == offset:
            if not self._records:
                self._encrypt(data[:RECORD_SIZE])
            # One piece of C code calls `_send_some` and stores the result: Ctrl-C cannot come in between.
            self._sent.extend(map(self._send_some, self._records, FLAGS))
            self._account()
        return self.written - offset

    def _encrypt(self, data: bytes | memoryview) -> None:
        if self._decrypter is not None and self._decrypter == threading.get_ident():
            # The garbage collector runs a finaliser that sends, inside `decrypt`, which holds the lock: done later.
            raise BlockingIOError(errno.EAGAIN, "in use by this thread")
        failure: ssl.SSLError | None = None
        with self._lock:
            # If something is there already, `decrypt` has put it there, or a writer that Ctrl-C interrupted; in the
            # second case it is the beginning of `data`.
            if not self._outgoing.pending:
                self._offered = len(data)
                try:
                    self._tls.write(data)  # all or nothing: Python does not enable OpenSSL's partial writes
                except ssl.SSLError as exc:
                    self._offered = 0
                    failure = exc
            if self._outgoing.pending:
                self._records.extend(map(self._outgoing.read, _ALL))
                failure = None  # this goes first: the server may be waiting for it
            elif isinstance(failure, ssl.SSLWantReadError):
                self.waits_for_server = True
        if failure is not None:
            raise failure

    def _account(self) -> None:
        """Note how much the socket has taken."""
        sent = self._sent[0]
        records = self._records[0]
        none_sent: list[int] = []
        if sent == len(records):
            none_left: list[bytes | memoryview] = []
            # These stores stand together, without a call between them, so that Ctrl-C cannot separate them.
            self.written += self._offered
            self._offered = 0
            self._records = none_left
            self._sent = none_sent
        else:  # the server can read nothing of a record that is not whole, so nothing of it counts as written
            rest: list[bytes | memoryview] = [memoryview(records)[sent:]]
            # Together, as above.
            self._records = rest
            self._sent = none_sent

    def may_be_beyond(self, offset: int) -> bool:
        """Whether, after Ctrl-C in ``write``, it may have written more than ``offset`` bytes."""
        return bool(self._sent) or self.written != offset

    @property
    def output_size(self) -> int:
        """How many bytes OpenSSL has put out that are still to be taken from it."""
        return self._outgoing.pending

    def decrypt(self, data: bytes, pieces: list[bytes]) -> bool:
        """Decrypt bytes that were read from the socket into ``pieces``; an empty piece is the end of the stream.

        The first call also gives what the opening handshake has left over; ``data`` may be empty.

        Returns:
            Whether OpenSSL has an answer to send (for example if the server asks for new keys): ``write`` sends it.

        Raises:
            ssl.SSLError: the bytes were changed on the way; ``pieces`` has what came before them.
        """
        self._decrypter = threading.get_ident()
        try:
            with self._lock:
                output_before = self._outgoing.pending
                if self._offered and not self._records and not output_before:
                    self._offered = 0  # Ctrl-C came before OpenSSL took it, so what is put out below is something else
                self._incoming.write(data)
                try:
                    while True:
                        piece = self._tls.read(RECORD_SIZE)
                        pieces.append(piece)
                        # Each read gives a whole record, or the rest that `recv` has left: OpenSSL keeps nothing back.
                        if not self._incoming.pending or not piece:
                            break
                except ssl.SSLWantReadError:
                    pass  # only a part of a record has come, or the record is for OpenSSL itself
                self.waits_for_server = False
                return self._outgoing.pending > output_before
        finally:
            self._decrypter = None
