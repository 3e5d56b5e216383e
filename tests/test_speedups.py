"""The semaphores, in C and in Python; and the package with and without its C extension."""

from __future__ import annotations

import copy
import importlib
import os
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tellurio_sync import speedups
from tellurio_sync.speedups import PySemaphore, Semaphore, release_all

from .benchmarks.processes import running
from .conftest import FAILSAFE
from .native import MUST_BE_COMPILED, compiled, needs_signals, under_signals
from .peer.rig import Background
from .processes.child import Child

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
    threads = [Background(lambda: [semaphore.release() for _ in range(2000)]) for _ in range(4)]
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
    """Also by who was just about to look as the release came, which counts as one with the release before it."""
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


def test_it_is_left_out_where_it_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tellurio_sync._speedups", None)  # as if it were not there
    with pytest.raises(ImportError):
        importlib.import_module("tellurio_sync._speedups")
    assert speedups._load() is None


@pytest.fixture(params=["in Python", "in C"])
def own_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the programs that a test starts use."""
    if request.param == "in Python":
        monkeypatch.setenv("TELLURIO_SYNC_PURE_PYTHON", "1")
    else:
        compiled()
    return str(request.param)


def check(child: Child) -> str:
    """What it prints; it must end well and have nothing to complain about."""
    with child:
        line = child.line()
        assert (child.end(), child.stderr) == (0, "")
    return line


KIND = """
import sys
from tellurio_sync import speedups
from tellurio_sync.speedups import make_semaphore
from tellurio_sync.transport import readiness
kind = "in Python" if speedups.compiled is None else "in C"
assert (kind == "in C") == ("tellurio_sync._speedups" in sys.modules)
"""

CALLS = """
import tellurio_sync as te
class Run:
    uuid = "run-1"
te.set_active_run(Run())
receivers = []
real = readiness.make_receiver
def make_receiver(*args):
    receivers.append(real(*args))
    return receivers[-1]
from tellurio_sync.transport import websocket
websocket.make_receiver = make_receiver
client = te.TellurioWebSocketClient("ws://127.0.0.1", {port}, default_timeout={failsafe})
client.connect("key-1")
variable = {{"variable_id": "1", "field": "data", "value": "a few words \u20ac"}}
for _ in range(200):
    assert client.call("update_variable", variable)["result"]["field"] == "data"
for size in (126, 65536, 300_000):
    reply = client.call("bench_big", {{"text": "x" * size}})
    assert len(reply["result"]["data"]) > size
futures = [client.submit("update_variable", variable) for _ in range(500)]
assert all(future.result()["result"]["value"] for future in futures)
client.close()
(receiver,) = receivers
print(kind, type(receiver).__name__)
"""


@pytest.mark.slow
def test_a_client_makes_its_calls_either_way(own_kind: str) -> None:
    with running("server.py", -1) as ports:
        program = KIND + CALLS.format(port=ports["port"], failsafe=FAILSAFE)
        receiver = "PollReceiver" if own_kind == "in Python" else "Receiver"
        assert check(Child(program)) == f"{own_kind} {receiver}"


WAITING = """
import os, socket, threading, warnings
ours, theirs = socket.socketpair()
wake_in, wake_out = socket.socketpair()
ours.settimeout(0)
semaphore, go_on = make_semaphore(), make_semaphore()
receiver = readiness.make_receiver(ours.fileno(), wake_in.fileno(), 100)
def wait():
    semaphore.acquire()
def receive():
    receiver.receive(None, [go_on], False)
for target in (wait, receive):
    threading.Thread(target=target, daemon=True).start()
assert go_on.acquire(True, {failsafe}), "it does not receive"
"""


@pytest.mark.slow
def test_threads_that_wait_do_not_disturb_the_end_of_the_process(own_kind: str) -> None:
    assert check(Child(KIND + WAITING.format(failsafe=FAILSAFE) + "print(kind)")) == own_kind


FORKING = """
warnings.simplefilter("ignore", DeprecationWarning)  # that it may deadlock in the child: what does, is tested
pid = os.fork()
if not pid:
    del semaphore, receiver, go_on  # another thread waited for them, which is not here
    own = make_semaphore()
    own.release()
    assert own.acquire(True, {failsafe})
    assert not own.acquire(True, 0.001)
    here, there = socket.socketpair()
    here.settimeout(0)
    fresh = readiness.make_receiver(here.fileno(), wake_in.fileno(), 0)
    there.send(b"x")
    assert fresh.receive({failsafe}, [own], False) == (readiness.READABLE, None)
    assert own.acquire(False)
    os._exit(7)
_, status = os.waitpid(pid, 0)
print(kind, os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_can_forget_what_threads_of_its_parent_wait_for(own_kind: str) -> None:
    program = KIND + (WAITING + FORKING).format(failsafe=FAILSAFE)
    assert check(Child(program)) == f"{own_kind} 7"
