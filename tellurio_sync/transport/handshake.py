"""Opening a WebSocket: address, proxy, TLS and the HTTP upgrade, all by websocket-client.

The only module that imports it.
"""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from typing import Any

import websocket

from .base import DialFailed
from .websocket import DEFAULT_MAX_MESSAGE_SIZE, WebSocketTransport

_NO_ROUTE = {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL}


class Dialer:
    """One attempt to open a WebSocket. ``abort`` from any thread, ``dial`` once.

    Args:
        url: ``ws://`` or ``wss://``.
        headers: further lines of the upgrade request.
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
        self._timeout = timeout
        self._max_message_size = max_message_size
        sslopt: dict[str, Any] = {} if ssl_context is None else {"context": ssl_context}
        self._websocket = websocket.WebSocket(sslopt=sslopt, skip_utf8_validation=True)
        self._is_aborted = False
        self._is_expired = False

    def dial(self) -> WebSocketTransport:
        """Connect, upgrade, and hand over the socket. Blocks, at most the timeout.

        Raises:
            DialFailed: it did not work; nothing stays open.
        """
        # The socket's own time-out counts anew for each byte of the reply: a slow server could take for ever.
        watchdog = threading.Timer(self._timeout, self._expire)
        watchdog.daemon = True
        watchdog.name = "tellurio-sync connect time-out"
        watchdog.start()
        try:
            # A redirect is not followed: it would carry the key to another host.
            self._websocket.connect(self._url, header=self._headers, timeout=self._timeout, redirect_limit=0)
        except Exception as exc:
            raise self._failure(exc) from exc
        finally:
            watchdog.cancel()
            watchdog.join()
        sock = self._websocket.sock
        if self._is_aborted or sock is None:
            self.abort()
            if sock is not None:
                sock.close()
            raise self._failure(ConnectionAbortedError())
        self._websocket.sock = None
        return WebSocketTransport(sock, max_message_size=self._max_message_size)

    def abort(self) -> None:
        """Make ``dial`` fail soon: at once during TLS and the handshake, at the end of the TCP connect before it."""
        self._is_aborted = True
        sock = self._websocket.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected yet, or no longer: then there is nothing to wake

    def _expire(self) -> None:
        self._is_expired = True
        self.abort()

    def _failure(self, exc: Exception) -> DialFailed:
        """What to tell of a failed attempt: the stage, and a text without headers."""
        if self._is_expired:
            return DialFailed("handshake", f"no complete answer within {self._timeout:g} s")
        if self._is_aborted:
            return DialFailed("handshake", "given up by this side")
        if isinstance(exc, websocket.WebSocketBadStatusException):
            status = int(exc.status_code)
            text = f"the server answered HTTP {status} {exc.status_message or ''}".strip()
            return DialFailed("handshake", text, status)
        if isinstance(exc, websocket.WebSocketAddressException):
            return DialFailed("DNS", str(exc))
        if isinstance(exc, websocket.WebSocketProxyException):
            return DialFailed("proxy", str(exc))
        if isinstance(exc, websocket.WebSocketTimeoutException):
            return DialFailed("handshake", f"no answer within {self._timeout:g} s")
        if isinstance(exc, websocket.WebSocketException):
            return DialFailed("handshake", str(exc))
        if isinstance(exc, ssl.SSLError) or (isinstance(exc, TimeoutError) and "handshake" in str(exc)):
            return DialFailed("TLS", str(exc))
        if isinstance(exc, TimeoutError):
            return DialFailed("TCP", f"no answer within {self._timeout:g} s")
        if isinstance(exc, OSError):
            stage = "TCP" if exc.errno in _NO_ROUTE else "handshake"
            return DialFailed(stage, exc.strerror or str(exc))
        if isinstance(exc, ValueError):
            return DialFailed("url", str(exc))
        return DialFailed("handshake", f"{type(exc).__name__}: {exc}")
