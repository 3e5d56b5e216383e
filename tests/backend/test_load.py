"""Many clients at once: nothing is lost, nothing gets to the wrong one; and what it costs.

``TELLURIO_LOAD=full`` gives every client 10,000 Variables instead of all together.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import websocket

from tellurio_sync import TellurioWebSocketClient
from tellurio_sync.local import LocalBackend, start_local_backend

pytestmark = pytest.mark.slow

FAILSAFE = 600.0
CLIENTS = 32
EACH = 10_000 if os.environ.get("TELLURIO_LOAD") == "full" else 10_000 // CLIENTS
AT_ONCE = 100


class Run:
    uuid = "run-1"


@pytest.fixture
def backend() -> Iterator[LocalBackend]:
    with start_local_backend() as backend:
        yield backend


Call = tuple[str, dict[str, Any]]
CallMany = Callable[[list[Call]], list[dict[str, Any]]]


class Ours:
    """The package's client."""

    def __init__(self, backend: LocalBackend) -> None:
        self._client = TellurioWebSocketClient(backend.ws_base_url, backend.ws_port, FAILSAFE, active_run=Run)
        self._client.connect(backend.api_key)

    def call_many(self, calls: list[Call]) -> list[dict[str, Any]]:
        return self._client.call_many(calls)

    def close(self) -> None:
        self._client.close()


class Raw:
    """A client that only knows WebSockets, and gives ids that others give too."""

    def __init__(self, backend: LocalBackend) -> None:
        url = f"{backend.ws_base_url}:{backend.ws_port}/ws/v0/rpc/"
        header = [f"Authorization: Api-Key {backend.api_key}"]
        self._ws = websocket.create_connection(url, header=header, timeout=FAILSAFE, skip_utf8_validation=True)
        assert "session_id" in json.loads(self._ws.recv())["result"]

    def call_many(self, calls: list[Call]) -> list[dict[str, Any]]:
        for number, (method, params) in enumerate(calls):
            request = {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "run_uuid": "run-1"}}
            self._ws.send(json.dumps(request))
        replies = [json.loads(self._ws.recv()) for _ in calls]
        # In the order of the requests, as the backend promises for short methods.
        assert [reply["id"] for reply in replies] == list(range(len(calls)))
        return replies

    def close(self) -> None:
        self._ws.shutdown()  # type: ignore[no-untyped-call]


def in_batches(call_many: CallMany, calls: list[Call]) -> list[dict[str, Any]]:
    results = []
    for start in range(0, len(calls), AT_ONCE):
        results += [reply["result"] for reply in call_many(calls[start : start + AT_ONCE])]
    return results


def create(call_many: CallMany, name: str) -> list[str]:
    """Make this client's Variables; their ids."""
    calls = [
        ("create_variable", {"data": f"{name}, variable {i}", "role": name, "requires_grad": False})
        for i in range(EACH)
    ]
    return [result["variable_id"] for result in in_batches(call_many, calls)]


def rewrite(call_many: CallMany, ids: list[str]) -> None:
    calls: list[Call] = [
        ("update_variable", {"variable_id": variable_id, "field": "note", "value": variable_id}) for variable_id in ids
    ]
    assert [result["value"] for result in in_batches(call_many, calls)] == ids


def check(call_many: CallMany, name: str, ids: list[str]) -> None:
    """Each Variable holds what its maker wrote."""
    found = in_batches(call_many, [("get_variable", {"variable_id": variable_id}) for variable_id in ids])
    assert [(one["data"], one["role"], one["note"]) for one in found] == [
        (f"{name}, variable {i}", name, variable_id) for i, variable_id in enumerate(ids)
    ]


class Cost(NamedTuple):
    """What a process has used: CPU seconds and resident bytes."""

    seconds: float
    memory: int

    @classmethod
    def of(cls, pid: int) -> Cost | None:
        """Now; None where the system does not tell."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:
            return None
        return cls((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE"))


def test_many_clients(backend: LocalBackend) -> None:
    clients: list[Ours | Raw] = [Ours(backend) if i % 2 else Raw(backend) for i in range(CLIENTS)]
    names = [f"client {i}" for i in range(CLIENTS)]
    meeting = threading.Barrier(CLIENTS)
    before = Cost.of(backend.pid)

    def work(client: Ours | Raw, name: str) -> list[str]:
        meeting.wait(FAILSAFE)
        ids = create(client.call_many, name)
        rewrite(client.call_many, ids)
        check(client.call_many, name, ids)
        return ids

    with ThreadPoolExecutor(CLIENTS) as pool:
        ids = list(pool.map(work, clients, names))
        after = Cost.of(backend.pid)
        list(pool.map(lambda i: check(clients[i].call_many, names[i], ids[i]), range(CLIENTS)))

    assert len({variable_id for some in ids for variable_id in some}) == CLIENTS * EACH
    for client in clients:
        client.close()
    if before is not None and after is not None:
        calls, seconds = 3 * CLIENTS * EACH, after.seconds - before.seconds
        per_variable = (after.memory - before.memory) / (CLIENTS * EACH)
        print(f"\n{CLIENTS} clients, {CLIENTS * EACH} Variables: {calls} calls in {seconds:.2f} s of the backend's CPU")
        print(f"{calls / seconds:.0f} calls/s per core, {per_variable:.0f} bytes per Variable")
