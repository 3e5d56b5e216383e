"""The semaphores, in C and in Python, and what decides which of them is used."""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync import speedups
from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.errors import ConnectFailed, UsageError
from tellurio_sync.speedups import PySemaphore, Semaphore, release_all

from .conftest import FAILSAFE
from .native import MUST_BE_COMPILED, compiled, needs_signals, under_signals
from .peer.rig import Background

HAND_OVERS = 20_000

Make = Callable[[], Semaphore]


@pytest.fixture(params=["in Python", "in C"])
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a semaphore."""
    return PySemaphore if request.param == "in Python" else compiled().Semaphore


@pytest.fixture
def semaphore(make: Make) -> Semaphore:
    return make()


# --- semaphores -------------------------------------------------------------------------------------------


def test_it_is_taken_at_first(semaphore: Semaphore) -> None:
    assert not semaphore.acquire(False)


def test_a_release_before_the_wait_counts(semaphore: Semaphore) -> None:
    semaphore.release()
    assert semaphore.acquire(True, FAILSAFE)


def test_many_releases_count_once(semaphore: Semaphore) -> None:
    for _ in range(2):
        for _ in range(3):
            semaphore.release()
        assert semaphore.acquire(True, FAILSAFE)
        assert not semaphore.acquire(True, 0)


def test_releases_from_many_threads_at_once_raise_nothing_and_count(semaphore: Semaphore) -> None:
    def release_often() -> None:
        for _ in range(2000):
            semaphore.release()

    threads = [Background(release_often) for _ in range(4)]
    while any(thread.is_running for thread in threads):
        semaphore.acquire(False)
    for thread in threads:
        thread.result()
    semaphore.release()
    assert semaphore.acquire(True, FAILSAFE)
    assert not semaphore.acquire(False)


@pytest.mark.parametrize("args", [(), (True,), (1, -1), (True, -1.0), (1, FAILSAFE), (True, int(FAILSAFE))])
def test_a_release_ends_the_wait(semaphore: Semaphore, args: Any) -> None:
    waiting = Background(semaphore.acquire, *args)
    semaphore.release()
    assert waiting.result() is True
    assert not semaphore.acquire(False)


@pytest.mark.parametrize("timeout", [0, 0.0, -0.0, 5e-324, 1e-9, 0.001])
def test_a_wait_ends_at_its_timeout_and_loses_no_release(semaphore: Semaphore, timeout: float) -> None:
    for _ in range(2):
        assert semaphore.acquire(True, timeout) is False
        semaphore.release()
        assert semaphore.acquire(True, timeout) is True


def test_a_wait_does_not_end_before_its_timeout(semaphore: Semaphore) -> None:
    start = time.monotonic()
    assert not semaphore.acquire(True, 0.05)
    assert time.monotonic() - start >= 0.05


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((True, "soon"), TypeError),
        ((True, None), TypeError),
        ((True, 1j), TypeError),
        ((True, 1, 1), TypeError),
        ((True, -2), ValueError),
        ((True, -0.001), ValueError),
        ((True, float("nan")), ValueError),
        ((True, float("inf")), (ValueError, OverflowError)),
        ((True, float("-inf")), (ValueError, OverflowError)),
        ((True, 1e12), (ValueError, OverflowError)),
        ((True, 1e300), (ValueError, OverflowError)),
        ((True, -(10**400)), (ValueError, OverflowError)),
        ((True, 10**400), (ValueError, OverflowError)),
    ],
)
def test_what_is_no_timeout_is_refused(semaphore: Semaphore, args: Any, error: Any) -> None:
    for is_released in (False, True):
        with pytest.raises(error):
            semaphore.acquire(*args)
        assert semaphore.acquire(False) == is_released
        semaphore.release()


def test_what_it_does_not_take_is_refused(make: Make) -> None:
    semaphore: Any = make()
    for attempt in (
        lambda: make(1),  # type: ignore[call-arg]
        lambda: make(blocking=True),  # type: ignore[call-arg]
        lambda: semaphore.acquire(blocking=True),
        lambda: semaphore.acquire(True, timeout=1),
        lambda: semaphore.release(1),
    ):
        with pytest.raises(TypeError):
            attempt()
    assert not semaphore.acquire(False)


def test_an_error_of_an_argument_is_passed_on() -> None:
    semaphore = compiled().Semaphore()
    asked: list[str] = []

    class Odd:
        def __bool__(self) -> bool:
            asked.append("bool")
            raise ZeroDivisionError

        def __float__(self) -> float:
            asked.append("float")
            raise ZeroDivisionError

    for args in ((Odd(),), (Odd(), Odd()), (Odd(), "soon"), (True, Odd())):
        with pytest.raises(ZeroDivisionError):
            semaphore.acquire(*args)
    assert asked == ["bool"] * 3 + ["float"]


@pytest.mark.parametrize("releases", [0, 1, 2])
def test_it_can_be_forgotten_in_any_state(make: Make, releases: int) -> None:
    for _ in range(100):
        semaphore = make()
        for _ in range(releases):
            semaphore.release()
        del semaphore
        semaphore = make()
        semaphore.release()
        assert semaphore.acquire(False)
        del semaphore


def test_nothing_else_can_be_made_of_it() -> None:
    """One that was made in any other way would have no lock."""
    kind = compiled().Semaphore
    semaphore = kind()
    with pytest.raises(TypeError):
        object.__new__(kind)
    with pytest.raises(TypeError):
        type("Other", (kind,), {})
    with pytest.raises(TypeError):
        kind.release = None
    with pytest.raises(TypeError):
        semaphore.__class__ = compiled().Receiver
    with pytest.raises(TypeError):
        kind.acquire(object())
    for take_along in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            take_along(semaphore)


# --- two threads ------------------------------------------------------------------------------------------


def test_two_threads_take_turns_without_losing_one(make: Make) -> None:
    here, there = make(), make()

    def answer() -> int:
        for turn in range(HAND_OVERS):
            if not there.acquire(True, FAILSAFE):
                return turn
            here.release()
        return HAND_OVERS

    answering = Background(answer)
    for _ in range(HAND_OVERS):
        there.release()
        if not here.acquire(True, FAILSAFE):
            break
    assert answering.result() == HAND_OVERS


def test_what_was_stored_before_a_release_is_seen_after_the_wait(make: Make) -> None:
    """Also by a thread that was about to look when the release came; two releases then count as one."""
    semaphore = make()
    stored = 0

    def store() -> None:
        nonlocal stored
        for _ in range(HAND_OVERS):
            stored += 1
            semaphore.release()

    storing = Background(store)
    while stored < HAND_OVERS:
        assert semaphore.acquire(True, FAILSAFE), f"the wake-up for {stored} was lost"
    storing.result()


# --- signals ----------------------------------------------------------------------------------------------


@needs_signals
@pytest.mark.parametrize("args", [(), (True, 2 * FAILSAFE)])
def test_ctrl_c_ends_a_wait_at_once_and_takes_nothing(semaphore: Semaphore, args: Any) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    def wait() -> bool:
        return semaphore.acquire(*args)

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            under_signals(wait, interrupt, semaphore.release)
        assert not semaphore.acquire(False)
    semaphore.release()
    assert semaphore.acquire(True, FAILSAFE)


@needs_signals
@pytest.mark.parametrize("timeout", [-1, 2 * FAILSAFE])
def test_a_signal_that_is_none_of_its_business_does_not_end_a_wait(semaphore: Semaphore, timeout: float) -> None:
    signals = 0

    def note(number: int) -> None:
        nonlocal signals
        signals = number
        if number == 20:
            semaphore.release()

    def wait() -> bool:
        return semaphore.acquire(True, timeout)

    assert under_signals(wait, note, semaphore.release) is True
    assert signals >= 20
    assert not semaphore.acquire(False)


@needs_signals
def test_signals_do_not_put_the_timeout_off(semaphore: Semaphore) -> None:
    def wait() -> bool:
        return semaphore.acquire(True, 0.05)

    start = time.monotonic()
    assert under_signals(wait, lambda _: None, semaphore.release) is False
    assert time.monotonic() - start >= 0.05


# --- lists of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
def test_all_of_a_list_are_released_and_taken_out(make: Make, count: int) -> None:
    semaphores = [make() for _ in range(count)]
    wakeups = [*semaphores, *semaphores]
    release_all(wakeups)
    assert wakeups == []
    assert all(semaphore.acquire(False) for semaphore in semaphores)


# --- with and without the extension -----------------------------------------------------------------------


def test_it_is_compiled_where_it_must_be() -> None:
    assert speedups.compiled is not None or not MUST_BE_COMPILED


def test_what_is_compiled_is_used() -> None:
    extension = compiled()
    assert speedups._load() is extension
    assert isinstance(speedups.make_semaphore(), extension.Semaphore)


def test_it_is_left_out_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLURIO_SYNC_PURE_PYTHON", "1")
    assert speedups._load() is None


class Library:
    """What gevent and eventlet tell of themselves."""

    def __init__(self, *replaced: str) -> None:
        self._replaced = replaced

    def is_module_patched(self, name: str) -> bool:
        return name in self._replaced

    is_monkey_patched = is_module_patched


@pytest.mark.parametrize(
    ("module", "replaced", "found"),
    [
        ("gevent.monkey", ("threading", "socket"), "gevent"),
        ("gevent.monkey", ("socket",), None),
        ("eventlet.patcher", ("thread", "socket"), "eventlet"),
        ("eventlet.patcher", (), None),
    ],
)
def test_it_is_left_out_where_threads_are_replaced_by_others(
    module: str, replaced: tuple[str, ...], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, Library(*replaced))
    assert speedups.replaced_by() == found
    assert found is None or speedups._load() is None
    # They were replaced before the import:
    monkeypatch.setattr(speedups, "compiled", None)
    speedups.check_threads()
    # Afterwards:
    monkeypatch.setattr(speedups, "compiled", object())
    client = TellurioWebSocketClient("ws://127.0.0.1", 9, api_key="k")
    if found is None:
        with pytest.raises(ConnectFailed):
            client.connect(retries=1, delay=0)
    else:
        with pytest.raises(UsageError, match=f"{found} has replaced the threads") as caught:
            client.connect(retries=1, delay=0)
        assert "before the first import of tellurio_sync" in str(caught.value)
    client.close()


def test_it_is_left_out_where_it_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tellurio_sync._speedups", None)  # as if it were not there
    with pytest.raises(ImportError):
        importlib.import_module("tellurio_sync._speedups")
    assert speedups._load() is None
