"""One peer in a process of its own: ``python worker.py CORE PEER`` reads commands, measures, and answers.

Commands and answers are JSON lines: ``[name, *arguments]`` on standard input; ``{"value": ...}`` or
``{"error": text}``, always without a traceback, on standard output.  It ends at the end of its input.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import statistics
import sys
import threading
import time
import tracemalloc
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import peers

WARM_UP_CALLS = 50


class Worker:
    """The measurements. Times in seconds."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer
        self._address: tuple[int, bool] = (0, False)

    def connect(self, port: int, is_tls: bool, warm_up: int = WARM_UP_CALLS) -> None:
        """Connect, and make a few calls that are not measured."""
        self._address = (port, is_tls)
        self._peer.connect(port, is_tls)
        for _ in range(warm_up):
            self._peer.call()

    def login(self, http_port: int, ws_port: int) -> None:
        """Connect as a whole session that has logged in."""
        self._peer.login(http_port, ws_port)

    def made(self, make: str, count: int) -> float:
        """Seconds in which ``count`` Variables are made, in the peer's way of this name."""
        gc.collect()
        start = time.perf_counter()
        share = getattr(self._peer, make)(count)
        return (time.perf_counter() - start) * share

    def objects(self, make: str, count: int) -> dict[str, float]:
        """Calls per second, and processor time of a call, of ``count`` in a row in one thread."""
        call = getattr(self._peer, make)
        for _ in range(WARM_UP_CALLS):
            call()
        gc.collect()
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            call()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        return {"rate": count / seconds, "cpu": cpu / count}

    def round_trip(self, count: int) -> dict[str, float]:
        """The median time of one call, and the processor time of a call, over ``count`` calls in a row."""
        call = self._peer.call
        now = time.perf_counter
        times = []
        cpu = time.process_time()
        for _ in range(count):
            start = now()
            call()
            times.append(now() - start)
        return {"p50": statistics.median(times), "cpu": (time.process_time() - cpu) / count}

    def threads(self, threads: int, count: int) -> float:
        """Calls per second with ``threads`` threads that call in a row, ``count`` calls in all."""
        barrier = threading.Barrier(threads + 1)
        failures: list[BaseException] = []

        def run() -> None:
            barrier.wait()
            try:
                for _ in range(count // threads):
                    self._peer.call()
            except BaseException as exc:  # noqa: BLE001 - raised again below
                failures.append(exc)

        callers = [threading.Thread(target=run) for _ in range(threads)]
        for caller in callers:
            caller.start()
        barrier.wait()
        start = time.perf_counter()
        for caller in callers:
            caller.join()
        seconds = time.perf_counter() - start
        if failures:
            raise failures[0]
        return count // threads * threads / seconds

    def submit_all(self, count: int) -> float:
        """Seconds until ``count`` calls that were submitted at once have all been answered."""
        return self._seconds(self._peer.submit_all, count)

    def call_many(self, count: int) -> float:
        """The same for one batch."""
        return self._seconds(self._peer.call_many, count)

    def big(self, method: str, size: int) -> float:
        """Seconds for one call whose parameters, and with ``bench_big`` also its reply, hold ``size`` characters."""
        return self._seconds(self._peer.big, method, "x" * size)

    def close(self) -> float:
        """Seconds that ``close`` takes, the server alive and well."""
        seconds = self._seconds(self._peer.close)
        self.connect(*self._address)
        return seconds

    def memory(self, hold: str, count: int) -> float:
        """Bytes for each call that waits for its reply, ``hold`` being the method that makes them."""
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            held = getattr(self._peer, hold)(count)
            gc.collect()
            used = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        self._peer.release(held)
        self.connect(*self._address)
        return used / count

    def idle(self, seconds: float) -> float:
        """Processor seconds for 10 s without a call, from ``seconds`` of them."""
        cpu = time.process_time()
        time.sleep(seconds)
        return (time.process_time() - cpu) * 10 / seconds

    def disconnect(self) -> None:
        self._peer.close()

    @staticmethod
    def _seconds(function: Any, *args: Any) -> float:
        gc.collect()
        start = time.perf_counter()
        function(*args)
        return time.perf_counter() - start


def serve(kind: type[Worker]) -> None:
    """Read commands, measure and answer, until the input ends."""
    core, name = int(sys.argv[1]), sys.argv[2]
    if core >= 0:
        os.sched_setaffinity(0, {core})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a peer prints is not an answer
    logging.disable(logging.CRITICAL)

    def answer(**value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        worker = kind(peers.make(name))
    except BaseException as exc:  # noqa: BLE001 - told to the process that started this
        answer(error=f"{type(exc).__name__}: {exc}")
        return
    answer(value="ready")
    for line in sys.stdin:
        command, *args = json.loads(line)
        try:
            answer(value=getattr(worker, command)(*args))
        except BaseException as exc:  # noqa: BLE001 - told to the process that asked
            answer(error=f"{type(exc).__name__}: {exc}"[:500])
    os._exit(0)  # whatever threads a peer has left


if __name__ == "__main__":
    serve(Worker)
