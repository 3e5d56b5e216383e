"""What the backend has acknowledged is there after it was killed, whenever that was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tellurio_sync.errors import HttpError, HttpUnreachable
from tellurio_sync.studio import StudioRest
from tellurio_sync.testing import ScriptedBackend

pytestmark = pytest.mark.slow

FAILSAFE = 60.0
WRITERS = 4
KILLS = 3


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[ScriptedBackend]:
    with ScriptedBackend(tmp_path) as backend:
        yield backend


class Writer(threading.Thread):
    """Makes runs, logs metrics and finishes runs until the backend is gone; notes what was acknowledged."""

    def __init__(self, backend: ScriptedBackend, name: str, enough: threading.Semaphore) -> None:
        super().__init__()
        self.runs: dict[str, str] = {}
        self.metrics: dict[str, list[int]] = {}
        self._rest = StudioRest(backend.http_base_url, backend.direct_port, api_key=backend.api_key, timeout=FAILSAFE)
        self._name = name
        self._namespace = backend.namespace
        self._enough = enough
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            while True:
                self._write_one()
        except (HttpUnreachable, HttpError) as exc:
            self.error = exc
        finally:
            self._rest.close()

    def _write_one(self) -> None:
        run = self._rest.create_run(self._namespace, "kill", self._name)
        run_uuid = run["uuid"]
        self.runs[run_uuid] = "RUNNING"
        self.metrics[run_uuid] = []
        for value in range(10):
            self._rest.log_metric(self._namespace, "kill", run_uuid, "m", value)
            self.metrics[run_uuid].append(value)
            self._enough.release()
        self._rest.update_run(self._namespace, "kill", run_uuid, "COMPLETED")
        self.runs[run_uuid] = "COMPLETED"


def test_nothing_acknowledged_is_lost(backend: ScriptedBackend) -> None:
    rest = StudioRest(backend.http_base_url, backend.port, api_key=backend.api_key, timeout=FAILSAFE)
    rest.create_project(backend.namespace, "kill")
    written: list[Writer] = []
    for kill in range(KILLS):
        enough = threading.Semaphore(0)
        writers = [Writer(backend, f"writer {kill}-{i}", enough) for i in range(WRITERS)]
        for writer in writers:
            writer.start()
        for _ in range(50 + 17 * kill):
            assert enough.acquire(timeout=FAILSAFE), [writer.error for writer in writers]
        backend.restart()
        for writer in writers:
            writer.join(FAILSAFE)
            assert not writer.is_alive()
            assert writer.error is not None
        written += writers

        runs = {run["uuid"]: run["status"] for run in rest.list_runs(backend.namespace, "kill")}
        for writer in written:
            for run_uuid, status in writer.runs.items():
                # A change whose acknowledgement was cut off may have been made.
                assert runs[run_uuid] in (status, "COMPLETED")
                logged = [metric["value"] for metric in rest.list_metrics(backend.namespace, "kill", run_uuid)]
                own = writer.metrics[run_uuid]
                assert logged[: len(own)] == own
                assert len(logged) <= len(own) + 1
    rest.close()
