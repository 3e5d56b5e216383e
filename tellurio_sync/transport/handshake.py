"""Opening a WebSocket: address, proxy, TCP, TLS, and the HTTP upgrade, which is websocket-client's.

The only module that imports it.  This package makes the socket (see ``tcp``), so that every stage can be
aborted, and nothing is sent by an attempt that was given up.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_stage``, ``_proxy`` | the thread that dials | that thread | ownership | – |
| ``_sock`` | the thread that dials | ``abort``, the timer | stored before ``_is_aborted`` is read | – |
| ``_is_aborted``, ``_is_expired`` | any thread; timer | the thread that dials | stored before ``_sock`` is read | – |
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import websocket
from websocket._url import get_proxy_info

from ..secret import Secret
from ..surroundings import certificate_hint, tls_context
from . import tcp
from .base import DialFailed
from .tls import FLAGS, TlsStream
from .websocket import DEFAULT_MAX_MESSAGE_SIZE, WebSocketTransport

_LONGEST_TIMEOUT = 86400.0  # sockets and timers refuse centuries
# RFC 6455 §4.1: an answer with either is refused, for none is offered.
_NOT_OFFERED = (("sec-websocket-extensions", "extension"), ("sec-websocket-protocol", "subprotocol"))


class Dialer:
    """One attempt to open a WebSocket. ``abort`` from any thread, ``dial`` once.

    Args:
        url: ``ws://`` or ``wss://``.
        headers: more lines for the upgrade request.
        timeout: seconds, > 0, for the attempt as a whole; a name server that does not answer is not interrupted, but
            nothing is sent afterwards.
        is_loopback: the host is this machine: neither a proxy nor a name server is asked.
        ssl_context: None: the system's certificates, host name checked.
        max_message_size: bytes, > 0, of an incoming message.
        redact: blots the secrets out of a text that came from outside.
    """

    def __init__(
        self,
        url: str,
        headers: list[str],
        *,
        timeout: float,
        is_loopback: bool = False,
        ssl_context: ssl.SSLContext | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        redact: Callable[[str], str] = str,
    ) -> None:
        self._url = url
        self._headers = headers
        self._timeout = min(timeout, _LONGEST_TIMEOUT)
        self._is_loopback = is_loopback
        self._ssl_context = ssl_context
        self._max_message_size = max_message_size
        self._redact = redact
        self._stage = "url"
        self._proxy: Proxy | None = None
        self._sock: socket.socket | None = None  # connected, and not handed over yet
        self._websocket = websocket.WebSocket(skip_utf8_validation=True)
        self._is_aborted = False
        self._is_expired = False

    def dial(self) -> WebSocketTransport:
        """Connect, upgrade, and hand over the socket. Blocks, at most the timeout.

        Raises:
            DialFailed: the attempt failed; nothing stays open.
        """
        try:
            with self._watchdog():
                return self._dial(time.monotonic() + self._timeout)
        except DialFailed as exc:
            failure = exc
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is raised below, as an error of this package
            failure = self._failure(exc)
        finally:
            sock, self._sock = self._sock, None
            if sock is not None:
                sock.close()
        # Not raised in the handler: the library's exception would be attached to it, with the key in its frames.
        try:
            raise failure
        finally:
            del failure  # its traceback has this frame

    def abort(self) -> None:
        """Make ``dial`` fail soon. It sends nothing any more; only the look-up of a name is not interrupted."""
        self._is_aborted = True
        sock = self._sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # no longer connected: then there is nothing to wake

    def _dial(self, deadline: float) -> WebSocketTransport:
        host, port, is_secure = _target(self._url)
        if not self._is_loopback:
            self._proxy = proxy_for(host, is_secure)
        proxy = self._proxy
        self._stage = "DNS" if proxy is None else "proxy"
        sock = tcp.connect(
            proxy.host if proxy else host,
            proxy.port if proxy else port,
            deadline=deadline,
            is_aborted=lambda: self._is_aborted,
            is_loopback=self._is_loopback,
        )
        self._sock = sock
        sock.settimeout(self._timeout)
        self._check_not_aborted()
        if proxy is not None:
            tcp.tunnel(sock, host, port, proxy.authorization)
        stream: _PlainStream | TlsStream = _PlainStream(sock)
        if is_secure:
            self._stage = "TLS"
            stream = TlsStream(sock, self._ssl_context or tls_context(), host)
            stream.do_handshake()
        self._stage = "handshake"
        self._check_not_aborted()
        try:
            # A redirect is not followed: it would carry the key to another host.
            self._websocket.connect(
                self._url, header=self._headers, timeout=self._timeout, redirect_limit=0, socket=stream
            )
            self._check_answer()
        finally:
            self._websocket.sock = None  # else it would be closed with that object
            # It refers to that object, and reads nothing for us.
            self._websocket.frame_buffer = None  # type: ignore[assignment]
        self._check_not_aborted()
        transport = WebSocketTransport(
            stream if isinstance(stream, TlsStream) else sock, max_message_size=self._max_message_size
        )
        self._sock = None
        if self._is_aborted:  # after it was looked at above: nobody else closes it now
            transport.dispose()
            raise ConnectionAbortedError
        return transport

    def _check_not_aborted(self) -> None:
        # `abort` notes that it was called and then looks for a socket; here it is the other way round. So either this
        # raises, or the socket is shut down and takes nothing more.
        if self._is_aborted:
            raise ConnectionAbortedError

    def _check_answer(self) -> None:
        answer = self._websocket.handshake_response
        if answer is None or answer.status != 101:
            raise ConnectionAbortedError
        for name, what in _NOT_OFFERED:
            value = answer.headers.get(name)
            if value:
                raise _Refused(f"the server chose the {what} {value[:100]!r}, which was not offered (RFC 6455 §4.1)")

    @contextlib.contextmanager
    def _watchdog(self) -> Iterator[None]:
        # The socket's own time-out starts again with each byte of the reply: a slow server could take for ever.
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
        text = self._redact(text)
        if self._proxy is not None:
            way = "the proxy" if self._stage == "proxy" else "on the way through the proxy"
            text = f"{way} {self._proxy.name} (of the environment's {self._proxy.variable}): {text}"
        if isinstance(exc, ssl.SSLCertVerificationError):
            text = f"{text.rstrip('.')}. {certificate_hint(exc)}"
        return DialFailed(self._stage_of(exc), text, status)

    def _refusal_status(self, exc: Exception) -> int | None:
        if isinstance(exc, websocket.WebSocketBadStatusException):
            return int(exc.status_code)
        answer = self._websocket.handshake_response
        status = None if answer is None else answer.status
        return None if status in (None, 101) else int(status)

    def _stage_of(self, exc: Exception) -> str:
        if isinstance(exc, ssl.SSLError):
            return "TLS"
        # Connecting to the server is both: a name without an address, or an address that does not answer.
        return "TCP" if self._stage == "DNS" and not isinstance(exc, socket.gaierror) else self._stage


class _Refused(Exception):
    """The server's answer breaks RFC 6455."""


