"""The processes of a benchmark: each prints one JSON line when it is ready, and ends with its standard input."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CACHE = ROOT / ".cache" / "benchmarks"
AFNIO_VERSION = "0.3.7"
CONSTRAINTS = ROOT / ".ci" / "afnio.txt"
START_TIMEOUT = 30.0
MEASUREMENT_TIMEOUT = 120.0


class Failed(Exception):
    """A process did not do what it was asked to; the text says why."""


class Process:
    """A program that is spoken to in JSON lines."""

    def __init__(self, *command: object, env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [*map(str, command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a peer's tracebacks are nobody's business here
            text=True,
            env={**os.environ, **(env or {})},
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, *command: Any) -> None:
        """Send a command; ``answer`` gives what comes of it."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no answer either
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def answer(self, timeout: float = MEASUREMENT_TIMEOUT) -> Any:
        """The next line, decoded.

        Raises:
            Failed: none came in time, or the process ended.
        """
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            self.stop()
            raise Failed(f"no answer within {timeout:g} s") from None
        if not line:
            raise Failed("the process ended")
        return json.loads(line)

    def stop(self) -> None:
        """End the process. Idempotent."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()


class Worker(Process):
    """A peer in a process of its own, in ``worker.py`` or another program that adds measurements to it."""

    def __init__(self, python: str, core: int, peer: str, env: dict[str, str], program: str = "worker.py") -> None:
        super().__init__(python, HERE / program, core, peer, env=env)
        self.peer = peer
        try:
            self.value(START_TIMEOUT)
        except Failed:
            self.stop()
            raise

    def value(self, timeout: float = MEASUREMENT_TIMEOUT) -> Any:
        """What the last command gave.

        Raises:
            Failed: it failed.
        """
        answer = self.answer(timeout)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["value"]

    def ask(self, *command: Any) -> Any:
        self.tell(*command)
        return self.value()


@contextlib.contextmanager
def running(program: str | Path, *args: object) -> Iterator[dict[str, int]]:
    """A server or link while the block runs; its ports.

    Args:
        program: the name of one in this folder, or the path of one that needs no interpreter.
        args: its arguments.
    """
    process = Process(*([program] if isinstance(program, Path) else [sys.executable, HERE / program]), *args)
    try:
        yield process.answer(START_TIMEOUT)
    finally:
        process.stop()


def cores(pinning: str) -> tuple[int, int]:
    """The core of the clients and the one of the servers; -1 where processes are not pinned.

    Args:
        pinning: ``"apart"``: two cores, where there are two. ``"together"``: one core for both, so that what is seen
            is work, and not how long an idle core takes to wake up. ``"none"``.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if pinning == "none" or not usable:
        return -1, -1
    return usable[0], usable[0 if pinning == "together" else min(1, len(usable) - 1)]


def afnio_python(may_install: bool) -> str:
    """The interpreter of a virtual environment with afnio, made on first use under ``.cache/``.

    What this package needs is there, too, for its client under afnio; the package itself is the one that is measured.
    With ``TELLURIO_INTEROP_ENV``, it is that of the interop tests.

    Raises:
        Failed: there is none.
    """
    tag = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"
    named = os.environ.get("TELLURIO_INTEROP_ENV")
    folder = Path(named) if named else CACHE / f"afnio-{AFNIO_VERSION}-and-ours-{tag}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    installed = folder / "installed"
    if installed.exists():
        return str(python)
    if not may_install:
        raise Failed("not installed here (the full benchmark installs it)")
    print(f"installing afnio {AFNIO_VERSION} into {folder} ...", flush=True)
    try:
        subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(folder)], check=True, capture_output=True, timeout=120
        )
        core = [each for each in metadata.requires("tellurio_sync") or [] if "extra ==" not in each]
        pip = [str(python), "-m", "pip", "install", "--quiet", f"afnio=={AFNIO_VERSION}", *core]
        if CONSTRAINTS.exists():
            pip += ["--constraint", str(CONSTRAINTS)]
        subprocess.run(pip, check=True, capture_output=True, timeout=600)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError) as exc:
        raise Failed(f"cannot be installed: {type(exc).__name__}") from exc
    installed.touch()
    return str(python)
