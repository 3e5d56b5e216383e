"""The far end of a transport, the same for memory and socket, so that one suite runs over both."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tellurio_sync.transport.base import Ending, Transport, TransportEnded
from tellurio_sync.transport.memory import MemoryTransport
from tellurio_sync.transport.tls import TlsStream
from tellurio_sync.transport.websocket import WebSocketTransport

from ..conftest import FAILSAFE
from ..faults.scripted import Disconnected, ServerConnection


def tcp_pair(send_buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets: ours and the far end's.

    Args:
        send_buffer: bytes of each side's buffers, as small as the system allows; None: its default.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.socket()
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, send_buffer)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    theirs.settimeout(FAILSAFE)
    return ours, theirs


def tls_pair(
    server: ssl.SSLContext, client: ssl.SSLContext, send_buffer: int | None = None
) -> tuple[TlsStream, ssl.SSLSocket]:
    """As ``tcp_pair``, with TLS."""
    ours, theirs = tcp_pair(send_buffer)
    wrapped: list[ssl.SSLSocket] = []
    thread = threading.Thread(target=lambda: wrapped.append(server.wrap_socket(theirs, server_side=True)))
    thread.start()
    ours.settimeout(FAILSAFE)
    stream = TlsStream(ours, client, "localhost")
    stream.do_handshake()
    thread.join(FAILSAFE)
    return stream, wrapped[0]


class GatedSocket(socket.socket):
    """A connected socket whose ``send`` can be held, or made to fail."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.failure: BaseException | None = None
        self.fails_after_sending = False

    def hold(self) -> None:
        self.entered.clear()
        self.gate.clear()

    def send(self, data: Any, *args: Any) -> int:
        self.entered.set()
        assert self.gate.wait(FAILSAFE)
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return super().send(data, *args)


class Slip:
    """A receipt."""

    end_offset: int | None = None


class FarEnd(ABC):
    """The other end of ``transport``. Its messages are JSON texts."""

    transport: Transport

    @abstractmethod
    def send(self, *messages: str | bytes) -> None: ...

    @abstractmethod
    def receive(self) -> str:
        """The next message, or fail."""

    @abstractmethod
    def stop_reading(self) -> None: ...

    @abstractmethod
    def answer_close(self) -> None:
        """Read up to the close frame, and answer it."""

    @abstractmethod
    def close(self, code: int) -> None: ...

    @abstractmethod
    def end(self) -> None:
        """End without a close frame."""


class MemoryFarEnd(FarEnd):
    def __init__(self) -> None:
        self.transport: MemoryTransport = MemoryTransport()

    def send(self, *messages: str | bytes) -> None:
        self.transport.server_send(*messages)

    def receive(self) -> str:
        return self.transport.server_receive()

    def stop_reading(self) -> None:
        self.transport.server_stop_reading()

    def answer_close(self) -> None:
        pass  # it answers by itself

    def close(self, code: int) -> None:
        self.transport.server_end(Ending("closed", "server", code))

    def end(self) -> None:
        self.transport.server_end(Ending("ended", "server"))


class SocketFarEnd(FarEnd):
    def __init__(self, ours: socket.socket | TlsStream, theirs: socket.socket, **options: int) -> None:
        self.transport: WebSocketTransport = WebSocketTransport(ours, **options)
        self.connection = ServerConnection(theirs, {})

    def send(self, *messages: str | bytes) -> None:
        self.connection.send_raw(b"".join(map(self.connection.frame, messages)))

    def receive(self) -> str:
        return json.dumps(self.connection.receive())

    def stop_reading(self) -> None:
        pass  # it reads only when it is told to

    def answer_close(self) -> None:
        self.connection.wait_for_end()

    def close(self, code: int) -> None:
        with contextlib.suppress(OSError):
            self.connection.send_close(code)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.sock.shutdown(socket.SHUT_WR)

    def dispose(self) -> None:
        self.transport.dispose()
        self.connection.sock.close()


def receive_until(transport: Transport, is_enough: Callable[[list[str | bytes]], bool]) -> list[str | bytes]:
    """What ``receive`` returns until it is enough."""
    messages: list[str | bytes] = []
    end = time.monotonic() + FAILSAFE
    while not is_enough(messages):
        assert time.monotonic() < end, f"not enough came within {FAILSAFE} s: {len(messages)} messages"
        messages += transport.receive(FAILSAFE)
    return messages


def receive(transport: Transport, count: int) -> list[str | bytes]:
    """The next ``count`` messages."""
    return receive_until(transport, lambda messages: len(messages) >= count)


def receive_ending(transport: Transport) -> tuple[list[str | bytes], Ending]:
    """What comes until the connection is over, and how it ended."""
    messages: list[str | bytes] = []
    try:
        while True:
            messages += transport.receive(FAILSAFE)
    except TransportEnded as ended:
        return messages, ended.ending


class Receiving:
    """Runs a transport's receive loop on a thread of its own, as a peer does."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.messages: list[str | bytes] = []
        self.ending: Ending | None = None
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="receiving")

    def __enter__(self) -> Receiving:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.abort(Ending("the test is over", "local"))
        self.join()

    def join(self) -> None:
        self._thread.join(FAILSAFE)
        assert not self._thread.is_alive(), "the receive loop did not end"

    def wait_for(self, count: int) -> list[str | bytes]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.messages) >= count or self.ending, FAILSAFE)
            return list(self.messages)

    def _run(self) -> None:
        try:
            while True:
                received = self.transport.receive(FAILSAFE)
                with self._came:
                    self.messages += received
                    self._came.notify_all()
        except TransportEnded as ended:
            with self._came:
                self.ending = ended.ending
                self._came.notify_all()


__all__ = ["Disconnected", "FarEnd", "MemoryFarEnd", "Receiving", "SocketFarEnd", "receive", "receive_ending"]
