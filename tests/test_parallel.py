"""Functions on other processes and machines."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te

from .conftest import FAILSAFE
from .session.conftest import backend, make_session, session  # noqa: F401 - fixtures

SRC = str(Path(te.__file__).parents[1])


class Noted(ThreadPoolExecutor):
    """Notes what is submitted, and how much of it is open at the same time."""

    def __init__(self) -> None:
        super().__init__(4)
        self.submitted: list[Any] = []
        self.open = self.most_open = 0
        self._guard = threading.Lock()

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        with self._guard:
            self.submitted.append((getattr(function, "__name__", ""), args))
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        future = super().submit(function, *args, **kwargs)
        future.add_done_callback(lambda future: self._end())
        return future

    def _end(self) -> None:
        with self._guard:
            self.open -= 1


def test_the_results_are_in_the_order_of_the_items_and_few_wait_at_a_time() -> None:
    with Noted() as executor:
        assert te.map(str, iter(range(100)), executor=executor, in_flight=5) == [str(n) for n in range(100)]
    assert executor.most_open <= 5
    assert len(executor.submitted) == 100


def test_an_item_is_tried_again_and_then_its_exception_is_raised_after_all_others() -> None:
    tried: list[int] = []

    def fails_at_three(number: int) -> int:
        tried.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with Noted() as executor:
        with pytest.raises(ValueError, match="three"):
            te.map(fails_at_three, range(6), executor=executor)
        assert sorted(tried) == [0, 1, 2, 3, 3, 4, 5]
        tried.clear()
        results = te.map(fails_at_three, range(6), executor=executor, retries=0, return_exceptions=True)
    assert [str(result) for result in results] == ["0", "1", "2", "three", "4", "5"]
    assert sorted(tried) == [0, 1, 2, 3, 4, 5]


def test_a_second_try_that_works_counts() -> None:
    tried: list[int] = []

    def fails_first(number: int) -> int:
        tried.append(number)
        if tried.count(number) == 1:
            raise OSError("the worker died")
        return number

    with Noted() as executor:
        assert te.map(fails_first, range(3), executor=executor) == [0, 1, 2]


def test_what_waits_is_cancelled_if_the_items_end_with_an_error() -> None:
    def items() -> Any:
        yield from range(3)
        raise KeyError("no more")

    with Noted() as executor, pytest.raises(KeyError, match="no more"):
        te.map(str, items(), executor=executor)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"executor": 4}, TypeError, "for Dask: client.get_executor"),
        ({"function": "f"}, TypeError, "map takes a function, not str"),
        ({"in_flight": 0}, ValueError, "in_flight must be a whole number, at least 1, not 0"),
        ({"retries": -1}, ValueError, "retries must be a whole number, at least 0, not -1"),
        ({"retries": True}, ValueError, "not True"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with Noted() as executor, pytest.raises(error, match=text):
        te.map(**{"function": str, "items": [1], "executor": executor, **arguments})
    assert executor.submitted == []


# --- with the local backend ---------------------------------------------------------------------------


def answer(messages: list[dict[str, str]], **options: Any) -> str:
    """Answers a question."""
    return messages[-1]["content"].upper()


def length(prediction: str, target: str) -> int:
    """How long an answer is."""
    return len(prediction)


def test_a_model_and_an_evaluator_run_on_the_executor(session: te.Session) -> None:  # noqa: F811
    with Noted() as executor:
        model = te.CallableModel(answer, executor=executor)
        chat = [{"role": "user", "content": [te.Variable("{text}", role="text")]}]
        answers = te.functional.chat_completion(model, chat, inputs={"text": ["a", "bb"]})
        assert answers.data == ["A", "BB"]
        score, _ = te.functional.deterministic_evaluator(answers, ["x", "y"], length, "length", executor=executor)
        assert score.data == 3
    assert sorted(name for name, _ in executor.submitted) == ["answer", "answer", "length", "length"]


def test_what_a_function_raises_there_is_the_cause(session: te.Session) -> None:  # noqa: F811
    def broken(prediction: str, target: str) -> int:
        raise ZeroDivisionError("there")

    with Noted() as executor, pytest.raises(te.RemoteError, match="there") as raised:
        te.functional.deterministic_evaluator(te.Variable("a"), "b", broken, "nothing", executor=executor)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_what_is_no_executor_is_refused_where_it_is_given(session: te.Session) -> None:  # noqa: F811
    variable, executor = te.Variable("a"), ("pool",)
    with pytest.raises(TypeError, match=r"executor must be a concurrent\.futures\.Executor .*, not tuple"):
        te.CallableModel(answer, executor=executor)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"executor must be a concurrent\.futures\.Executor"):
        te.functional.deterministic_evaluator(variable, "b", length, "length", executor=executor)  # type: ignore[arg-type]


# --- other processes ------------------------------------------------------------------------------------


def train(seed: int) -> tuple[int, int]:
    """A run of its own, from a worker's own connection to the backend that all share."""
    te.login(mode="local")
    with te.init(project_display_name="Sweep", name=f"seed {seed}") as run:
        prompt = te.Parameter(f"Prompt {seed}", role="prompt")
        run.log("seed", seed)
        assert prompt.variable_id is not None
    te.close()
    return seed, os.getpid()


def seeds_logged() -> list[float]:
    te.login(mode="local")
    try:
        return sorted(row["value"] for run in te.runs(project_display_name="Sweep") for row in run.metrics("seed"))
    finally:
        te.close()


@pytest.fixture
def own_backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The local backend of this process, kept in the test's folder, that processes with this environment join."""
    from tellurio_sync import local

    monkeypatch.setenv("TELLURIO_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PYTHONPATH", SRC)
    monkeypatch.setattr(local, "_default", None)
    te.login(mode="local")
    yield
    te.close()
    assert local._default is not None
    local._default.stop()


@pytest.mark.slow
def test_a_sweep_over_processes_logs_into_one_project(own_backend: None) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        results = te.map(train, range(4), executor=executor)
    assert [seed for seed, _ in results] == [0, 1, 2, 3]
    assert os.getpid() not in {pid for _, pid in results}
    assert seeds_logged() == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_dask_cluster_of_two_workers_gives_the_serial_result_also_if_a_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    environment = {**os.environ, "TELLURIO_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.processes.dask_sweep", str(tmp_path)],
        env=environment,
        cwd=SRC,
        capture_output=True,
        text=True,
        timeout=FAILSAFE * 4,
    )
    assert done.returncode == 0, done.stderr
    # Nothing that was acknowledged is lost, and the part of the dead worker was done again.
    assert done.stdout.splitlines()[-2:] == ["[0, 1, 2, 3]", "[0, 1, 2, 3]"]
    assert (tmp_path / "died-2").exists()
