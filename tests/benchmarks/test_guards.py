"""What a call costs, in numbers that no machine's speed changes. One that grows is a defect."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.client import TellurioWebSocketClient

from ..backend_process import KEY, BackendProcess
from . import peers
from .counting import Counts, counting
from .processes import ROOT, running

BYTES_PER_SUBMITTED_CALL = 3200
SYSTEM_CALLS_PER_CALL = 16

CALL = (peers.METHOD, peers.PARAMS)
HOLD = (peers.HOLD, peers.PARAMS)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    with counting(monkeypatch) as counts:
        yield counts


@pytest.fixture
def client(counts: Counts, active_run: Any) -> Iterator[TellurioWebSocketClient]:
    """Connected to the cheap server, and warm."""
    with running("server.py", -1) as ports:
        client = TellurioWebSocketClient("ws://127.0.0.1", ports["port"])
        client.connect(api_key="key")
        for _ in range(10):
            client.call(*CALL)
        counts.reset()
        yield client
        client.close()


# --- system calls ---------------------------------------------------------------------------------------


def test_a_call_is_one_send_one_wait_and_one_receive(client: TellurioWebSocketClient, counts: Counts) -> None:
    for _ in range(200):
        client.call(*CALL)
    assert counts.sends == 200
    # The loop may be counted as it begins the wait for the next message, or just before.
    assert 199 <= counts.receives <= 201
    assert 199 <= counts.turns <= 202


def test_many_threads_do_not_make_the_receive_loop_spin(client: TellurioWebSocketClient, counts: Counts) -> None:
    """While a caller writes, the socket is writable: a loop that watches for that turns thousands of times."""

    def call() -> None:
        for _ in range(100):
            client.call(*CALL)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts.sends <= 800
    assert counts.turns <= 2 * 800


def test_submitting_does_not_make_the_receive_loop_spin(client: TellurioWebSocketClient, counts: Counts) -> None:
    futures = [client.submit(*CALL) for _ in range(1000)]
    for future in futures:
        assert "result" in future.result(30)
    assert counts.sends <= 1000
    assert counts.turns <= 2 * 1000


def test_a_batch_leaves_in_a_few_sends(client: TellurioWebSocketClient, counts: Counts) -> None:
    client.call_many([CALL] * 1000)
    assert counts.sends <= 10
    assert counts.receives <= 1000
    assert counts.trips == 1


def test_an_idle_client_sleeps_until_the_next_ping(client: TellurioWebSocketClient, counts: Counts) -> None:
    client.call(*CALL)
    assert counts.last_wait is None or counts.last_wait > 15  # seconds, of a ping_interval of 20


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_system_calls_of_a_call_as_the_kernel_counts_them(tmp_path: Path) -> None:
    """Of everything: locks, memory, random numbers. One thread, calls in a row."""
    script = (
        "import json, sys\n"
        "sys.path[:0] = sys.argv[1:3]\n"
        "import peers\n"
        "peer = peers.make('tellurio_sync')\n"
        "peer.connect(int(sys.argv[3]), False)\n"
        "for _ in range(int(sys.argv[4])):\n"
        "    peer.call()\n"
        "peer.close()\n"
    )

    def count(port: int, calls: int) -> int:
        summary = tmp_path / "summary"
        arguments = [str(ROOT), str(Path(__file__).parent), str(port), str(calls)]
        command = ["strace", "-f", "-c", "-o", str(summary), sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode and "ptrace" in done.stderr.lower():
            pytest.skip("strace may not trace here")
        assert done.returncode == 0, done.stderr
        return int(summary.read_text().splitlines()[-1].split()[2])

    with running("server.py", -1) as ports:
        per_call = (count(ports["port"], 1100) - count(ports["port"], 100)) / 1000
    # send, wait, receive, a random mask, and the hand-over between two threads: 4 to 8 futex calls.
    assert per_call <= SYSTEM_CALLS_PER_CALL


# --- memory ---------------------------------------------------------------------------------------------


def test_memory_of_a_call_that_waits_for_its_reply(client: TellurioWebSocketClient) -> None:
    for future in [client.submit(*HOLD) for _ in range(100)]:
        future.cancel()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        futures = [client.submit(*HOLD) for _ in range(2000)]
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert used / len(futures) <= BYTES_PER_SUBMITTED_CALL


def test_calls_leave_nothing_behind(client: TellurioWebSocketClient, counts: Counts) -> None:
    def blocks_after(calls: int) -> int:
        for _ in range(calls):
            client.call(*CALL)
        client.call_many([CALL] * calls)
        counts.reset()
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(500)
    after = blocks_after(500)
    # Less than one block for every twenty calls: dictionaries and free lists grow in steps.
    assert after - before < 50


# --- round trips of public operations, against the real backend -------------------------------------------


OPERATIONS: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "Variable(...)": (lambda w: te.Variable("text", "role"), ["create_variable"]),
    "Parameter(...)": (lambda w: te.Parameter("text", "role"), ["create_variable"]),
    "variable.data = ...": (lambda w: setattr(w.variable, "data", "other"), ["update_variable"]),
    "variable.role = ...": (lambda w: setattr(w.variable, "role", "other"), ["update_variable"]),
    "variable.requires_grad_()": (lambda w: w.variable.requires_grad_(), ["update_variable", "update_variable"]),
    "variable.append_grad(g)": (lambda w: w.prompt.append_grad(w.variable), ["append_grad"]),
    "variable.detach()": (lambda w: w.variable.detach(), ["create_variable"]),
    "variable + variable": (lambda w: w.prompt + w.variable, ["run_function"]),
    "chat_completion": (lambda w: w.answer(), ["run_function"]),
    "exact_match_evaluator, given target": (
        lambda w: te.functional.exact_match_evaluator(w.answered, ["right"]),
        ["run_function"],
    ),
    "loss.backward()": (lambda w: w.loss().backward(), ["get_backprop_ids", "run_backward"]),
    "CallableModel(...)": (lambda w: te.CallableModel(str), ["create_model"]),
    "TGD([parameter], model)": (lambda w: w.optimizer(), ["create_variable", "create_variable", "create_optimizer"]),
    "optimizer.clear_grad()": (lambda w: w.tgd.clear_grad(), ["clear_grad"]),
    "optimizer.step()": (lambda w: w.step(), ["run_step"]),
}
"""Operation: the requests that it makes; each is a round trip, for each waits for the reply before it."""


class World:
    """What the operations work on."""

    def __init__(self, counts: Counts) -> None:
        from ..test_restore import language_model

        self._counts = counts
        self._lm = te.CallableModel(language_model)
        te.set_backward_model_client(self._lm)
        self.prompt = te.Parameter("prompt", "system prompt")
        self.variable = te.Variable("text", "role")
        user = te.Variable("{message}", "message")
        self._chat = [{"role": "system", "content": [self.prompt]}, {"role": "user", "content": [user]}]
        self.tgd = self.optimizer()
        self.answered = self.answer()

    def optimizer(self) -> te.TGD:
        return te.TGD([self.prompt], self._lm)

    def answer(self) -> Any:
        return te.functional.chat_completion(self._lm, self._chat, inputs={"message": ["a"]})

    def loss(self) -> Any:
        _, explanation = te.functional.exact_match_evaluator(self.answer(), ["right"])
        self._counts.reset()
        return explanation

    def step(self) -> None:
        self.loss().backward()
        self._counts.reset()
        self.tgd.step()


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    pytest.importorskip("aiohttp")
    pytest.importorskip("openai")
    with BackendProcess(tmp_path_factory.mktemp("backend")) as backend:
        yield backend


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_round_trips_of_an_operation(operation: str, backend: BackendProcess, counts: Counts) -> None:
    run, requests = OPERATIONS[operation]
    local = {"http_base_url": "http://127.0.0.1", "http_port": backend.port}
    with te.Session(**local, ws_base_url="ws://127.0.0.1", ws_port=backend.port) as session:
        session.login(KEY)
        te.init(None, "Guards")
        world = World(counts)
        counts.reset()
        run(world)
        assert counts.requests == requests
        assert counts.trips == len(requests)
