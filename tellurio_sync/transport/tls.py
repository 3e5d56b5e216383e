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


def check_context(context: ssl.SSLContext) -> None:
    """Raise ValueError if ``TlsStream`` would pass by what this context does of its own: a check that fails open."""
    kind = type(context)
    makes_sockets = kind.wrap_socket is not ssl.SSLContext.wrap_socket or context.sslsocket_class is not ssl.SSLSocket
    makes_objects = kind.wrap_bio is not ssl.SSLContext.wrap_bio or context.sslobject_class is not ssl.SSLObject
    if makes_sockets and not makes_objects:
        raise ValueError(
            "ssl_context has a wrap_socket or sslsocket_class of its own, which would not be used: TLS is done in "
            "memory here, so give it a wrap_bio or sslobject_class that does the same"
        )


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
        self._decrypter: int | None = None  # the thread that decrypts, while it does
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
                if not self._receive_more():
                    self._incoming.write_eof()  # OpenSSL raises what there is to say of that
            except ssl.SSLError:
                self._send_alert()
                raise
            else:
                self._send_out()
                return

    def send(self, data: bytes) -> int:
        """Send all of it. A server that has gone is not told of here: what it said before is read next, and says more.

        Raises:
            OSError: the socket's.
        """
        count = self._tls.write(data)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self._send_out()
        return count

    def recv(self, size: int) -> bytes:
        """At most so many bytes; none at the end of the stream.

        Raises:
            OSError: the socket's, or ssl.SSLError.
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
        """Say what OpenSSL has to say, and wait for what it needs; False at the end of the stream."""
        self._send_out()
        data = self.sock.recv(_READ_SIZE)
        self._incoming.write(data)
        return bool(data)

    def _send_alert(self) -> None:
        with contextlib.suppress(OSError):
            self._send_out()

    def _send_out(self) -> None:
        data = self._outgoing.read()
        if data:  # sending nothing, Linux reports and forgets that the server is gone, before its last words are read
            self.sock.sendall(data)

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
        if self._decrypter is not None and self._decrypter == threading.get_ident():
            # A finalizer sends, run by the garbage collector within `decrypt`, which has the lock: see to it later.
            raise BlockingIOError
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
    def output_size(self) -> int:
        """Bytes that OpenSSL has put out and that were not taken from it yet."""
        return self._outgoing.pending

    def decrypt(self, data: bytes, pieces: list[bytes]) -> bool:
        """Take what was read from the socket, and append what it says to ``pieces``; an empty one ends the stream.

        The first time it also gives what the opening handshake has left; ``data`` may be empty.

        Returns:
            Whether OpenSSL has an answer of its own, as where the server asks for new keys: ``write`` sends it.

        Raises:
            ssl.SSLError: it is not what the server sent; ``pieces`` has what came before.
        """
        self._decrypter = threading.get_ident()
        try:
            with self._lock:
                output_before = self._outgoing.pending
                if self._offered and not self._records and not output_before:
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
                return self._outgoing.pending > output_before
        finally:
            self._decrypter = None
