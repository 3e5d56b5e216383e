"""What afnio's runs log, through the logging of this package (``install(metrics=True)``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.studio import StudioRest
from tellurio_sync.testing import ScriptedBackend

from .conftest import Drive
from .turns import turns


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are how test and driver take turns")
def test_they_wait_for_nothing_and_all_arrive(drive: Drive, backend: ScriptedBackend, tmp_path: Path, way: str) -> None:
    if way != "our client":
        pytest.skip("metrics=True is an option of ours")
    address = {"TELLURIO_BACKEND_HTTP_PORT": str(backend.port)}
    with turns(tmp_path / "turn", [lambda: backend.delay(3600), lambda: backend.delay(0)]) as pipe:
        seen = drive("metrics", address, namespace=backend.namespace, pipe=pipe)
    assert seen == {"refused": {"value": None}, "status": "COMPLETED", "its own fails": True}

    rest = StudioRest(backend.http_base_url, backend.direct_port, api_key=backend.api_key)
    try:
        runs = {run["name"]: run for run in rest.list_runs(backend.namespace, "metrics")}

        def logged(name: str) -> list[tuple[Any, ...]]:
            metrics = rest.list_metrics(backend.namespace, "metrics", runs[name]["uuid"])
            return [(each["name"], each["step"], each["value"]) for each in metrics]

        # What went by a client of the program's own may come before.
        assert sorted(logged("over ours"), key=lambda row: row[0]) == [
            ("accuracy", 0, 0.5),
            ("accuracy", 1, 0.75),
            ("accuracy", 10, 1),
            ("client", 0, 1),
            ("note", 3, {"any": ["json", None]}),
        ]
        assert logged("its own") == [("accuracy", 0, 2), ("accuracy", 1, 3)]
        assert logged("left open") == [("accuracy", 0, 4)]
        assert {name: run["status"] for name, run in runs.items()} == dict.fromkeys(runs, "COMPLETED")
    finally:
        rest.close()
