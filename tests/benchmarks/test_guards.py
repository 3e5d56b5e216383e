"""What a call costs, in numbers that no machine's speed changes. One that grows is a defect."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tellurio_sync
from tellurio_sync import speedups
from tellurio_sync.client import TellurioWebSocketClient, server_methods
from tellurio_sync.deadlines import Clock
from tellurio_sync.jsonrpc import codec
from tellurio_sync.model.registries import Registries
from tellurio_sync.peer.connection import Connection
from tellurio_sync.peer.pending import PendingCall

from ..conftest import FAILSAFE, not_under_coverage
from ..faults.soak import wait_until
from . import peers
from .counting import Counts, counting, instructions
from .processes import ROOT, running

pytestmark = not_under_coverage

SYSTEM_CALLS_PER_CALL = 6 if speedups.compiled is not None else 12
INSTRUCTIONS_PER_CALL = 970 if speedups.compiled is not None else 1220
"""Of Python's bytecode, in all threads, where the reply comes before the wait for it begins."""
INSTRUCTIONS_PER_CALL_THAT_WAITS = 1080 if speedups.compiled is not None else 1380
QUICK_ATTRIBUTES = 30
"""CPython keeps the attributes of an object in place, where an access takes one step, up to this number
(``SHARED_KEYS_MAX_SIZE`` in its dictobject). Two more in one object cost a call a twentieth of its time."""
BYTES_PER_SUBMITTED_CALL = 400
BYTES_PER_CALL_OF_A_BATCH = 400
BYTES_FOR_A_MOMENT = 70_000
"""65,536 of them are the room that one receive offers."""
COPIES_UP = 4.1
COPIES_BOTH_WAYS = 4.2

SAME = 0.03
"""How far two counts of instructions may be apart."""

CALL = (peers.METHOD, peers.PARAMS)
HOLD = (peers.HOLD, peers.PARAMS)

Counted = tuple[TellurioWebSocketClient, Counts]

needs_monitoring = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="instructions are counted by sys.monitoring, which Python 3.12 brought"
)


@pytest.fixture
def port() -> Iterator[int]:
    """Of the cheap server."""
    with running("server.py", -1) as ports:
        yield ports["port"]


@contextmanager
def connected(port: int) -> Iterator[TellurioWebSocketClient]:
    """A client that is warm."""
    client = TellurioWebSocketClient("ws://127.0.0.1", port)
    client.connect(api_key="key")
    try:
        for _ in range(10):
            client.call(*CALL)
        yield client
    finally:
        client.close()


@pytest.fixture
def client(port: int, active_run: Any) -> Iterator[TellurioWebSocketClient]:
    """One that is not counted: counting has a cost of its own."""
    with connected(port) as client:
        yield client


@pytest.fixture
def counted(port: int, active_run: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    with counting(monkeypatch) as counts, connected(port) as client:
        counts.reset()
        yield client, counts


@contextmanager
def traced() -> Iterator[Callable[[], int]]:
    """Gives a function for the bytes that have been allocated inside and not been freed."""
    gc.collect()
    gc.freeze()  # what other tests have left behind need not be looked through each time: it is a lot
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]

        def used() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

        yield used
    finally:
        tracemalloc.stop()


def fewest_instructions(action: Callable[[], object], times: int = 20, folders: tuple[str, ...] = ("",)) -> float:
    """Of one ``action``: the least of several measurements, since threads meet now in one order, now in another."""

    def repeat() -> None:
        for _ in range(times):
            action()

    return min(instructions(repeat, folders) for _ in range(25)) / times


# --- system calls ---------------------------------------------------------------------------------------


def test_a_call_is_one_send_one_wait_and_one_receive(counted: Counted) -> None:
    client, counts = counted
    for _ in range(200):
        client.call(*CALL)
    assert (counts.messages_out, counts.messages_in) == (200, 200)
    assert counts.sends == 200
    # The loop may be counted as it begins the wait for the next message, or just before.
    assert 199 <= counts.receives <= 201
    assert 199 <= counts.turns <= 202


def test_many_threads_do_not_make_the_receive_loop_spin(counted: Counted) -> None:
    """While a caller writes, the socket is writable: a loop that watches for that turns thousands of times."""
    client, counts = counted

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


