"""A WebSocket server whose behaviour is a function of the test: blocking sockets, framing by wsproto.

wsproto is an implementation of RFC 6455 independent of ours, so what both understand is understood by others.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong, TextMessage

FAILSAFE = 30.0
GREETING = {"jsonrpc": "2.0", "result": {"session_id": "session-1"}, "id": None}


class Disconnected(Exception):
    """The client ended the connection."""


class ServerConnection:
    """One client's connection, from the server's side."""

    def __init__(self, sock: socket.socket, headers: dict[str, str]) -> None:
        self.sock = sock
        self.headers = headers
        self.close_code: int | None = None
        self.last_id: Any = None  # of the newest message received
        self.pings = 0
        self.pongs: list[bytes] = []
        self._ws = Connection(ConnectionType.SERVER)
        self._write_lock = threading.Lock()
        self._messages: list[str] = []
        self._text = ""

    def send(self, message: Any) -> None:
        """Send a JSON value as one text message."""
        self.send_text(json.dumps(message))

    def send_text(self, text: str) -> None:
        self.send_raw(self.frame(text))

    def frame(self, message: str | bytes) -> bytes:
        """The bytes of a text or binary message, for sending them otherwise than whole."""
        return self._ws.send(Message(data=message))

    def send_ping(self, payload: bytes = b"") -> None:
        self.send_raw(self._ws.send(Ping(payload=payload)))

    def send_raw(self, data: bytes) -> None:
        with self._write_lock:  # a pong must not come into the middle of another thread's message
            self.sock.sendall(data)

    def greet(self) -> None:
        self.send(GREETING)

    def reply(self, request: dict[str, Any], result: Any) -> None:
        self.send({"jsonrpc": "2.0", "id": request["id"], "result": result})

    def receive(self) -> Any:
        """The next message of the client, decoded.

        Raises:
            Disconnected: there will be none.
        """
        while not self._messages:
            if self.close_code is not None:
                raise Disconnected
            self._read()
        message = json.loads(self._messages.pop(0))
        self.last_id = message.get("id") if isinstance(message, dict) else None
        return message

    def requests(self) -> Iterator[dict[str, Any]]:
        """The messages of the client until it disconnects."""
        with contextlib.suppress(Disconnected):
            while True:
                yield self.receive()

    def wait_for_end(self) -> None:
        for _ in self.requests():
            pass

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame, and wait for the client's."""
        self.send_close(code, reason)
        self.wait_for_end()

    def send_close(self, code: int = 1000, reason: str = "") -> None:
        """Send a close frame, and leave it to the test what comes next."""
        self.send_raw(self._ws.send(CloseConnection(code=code, reason=reason)))

    def reset(self) -> None:
        """End the stream with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _read(self) -> None:
        try:
            data = self.sock.recv(65536)
        except OSError as exc:
            raise Disconnected from exc
        if not data:
            raise Disconnected
        self._ws.receive_data(data)
        for event in self._ws.events():
            self._on_event(event)

    def _on_event(self, event: Any) -> None:
        if isinstance(event, TextMessage):
            self._text += event.data
            if event.message_finished:
                self._messages.append(self._text)
                self._text = ""
        elif isinstance(event, Ping):
            self.pings += 1
            self.send_raw(self._ws.send(event.response()))
        elif isinstance(event, Pong):
            self.pongs.append(bytes(event.payload))
        elif isinstance(event, CloseConnection):
            self.close_code = event.code
            with contextlib.suppress(Exception):  # the client may be gone, or this end began the closing
                self.send_raw(self._ws.send(event.response()))
        elif not isinstance(event, BytesMessage):
            raise AssertionError(f"unexpected event {event}")


Script = Callable[[ServerConnection], None]


class ScriptedServer:
    """Serves each connection by ``script`` in a thread of its own, until it returns.

    Args:
        script: what to do with a connection whose handshake is done.
        status: HTTP status of the handshake reply, or a list: one per connection, the last one for the rest.
        greet: send the greeting in one segment with the handshake reply.
        tls: a server-side context, None for plain TCP.
        on_accept: instead of the handshake, do this with the accepted socket.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        status: int | list[int] = 101,
        greet: bool = True,
        tls: ssl.SSLContext | None = None,
        on_accept: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self._script = script or ServerConnection.wait_for_end
        self._statuses = [status] if isinstance(status, int) else list(status)
        self._greet = greet
        self._tls = tls
        self._on_accept = on_accept
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self.connections: list[ServerConnection] = []
        self.accepted = 0
        self.errors: list[BaseException] = []

    def __enter__(self) -> ScriptedServer:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.base_url = "wss://localhost" if self._tls else "ws://127.0.0.1"
        self._acceptor = threading.Thread(target=self._accept, name="scripted server", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if exc_type is None and self.errors:
            raise self.errors[0]

    def stop(self) -> None:
        """Stop listening and end every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        end = time.monotonic() + FAILSAFE  # for all together: there may be a thousand
        self._acceptor.join(FAILSAFE)
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
            assert not thread.is_alive(), "a connection of the scripted server did not end"
        for sock in sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._sockets.append(sock)
                self.accepted += 1
                status = self._statuses[min(self.accepted, len(self._statuses)) - 1]
            thread = threading.Thread(target=self._serve, args=(sock, status), name="scripted connection", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, status: int) -> None:
        try:
            sock.settimeout(FAILSAFE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # two replies in a row cost no 40 ms
            if self._on_accept is not None:
                self._on_accept(sock)
                return
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._sockets.append(sock)
            headers = _read_head(sock)
            connection = ServerConnection(sock, headers)
            if status != 101:
                sock.sendall(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
                return
            reply = _upgrade(headers)
            if self._greet:
                reply += connection.frame(json.dumps(GREETING))
            # Noted first: the client may look as soon as it has the answer.
            self.connections.append(connection)
            sock.sendall(reply)
            self._script(connection)
        except (OSError, Disconnected):
            pass  # the client went away: the script is over
        except BaseException as exc:  # noqa: BLE001 - raised when the server stops
            self.errors.append(exc)
        finally:
            with contextlib.suppress(OSError):
                sock.close()


def _read_head(sock: socket.socket) -> dict[str, str]:
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(65536)
        if not data:
            raise Disconnected
        head += data
    lines = head.decode().split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def _upgrade(headers: dict[str, str]) -> bytes:
    key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()
