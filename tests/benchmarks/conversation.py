"""What clients say to the two cheap servers, and what they hear."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

from ..conftest import FAILSAFE
from .server import FINAL_TEXT, frame, unmask

UPGRADE = b"GET / HTTP/1.1\r\nHost: here\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
MIB = 1024 * 1024


class Port(NamedTuple):
    """Where a server listens, and over TLS the context of its clients."""

    number: int
    context: ssl.SSLContext | None = None


Ports = tuple[Port, Port]
"""Of the server in Python and of the one in C."""


class Line:
    """A client's end of a connection."""

    def __init__(self, port: Port) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port.number), FAILSAFE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, limit: int = MIB) -> bytes:
        return self.sock.recv(limit)

    def read(self, size: int) -> bytes:
        """As many bytes; fewer if the server ends the connection."""
        heard = bytearray()
        while len(heard) < size and (more := self.receive(size - len(heard))):
            heard += more
        return bytes(heard)

    def read_to_end(self) -> bytes:
        heard = bytearray()
        while more := self.receive():
            heard += more
        return bytes(heard)

    def end_output(self) -> None:
        with contextlib.suppress(OSError):  # a server that has ended the connection, on macOS
            self.sock.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()


class TlsLine(Line):
    """The same over TLS.

    One thread may send while another receives, and records can be had before they are sent.
    """

    def __init__(self, port: Port) -> None:
        super().__init__(port)
        assert port.context is not None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = port.context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._lock = threading.Lock()  # OpenSSL does not know threads
        try:
            self._do(self.tls.do_handshake)
            self.sock.sendall(self._outgoing.read())
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> TlsLine:
        return self

    def encrypted(self, data: bytes) -> bytes:
        """The records that say this; they have to be sent in the order in which they were made."""
        with self._lock:
            self.tls.write(data)
            return self._outgoing.read()

    def farewell(self) -> bytes:
        """The record that ends the output."""
        with self._lock:
            with contextlib.suppress(ssl.SSLWantReadError):  # which would wait for the server's
                self.tls.unwrap()
            return self._outgoing.read()

    def send(self, data: bytes) -> None:
        self.sock.sendall(self.encrypted(data))

    def receive(self, limit: int = MIB) -> bytes:
        try:
            heard: bytes = self._do(lambda: self.tls.read(limit))
            return heard
        except ssl.SSLError as exc:
            # A server ends without a word; or with this one, if the client has ended its output without a word.
            if isinstance(exc, ssl.SSLEOFError) or exc.reason == "TLSV1_ALERT_DECODE_ERROR":
                return b""
            raise

    def _do(self, step: Callable[[], Any]) -> Any:
        """What ``step`` gives when enough has come for it."""
        while True:
            with self._lock:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    records = self._outgoing.read()
            if records:  # of the handshake; later there are none, and the output may have ended
                self.sock.sendall(records)
            more = self.sock.recv(MIB)
            with self._lock:
                if more:
                    self._incoming.write(more)
                else:
                    self._incoming.write_eof()


def connect(port: Port) -> Line:
    return Line(port) if port.context is None else TlsLine(port)


def upgraded(port: Port) -> Line:
    """A connection whose greeting has been read."""
    line = connect(port)
    line.send(UPGRADE)
    heard = b""
    while b'"id":null}' not in heard:
        heard += line.receive()
    return line


def masked(payload: bytes, first: int = FINAL_TEXT, mask: bytes = b"\x9a\x00\x17\xf3") -> bytes:
    """A frame as clients send it."""
    header = bytearray(frame(payload, first)[: 2 if len(payload) < 126 else 4 if len(payload) < 1 << 16 else 10])
    header[1] |= 0x80
    return bytes(header) + mask + unmask(payload, mask)


def request(method: str = "update_variable", id_: object = "7", size: int = 0) -> bytes:
    """As clients write it: the id comes last."""
    params = {"text": random.Random(size).randbytes(size // 2).hex()}
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": id_}).encode()


def said(port: Port, *pieces: bytes) -> bytes:
    """What a client hears that says this and then ends its output, until the server ends its own."""

    def say() -> None:
        for piece in pieces:
            line.send(piece)
        line.end_output()

    # Both at once: a server may wait for the client to read.
    with connect(port) as line, ThreadPoolExecutor(1) as pool:
        saying = pool.submit(say)
        heard = line.read_to_end()
        saying.result(FAILSAFE)
    return heard


def both(ports: Ports, conversation: Callable[[Port], bytes]) -> bytes:
    """What both servers answer."""
    slow, fast = (conversation(port) for port in ports)
    assert slow == fast
    return fast


def payloads(heard: bytes) -> list[bytes]:
    """Of the frames that the server has sent."""
    found = []
    while heard:
        size, start = heard[1], 2
        if size == 126:
            size, start = struct.unpack_from("!H", heard, 2)[0], 4
        elif size == 127:
            size, start = struct.unpack_from("!Q", heard, 2)[0], 10
        assert len(heard) >= start + size
        found.append(heard[start : start + size])
        heard = heard[start + size :]
    return found


def replies(ports: Ports, *frames: bytes) -> list[bytes]:
    """What both servers answer to these frames, behind the greeting."""
    heard = both(ports, lambda port: said(port, UPGRADE, *frames))
    return payloads(heard.partition(b"\r\n\r\n")[2])[1:]


def vanish(line: Line) -> None:
    """End the connection by a reset."""
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.sock.close()


def segments(line: Line) -> int:
    """How many with data have come, says Linux: ``tcpi_data_segs_in``."""
    return int(struct.unpack_from("I", line.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160), 152)[0])