def test_submitting_does_not_make_the_receive_loop_spin(counted: Counted) -> None:
    client, counts = counted
    futures = [client.submit(*CALL) for _ in range(1000)]
    for future in futures:
        assert "result" in future.result(30)
    assert counts.sends <= 1000
    assert counts.turns <= 2 * 1000


def test_a_batch_leaves_in_a_few_sends(counted: Counted) -> None:
    client, counts = counted
    client.call_many([CALL] * 1000)
    assert counts.sends <= 10
    assert counts.receives <= 1000
    assert counts.trips == 1


def test_an_idle_client_sleeps_until_the_next_ping(counted: Counted) -> None:
    client, counts = counted
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
    # Send, wait, receive, and the hand-over between two threads: 2 futex calls, without the C extension 6.
    assert per_call <= SYSTEM_CALLS_PER_CALL


# --- instructions ---------------------------------------------------------------------------------------


def reply_first(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, wait = PendingCall.resolve, Connection.wait
    resolved = threading.Semaphore(0)

    def resolve_and_tell(call: PendingCall, *args: Any) -> None:
        resolve(call, *args)
        resolved.release()

    def wait_afterwards(connection: Connection, call: PendingCall) -> dict[str, Any]:
        assert resolved.acquire(timeout=FAILSAFE)
        return wait(connection, call)

    monkeypatch.setattr(PendingCall, "resolve", resolve_and_tell)
    monkeypatch.setattr(Connection, "wait", wait_afterwards)


def wait_first(monkeypatch: pytest.MonkeyPatch) -> None:
    on_message, wait = Connection._on_message, Clock.wait
    begun = threading.Semaphore(0)

    def tell_and_wait(clock: Clock, *args: Any) -> bool:
        begun.release()
        return wait(clock, *args)

    def on_message_afterwards(connection: Connection, message: str | bytes) -> None:
        assert begun.acquire(timeout=FAILSAFE)
        on_message(connection, message)

    monkeypatch.setattr(Clock, "wait", tell_and_wait)
    monkeypatch.setattr(Connection, "_on_message", on_message_afterwards)


@needs_monitoring
@pytest.mark.parametrize(
    ("force_order", "bound"),
    [(reply_first, INSTRUCTIONS_PER_CALL), (wait_first, INSTRUCTIONS_PER_CALL_THAT_WAITS)],
)
def test_instructions_of_a_call(
    client: TellurioWebSocketClient,
    monkeypatch: pytest.MonkeyPatch,
    force_order: Callable[[pytest.MonkeyPatch], None],
    bound: int,
) -> None:
    """Of this package and of the JSON library. The order is forced, so that it is the same on each machine."""
    folders = (str(Path(tellurio_sync.__file__).parent), str(Path(json.__file__).parent))
    force_order(monkeypatch)
    assert fewest_instructions(lambda: client.call(*CALL), folders=folders) <= bound


def test_the_objects_of_a_call_have_few_attributes(client: TellurioWebSocketClient) -> None:
    peer = client._peer
    assert peer is not None
    connection = peer.lifecycle.connection
    assert connection is not None
    transport: Any = connection.transport
    parts: list[Any] = [client, peer, peer.lifecycle, connection, connection.pending, connection._keepalive, transport]
    parts += [transport._encoder, transport._decoder, connection._clock]
    client.call(*CALL)

    many = {type(part).__name__: len(vars(part)) for part in parts if len(vars(part)) > QUICK_ATTRIBUTES}

    assert not many


@needs_monitoring
@pytest.mark.parametrize("way", ["call", "submit"])
def test_a_call_costs_the_same_while_many_others_wait(client: TellurioWebSocketClient, way: str) -> None:
    def call() -> object:
        return client.call(*CALL) if way == "call" else client.submit(*CALL).result(FAILSAFE)

    held = [client.submit(*HOLD)]
    client.call(*CALL)
    beside_one = fewest_instructions(call)
    held += [client.submit(*HOLD) for _ in range(9_999)]
    client.call(*CALL)
    assert len(client.pending) == 10_000
    # Looking at each of the others would be some instructions for each; how threads meet is some hundred in all.
    assert fewest_instructions(call) - beside_one < 0.1 * 10_000


@needs_monitoring
def test_calls_that_end_unanswered_cost_the_same_however_many(client: TellurioWebSocketClient) -> None:
    def cancelled(count: int) -> float:
        """Instructions of each; the submitting is not counted."""
        futures = [client.submit(*HOLD) for _ in range(count)]
        client.call(*CALL)

        def cancel() -> None:
            for future in futures:
                future.cancel()

        return instructions(cancel) / count

    cancelled(1000)  # so many ids are remembered for late replies: from now on the oldest gives way
    assert cancelled(10_000) == pytest.approx(cancelled(1000), rel=SAME)


@needs_monitoring
@pytest.mark.parametrize("operation", ["create_variable", "update_variable"])
def test_a_push_costs_the_same_beside_many_variables(operation: str) -> None:
    owner = SimpleNamespace(registries=Registries())
    kept: list[Any] = []

    def create() -> None:
        id_ = f"variable-{len(kept)}"
        server_methods.create_variable(owner, {**peers.PUSHED, "variable_id": id_})
        kept.append(owner.registries.variables.lookup(id_))

    def update() -> None:
        params = {"variable_id": kept[len(kept) // 2].variable_id, "field": "data", "value": "other"}
        server_methods.update_variable(owner, params)

    push = create if operation == "create_variable" else update

    def fill(count: int) -> None:
        while len(kept) < count:
            create()

    # Beyond the number that is held for a call to come, so that here and there the oldest has to give way.
    fill(11_000)
    beside_some = fewest_instructions(push)
    fill(100_000)
    assert fewest_instructions(push) == pytest.approx(beside_some, rel=SAME)


# --- memory ---------------------------------------------------------------------------------------------


def test_memory_of_a_submitted_call_until_it_is_over(client: TellurioWebSocketClient) -> None:
    for future in [client.submit(*HOLD) for _ in range(100)]:
        future.cancel()
    with traced() as used:
        futures = [client.submit(*HOLD) for _ in range(2000)]
        client.call(*CALL)  # they have been sent
        assert used() / len(futures) <= BYTES_PER_SUBMITTED_CALL


def test_memory_of_a_call_in_a_batch_until_it_is_over(client: TellurioWebSocketClient) -> None:
    # The last one is answered: then all of them have been sent.
    calls = itertools.chain(itertools.repeat(HOLD, 2000), [CALL])
    batch = threading.Thread(target=client.call_many, args=(calls,), kwargs={"return_exceptions": True})
    with traced() as used:
        batch.start()
        assert wait_until(lambda: len(client.pending) == 2000)
        bytes_per_call = used() / 2000
    client.close()
    batch.join(FAILSAFE)
    assert bytes_per_call <= BYTES_PER_CALL_OF_A_BATCH


@pytest.mark.parametrize("others", [0, 10_000])
def test_memory_that_a_call_needs_for_a_moment(client: TellurioWebSocketClient, others: int) -> None:
    """Also while others wait: a copy of the table of pending calls would be seen, though C code makes it."""
    held = [client.submit(*HOLD) for _ in range(others)]
    client.call(*CALL)
    assert len(client.pending) == len(held)
    peaks = []
    with traced():
        for _ in range(51):
            gc.collect()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            client.call(*CALL)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    assert statistics.median(peaks) <= BYTES_FOR_A_MOMENT


@pytest.mark.parametrize(("method", "limit"), [("bench_up", COPIES_UP), ("bench_big", COPIES_BOTH_WAYS)])
def test_copies_that_a_large_message_is_at_once(
    client: TellurioWebSocketClient, method: str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peak of memory during the call, in sizes of the message; the caller's own text not counted."""
    # orjson reserves some sizes of a text before it writes, most of which it never touches; that is not ours.
    monkeypatch.setattr(codec, "BACKEND", "json")
    monkeypatch.setattr(codec, "_write", codec._write_plainly)
    size = 4 << 20
    params = {"data": "x" * size}
    with traced():
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        client.call(method, params, 60.0)
        copies = (tracemalloc.get_traced_memory()[1] - before) / size
    assert copies <= limit


def test_calls_leave_nothing_behind(client: TellurioWebSocketClient) -> None:
    def blocks_after(calls: int) -> int:
        for _ in range(calls):
            client.call(*CALL)
        client.call_many([CALL] * calls)
        gc.collect()
        return sys.getallocatedblocks()

    before = blocks_after(500)
    after = blocks_after(500)
    # Less than one block for every twenty calls: dictionaries and free lists grow in steps.
    assert after - before < 50
