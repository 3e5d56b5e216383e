"""Where connections come in: no more than there are file descriptors for, and none that only holds one.

asyncio's own server accepts what comes.  When no descriptor is left, it writes a traceback for each further connection,
many times a second, and serves nobody.  And nobody ends a connection that sends half of a request and then waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from aiohttp import web

logger: logging.Logger = logging.getLogger(__name__)

# Seconds for TLS and the headers of the first request, and between two requests, the headers of the next one included.
FIRST_REQUEST_TIMEOUT = 15.0
IDLE_TIMEOUT = 75.0

_AT_ONCE = 16  # accepted, in one turn of the event loop
_MOST = 4096
# For the database, language models, and connections that are still being closed.
_KEPT_FREE = 128
_PAUSE = 0.2  # seconds, when no descriptor is left all the same
_QUIET = 60.0  # seconds between two warnings

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def connection_limit() -> int:
    """How many connections there may be at a time: fewer than the file descriptors that this process may have."""
    if sys.platform == "win32":
        return _MOST
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MOST
    return max(1, min(_MOST, files - min(_KEPT_FREE, files // 2)))


@dataclass(eq=False)
class _Guest:
    sock: socket.socket
    number: int  # its file descriptor
    timer: asyncio.TimerHandle | None = None
    is_known: bool = False  # it has sent the key


class Door:
    """Accepts connections, and ends those that only wait. The event loop's thread only.

    Where there are as many as there may be, the one that has waited longest for a request has to go, first of those
    that have never sent the key. Requests that are at work are left alone; if all are, a new connection is told so.
    """

    def __init__(self) -> None:
        self._guests: dict[int, _Guest] = {}  # those that wait: the one that has waited longest comes first
        self._listeners: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._warned_at = float("-inf")

    async def open(
        self, protocol: Callable[[], asyncio.Protocol], listeners: list[socket.socket], tls: ssl.SSLContext | None
    ) -> None:
        """Accept what comes to these sockets, with ``protocol`` for each connection. They are closed by ``close``."""
        self._loop = asyncio.get_running_loop()
        self._protocol, self._tls, self._limit = protocol, tls, connection_limit()
        self._listeners = list(listeners)
        try:
            for listener in self._listeners:
                self._listen_to(listener)
        except NotImplementedError:  # Windows: asyncio accepts, and there is no limit
            for listener in self._listeners:
                self._servers.append(await self._loop.create_server(protocol, sock=listener, ssl=tls))

    async def close(self) -> None:
        """Accept no more. Connections that were accepted stay. Idempotent."""
        for pause in self._pauses.values():
            pause.cancel()
        for listener in self._listeners:
            with contextlib.suppress(NotImplementedError):
                self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()
        for server in self._servers:
            server.close()
        # One that is not encrypted is connected within a turn of the loop; others may be in the middle of TLS.
        connecting = list(self._connecting)
        if self._tls is not None:
            for task in connecting:
                task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        for guest in self._guests.values():
            if guest.timer is not None:
                guest.timer.cancel()

    @contextlib.contextmanager
    def at_work(self, request: web.Request, *, is_known: bool) -> Iterator[None]:
        """Inside, the request's connection may take its time. ``is_known``: the request has brought the key."""
        guest = self._guest_of(request)
        if guest is None:
            yield
            return
        guest.is_known = guest.is_known or is_known
        self._stop_waiting(guest)
        try:
            yield
        finally:
            self._wait_for(guest, IDLE_TIMEOUT)

    # --- accepting -----------------------------------------------------------------------------------

    def _listen_to(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:  # no descriptor, no memory
                self._warn(f"no connection can be accepted: {exc.strerror}")
                self._send_one_away()
                self._loop.remove_reader(listener)
                self._pauses[listener] = self._loop.call_later(_PAUSE, self._listen_to, listener)
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if self._count() >= self._limit:
            self._warn(f"there are {self._limit} connections, as many as there may be; those that only wait are ended")
            if not self._send_one_away():
                with contextlib.suppress(OSError), sock:
                    if self._tls is None:
                        sock.send(_BUSY)
                return
        guest = _Guest(sock, sock.fileno())
        self._guests[guest.number] = guest
        self._wait_for(guest, FIRST_REQUEST_TIMEOUT)
        task = self._loop.create_task(self._connect(guest))
        self._connecting.add(task)

        def forget(task: asyncio.Task[None]) -> None:
            self._connecting.discard(task)
            if task.cancelled():  # perhaps before it began
                guest.sock.close()

        task.add_done_callback(forget)

    async def _connect(self, guest: _Guest) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, guest.sock, ssl=self._tls)
        except OSError as exc:  # of TLS, too: it speaks plain HTTP, or does not trust this certificate
            logger.debug("= a connection came to nothing: %s", exc)
            guest.sock.close()

    # --- what waits -----------------------------------------------------------------------------------

    def _guest_of(self, request: web.Request) -> _Guest | None:
        if request.transport is None:
            return None
        sock = request.transport.get_extra_info("socket")
        return None if sock is None else self._guests.get(sock.fileno())

    def _wait_for(self, guest: _Guest, seconds: float) -> None:
        self._stop_waiting(guest)
        if guest.sock.fileno() < 0 or self._guests.get(guest.number, guest) is not guest:
            return  # it has ended
        guest.timer = self._loop.call_later(seconds, self._end, guest)
        self._guests.pop(guest.number, None)
        self._guests[guest.number] = guest  # behind all that have waited for longer

    def _stop_waiting(self, guest: _Guest) -> None:
        if guest.timer is not None:
            guest.timer.cancel()
            guest.timer = None

    def _end(self, guest: _Guest) -> None:
        """End a connection. What it is the connection of sees that the other end is gone."""
        self._stop_waiting(guest)
        if self._guests.get(guest.number) is guest:
            del self._guests[guest.number]
        with contextlib.suppress(OSError):  # it has ended
            guest.sock.shutdown(socket.SHUT_RDWR)

    def _send_one_away(self) -> bool:
        """Whether there was one that waits."""
        waiting = [guest for guest in self._guests.values() if guest.timer is not None]
        if not waiting:
            return False
        self._end(next((guest for guest in waiting if not guest.is_known), waiting[0]))
        return True

    def _count(self) -> int:
        if len(self._guests) >= self._limit:
            for guest in [guest for guest in self._guests.values() if guest.sock.fileno() < 0]:
                self._stop_waiting(guest)
                del self._guests[guest.number]
        return len(self._guests)

    def _warn(self, text: str) -> None:
        if self._loop.time() - self._warned_at >= _QUIET:
            self._warned_at = self._loop.time()
            logger.warning("! %s (said once a minute at most)", text)
