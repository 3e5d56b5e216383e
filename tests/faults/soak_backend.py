"""Sessions and a real backend under load for minutes: ``python -m tests.faults.soak --backend [--seconds 240] ...``.

First several sessions train with several threads each, against a backend in its own process: Variables, ``add``,
``sum``, chats, backward passes and steps.  Then a thousand sessions come and go, each with a run and a step.  Memory
and descriptors of both processes are printed on the way.  In the end they must be about where they were once
everything had been used.  At last the backend is killed while sessions train: see ``soak_kills``.  Exit code 1 if
something is not as it must be.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tellurio_sync as te

from ..backend.scripted import answer_like_a_model
from ..backend_process import BackendProcess
from . import soak_kills
from .soak import BUSY, SLOWEST_CLOSE
from .soak_kills import connected

SESSIONS, THREADS = 4, 4
GRACE = 1.0
"""Seconds for which this backend keeps a session that has ended."""
MOST_GROWTH = 24 << 20
"""Bytes of resident memory that a process may grow once it is warm. A backend that forgets nothing grew by a megabyte a
second under this load."""
MOST_DESCRIPTORS = 8
FAILSAFE = 60.0
_LINES = 12  # in each table


class Reading(NamedTuple):
    """What one process holds."""

    memory: int
    descriptors: int

    @classmethod
    def of(cls, pid: int | str) -> Reading:
        with open(f"/proc/{pid}/statm") as file:
            pages = int(file.read().split()[1])
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd")))


class Curves:
    """Prints what both processes hold, and compares."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.warm: tuple[Reading, Reading] | None = None
        self._started = time.monotonic()

    def head(self, what: str) -> None:
        print(
            f"\n{what}\n{'seconds':>8} {'done':>9} {'backend MiB':>12} {'fds':>5} {'client MiB':>11} {'fds':>5}",
            flush=True,
        )

    def note(self, done: int) -> tuple[Reading, Reading]:
        gc.collect()
        backend, client = Reading.of(self._pid), Reading.of("self")
        seconds = time.monotonic() - self._started
        print(
            f"{seconds:8.0f} {done:9,} {backend.memory / 2**20:12.1f} {backend.descriptors:5} "
            f"{client.memory / 2**20:11.1f} {client.descriptors:5}",
            flush=True,
        )
        return backend, client

    def problems(self, now: tuple[Reading, Reading]) -> list[str]:
        assert self.warm is not None
        found = []
        for name, before, after in zip(("backend", "client"), self.warm, now):
            if after.memory - before.memory > MOST_GROWTH:
                found.append(f"the {name} grew by {(after.memory - before.memory) / 2**20:.1f} MiB")
            if after.descriptors - before.descriptors > MOST_DESCRIPTORS:
                found.append(f"the {name} has {after.descriptors} descriptors open, not {before.descriptors}")
        return found


def model() -> te.CallableModel:
    return te.CallableModel(lambda messages, **arguments: answer_like_a_model(messages))


def batch(prompt: te.Parameter, lm: te.CallableModel, optimizer: te.TGD) -> None:
    """What a training does, and what an evaluation does without going backward."""
    optimizer.clear_grad()
    mail = te.Variable("{mail}", role="mail")
    chat: list[dict[str, Any]] = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [mail]}]
    mails = [f"mail {i} " + "x" * 500 for i in range(4)]
    answers = te.functional.chat_completion(lm, chat, {"mail": mails})
    _, explanation = te.functional.exact_match_evaluator(answers, mails)
    explanation.backward()
    optimizer.step()
    prompt.data = "Answer."
    joined = te.functional.sum([te.Variable("a" * 1000, role="r"), te.functional.add(prompt, mail)])
    te.functional.chat_completion(lm, [{"role": "user", "content": [joined]}])


