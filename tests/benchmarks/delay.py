"""A link with a delay: a TCP proxy that hands every piece on a fixed time after it came, in both directions.

A program of its own (standard library only): ``python delay.py CORE TARGET_PORT ROUND_TRIP_SECONDS``.
It prints one JSON line with its port, and ends at the end of its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time


def forward(source: socket.socket, sink: socket.socket, delay: float) -> None:
    """Hand on what comes from ``source``, each piece ``delay`` seconds later; the end of the stream, too."""
    pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
    threading.Thread(target=write_when_due, args=(pieces, sink), daemon=True).start()
    data = b"?"
    while data:
        try:
            data = source.recv(1 << 18)
        except OSError:
            data = b""
        pieces.put((time.monotonic() + delay, data))


def write_when_due(pieces: queue.SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, data = pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)


def main() -> None:
    core, target, round_trip = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    if core >= 0:
        os.sched_setaffinity(0, {core})
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", target))
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=forward, args=(source, sink, round_trip / 2), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
