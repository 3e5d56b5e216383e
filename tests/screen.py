"""A real terminal with a program in it: what it shows, and a keyboard."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time

from .conftest import FAILSAFE

# The program becomes the leader of a session, whose terminal is its standard input: there Ctrl-C is a signal.
_BEGIN = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Screen:
    """A terminal in which Python runs with these arguments; what it shows, and a keyboard. Not on Windows."""

    def __init__(self, arguments: tuple[str, ...], columns: int = 100) -> None:
        self._keyboard, self.line = pty.openpty()
        fcntl.ioctl(self.line, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.text = ""
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, *arguments],
            **{"stdin": self.line, "stdout": self.line, "stderr": self.line},
            env={**environment, "TERM": "xterm", "PYTHONIOENCODING": "utf-8"},
        )

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self.line)[3] & termios.ECHO)

    def wait_for(self, text: str, times: int = 1) -> None:
        end = time.monotonic() + FAILSAFE
        while self.text.count(text) < times:
            assert time.monotonic() < end, f"{text!r} is not to be seen in: {self.text}"
            self._read(0.05)

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def end(self) -> int:
        """The exit code; all that was shown is in ``text`` then."""
        end = time.monotonic() + FAILSAFE
        while self._process.poll() is None:
            assert time.monotonic() < end, f"it does not end: {self.text}"
            self._read(0.05)
        while self._read(0.0):
            pass
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(FAILSAFE)
        os.close(self._keyboard)
        os.close(self.line)

    @property
    def lines(self) -> list[str]:
        return self.text.replace("\r\n", "\n").splitlines()

    def _read(self, seconds: float) -> bool:
        if not select.select([self._keyboard], [], [], seconds)[0]:
            return False
        self.text += os.read(self._keyboard, 65536).decode()
        return True
