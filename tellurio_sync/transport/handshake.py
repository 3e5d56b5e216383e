"""Opening a WebSocket: address, proxy, TLS and the HTTP upgrade, all by websocket-client.

The only module that imports it.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import websocket

from .base import DialFailed
from .tls import TlsStream
from .websocket import DEFAULT_MAX_MESSAGE_SIZE, WebSocketTransport

_NO_ROUTE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL}
_LONGEST_TIMEOUT = 86400.0  # sockets and timers refuse centuries


class Dialer:
    """One attempt to open a WebSocket. ``abort`` from any thread, ``dial`` once.

    Args:
        url: ``ws://`` or ``wss://``.
        headers: more lines for the upgrade request.
        timeout: seconds, > 0, for the attempt as a whole; a name server that does not answer is not interrupted.
        ssl_context: None: the system's certificates, host name checked.
        max_message_size: bytes, > 0, of an incoming message.
    """

    def __init__(
        self,
        url: str,
        headers: list[str],
        *,
        timeout: float,
        ssl_context: ssl.SSLContext | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
    ) -> None:
        self._url = url
        self._headers = headers
        self._timeout = min(timeout, _LONGEST_TIMEOUT)
        self._max_message_size = max_message_size
        self._tls: TlsStream | None = None  # during the TLS handshake
        context = _WatchedContext(ssl_context, self._tls_handshake) if url.startswith("wss:") else None
        self._websocket = websocket.WebSocket(sslopt={"context": context}, skip_utf8_validation=True)
        self._is_aborted = False
        self._is_expired = False

    def dial(self) -> WebSocketTransport:
        """Connect, upgrade, and hand over the socket. Blocks, at most the timeout.

        Raises:
            DialFailed: the attempt failed; nothing stays open.
        """
        try:
            with self._watchdog():
                # A redirect is not followed: it would carry the key to another host.
                self._websocket.connect(self._url, header=self._headers, timeout=self._timeout, redirect_limit=0)
            return self._take_over()
        except Exception as exc:  # noqa: BLE001 - whatever it is, an error of this package is raised for it below
            failure = self._failure(exc)
        # Not raised in the handler: the library's exception would be attached to it, with the key in its frames.
        raise failure

    def abort(self) -> None:
        """Make ``dial`` fail soon: at once during TLS and the handshake, at the end of the TCP connect before it."""
        self._is_aborted = True
        sock = self._tls or self._websocket.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected yet, or no longer: then there is nothing to wake

    @contextlib.contextmanager
    def _watchdog(self) -> Iterator[None]:
        # The time-out of the socket starts again with each byte of the reply, so a slow server could take for ever.
        timer = threading.Timer(self._timeout, self._expire)
        timer.daemon = True
        timer.name = "tellurio-sync connect time-out"
        try:
            timer.start()
        except RuntimeError:
            # No thread can be started, as at the end of the interpreter: the time-out of the socket must suffice.
            yield
            return
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _expire(self) -> None:
        self._is_expired = True
        self.abort()

    def _tls_handshake(self, stream: TlsStream) -> None:
        self._tls = stream
        try:
            if self._is_aborted:
                raise ConnectionAbortedError
            stream.do_handshake()
        except BaseException:
            stream.close()
            raise
        self._tls = None

    def _take_over(self) -> WebSocketTransport:
        sock, self._websocket.sock = self._websocket.sock, None
        assert sock is not None, "connect returned"
        try:
            if self._is_aborted or self._websocket.status != 101:
                raise ConnectionAbortedError
            return WebSocketTransport(sock, max_message_size=self._max_message_size)
        except BaseException:
            sock.close()
            raise

    def _failure(self, exc: Exception) -> DialFailed:
        """The error for a failed attempt: the stage, and a text without headers."""
        status = self._refusal_status(exc)
        if self._is_expired or isinstance(exc, (TimeoutError, websocket.WebSocketTimeoutException)):
            text = f"no complete answer within {self._timeout:g} s"
        elif self._is_aborted:
            text = "given up by this side"
        elif isinstance(exc, websocket.WebSocketBadStatusException):
            text = f"the server answered HTTP {status} {exc.status_message or ''}".strip()
        elif status is not None:
            text = f"the server answered HTTP {status}, a redirect, which is not followed"
        else:
            text = (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__
        return DialFailed(self._stage(exc), text, status)

    def _refusal_status(self, exc: Exception) -> int | None:
        if isinstance(exc, websocket.WebSocketBadStatusException):
            return int(exc.status_code)
        status = self._websocket.status
        return None if status in (None, 101) else int(status)

    def _stage(self, exc: Exception) -> str:
        if self._tls is not None or isinstance(exc, ssl.SSLError):
            return "TLS"
        if isinstance(exc, websocket.WebSocketAddressException):
            return "DNS"
        if isinstance(exc, websocket.WebSocketProxyException):
            return "proxy"
        if isinstance(exc, websocket.WebSocketException):
            return "handshake"
        if isinstance(exc, TimeoutError) or (isinstance(exc, OSError) and exc.errno in _NO_ROUTE):
            return "TCP"
        return "url" if isinstance(exc, ValueError) else "handshake"


class _WatchedContext:
    """The part of a TLS context that websocket-client uses. Shows the stream before its handshake, for ``abort``."""

    def __init__(self, context: ssl.SSLContext | None, handshake: Callable[[TlsStream], None]) -> None:
        self._context = ssl.create_default_context() if context is None else context
        self._handshake = handshake

    def wrap_socket(self, sock: socket.socket, *, server_hostname: str, **_: Any) -> TlsStream:
        stream = TlsStream(sock, self._context, server_hostname)
        self._handshake(stream)
        return stream
