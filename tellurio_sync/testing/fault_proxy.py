"""A TCP proxy on this machine whose connections can be cut and slowed down.

One thread owns the sockets; other threads give it tasks (:meth:`FaultProxy._on_proxy_thread`).
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_CHUNK_BYTES = 65536
# The proxy stops reading a direction while this many bytes wait in it.
_FULL_BYTES = 2**20
# Seconds: the proxy's thread never blocks for long.
_FAILSAFE = 30.0
# With this option, closing sends a reset and no orderly end, as a killed server may.
_RESET = struct.pack("ii", 1, 0)


class FaultProxy:
    """Passes connections on to ``target`` of 127.0.0.1. Thread-safe.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._delay = 0.0
        self._links: set[_Link] = set()
        self._tasks: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._is_closing = False
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._bell, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="fault-proxy", daemon=True)
        self._thread.start()

    def drop_connections(self) -> int:
        """Reset both ends of every connection at once; return how many connections there were."""
        count: int = self._on_proxy_thread(self._drop)
        return count

    def set_delay(self, seconds: float) -> None:
        """Delay all bytes, in both directions, by ``seconds`` from their arrival, also those that wait already."""
        self._on_proxy_thread(lambda: setattr(self, "_delay", seconds))

    def set_target(self, port: int) -> None:
        """Pass new connections on to this port."""
        self._on_proxy_thread(lambda: setattr(self, "_target", port))

    def close(self) -> None:
        """Cut every connection and stop listening. Idempotent."""
        if not self._thread.is_alive():
            return

        def stop() -> None:
            self._is_closing = True

        self._on_proxy_thread(stop)
        self._thread.join()

    def _on_proxy_thread(self, task: Callable[[], Any]) -> Any:
        done: Future[Any] = Future()
        self._tasks.append((task, done))
        self._bell.send(b"!")
        return done.result(_FAILSAFE)

    # --- on the proxy's thread ----------------------------------------------------------------------

    def _serve(self) -> None:
        # One reading of the clock says what is due and how long to wait for the rest: with two, what became due between
        # them would be waited for by nobody.
        now = time.monotonic()
        while not self._is_closing:
            for key, events in self._selector.select(self._until_due(now)):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._ear:
                    self._ear.recv(_CHUNK_BYTES)
                elif key.data in self._links:
                    # Otherwise an event of its other end has cut it in this round.
                    self._move(key.data, key.fileobj, events)
            while self._tasks:
                task, done = self._tasks.popleft()
                done.set_result(task())
            now = time.monotonic()
            for link in self._links:
                self._watch(link, now)
        self._drop()
        for own in (self._selector, self._listener, self._bell, self._ear):
            own.close()

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            # The client has already gone.
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            # No server listens there now: the client must see what it would see without a proxy.
            _reset(client)
            return
        link = _Link(client, server)
        for end in (client, server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.add(link)

    def _move(self, link: _Link, end: Any, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                link.from_[end].read(time.monotonic())
            if events & selectors.EVENT_WRITE:
                link.to[end].write(time.monotonic() - self._delay)
        except BlockingIOError:
            pass
        except OSError:
            self._cut(link)
            return
        if all(flow.is_over for flow in link.to.values()):
            self._forget(link)
            for ended in link.to:
                ended.close()

    def _watch(self, link: _Link, now: float) -> None:
        """Register each end of ``link`` with the selector, for the events that it can use next."""
        for end in link.to:
            wanted = 0
            if link.from_[end].wants_to_read:
                wanted |= selectors.EVENT_READ
            if link.to[end].is_due(now - self._delay):
                wanted |= selectors.EVENT_WRITE
            known = self._selector.get_map().get(end)
            if known is None:
                if wanted:
                    self._selector.register(end, wanted, link)
            elif not wanted:
                self._selector.unregister(end)
            elif known.events != wanted:
                self._selector.modify(end, wanted, link)

    def _until_due(self, now: float) -> float | None:
        """Seconds until the next delayed bytes become due. Bytes that are due already wait for their socket."""
        since = [flow.since for link in self._links for flow in link.to.values() if flow.since is not None]
        return min((moment + self._delay - now for moment in since if moment > now - self._delay), default=None)

    def _drop(self) -> int:
        count = len(self._links)
        for link in list(self._links):
            self._cut(link)
        return count

    def _cut(self, link: _Link) -> None:
        self._forget(link)
        for end in link.to:
            _reset(end)

    def _forget(self, link: _Link) -> None:
        self._links.discard(link)
        for end in link.to:
            if end in self._selector.get_map():
                self._selector.unregister(end)


class _Flow:
    """One direction of a connection, with the bytes that are delayed in it."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source, self._sink = source, sink
        # Pairs of arrival and bytes; no bytes mean the end.
        self._held: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._is_at_end = False
        self.is_over = False

    @property
    def wants_to_read(self) -> bool:
        return not self._is_at_end and self._size < _FULL_BYTES

    @property
    def since(self) -> float | None:
        """When the oldest delayed bytes arrived; None: there are none."""
        return self._held[0][0] if self._held else None

    def is_due(self, before: float) -> bool:
        return bool(self._held) and self._held[0][0] <= before

    def read(self, now: float) -> None:
        data = self._source.recv(_CHUNK_BYTES)
        self._is_at_end = not data
        self._held.append((now, data))
        self._size += len(data)

    def write(self, before: float) -> None:
        while self.is_due(before):
            arrived, data = self._held[0]
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                self.is_over = True
            sent = self._sink.send(data) if data else 0
            self._size -= sent
            if sent < len(data):
                self._held[0] = (arrived, data[sent:])
                return
            self._held.popleft()


class _Link:
    """The client's connection and the proxy's connection to the target, with the two directions between them."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        up, down = _Flow(client, server), _Flow(server, client)
        self.from_ = {client: up, server: down}
        self.to = {client: down, server: up}


def _reset(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        # Already closed by the other side, on some systems.
        pass
    end.close()
