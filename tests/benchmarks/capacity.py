"""What one local backend carries: ``python -m tests.benchmarks.capacity``. Bounded: some 30 s, at most 64 sessions.

Prints, for each number of sessions at once, the round trips per second of all of them together and the median and the
99th percentile of one; then the memory of the backend for each idle session and for each Variable.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import tellurio_sync as te
from tellurio_sync.local import start_local_backend

SECONDS = 3.0
SESSIONS = (1, 4, 16, 64)
PROCESSES = 2
VARIABLES = 20_000


class Where(NamedTuple):
    """The address and the key of the backend: what another process can be given."""

    http_base_url: str
    http_port: int
    ws_base_url: str
    ws_port: int
    api_key: str


def _work(backend: Where, count: int, results: Any) -> None:
    """In a process of its own: ``count`` sessions, each in a thread, for ``SECONDS``."""
    times: list[float] = []

    def one() -> None:
        with _session(backend) as session, session.use():
            session.init(project_display_name="Capacity")
            variable = te.Variable("text", role="role")
            started.wait()
            end = time.monotonic() + SECONDS
            mine = []
            while (begun := time.monotonic()) < end:
                variable.role = "other role"
                mine.append(time.monotonic() - begun)
            times.extend(mine)

    started = threading.Barrier(count)
    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(times)


def _session(backend: Where) -> te.Session:
    addresses = backend._asdict()
    api_key = addresses.pop("api_key")
    session = te.Session(**addresses)
    session.login(api_key)
    return session


def _resident(pid: int) -> float:
    """MB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _processor(pid: int) -> float:
    """Seconds that the process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rates(backend: Where, pid: int) -> None:
    context = get_context("spawn")
    for sessions in SESSIONS:
        shares = [sessions // PROCESSES + (number < sessions % PROCESSES) for number in range(PROCESSES)]
        results = context.Queue()
        workers = [context.Process(target=_work, args=(backend, share, results)) for share in shares if share]
        used = _processor(pid)
        for worker in workers:
            worker.start()
        times = sorted(one for _ in workers for one in results.get(timeout=60))
        for worker in workers:
            worker.join(60)
        used = _processor(pid) - used
        p99 = times[len(times) * 99 // 100]
        rate = len(times) / SECONDS
        print(
            f"{sessions:3} sessions: {rate:6.0f} round trips/s, p50 {1e3 * statistics.median(times):.2f} ms, ", end=""
        )
        print(f"p99 {1e3 * p99:.2f} ms; the backend used {1e6 * used / len(times):.0f} us of its core for each")


def _memory(backend: Where, pid: int) -> None:
    empty = _resident(pid)
    sessions = [_session(backend) for _ in range(50)]
    idle = _resident(pid)
    with sessions[0].use():
        sessions[0].init(project_display_name="Capacity")
        kept = te.variables([f"a text of some forty characters, no. {n}" for n in range(VARIABLES)], role="sample")
        full = _resident(pid)
        sessions[0].finish()
    print(f"backend: {empty:.0f} MB; an idle session: {1024 * (idle - empty) / len(sessions):.0f} KiB; ", end="")
    print(f"a Variable: {1024 * 1024 * (full - idle) / len(kept):.0f} bytes")
    for session in sessions:
        session.close()


def main() -> None:
    backend = start_local_backend()
    try:
        where = Where(*(getattr(backend, name) for name in Where._fields))
        _memory(where, backend.pid)  # first: later there is freed memory that is used again
        _rates(where, backend.pid)
    finally:
        backend.stop()


if __name__ == "__main__":
    main()
