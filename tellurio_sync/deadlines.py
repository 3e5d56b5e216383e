"""Deadlines: points in time at which a wait ends, and which signs of life postpone.

A *timeout* is a length in seconds that a user passes; a *deadline* is the point on the monotonic
clock that follows from it.  A call makes its deadline once and passes it down.  The arithmetic here
is pure: the time is an argument, or comes from the clock that the owner passes.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Protocol

# On POSIX, Ctrl-C interrupts the wait for a lock at once. Elsewhere Python sees it only between two waits, so long
# waits are cut into slices.
_MAX_SLICE = 3600.0 if sys.platform != "win32" else 0.2


def check_timeout(timeout: float, name: str = "timeout") -> float:
    """The timeout as a float.

    Args:
        timeout: seconds, > 0 and finite.
        name: the name of the argument, for the error text.

    Raises:
        ValueError: it is not a positive, finite number.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise ValueError(f"{name} must be a number of seconds, not {timeout!r}")
    # Compared, not converted: float() of a huge int raises OverflowError.
    if not 0 < timeout <= sys.float_info.max:
        raise ValueError(f"{name} must be a positive, finite number of seconds, not {timeout!r}")
    return float(timeout)


class Waitable(Protocol):
    """A binary semaphore, for which a clock can wait."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...


class Clock:
    """The monotonic clock, and waits that use it. Tests pass a clock whose time they move by hand.

    Attributes:
        now: gives the seconds on a clock that never goes back.
    """

    def __init__(self) -> None:
        # The C function itself, found in the object and not in its class: each call reads it several times.
        self.now: Callable[[], float] = time.monotonic

    def wait(self, waitable: Waitable, timeout: float) -> bool:
        """Wait for ``waitable``, at most ``timeout`` seconds, and return whether it was acquired.

        May return False early; the caller then checks its own deadline.
        """
        if timeout <= 0:
            return waitable.acquire(False)
        return waitable.acquire(True, timeout if timeout < _MAX_SLICE else _MAX_SLICE)


MONOTONIC = Clock()


class Deadline:
    """The last sign of life + timeout, but never later than the hard limit.

    Not thread-safe by itself: ``extend`` is one attribute store, so one writer and any number of
    readers need no lock.

    Args:
        timeout: seconds, > 0, from each sign of life.
        now: the time of the start.
        hard_timeout: seconds, > 0, from the start, beyond which no sign of life extends; None: no such limit.
    """

    __slots__ = ("hard_limit", "last_sign_of_life", "started", "timeout")

    def __init__(self, timeout: float, now: float, hard_timeout: float | None = None) -> None:
        self.timeout: float = timeout
        self.started: float = now
        self.last_sign_of_life: float | None = None
        self.hard_limit: float = math.inf if hard_timeout is None else now + hard_timeout

    @property
    def expires_at(self) -> float:
        """The point in time at which the wait ends, if no further sign of life comes."""
        last = self.last_sign_of_life
        expires_at = (self.started if last is None else last) + self.timeout
        return expires_at if expires_at < self.hard_limit else self.hard_limit

    def extend(self, now: float) -> None:
        """Note a sign of life."""
        self.last_sign_of_life = now

    def remaining(self, now: float) -> float:
        """Seconds left; zero or less means expired."""
        return self.expires_at - now

    def silent_for(self, now: float) -> float | None:
        """Seconds since the last sign of life, None if there was none."""
        return None if self.last_sign_of_life is None else now - self.last_sign_of_life
