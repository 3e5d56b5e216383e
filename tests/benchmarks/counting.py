"""Counting what a client does: system calls on its socket, turns of its receive loop, messages, instructions."""

from __future__ import annotations

import itertools
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tellurio_sync.peer.connection import Connection
from tellurio_sync.transport import handshake
from tellurio_sync.transport.readiness import Receiver
from tellurio_sync.transport.websocket import WebSocketTransport


class Counts:
    """What was counted since the last ``reset``. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        with self._lock:
            self.sends = 0
            """System calls that send."""
            self.receives = 0
            """System calls that receive."""
            self.turns = 0
            """Turns of the receive loop: each waits for the socket once."""
            self.last_wait: float | None = 0.0
            """Seconds: how long the loop was last ready to wait; None: for ever."""
            self.requests: list[str] = []
            """Methods of the requests and notifications sent."""
            self.trips = 0
            """How often requests were started: those started together share a round trip."""
            self.messages_in = 0
            self.messages_out = 0

    def add(self, name: str, number: int = 1) -> None:
        with self._lock:
            setattr(self, name, getattr(self, name) + number)


class _Socket(socket.socket):
    counts: Counts

    def send(self, *args: Any) -> int:
        self.counts.add("sends")
        return super().send(*args)

    def recv(self, *args: Any) -> bytes:
        self.counts.add("receives")
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:
        self.counts.add("receives")
        return super().recv_into(*args)


class _Receiver:
    """Counts what the compiled receiver reads: its system call is not the socket's."""

    def __init__(self, receiver: Receiver, counts: Counts) -> None:
        self._receiver = receiver
        self._counts = counts

    def receive(self, *args: Any) -> tuple[int, bytes | None]:
        ready, data = self._receiver.receive(*args)
        if data is not None:
            self._counts.add("receives")
        return ready, data


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    """Clients that connect from now on are counted, all together."""
    counts = Counts()

    class Transport(WebSocketTransport):
        def __init__(self, sock: socket.socket, **options: Any) -> None:
            counted = _Socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
            counted.counts = counts
            super().__init__(counted, **options)
            self._receiver = _Receiver(self._receiver, counts)

        def send(self, texts: list[str], *args: Any, **options: Any) -> None:
            methods = [message["method"] for text in texts if "method" in (message := json.loads(text))]
            with counts._lock:
                counts.messages_out += len(texts)
                counts.requests += methods
            super().send(texts, *args, **options)

        def receive(self, timeout: float | None) -> list[str | bytes]:
            counts.last_wait = timeout
            counts.add("turns")
            messages = super().receive(timeout)
            counts.add("messages_in", len(messages))
            return messages

    def counted(start: Callable[..., None]) -> Callable[..., None]:
        def start_counted(self: Connection, *args: Any) -> None:
            counts.add("trips")
            start(self, *args)

        return start_counted

    with monkeypatch.context() as patch:
        for name in ("start", "start_many"):
            patch.setattr(Connection, name, counted(getattr(Connection, name)))
        patch.setattr(handshake, "WebSocketTransport", Transport)
        yield counts


def instructions(action: Callable[[], object], folders: tuple[str, ...] = ("",)) -> int:
    """How many instructions of Python's bytecode all threads together execute during ``action``.

    Those of code whose file is in one of ``folders``. Needs Python 3.12. What C code does is not in it.
    """
    monitoring = sys.monitoring  # type: ignore[attr-defined, unused-ignore]
    tool = 4  # none of those that the documentation gives to debuggers, coverage, profilers and optimisers
    tick = itertools.count().__next__
    monitoring.use_tool_id(tool, "counting")
    try:
        monitoring.register_callback(
            tool, monitoring.events.INSTRUCTION, lambda code, _: code.co_filename.startswith(folders) and tick()
        )
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        action()
    finally:
        monitoring.set_events(tool, monitoring.events.NO_EVENTS)
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, None)
        monitoring.free_tool_id(tool)
    return tick()
