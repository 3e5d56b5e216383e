"""Programs in processes of their own, with a hard time limit, which a test talks to line by line."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

from tests.conftest import FAILSAFE

ROOT = Path(__file__).parents[2]

END_LIMIT = 15.0
"""Seconds within which a program must have ended once it has nothing left to do.

A busy machine may need most of it; and it is shorter than the 20 s after which a server that says nothing is given up:
a program that waited for it would need those."""


class Child:
    """A Python program. Its lines are read with :meth:`line`; as a context manager it is killed at the end."""

    def __init__(self, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._stderr: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_stdout, name="child's stdout"),
            threading.Thread(target=self._read_stderr, name="child's stderr"),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(FAILSAFE)
        for reader in self._readers:
            reader.join(FAILSAFE)
        assert self._process.stdin is not None
        self._process.stdin.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def line(self) -> str:
        """The next line of its output; the end of it is a failure, with what it said on stderr."""
        line = self._lines.get(timeout=FAILSAFE)
        assert line is not None, f"it ended: {self.stderr}"
        return line

    def say(self, line: str) -> None:
        """Write one line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def end(self, limit: float = FAILSAFE) -> int:
        """Its exit code; it must end by itself within ``limit`` seconds."""
        code = self._process.wait(limit)
        for reader in self._readers:
            reader.join(FAILSAFE)
        return code

    @property
    def stderr(self) -> str:
        return "".join(self._stderr)

    def _read_stdout(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            self._stderr.append(stream.read())
