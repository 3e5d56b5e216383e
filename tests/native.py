"""The C extension for the tests that need it, and signals for what waits in C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from tellurio_sync import speedups

from .conftest import FAILSAFE
from .peer.rig import Background

MUST_BE_COMPILED = bool(os.environ.get("TELLURIO_SYNC_MUST_BE_COMPILED"))  # now: a test's environment has none of these

needs_signals = pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system sends threads no signals")


def compiled() -> Any:
    """The extension. Without it the test is skipped, or fails where it must have been built."""
    if speedups.compiled is None:
        reason = "tellurio_sync._speedups was not built, or is not wanted"
        if MUST_BE_COMPILED:
            pytest.fail(reason)
        pytest.skip(reason)
    return speedups.compiled


def under_signals(wait: Callable[[], Any], on_signal: Callable[[int], None], give_up: Callable[[], object]) -> Any:
    """What ``wait`` returns or raises on the main thread, which gets one SIGINT after another.

    Args:
        wait: what the signals are for: only those count that are handled in there, or in what it calls.
        on_signal: told of each of these by its number, from 1; what it raises is raised in ``wait``.
        give_up: ends the wait, from another thread, if it goes on too long; the test fails then.
    """
    handled = 0
    is_over = threading.Event()

    def on_any_signal(_: int, frame: FrameType | None) -> None:
        nonlocal handled
        while frame is not None and frame.f_code is not wait.__code__:
            frame = frame.f_back
        if frame is not None:
            handled += 1
            on_signal(handled)

    def send() -> None:
        end = time.monotonic() + FAILSAFE
        while not is_over.wait(0.001):
            if time.monotonic() > end:
                give_up()
                pytest.fail(f"{handled} signals were handled, and the wait is not over")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    previous = signal.signal(signal.SIGINT, on_any_signal)
    try:
        sending = Background(send)
        try:
            return wait()
        finally:
            is_over.set()
            sending.result()
    finally:
        signal.signal(signal.SIGINT, previous)
