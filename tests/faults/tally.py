"""What a server and a network did at random, counted where SIGKILL does not reach: see ``mischief``."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import threading
from pathlib import Path

NETWORK_FAULTS = (
    "connections reset",
    "connections ended",
    "resets in the middle of a message",
    "stalls",
    "silences until the client gives up",
    "spells of one byte at a time",
    "server kills",
)
SERVER_FAULTS = (
    "half frames",
    "streams ended",
    "close frames",
    "protocol violations",
    "slow replies",
    "late replies",
    "missing replies",
    "duplicate replies",
    "unknown replies",
    "malformed replies",
    "error replies",
    "malformed messages",
    "fragmented replies",
    "byte-by-byte replies",
    "heartbeats",
    "foreign heartbeats",
    "pings",
    "callables asked",
    "callables asked within callables",
    "floods of pushes",
)
DONE = ("connections served", "requests read", "notifications read", "pushes sent", "callables answered")
CALM = "calm"
"""Not 0: the faults are over."""
_SLOTS = (*NETWORK_FAULTS, *SERVER_FAULTS, *DONE, CALM)
MOST_CALLS = 16_000_000


class Tally:
    """Counts, and how often each call reached the server. One writer per count; readable from any process."""

    def __init__(self, path: str) -> None:
        self._path = path
        size = 8 * len(_SLOTS) + MOST_CALLS
        with open(path, "a+b") as file:
            if os.fstat(file.fileno()).st_size < size:
                file.truncate(size)  # sparse
            self._map = mmap.mmap(file.fileno(), size)
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        offset = 8 * _SLOTS.index(name)
        with self._lock:
            (value,) = struct.unpack_from("<q", self._map, offset)
            struct.pack_into("<q", self._map, offset, value + count)

    def get(self, name: str) -> int:
        value: int = struct.unpack_from("<q", self._map, 8 * _SLOTS.index(name))[0]
        return value

    def note_arrival(self, number: int) -> None:
        """The server has read the request with this number."""
        offset = 8 * len(_SLOTS) + number
        with self._lock:
            self._map[offset] = min(255, self._map[offset] + 1)

    def arrivals(self, number: int) -> int:
        return self._map[8 * len(_SLOTS) + number]

    def problem(self, text: str) -> None:
        with open(f"{self._path}.problems", "a") as file:
            file.write(f"{text}\n")

    def problems(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return Path(f"{self._path}.problems").read_text().splitlines()
        return []

    def close(self) -> None:
        self._map.close()
