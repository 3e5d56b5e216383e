"""Opening a TCP connection to a host that may have several addresses, some of them dead (RFC 8305).

Attempts are begun one after another, a quarter of a second apart or as soon as the one before has failed, and the
first that succeeds is the connection.  So an address that is silent, or IPv6 that leads nowhere, costs a quarter of a
second, not the connection.

All on one thread, with sockets that do not block; nothing here is shared.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain, zip_longest
from typing import Any

from ..secret import Secret
from .tls import FLAGS

ATTEMPT_DELAY = 0.25
"""Seconds from one attempt to the next (RFC 8305 §5: the Connection Attempt Delay)."""

_LOOK_INTERVAL = 0.05  # seconds: how soon an abort is seen
_MAX_HEAD = 64 * 1024  # bytes of a proxy's answer
# What says that this machine has no way there; another address may have failed for a better reason.
_NO_WAY = {errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EHOSTUNREACH}
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))

Address = tuple[int, Any]
"""Family, and what ``socket.connect`` takes."""


def connect(
    host: str, port: int, *, deadline: float, is_aborted: Callable[[], bool], is_loopback: bool = False
) -> socket.socket:
    """A connected socket. Blocks, at most until the deadline; a name server that does not answer is waited for.

    Args:
        host: name or IP address, IPv6 without brackets.
        port: 1 to 65535.
        deadline: on the monotonic clock.
        is_aborted: looked at some 20 times a second, and after the look-up.
        is_loopback: ``host`` means this machine, so no name server is asked (RFC 6761 §6.3).

    Raises:
        socket.gaierror: the name has no address.
        TimeoutError: the deadline has passed.
        ConnectionAbortedError: aborted.
        OSError: no address could be reached; the most telling failure.
    """
    addresses = _on_this_machine(host, port) if is_loopback else _look_up(host, port)
    return _race(_interleaved(addresses), deadline, is_aborted)


def _look_up(host: str, port: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    return [(family, address) for family, _, _, _, address in found]


def _on_this_machine(host: str, port: int) -> list[Address]:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
    return _look_up(host, port)


def _interleaved(addresses: list[Address]) -> Iterable[Address]:
    """In the system's order, but the families take turns (RFC 8305 §4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    others = [address for address in addresses if address[0] != addresses[0][0]]
    return filter(None, chain.from_iterable(zip_longest(first, others)))


def _race(addresses: Iterable[Address], deadline: float, is_aborted: Callable[[], bool]) -> socket.socket:
    waiting = deque(addresses)
    open_: set[socket.socket] = set()
    failures: list[OSError] = []
    next_at = 0.0
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or open_:
                now = time.monotonic()
                if is_aborted():
                    raise ConnectionAbortedError
                if now >= deadline:
                    raise TimeoutError
                if waiting and (now >= next_at or not open_):
                    next_at = now + ATTEMPT_DELAY
                    try:
                        sock = _begin(*waiting.popleft())
                    except OSError as exc:
                        failures.append(exc)
                        next_at = now
                        continue
                    open_.add(sock)
                    selector.register(sock, selectors.EVENT_WRITE)
                until = min(deadline, next_at) if waiting else deadline
                for key, _ in selector.select(min(_LOOK_INTERVAL, max(0.0, until - now))):
                    sock = key.fileobj  # type: ignore[assignment]
                    selector.unregister(sock)
                    open_.discard(sock)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        return sock
                    sock.close()
                    failures.append(OSError(code, os.strerror(code)))
                    next_at = now
        finally:
            for sock in open_:
                sock.close()
    raise next((exc for exc in failures if exc.errno not in _NO_WAY), failures[0])


def _begin(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if hasattr(socket, "SO_NOSIGPIPE"):  # where there is no MSG_NOSIGNAL
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_NOSIGPIPE, 1)
        code = sock.connect_ex(address)
        # Windows says EWOULDBLOCK where POSIX says EINPROGRESS. EINTR: it goes on all the same (POSIX, connect).
        if code not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR):
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def tunnel(sock: socket.socket, host: str, port: int, authorization: str | None) -> None:
    """Let an HTTP proxy connect ``sock`` on to ``host`` (RFC 9110 §9.3.6). Blocks, at most the socket's time-out.

    Args:
        sock: connected to the proxy.
        authorization: the value of ``Proxy-Authorization``; None: none is sent.

    Raises:
        ConnectionRefusedError: the proxy said no; the text says how.
        OSError: the socket's.
    """
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if authorization is not None:
        lines.append(Secret(f"Proxy-Authorization: {authorization}"))
    sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"), *FLAGS)
    head = b""
    # Byte by byte would be a system call each; but nothing follows the head before this side has spoken.
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        data = sock.recv(4096)
        if not data:
            raise ConnectionRefusedError("it ended the connection without an answer to CONNECT")
        head += data
        if len(head) > _MAX_HEAD:
            raise ConnectionRefusedError(f"its answer to CONNECT has over {_MAX_HEAD} bytes")
    first = head.split(b"\n", 1)[0].decode("latin-1").strip()
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/"):
        raise ConnectionRefusedError("its answer to CONNECT is not HTTP")
    if not status.startswith("2"):
        raise ConnectionRefusedError(f"it answered CONNECT with HTTP {status[:100]}")
