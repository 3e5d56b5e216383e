"""Nothing is lost, the proof: a training under cuts and kills ends as the undisturbed one."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.errors import ConnectionLost
from tellurio_sync.session.restore import Restored

from ..backend.scripted import language_model
from ..backend_process import KEY, BackendProcess, Cable, now_and_then
from ..conftest import FAILSAFE, wait_until


class Training:
    """A training whose every batch is tried again until no connection was lost in it."""

    def __init__(self, http_port: int, ws_port: int, momentum: int) -> None:
        self.reports: list[Restored] = []
        self.retries = 0
        self._momentum = momentum
        self._session = te.Session(
            http_base_url="http://127.0.0.1",
            http_port=http_port,
            ws_base_url="ws://127.0.0.1",
            ws_port=ws_port,
            on_restored=self.reports.append,
        )

    def run(self, batches: int, disturbance: Any, between: Callable[[], object] | None = None) -> list[Any]:
        """What the prompt, its gradients and the optimizer's memory were after each batch.

        However fast the machine is, there is something to bear: ``between``, called once between two batches.
        """
        with self._session:
            te.login(KEY)
            run = te.init(None, "Training")
            lm = te.CallableModel(language_model)
            te.set_backward_model_client(lm)
            prompt = te.Parameter("prompt", "system prompt")
            optimizer = te.TGD([prompt], lm, momentum=self._momentum)
            user = te.Variable("{message}", "message")
            chat = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [user]}]
            trace = []
            with disturbance:
                for number in range(batches):
                    if between is not None and number == batches // 2:
                        between()
                    while not self._batch(lm, optimizer, chat, number):
                        self.retries += 1
                    memory = optimizer.state[prompt]["momentum_buffer"]
                    trace.append((prompt.data, _data(prompt.grad), [(former.data, _data(g)) for former, g in memory]))
            run.finish()
            return trace

    def _batch(self, lm: Any, optimizer: te.TGD, chat: Any, number: int) -> bool:
        try:
            optimizer.clear_grad()
            answer = te.functional.chat_completion(lm, chat, inputs={"message": [f"{number}a", f"{number}b"]})
            _, explanation = te.functional.exact_match_evaluator(answer, ["right", "right"])
            explanation.backward()
            optimizer.step()
        except ConnectionLost:
            return False
        return True


def _data(variables: list[te.Variable]) -> list[Any]:
    return [variable.data for variable in variables]


def pauses(seed: int, mean: float) -> Iterator[float]:
    """Seconds: 50 ms at worst."""
    rng = random.Random(seed)
    while True:
        yield 0.05 + rng.expovariate(1 / mean)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendProcess]:
    with BackendProcess(tmp_path) as process:
        yield process


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0, 2])
def test_a_training_whose_connection_is_cut_at_random_ends_as_the_undisturbed_one(
    backend: BackendProcess, momentum: int
) -> None:
    with Cable(backend.port) as cable:
        undisturbed = Training(backend.port, cable.port, momentum).run(12, now_and_then(cable.cut, []))
        training = Training(backend.port, cable.port, momentum)
        disturbed = training.run(12, now_and_then(cable.cut, pauses(momentum, 0.05)), cable.cut)
        assert disturbed == undisturbed
        assert len({undisturbed[n][0] for n in range(12)}) == 12
        assert cable.cuts > 0
        wait_until(lambda: training.reports, "no report of a restore came")


@pytest.mark.slow
@pytest.mark.parametrize("momentum", [0, 2])
def test_a_training_whose_backend_is_killed_and_started_again_ends_as_the_undisturbed_one(
    backend: BackendProcess, momentum: int
) -> None:
    """All ids are lost each time."""
    undisturbed = Training(backend.port, backend.port, momentum).run(12, now_and_then(backend.kill, []))
    training = Training(backend.port, backend.port, momentum)
    is_restarted = threading.Event()

    def restart() -> None:
        backend.restart()
        is_restarted.set()

    disturbed = training.run(12, now_and_then(restart, [0.1, 0.3]), lambda: is_restarted.wait(FAILSAFE))
    assert disturbed == undisturbed
    wait_until(
        lambda: any(report.known == 0 for report in training.reports), "no report of a restore from nothing came"
    )
