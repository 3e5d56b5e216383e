"""The receiver in C: what only C can get wrong. What it does is in ``test_readiness``."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tellurio_sync.speedups import PySemaphore, Semaphore
from tellurio_sync.transport.readiness import READABLE, WOKEN

from ..conftest import FAILSAFE
from ..native import compiled
from ..peer.rig import Background
from .receivers import SIZE, Ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends(True)
    yield made
    made.close()


# --- arguments --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), TypeError),
        ((0, 0), TypeError),
        ((0, 0, 0, 0), TypeError),
        (("0", 0, 0), TypeError),
        ((0, 1.5, 0), TypeError),
        ((0, 0, None), TypeError),
        ((-1, 0, 1), ValueError),
        ((0, -1, 1), ValueError),
        ((0, 0, 0), ValueError),
        ((0, 0, -1), ValueError),
        ((1 << 40, 0, 0), OverflowError),
        ((0, -(1 << 40), 0), OverflowError),
        ((0, 0, sys.maxsize + 1), OverflowError),
        ((0, 0, sys.maxsize), MemoryError),
    ],
)
def test_what_it_cannot_be_made_of_is_refused(args: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        compiled().Receiver(*args)


def test_nothing_else_can_be_made_of_it(ends: Ends) -> None:
    """One that was made in any other way would have no buffer."""
    kind = compiled().Receiver
    with pytest.raises(TypeError):
        object.__new__(kind)
    with pytest.raises(TypeError):
        type("Other", (kind,), {})
    with pytest.raises(TypeError):
        kind.receive = None
    with pytest.raises(TypeError):
        ends.receiver.__class__ = compiled().Semaphore
    with pytest.raises(TypeError):
        kind.receive(compiled().Semaphore(), 0, [], False)
    for take_along in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            take_along(ends.receiver)


class Odd:
    """Neither a number nor a truth."""

    def __bool__(self) -> bool:
        raise ZeroDivisionError

    __float__ = __bool__


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (lambda wakeups: (), TypeError),
        (lambda wakeups: (0, wakeups), TypeError),
        (lambda wakeups: (0, wakeups, False, None), TypeError),
        (lambda wakeups: (0, tuple(wakeups), False), TypeError),
        (lambda wakeups: (0, None, False), TypeError),
        (lambda wakeups: (0, type("Other", (list,), {})(wakeups), False), TypeError),
        (lambda wakeups: ("soon", wakeups, False), TypeError),
        (lambda wakeups: (1j, wakeups, False), TypeError),
        (lambda wakeups: (10**400, wakeups, False), OverflowError),
        (lambda wakeups: (Odd(), wakeups, False), ZeroDivisionError),
        (lambda wakeups: (0, wakeups, Odd()), ZeroDivisionError),
    ],
)
def test_what_it_does_not_take_is_refused_and_nobody_is_woken(ends: Ends, args: Any, error: type[Exception]) -> None:
    ends.send(b"x")
    semaphore = ends.make_semaphore()
    wakeups = [semaphore]
    with pytest.raises(error):
        ends.receiver.receive(*args(wakeups))
    assert wakeups == [semaphore]
    assert not semaphore.acquire(False)
    assert ends.receive(FAILSAFE) == (READABLE, b"x")


def test_it_takes_no_names(ends: Ends) -> None:
    with pytest.raises(TypeError):
        ends.receiver.receive(0, [], watches_writes=False)
    with pytest.raises(TypeError):
        ends.receiver.receive(timeout=0, wakeups=[], watches_writes=False)
    with pytest.raises(TypeError):
        ends.receiver.receive(0, [], False, other=1)


@pytest.mark.parametrize("timeout", [float("nan"), -1, -0.0, -1e300, float("-inf"), False, 5e-324])
def test_a_timeout_that_is_none_does_not_wait_for_ever(ends: Ends, timeout: float) -> None:
    assert ends.receive(timeout) == (0, None)


@pytest.mark.parametrize("timeout", [2147483.646, 2147483.647, 2147483.648, 1e300, float("inf"), 1 << 62])
def test_a_timeout_that_is_too_long_is_the_longest_that_there_is(ends: Ends, timeout: float) -> None:
    semaphore = ends.make_semaphore()
    receiving = Background(ends.receive, timeout, [semaphore])
    assert semaphore.acquire(True, FAILSAFE)
    ends.wake()
    assert receiving.result() == (WOKEN, None)


# --- wake-ups ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [None, "a text", PySemaphore(), object(), []])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_no_semaphore_is_refused_and_the_list_left_as_it_was(ends: Ends, other: Any, place: int) -> None:
    wakeups: list[Any] = [ends.make_semaphore(), ends.make_semaphore()]
    wakeups.insert(place, other)
    before = [*wakeups]
    ends.send(b"x")
    with pytest.raises(TypeError, match="semaphores"):
        ends.receive(FAILSAFE, wakeups)
    assert wakeups == before
    del wakeups[place]
    assert not any(semaphore.acquire(False) for semaphore in wakeups)
    assert ends.receive(FAILSAFE, wakeups) == (READABLE, b"x")


def test_nobody_else_may_hold_what_is_to_be_woken(ends: Ends) -> None:
    """The list's may be the only reference."""
    for _ in range(100):
        wakeups = [ends.make_semaphore() for _ in range(10)]
        assert ends.receive(0, wakeups) == (0, None)
        assert wakeups == []


def test_a_second_thread_is_refused_and_wakes_nobody(ends: Ends) -> None:
    first, second = ends.make_semaphore(), ends.make_semaphore()
    receiving = Background(ends.receive, 2 * FAILSAFE, [first])
    assert first.acquire(True, FAILSAFE)
    wakeups = [second]
    with pytest.raises(RuntimeError, match="another thread"):
        ends.receive(0, wakeups)
    assert wakeups == [second]
    assert not second.acquire(False)
    ends.wake()
    assert receiving.result() == (WOKEN, None)
    assert ends.receive(0, wakeups) == (WOKEN, None)
    assert second.acquire(False)


def test_an_error_leaves_it_usable(ends: Ends) -> None:
    ends.far.close()
    ends.near.close()
    for _ in range(3):
        with pytest.raises(OSError):
            ends.receive(FAILSAFE)


def test_what_is_no_socket_is_an_error() -> None:
    out, into = os.pipe()
    try:
        os.write(into, b"x")
        receiver = compiled().Receiver(out, into, SIZE)
        with pytest.raises(OSError):
            receiver.receive(FAILSAFE, [], False)
    finally:
        os.close(out)
        os.close(into)


class Mischief:
    """Cyclic garbage that empties a list and fills it with other things when it is collected."""

    def __init__(self, victim: list[Any]) -> None:
        self._victim = victim
        self._itself = self

    def __del__(self) -> None:
        self._victim.clear()
        self._victim.extend(range(1000))
        self._victim.clear()


@pytest.fixture
def hasty_collector() -> Iterator[None]:
    """Garbage is collected whenever an object is made that may be part of a cycle, as far as the version does so."""
    gc.collect()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("hasty_collector")
def test_the_garbage_collector_cannot_change_the_list_on_the_way(ends: Ends) -> None:
    for count in range(1, 100):
        gc.disable()
        semaphores = [ends.make_semaphore() for _ in range(count)]
        wakeups: list[Semaphore] = [*semaphores]
        Mischief(wakeups)
        gc.enable()
        ends.receiver.receive(0, wakeups, False)
        assert wakeups == []
        assert all(semaphore.acquire(False) for semaphore in semaphores)
