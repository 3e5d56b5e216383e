"""A local backend in its own process, and a cable to it that can be cut."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .conftest import FAILSAFE
from .ports import free_port

KEY = "key-of-the-backend-under-test"


class BackendProcess:
    """A backend on one port, with one data directory; may be killed and started again."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.port = free_port()
        self._directory = directory
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> BackendProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        ready = self._directory / "ready.json"
        ready.unlink(missing_ok=True)
        options = {"port": self.port, "api-key": KEY, "data-dir": self._directory / "data", "ready-file": ready}
        arguments = [f"--{name}={value}" for name, value in {**options, **self._options}.items()]
        with open(self._directory / "stderr", "ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tellurio_sync", "backend", "--exit-with-stdin", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        waited = threading.Event()
        for _ in range(int(FAILSAFE * 100)):
            if ready.exists():
                return
            assert self._process.poll() is None, "the backend ended while it started"
            waited.wait(0.01)
        raise AssertionError("the backend did not start")

    def kill(self) -> None:
        """End it by ``kill -9``."""
        process, self._process = self._process, None
        if process is not None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(FAILSAFE)
            assert process.stdin is not None
            process.stdin.close()

    def restart(self) -> None:
        """Kill it, and start another one on the same port: all ids are lost."""
        self.kill()
        self.start()


class Cable:
    """A TCP proxy to a port of this machine, whose connections can be cut.

    Attributes:
        port: where to connect to.
        cuts: how many connections were cut.
    """

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads: list[threading.Thread] = []
        self.cuts = 0

    def __enter__(self) -> Cable:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="cable")
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(FAILSAFE)
        self.cut()
        for thread in self._threads:
            thread.join(FAILSAFE)

    def cut(self) -> None:
        """End every connection at once, by a reset at both ends."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self.cuts += 1
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target), FAILSAFE)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for sock in (near, far):
                # Else the small packets wait for acknowledgements.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((near, far))
            ends = _Ends(near, far)
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._pump, args=(source, sink, ends), name="cable pump")
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, ends: _Ends) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        ends.done()


class _Ends:
    """Closes both sockets when both directions are done."""

    def __init__(self, *sockets: socket.socket) -> None:
        self._sockets = sockets
        self._left = len(sockets)
        self._lock = threading.Lock()

    def done(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        for sock in self._sockets:
            sock.close()


@contextlib.contextmanager
def now_and_then(disturb: Callable[[], None], pauses: Iterable[float]) -> Iterator[None]:
    """Inside it, ``disturb`` is called after each of these pauses, in seconds."""
    stop = threading.Event()

    def run() -> None:
        for pause in pauses:
            if stop.wait(pause):
                return
            disturb()

    thread = threading.Thread(target=run, name="disturber")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(FAILSAFE)