class Proxy(NamedTuple):
    """An HTTP proxy of the environment.

    Attributes:
        name: its address, without credentials.
        variable: what it is set by.
        authorization: for its ``Proxy-Authorization`` header.
    """

    name: str
    variable: str
    host: str
    port: int
    authorization: Secret | None


def _target(url: str) -> tuple[str, int, bool]:
    """Host, port, and whether it is encrypted; raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError("it must begin with ws:// or wss:// and name a host")
    is_secure = parts.scheme == "wss"
    return parts.hostname, parts.port or (443 if is_secure else 80), is_secure


def proxy_for(host: str, is_secure: bool) -> Proxy | None:
    """What ``http_proxy`` (``ws://``), ``https_proxy`` (``wss://``) and ``no_proxy`` say; raises DialFailed."""
    variable = "https_proxy" if is_secure else "http_proxy"
    try:
        proxy_host, port, auth = get_proxy_info(host, is_secure)
    except ValueError:  # its text may hold the password
        raise DialFailed("proxy", f"the environment's {variable} is no address") from None
    if not proxy_host:
        return None
    authorization: Secret | None = None
    if auth:
        authorization = Secret("Basic " + b64encode(":".join(auth).encode()).decode())
    shown = f"[{proxy_host}]" if ":" in proxy_host else proxy_host
    return Proxy(f"http://{shown}:{port or 80}", variable, proxy_host, port or 80, authorization)


class _PlainStream:
    """What websocket-client uses of a socket during the handshake."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.recv = sock.recv
        self.gettimeout = sock.gettimeout
        self.settimeout = sock.settimeout
        self.fileno = sock.fileno

    def send(self, data: bytes) -> int:
        self._sock.sendall(data, *FLAGS)
        return len(data)

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()
