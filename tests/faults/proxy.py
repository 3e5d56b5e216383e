"""A TCP proxy that does to a connection what networks do, when the test says so."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

FAILSAFE = 30.0
_PIECE = 65536


class Link:
    """One direction of one proxied connection."""

    def __init__(self, source: socket.socket, target: socket.socket, proxy: Proxy, is_from_client: bool) -> None:
        self._source = source
        self._target = target
        self._proxy = proxy
        self._is_from_client = is_from_client

    def run(self) -> None:
        """Pass bytes on until one side ends or the proxy cuts."""
        with contextlib.suppress(OSError):
            while data := self._source.recv(_PIECE):
                if not self._proxy._may_pass.wait(FAILSAFE):
                    return
                for piece in self._proxy._pieces(data):
                    self._target.sendall(piece)
                if self._is_cut(len(data)):
                    return
            with contextlib.suppress(OSError):
                self._target.shutdown(socket.SHUT_WR)

    def _is_cut(self, size: int) -> bool:
        if not self._is_from_client:
            return False
        return self._proxy._count_from_client(size)


class Proxy:
    """Passes connections on to a server on this machine. Use as a context manager.

    Args:
        port: the server's.
        byte_by_byte: pass each byte on its own.
    """

    def __init__(self, port: int, *, byte_by_byte: bool = False) -> None:
        self._target_port = port
        self._byte_by_byte = byte_by_byte
        self._may_pass = threading.Event()
        self._may_pass.set()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._cut_in: int | None = None
        self.accepted = 0
        self.cuts = 0

    def __enter__(self) -> Proxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._acceptor = threading.Thread(target=self._accept, name="proxy")
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(FAILSAFE)
        self._may_pass.set()
        self.end()
        for thread in self._threads:
            thread.join(FAILSAFE)
            assert not thread.is_alive(), "a connection of the proxy did not end"

    # --- faults ---------------------------------------------------------------------------------------

    def stall(self) -> None:
        """From now on let nothing through, either way: the silence of a half-open connection."""
        self._may_pass.clear()

    def go_on(self) -> None:
        """Let everything through again, what came meanwhile included."""
        self._may_pass.set()

    def reset(self) -> None:
        """End every connection with RST."""
        for sock in self._take_sockets():
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RD)
            sock.close()

    def end(self) -> None:
        """End every connection with FIN."""
        for sock in self._take_sockets():
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def reset_after(self, size: int) -> None:
        """Reset once the clients have sent so many more bytes."""
        with self._lock:
            self._cut_in = size

    # --- within ---------------------------------------------------------------------------------------

    def _take_sockets(self) -> list[socket.socket]:
        with self._lock:
            sockets, self._sockets = self._sockets, []
            return sockets

    def _count_from_client(self, size: int) -> bool:
        with self._lock:
            if self._cut_in is None:
                return False
            self._cut_in -= size
            if self._cut_in > 0:
                return False
            self._cut_in = None
            self.cuts += 1
        self.reset()
        return True

    def _pieces(self, data: bytes) -> list[bytes]:
        return [data[i : i + 1] for i in range(len(data))] if self._byte_by_byte else [data]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                client.close()
                continue
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.accepted += 1
                self._sockets += [client, server]
            for source, target, is_from_client in ((client, server, True), (server, client, False)):
                link = Link(source, target, self, is_from_client)
                thread = threading.Thread(target=link.run, name="proxy link")
                self._threads.append(thread)
                thread.start()
