"""What every test gets: no thread left over, an active run, nothing of the user's home or environment."""

from __future__ import annotations

import gc
import itertools
import logging
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tellurio_sync import queued, run_context, speedups
from tellurio_sync.jsonrpc import codec
from tellurio_sync.peer import records

FAILSAFE = 30.0
"""Seconds: how long a test waits for what must come; beyond it something hangs."""

TEST_LIMIT = 900.0
"""Seconds: a test that takes longer hangs, and ends the whole run."""

# No test depends on how fast the machine is: neither one example of a property, nor making it. And none on chance: the
# examples are the same each time. `--hypothesis-profile=exploring` draws others.
for _profile, _is_repeatable in (("exploring", False), ("repeatable", True)):
    hypothesis.settings.register_profile(
        _profile,
        deadline=None,
        derandomize=_is_repeatable,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
hypothesis.settings.load_profile("repeatable")


def _is_coverage_on() -> bool:
    coverage = sys.modules.get("coverage")
    return coverage is not None and coverage.Coverage.current() is not None


if not hasattr(sys.modules["__main__"], "__spec__"):
    # `coverage run` leaves it out, and multiprocessing reads it to start a process.
    sys.modules["__main__"].__spec__ = None

not_under_coverage = pytest.mark.skipif(
    _is_coverage_on(), reason="it counts memory or instructions, and those of coverage would count, too"
)


_running: list[Watchdog] = []


class Watchdog(threading.Thread):
    """Ends the run, with the stacks of all threads, if a test hangs: neither CI nor a user waits for it for ever."""

    def __init__(self, show: Callable[[str], None], limit: float, end: Callable[[int], Any] = os._exit) -> None:
        super().__init__(name="watchdog of the tests", daemon=True)
        self._show = show
        self._limit = limit
        self._end = end
        self._changed = threading.Condition()
        self._test = ""
        self._ends_at = math.inf

    def begin(self, test: str) -> None:
        with self._changed:
            self._test, self._ends_at = test, time.monotonic() + self._limit

    def stop(self) -> None:
        with self._changed:
            self._ends_at = -math.inf
            self._changed.notify()

    def run(self) -> None:
        with self._changed:
            while (left := self._ends_at - time.monotonic()) > 0:
                self._changed.wait(min(left, self._limit))  # a test that begins meanwhile wakes nobody
            if math.isinf(self._ends_at):
                return
            frames = sys._current_frames()
            stacks = [f"{thread.name}:\n{_stack_of(thread, frames)}" for thread in threading.enumerate()]
            self._show("\n".join([f"{self._test} did not end within {self._limit:g} s:", *stacks]))
            self._end(1)


def _stack_of(thread: threading.Thread, frames: dict[int, Any]) -> str:
    frame = frames.get(thread.ident or 0)
    return "" if frame is None else "".join(traceback.format_stack(frame))


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")

    def show(text: str) -> None:
        reporter.write_line(text)
        reporter.flush()

    watchdog = Watchdog(show, TEST_LIMIT)
    watchdog.start()
    _running.append(watchdog)
    try:
        return (yield)
    finally:
        _running.remove(watchdog)
        watchdog.stop()
        watchdog.join(FAILSAFE)


def pytest_runtest_logstart(nodeid: str) -> None:
    if _running:
        _running[-1].begin(nodeid)


def pytest_configure() -> None:
    # Started in the background by a shell, a process ignores Ctrl-C, and so would every process that it starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the same with `nohup`


@hypothesis.given(hypothesis.strategies.none())
def _draw_something(_: None) -> None:
    """The first example of all."""


def pytest_collection_finish() -> None:
    # Many tests ask the collector what is left over. All the tests, the modules and what these have imported stay to
    # the end, and looking through them would take a second each time. What is frozen the collector does not find any
    # more; Hypothesis asks it, at its first example, what refers to its random numbers, so these are made first.
    _draw_something()
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    extension = "not used" if speedups.compiled is None else Path(speedups.compiled.__file__).name
    return f"tellurio_sync: messages written by {codec.BACKEND}, C extension: {extension}"


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes a folder whose name begins so.

    ``tmp_path_factory.mktemp`` reads the names of all folders that there are: with one for each of thousands of tests
    that takes more than a minute.
    """
    base = tmp_path_factory.mktemp("folders")
    numbers = itertools.count()

    def make(name: str) -> Path:
        folder = base / f"{name}{next(numbers)}"
        folder.mkdir(mode=0o700)
        return folder

    return make


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, make_folder: Callable[[str], Path]) -> Path:
    """In the place of pytest's. Its name is short, because the address of a socket of Unix has 107 bytes at most."""
    return make_folder(re.sub(r"\W", "_", request.node.name)[:16])


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, make_folder: Callable[[str], Path]) -> None:
    """No test sees the user's keys, addresses or configuration file."""
    kept = speedups.PURE_PYTHON_VARIABLE  # also for the processes that a test starts
    for name in list(os.environ):
        if (name.startswith("TELLURIO_") and name != kept) or name in (
            "OPENAI_API_KEY",
            "ALLOW_API_KEY_SHARING",
            "KEYRING_SERVICE_NAME",
        ):
            monkeypatch.delenv(name)
    home = str(make_folder("home"))
    monkeypatch.setenv("HOME", home)
    monkeypatch.setenv("USERPROFILE", home)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", f"{home}/journals")
    monkeypatch.setenv("TELLURIO_QUIET", "1")  # without the thread that shows long calls
    # A busy machine is slow.
    monkeypatch.setenv("TELLURIO_FINISH_TIMEOUT", "20")
    monkeypatch.setenv("TELLURIO_TIMEOUT", str(FAILSAFE))


