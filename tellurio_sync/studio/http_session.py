"""HTTP sessions whose requests have one deadline, from the first address that is tried to the last byte of the answer.

The HTTP library limits connecting and sending as a whole, but of the answer only each single read: a server that sends
one byte a second can hold a request for ever.  Here each read gets the rest of the time.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_request.due`` | the thread that sends the request | the same | ``threading.local`` | its type |

Import this module late: it imports the HTTP library, which takes longer than importing the rest of the package.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import signal
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import PoolManager
from urllib3.exceptions import ProtocolError

from ..addresses import is_loopback
from ..surroundings import tls_context

_request = threading.local()


@contextlib.contextmanager
def time_limit(timeout: float) -> Iterator[None]:
    """Let every wait of this thread's request, inside the block, end after these seconds (> 0) together.

    A signal handler or a finaliser may make a request of its own in the middle of another one, which keeps its limit.
    """
    interrupted: float | None = getattr(_request, "due", None)
    _request.due = time.monotonic() + timeout
    try:
        yield
    finally:
        _request.due = interrupted


def is_time_over() -> bool:
    """Whether the time of this thread's request is over. Inside of ``time_limit`` only."""
    due: float = _request.due
    return time.monotonic() >= due


def ended_unanswered(failure: Exception) -> bool:
    """Whether the connection was there, and ended before anything of the answer came.

    So it ends when a server, or a proxy, closes a kept connection just when the next request is on its way. A request
    that changes nothing may be sent again: RFC 9110 §9.2.2, RFC 9112 §9.3.1.
    """
    return bool(failure.args) and isinstance(failure.args[0], ProtocolError)


def way_of(url: str) -> str:
    """The proxy of the environment for this address, in words, without its password; empty if there is none."""
    proxy = select_proxy(url, get_environ_proxies(url))
    if not proxy:
        return ""
    shown = proxy.rsplit("@", 1)[-1]
    return f" through the proxy {shown if '://' in shown else 'http://' + shown}"


def raised_by_handler(failure: BaseException) -> BaseException | None:
    """What a signal handler has raised in the middle of a request, if that is behind this failure.

    Handlers raise what they like: the recipe with ``signal.alarm`` a ``TimeoutError``, which the library takes for one
    of the network.
    """
    handlers = map(signal.getsignal, signal.valid_signals())
    codes = {getattr(handler, "__code__", None) for handler in handlers if callable(handler)} - {None}
    raised: BaseException | None = None
    found: BaseException | None = failure
    while found is not None:
        # The library gives this traceback to its own errors as well, which come before it.
        if any(frame.f_code in codes for frame, _ in traceback.walk_tb(found.__traceback__)):
            raised = found
        found = found.__cause__ or found.__context__
    return raised


def new_session(user_agent: str, scheme: str, ssl_context: ssl.SSLContext | None = None) -> requests.Session:
    """A session for one thread, to be used inside of ``time_limit`` only, and for addresses of this scheme.

    The certificates of the system take a tenth of a second to read: only where they are needed.
    """
    session = requests.Session()
    session.headers["User-Agent"] = user_agent
    if scheme == "https" and ssl_context is None:
        ssl_context = tls_context()
    session.mount(f"{scheme}://", _BoundedAdapter(ssl_context))
    return session


def post_json(url: str, body: Any, headers: Mapping[str, str], timeout: float) -> tuple[int, bytes]:
    """Send one JSON value to any server, and return the status and the body of the answer. Blocks. For one request.

    Redirects are not followed, and this machine is not reached through a proxy.

    Raises:
        ConnectionError: no whole answer within the timeout; the text names the kind of failure, and no key.
    """
    address = urlsplit(url)
    session = new_session("tellurio_sync", address.scheme)
    host = address.hostname or ""
    proxies = {"no_proxy": host} if is_loopback(host) else {}
    try:
        with time_limit(timeout):
            answer = session.post(
                url, json=body, headers=headers, timeout=timeout, allow_redirects=False, proxies=proxies
            )
        return answer.status_code, answer.content
    except (requests.RequestException, ValueError) as exc:
        failure = type(exc).__name__
    finally:
        session.close()
    # Outside of the handler: the library's exception holds the request with the key in it.
    raise ConnectionError(failure)


def close_session(session: requests.Session) -> None:
    """Close all idle connections of a session, now.

    The library itself only forgets the pools: their connections close when these are collected, which is late for one
    that an error's traceback refers to.
    """
    for adapter in session.adapters.values():
        if not isinstance(adapter, HTTPAdapter):
            continue
        for manager in (adapter.poolmanager, *adapter.proxy_manager.values()):
            for key in manager.pools.keys():  # noqa: SIM118 - it is no dict, and cannot be iterated over
                pool = manager.pools.get(key)
                if pool is not None:
                    pool.close()
    session.close()


def _time_left() -> float:
    """Seconds, > 0; TimeoutError if there is none left."""
    left: float = _request.due - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class _BoundedReader(io.RawIOBase):
    """Reads a socket; waits no longer than the request may."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # Keeps the socket open until this is closed, even when the connection has given it up ("Connection: close").
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_time_left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedSocket:
    """The part of a socket that ``http.client.HTTPResponse`` uses."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_BoundedReader(self._sock))


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(_BoundedSocket(sock), *args, **options)  # type: ignore[arg-type]


@functools.cache
def _bounded(pool_class: type[Any]) -> type[Any]:
    """The same kind of pool (plain, TLS, through a proxy) with bounded connections."""
    connection_class = type("BoundedConnection", (pool_class.ConnectionCls,), {"response_class": _BoundedResponse})
    return type("BoundedPool", (pool_class,), {"ConnectionCls": connection_class})


def _bound(manager: PoolManager) -> None:
    classes = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {scheme: _bounded(classes[scheme]) for scheme in classes}


class _BoundedAdapter(HTTPAdapter):
    def __init__(self, ssl_context: ssl.SSLContext | None) -> None:
        self._ssl_context = ssl_context
        super().__init__()

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        if self._ssl_context is None:
            return  # nothing is encrypted
        # The context decides, and is used as it is: the library would add its own certificates to it.
        conn.cert_reqs = self._ssl_context.verify_mode
        conn.assert_hostname = None if self._ssl_context.check_hostname else False
        conn.ca_certs = conn.ca_cert_dir = None

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._ssl_context, **options)
        _bound(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **options: Any) -> Any:
        if proxy in self.proxy_manager:
            return self.proxy_manager[proxy]
        context = self._ssl_context
        if context is None and proxy.startswith("https:"):
            context = tls_context()  # the way to the proxy is encrypted, that to the server is not
        manager = super().proxy_manager_for(proxy, ssl_context=context, **options)
        _bound(manager)
        return manager
