"""A part of ``soak --backend``: the backend is killed again and again, and started again, while sessions train.

Their models ask another model within the call, and a signal handler interrupts the main thread, makes a Variable and
logs.  What an interrupted call raises is one of ``ALLOWED``, and the program does that part again, as a training loop
would.  In the end the server must have what this side has: each prompt, and each value that was logged, once.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from typing import Any

import tellurio_sync as te
from tellurio_sync.errors import WouldDeadlock

from ..backend.scripted import answer_like_a_model
from ..backend_process import KEY, BackendProcess, now_and_then
from .soak import FAILSAFE

SESSIONS, THREADS = 2, 2
PAUSE = (0.5, 4.0)
"""Seconds between two kills."""
SIGNALS_EVERY = 0.1
"""Seconds."""
PATIENCE = 300.0
"""Seconds that a call may wait: on a busy machine a backend takes long to start."""
ALLOWED = (te.ConnectionLost, te.BatchFailed, WouldDeadlock)


def connected(backend: BackendProcess) -> te.Session:
    session = te.Session(
        http_base_url="http://127.0.0.1",
        http_port=backend.port,
        ws_base_url="ws://127.0.0.1",
        ws_port=backend.port,
        default_timeout=PATIENCE,
    )
    session.login(KEY)
    return session


def asking_model() -> te.CallableModel:
    """Asks another model for its answer, which is asked in this process, too."""
    inner = te.CallableModel(lambda messages, **_: answer_like_a_model(messages))

    def ask(messages: Any, **_: Any) -> Any:
        text = te.Variable(str(messages[-1]["content"]), role="question")
        answer = te.functional.chat_completion(inner, [{"role": "user", "content": [text]}])
        return answer.data

    return te.CallableModel(ask)


class Training:
    """One thread's work, and what must be left of it."""

    def __init__(self, session: te.Session, run: te.Run, number: int) -> None:
        self.session = session
        self._run = run
        self.name = f"metric {number}"
        self.done = 0
        self.outcomes: Counter[str] = Counter()
        with session.use():
            self.prompt = te.Parameter("Answer.", role="prompt")
            self.model = asking_model()
            self.optimizer = te.TGD([self.prompt], model_client=self.model, momentum=2)

    def step(self) -> None:
        """One batch; raises one of ALLOWED if the backend dies meanwhile."""
        self.optimizer.clear_grad()
        mail = te.Variable("{mail}", role="mail")
        chat: list[dict[str, Any]] = [{"role": "system", "content": [self.prompt]}, {"role": "user", "content": [mail]}]
        answers = te.functional.chat_completion(self.model, chat, {"mail": ["a", "b"]})
        _, explanation = te.functional.exact_match_evaluator(answers, ["a", "b"])
        explanation.backward()
        self.optimizer.step()
        self.prompt.data = f"Answer {self.done}."

    def run_until(self, stopping: threading.Event) -> None:
        with self.session.use():
            while not stopping.is_set():
                self.once()

    def once(self) -> None:
        try:
            self.step()
        except ALLOWED as exc:
            self.outcomes[type(exc).__name__] += 1
        else:
            self.outcomes["done"] += 1
        self._run.log(self.name, self.done)
        self.done += 1

    def problems(self) -> list[str]:
        """Where the server has something else than this side."""
        with self.session.use():
            there = te.functional.add(self.prompt, te.Variable("", role="nothing")).data
        return [] if there == self.prompt.data else [f"{self.name}: {there!r} there, {self.prompt.data!r} here"]


class Handler:
    """Interrupts the main thread now and then: makes a Variable, and logs."""

    def __init__(self, session: te.Session, run: te.Run) -> None:
        self._session = session
        self._run = run
        self._is_inside = False
        self.logged = 0
        self.outcomes: Counter[str] = Counter()

    def __enter__(self) -> Handler:
        self._previous = signal.signal(signal.SIGALRM, self)
        signal.setitimer(signal.ITIMER_REAL, SIGNALS_EVERY, SIGNALS_EVERY)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._previous)

    def __call__(self, *_: object) -> None:
        if self._is_inside:
            return  # while the backend is away, the next signal comes before this one's call is over
        self._is_inside = True
        with self._session.use():
            try:
                variable = te.Variable("from a handler", role="r")
                assert variable.variable_id
                self.outcomes["done"] += 1
            except ALLOWED as exc:
                self.outcomes[type(exc).__name__] += 1
            self._run.log("handler", self.logged)
            self.logged += 1
        self._is_inside = False


def run(backend: BackendProcess, kills: int, seed: int, longest_close: float) -> list[str]:
    """The problems, none if all is well. Prints what happened."""
    print(f"\n{SESSIONS} sessions with {THREADS} threads each, and a signal handler; {kills} kills", flush=True)
    draw = random.Random(seed)
    sessions = [connected(backend) for _ in range(SESSIONS)]
    runs = [session.init(None, "Killed") for session in sessions]
    for session in sessions:
        with session.use():
            te.set_backward_model_client(asking_model())
    mine, *others = [Training(sessions[i % SESSIONS], runs[i % SESSIONS], i) for i in range(SESSIONS * THREADS)]
    problems: list[str] = []
    stopping, is_over = threading.Event(), threading.Event()

    def work(training: Training) -> None:
        try:
            training.run_until(stopping)
        except BaseException as exc:  # noqa: BLE001 - told at the end
            problems.append(f"{training.name}: {exc!r}")
            stopping.set()

    def restart() -> None:
        backend.restart()
        if next(left, None) is None:
            is_over.set()

    left = iter(range(kills - 1))
    threads = [threading.Thread(target=work, args=(training,)) for training in others]
    for thread in threads:
        thread.start()
    pauses = [draw.uniform(*PAUSE) for _ in range(kills)]
    with now_and_then(restart, pauses), sessions[0].use(), Handler(sessions[0], runs[0]) as handler:
        while not is_over.is_set() and not stopping.is_set():
            mine.once()
    stopping.set()
    for thread in threads:
        thread.join(FAILSAFE)
        if thread.is_alive():
            problems.append("a thread hangs")
    outcomes: Counter[str] = Counter()
    for training in (mine, *others):
        before = training.outcomes["done"]
        with training.session.use():
            training.once()
        if training.outcomes["done"] == before:
            problems.append(f"{training.name}: a step after the last kill failed")
        problems += training.problems()
        outcomes += training.outcomes
    print(f"steps: {dict(outcomes)}; in the handler: {dict(handler.outcomes)}", flush=True)
    expected = Counter({training.name: training.done for training in (mine, *others)}) + Counter(handler=handler.logged)
    problems += _metrics_problems(runs, expected)
    for session in sessions:
        session.finish()
        started = time.monotonic()
        session.close()
        if time.monotonic() - started > longest_close:
            problems.append(f"close() took {time.monotonic() - started:.1f} s")
    return problems


def _metrics_problems(runs: list[te.Run], expected: Counter[str]) -> list[str]:
    values: dict[str, list[float]] = {}
    for run in runs:
        for row in run.metrics():
            values.setdefault(row["name"], []).append(row["value"])
    found = []
    for name, count in expected.items():
        if values.get(name, []) != list(range(count)):
            found.append(f"{name}: {len(values.get(name, []))} values arrived, not the {count} that were logged")
    print(f"values: {sum(expected.values())} logged, {sum(map(len, values.values()))} arrived", flush=True)
    return found