@pytest.fixture(autouse=True)
def short_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads for records and events end soon after the last one: see ``no_thread_left``, which waits for them."""
    monkeypatch.setattr(queued, "_IDLE", 0.02)


@pytest.fixture(autouse=True)
def own_log_level() -> Iterator[None]:
    """A command that is run in this process sets the level of the package's logger: not for the tests after it."""
    logger = logging.getLogger("tellurio_sync")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def own_feedback() -> None:
    """The names of another package, which some tests import, change what is asked for feedback in the whole process."""
    backward_pass = sys.modules.get("tellurio_sync.autodiff.backward_pass")
    if backward_pass is not None:
        backward_pass.set_default_feedback(backward_pass.RECORDS)


@pytest.fixture(autouse=True)
def no_run_left() -> Iterator[None]:
    """A run that a test left unfinished is not ended with the tests, when its server is gone."""
    yield
    guard = sys.modules.get("tellurio_sync.studio.run_guard")
    if guard is not None:
        guard.forget_all_runs()


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    """A thread that a test started and that does not end fails the test, with the thread's stack."""
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + FAILSAFE
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(max(0.0, end - time.monotonic()))
    left = [thread for thread in left if thread.is_alive()]
    if left:
        frames = sys._current_frames()
        stacks = "\n".join(f"{thread.name}:\n{_stack_of(thread, frames)}" for thread in left)
        pytest.fail(f"threads left over: {[thread.name for thread in left]}\n{stacks}")


@pytest.fixture(autouse=True)
def records_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reads the log reads it at once, not when another thread has come round to it."""
    if "caplog" not in request.fixturenames:
        return

    def log(self: records.QueuedLog, level: int, text: str, *args: object, exc_info: bool = False) -> None:
        self._logger.log(level, text, *args, exc_info=exc_info)

    monkeypatch.setattr(records.QueuedLog, "log", log)


class ActiveRun:
    """A stand-in for a run."""

    uuid = "run-1"


@pytest.fixture
def active_run() -> Iterator[ActiveRun]:
    run = ActiveRun()
    run_context.set_active_run(run)
    yield run
    run_context.set_active_run(None)


def wait_until(is_so: Callable[[], object], otherwise: str) -> None:
    """Look again and again; fails with the text ``otherwise`` if it is not so within ``FAILSAFE`` seconds."""
    end = time.monotonic() + FAILSAFE
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < end, otherwise
        pause.wait(0.0005)


def in_thread(function: Any, *args: Any) -> Any:
    """The result of ``function``, run on a thread of its own; its exception is raised here."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((function(*args), None))
        except BaseException as exc:  # noqa: BLE001 - raised again in the test
            outcome.append((None, exc))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(FAILSAFE)
    assert outcome, f"{function} did not end within {FAILSAFE} s"
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
