"""The memory of the C extension: what it leaves behind, what it does without any, and what sanitizers see."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tracemalloc
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync

from .conftest import not_under_coverage
from .native import compiled
from .processes.child import ROOT, Child

pytestmark = not_under_coverage

TIMES = 500

BUILD_LIMIT = 120.0
"""Seconds."""

SANITIZED_LIMIT = 600.0
"""Seconds for the tests under sanitizers, which make everything several times as slow."""


class Stage:
    """What the operations need."""

    def __init__(self) -> None:
        self.c = compiled()
        self._kept = contextlib.ExitStack()
        near, self.far = socket.socketpair()
        ended, gone = socket.socketpair()
        wake_in, wake_out = socket.socketpair()
        no_socket, into = os.pipe()
        for end in (near, self.far, ended, gone, wake_in, wake_out):
            self._kept.enter_context(end).settimeout(0)
        for fd in (no_socket, into):
            self._kept.callback(os.close, fd)
        gone.close()
        os.write(into, b"x")
        self.semaphore = self.c.Semaphore()
        self.others = [self.c.Semaphore() for _ in range(30)]
        self.receiver, self.at_the_end, self.broken = (
            self.c.Receiver(fd, wake_in.fileno(), 65536) for fd in (near.fileno(), ended.fileno(), no_socket)
        )
        self.texts = ["a text", "é" * 200, "x" * 70_000]
        self.masks = bytes(16)
        self.text = self.texts[0]
        self.stream = b"\x81\x02ab" * 100 + b"\x81\x7e\x03\xe8" + bytes(1000) + b"\x81\x05Hell"

    @property
    def filled_receiver(self) -> Any:
        self.far.send(b"data" * 200)
        return self.receiver

    @property
    def lasting(self) -> list[Any]:
        """Objects that operations take and give back."""
        types = [self.c.Semaphore, self.c.Receiver]
        return [None, *types, self.semaphore, self.others[0], self.receiver, self.texts[0], self.masks, self.stream]

    def close(self) -> None:
        self._kept.close()


OPERATIONS: dict[str, Callable[[Stage], tuple[Any, ...]]] = {
    "a semaphore": lambda stage: (stage.c.Semaphore,),
    "a semaphore of something": lambda stage: (stage.c.Semaphore, 1),
    "a release": lambda stage: (stage.semaphore.release,),
    "a release of a new one": lambda stage: (stage.c.Semaphore().release,),
    "a wait": lambda stage: (stage.semaphore.acquire, True, 1e-6),
    "a look": lambda stage: (stage.semaphore.acquire, False),
    "a wait until soon": lambda stage: (stage.semaphore.acquire, True, "soon"),
    "a wait for too long": lambda stage: (stage.semaphore.acquire, True, 1e300),
    "a wait for even longer": lambda stage: (stage.semaphore.acquire, True, 10**400),
    "a wait with too much": lambda stage: (stage.semaphore.acquire, True, 1, 1),
    "a receiver": lambda stage: (stage.c.Receiver, 0, 0, 65536),
    "a receiver that reads less than nothing": lambda stage: (stage.c.Receiver, 0, 0, -1),
    "a receiver of no socket": lambda stage: (stage.c.Receiver, "a", 0, 1),
    "nothing received": lambda stage: (stage.receiver.receive, 0, [], False),
    "writable": lambda stage: (stage.receiver.receive, None, [], True),
    "data received": lambda stage: (stage.filled_receiver.receive, None, [], False),
    "the end received": lambda stage: (stage.at_the_end.receive, 0, [], False),
    "an error received": lambda stage: (stage.broken.receive, 0, [], False),
    "wake-ups": lambda stage: (stage.receiver.receive, 0, [stage.semaphore, *stage.others], False),
    "a wake-up that nobody else has": lambda stage: (stage.receiver.receive, 0, [stage.c.Semaphore()], False),
    "wrong wake-ups": lambda stage: (stage.receiver.receive, 0, [stage.semaphore, None], False),
    "no list of wake-ups": lambda stage: (stage.receiver.receive, 0, (), False),
    "a receive until soon": lambda stage: (stage.receiver.receive, "soon", [], False),
    "texts encoded": lambda stage: (stage.c.encode_texts, [*stage.texts, "ü" * len(stage.texts)], stage.masks),
    "a surrogate encoded": lambda stage: (stage.c.encode_texts, ["a", "\ud800"], stage.masks),
    "no text encoded": lambda stage: (stage.c.encode_texts, ["a", None], stage.masks),
    "too few masks": lambda stage: (stage.c.encode_texts, ["a"], b""),
    "texts split": lambda stage: (stage.c.split_texts, stage.stream, 1000, []),
    "bytes that are no text split": lambda stage: (stage.c.split_texts, b"\x81\x02a\xff", 1000, []),
    "texts split into no list": lambda stage: (stage.c.split_texts, stage.stream, 1000, ()),
    "no room": lambda stage: (stage.c.split_texts, stage.stream, "much", []),
}
"""All that the extension can be asked for, and all errors that this can come to: a C function and its arguments."""


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_is_left_behind(stage: Stage, name: str) -> None:
    def repeat(times: int) -> None:
        for _ in range(times):
            function, *args = OPERATIONS[name](stage)
            with contextlib.suppress(TypeError, ValueError, OverflowError, OSError):
                function(*args)

    repeat(10)  # what is made once stays
    lasting = stage.lasting
    counts = [0] * len(lasting)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        repeat(10)
        before, _ = tracemalloc.get_traced_memory()
        counts[:] = map(sys.getrefcount, lasting)
        repeat(TIMES)
        after, _ = tracemalloc.get_traced_memory()
        grown = [now - then for now, then in zip(map(sys.getrefcount, lasting), counts)]
    finally:
        tracemalloc.stop()
        gc.enable()
    assert after - before < 4 * TIMES
    assert max(map(abs, grown)) < TIMES // 2


# The function itself is called, not one in Python that calls it: the interpreter has defects of its own here.
OUT_OF_MEMORY = """
from _testcapi import remove_mem_hooks, set_nomemory
from tests.test_native_memory import OPERATIONS, Stage
stage = Stage()
failed = set()
for name, operation in OPERATIONS.items():
    for number in range(40):  # of the request for memory that is refused
        function, *args = operation(stage)
        try:
            set_nomemory(number, number + 1)
            try:
                function(*args)
            finally:
                remove_mem_hooks()
        except MemoryError:
            failed.add(name)
        except (TypeError, ValueError, OverflowError, OSError):
            pass
    stage.semaphore.release()
    assert stage.semaphore.acquire(False), name
