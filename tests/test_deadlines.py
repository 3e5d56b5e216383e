"""Deadlines with explicit times, and the two clocks."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from tellurio_sync.deadlines import MONOTONIC, Deadline, check_timeout

from .conftest import FAILSAFE, in_thread
from .fake_clock import FakeClock


@pytest.mark.parametrize("timeout", [1, 0.001, 30, 1e9, 5e-324])
def test_a_positive_finite_timeout_is_given_back_as_a_float(timeout: float) -> None:
    checked = check_timeout(timeout)
    assert checked == timeout
    assert type(checked) is float


@pytest.mark.parametrize(
    "timeout",
    [0, 0.0, -0.0, -1, -0.001, math.nan, math.inf, -math.inf, True, False, None, "3", b"3", [], {}, object(), 1 + 0j],
)
def test_any_other_timeout_is_a_value_error_that_names_it(timeout: Any) -> None:
    with pytest.raises(ValueError, match="ping_timeout"):
        check_timeout(timeout, "ping_timeout")


@pytest.mark.parametrize("timeout", [10**400, -(10**400)])
def test_a_timeout_too_large_for_a_float_is_a_value_error(timeout: int) -> None:
    with pytest.raises(ValueError, match="timeout"):
        check_timeout(timeout)


# started at 100 with the timeout 30
@pytest.mark.parametrize(
    ("hard_timeout", "heartbeats", "expires_at"),
    [
        (None, [], 130),
        (None, [100], 130),
        (None, [110], 140),
        (None, [110, 125], 155),
        (None, [129.999], 159.999),
        (None, [110, 500], 530),
        (60, [], 130),
        (60, [129], 159),
        (60, [131], 160),
        (60, [131, 159], 160),
        (10, [], 110),
        (10, [105], 110),
        (30, [101], 130),
    ],
)
def test_a_deadline_is_the_last_sign_of_life_plus_timeout_up_to_the_hard_limit(
    hard_timeout: float | None, heartbeats: list[float], expires_at: float
) -> None:
    deadline = Deadline(30, 100, hard_timeout)
    for now in heartbeats:
        deadline.extend(now)
    assert deadline.expires_at == expires_at
    assert deadline.remaining(expires_at - 1) == 1
    assert deadline.remaining(expires_at) == 0
    assert deadline.remaining(expires_at + 2) == -2


def test_silence_is_counted_from_the_last_sign_of_life() -> None:
    deadline = Deadline(30, 100)
    assert deadline.silent_for(105) is None
    deadline.extend(110)
    assert deadline.silent_for(110) == 0
    assert deadline.silent_for(117.5) == 7.5


def test_the_monotonic_clock_does_not_go_back() -> None:
    assert MONOTONIC.now() <= MONOTONIC.now()


@pytest.mark.parametrize("timeout", [0, -1])
def test_a_wait_without_time_left_returns_at_once_with_what_is_there(timeout: float) -> None:
    lock = threading.Lock()
    assert MONOTONIC.wait(lock, timeout) is True
    assert MONOTONIC.wait(lock, timeout) is False


def test_a_wait_ends_when_it_is_woken_long_before_its_timeout() -> None:
    lock = threading.Lock()
    lock.acquire()
    threading.Timer(0.01, lock.release).start()
    assert MONOTONIC.wait(lock, FAILSAFE) is True


def test_a_wait_ends_unwoken_at_its_timeout() -> None:
    lock = threading.Lock()
    lock.acquire()
    assert MONOTONIC.wait(lock, 0.001) is False


def test_a_wait_far_beyond_what_a_lock_can_wait_for_is_sliced() -> None:
    lock = threading.Lock()
    assert MONOTONIC.wait(lock, 1e300) is True


class TestFakeClock:
    def test_it_stands_still(self) -> None:
        clock = FakeClock(7)
        assert (clock.now(), clock.now()) == (7, 7)

    def test_advance_wakes_who_waits(self) -> None:
        clock = FakeClock()
        lock = threading.Lock()
        lock.acquire()

        def wait() -> float:
            clock.now()
            clock.wait(lock, 10)
            return clock.now()

        outcome: list[float] = []
        thread = threading.Thread(target=lambda: outcome.append(wait()))
        thread.start()
        clock.wait_for_waiting()
        clock.advance(3)
        thread.join(FAILSAFE)
        assert outcome == [1003]

    def test_an_advance_between_reading_the_time_and_waiting_is_not_lost(self) -> None:
        clock = FakeClock()
        lock = threading.Lock()
        lock.acquire()

        def wait() -> bool:
            clock.now()
            in_thread(clock.advance, 1)
            return clock.wait(lock, 10)

        assert in_thread(wait) is False