class Load:
    """Threads of several sessions that train until they are stopped."""

    def __init__(self, backend: BackendProcess) -> None:
        self.sessions = [connected(backend) for _ in range(SESSIONS)]
        self.errors: list[BaseException] = []
        self.counts = [0] * (SESSIONS * THREADS)
        self._stopping = threading.Event()
        for session in self.sessions:
            session.init(None, "Soak")
            with session.use():
                te.set_backward_model_client(model())
        self._threads = [
            threading.Thread(target=self._train, args=(session, s * THREADS + t))
            for s, session in enumerate(self.sessions)
            for t in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def _train(self, session: te.Session, number: int) -> None:
        try:
            with session.use():
                lm, prompt = model(), te.Parameter("Answer.", role="prompt")
                optimizer = te.TGD([prompt], model_client=lm, momentum=2)
                while not self._stopping.is_set():
                    batch(prompt, lm, optimizer)
                    self.counts[number] += 1
        except BaseException as exc:  # noqa: BLE001 - told at the end
            self.errors.append(exc)

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(FAILSAFE)
            if thread.is_alive():
                self.errors.append(TimeoutError("a thread of the load hangs"))
        for session in self.sessions:
            session.finish()
            session.close()


def one_session(backend: BackendProcess) -> None:
    session = connected(backend)
    with session, session.init(None, "Soak"):
        lm, prompt = model(), te.Parameter("Answer.", role="prompt")
        te.set_backward_model_client(lm)
        batch(prompt, lm, te.TGD([prompt], model_client=lm))


def run(seconds: float, sessions: int, kills: int, seed: int, is_busy: bool = False) -> bool:
    """Whether both processes hold no more in the end than when they were warm, and nothing is lost by kills."""
    options = {"session-grace": GRACE}
    with tempfile.TemporaryDirectory() as directory, BackendProcess(Path(directory), **options) as backend:
        os.environ["TELLURIO_JOURNAL_DIR"] = f"{directory}/journals"
        problems = _run(backend, seconds, sessions)
        print("\n" + ("\n".join(problems) if problems else "memory and descriptors are where they were"), flush=True)
        lost = soak_kills.run(backend, kills, seed, SLOWEST_CLOSE * (BUSY if is_busy else 1.0))
        print("\n".join(lost) if lost else "nothing was lost", flush=True)
    return not problems and not lost


def _run(backend: BackendProcess, seconds: float, sessions: int) -> list[str]:
    assert backend._process is not None
    curves = Curves(backend._process.pid)
    curves.head(f"{SESSIONS} sessions with {THREADS} threads each, for {seconds:g} s")
    load = Load(backend)
    pause = threading.Event()
    for i in range(_LINES):
        pause.wait(seconds / _LINES)
        now = curves.note(sum(load.counts))
        if i == _LINES // 4:
            curves.warm = now
    load.stop()
    errors = load.errors
    done = sum(load.counts)
    del load
    settle(lambda: not curves.problems(curves.note(done)))
    curves.head(f"{sessions} sessions, one after another")
    for i in range(sessions):
        one_session(backend)
        if (i + 1) % max(1, sessions // _LINES) == 0:
            curves.note(i + 1)
    settle(lambda: not curves.problems(curves.note(sessions)))
    return [*curves.problems(curves.note(sessions)), *(repr(error) for error in errors)]


def settle(is_reached: Callable[[], bool]) -> None:
    """Let the grace time of what has ended pass."""
    pause = threading.Event()
    for _ in range(int(FAILSAFE / GRACE)):
        pause.wait(GRACE)
        if is_reached():
            return


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="soak --backend")
    parser.add_argument("--seconds", type=float, default=240.0, help="of load; the sessions come after it")
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20, help="of the backend, at last")
    parser.add_argument("--seed", type=int, default=1, help="of the pauses between them")
    parser.add_argument("--busy", action="store_true", help="other programs take the processor")
    options = parser.parse_args(arguments)
    sys.exit(0 if run(options.seconds, options.sessions, options.kills, options.seed, options.busy) else 1)