stage.close()
assert {"a semaphore", "a receiver", "data received", "wake-ups", "texts encoded", "texts split"} <= failed, failed
print("it lives")
"""


@pytest.mark.slow
def test_too_little_memory_is_an_error_wherever_it_shows() -> None:
    compiled()
    if find_spec("_testcapi") is None:
        pytest.skip("this interpreter cannot refuse memory: it has no _testcapi")
    with Child(OUT_OF_MEMORY) as child:
        assert child.line() == "it lives"
        assert (child.end(), child.stderr) == (0, "")


# --- sanitizers -------------------------------------------------------------------------------------------

SANITIZERS = [
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-g",
    "-O1",
]

SANITIZED = [
    "tests/test_speedups.py",
    "tests/transport/test_native_frames.py",
    "tests/transport/test_native_receiver.py",
    "tests/transport/test_readiness.py",
]

PROBE = """
#include <Python.h>
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "probe"};
PyMODINIT_FUNC PyInit_probe(void) { return PyModule_Create(&definition); }
"""

# Loads one module from a file of its own, and runs the tests with it.
RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(sys.argv[1], sys.argv[2])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
if sys.argv[3:]:
    import pytest
    sys.exit(pytest.main(sys.argv[3:]))
"""


def build(source: Path, target: Path) -> None:
    """Raises ``subprocess.SubprocessError``, with what the compiler says in its ``stderr``."""
    headers = f"-I{sysconfig.get_path('include')}"
    command = ["gcc", "-shared", "-fPIC", *SANITIZERS, headers, str(source), "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_LIMIT)


def run_sanitized(runtime: str, *args: object) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "PYTHONMALLOC": "malloc",  # an allocator of Python's own would hide what is done wrong
        "PYTHONDONTWRITEBYTECODE": "1",
        # The interpreter itself leaves memory behind at its end. And too much of it is asked for in a test.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, "-c", RUN, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SANITIZED_LIMIT)


@pytest.fixture
def runtime(tmp_path: Path) -> str:
    """The sanitizers' library, which must come before all others; tried with a module of nothing."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("needs Linux and gcc")
    command = ["gcc", "-print-file-name=libasan.so"]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_LIMIT).stdout.strip()
    source, target = tmp_path / "probe.c", tmp_path / "probe.so"
    source.write_text(PROBE)
    try:
        build(source, target)
    except subprocess.SubprocessError as exc:
        pytest.skip(f"gcc cannot build with sanitizers: {getattr(exc, 'stderr', exc)}")
    trial = run_sanitized(found, "probe", target)
    if trial.returncode:
        pytest.skip(f"this interpreter does not run with sanitizers: {trial.stderr[-500:]}")
    return found


@pytest.mark.slow
def test_sanitizers_have_nothing_to_say(runtime: str, tmp_path: Path) -> None:
    compiled()
    source = Path(tellurio_sync.__file__).with_name("_speedups.c")
    if not source.exists():
        pytest.skip("the package was installed without its sources")
    target = tmp_path / "_speedups.so"
    build(source, target)
    options = ["-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", "--basetemp", tmp_path / "run"]
    run = run_sanitized(runtime, "tellurio_sync._speedups", target, *options, *SANITIZED)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
