"""The same program three ways: over afnio's client, over ours, and with its import lines changed, natively here.

Parameters and metrics must be the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.examples.data import load_mails, split_mails
from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import stand_in
from tellurio_sync.studio import StudioRest
from tellurio_sync.testing import ScriptedBackend

from .conftest import FAILSAFE, Drive
from .moving import run_natively

SHARED = {"seed": 0, "train": 24, "validation": 16}


def arguments(backend: ScriptedBackend, directory: Path) -> dict[str, Any]:
    mails = split_mails(load_mails(), seed=SHARED["seed"])
    return {
        "namespace": backend.namespace,
        "base_url": backend.lm.base_url,
        "directory": str(directory),
        "prompt": START_PROMPT,
        "train": [[mail.text, mail.sentiment] for mail in mails.train[: SHARED["train"]]],
        "validation": [[mail.text, mail.sentiment] for mail in mails.validation[: SHARED["validation"]]],
        "epochs": 1,  # in the next one, afnio draws the same order once more, and we another one
        "batch_size": 8,
    }


def metrics_of(backend: ScriptedBackend) -> list[tuple[Any, ...]]:
    rest = StudioRest(backend.http_base_url, backend.direct_port, api_key=backend.api_key)
    try:
        (run,) = rest.list_runs(backend.namespace, "facility-support")
        metrics = rest.list_metrics(backend.namespace, "facility-support", run["uuid"])
    finally:
        rest.close()
    # What a run costs depends on how many words each way writes to the model; that is measured by itself below.
    return sorted((each["name"], each["step"], each["value"]) for each in metrics if "cost" not in each["name"])


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with ScriptedBackend(username="alice", email="alice@example.org", namespaces=["alice"]) as backend:
        backend.lm.always(stand_in)
        directory = tmp_path_factory.mktemp("native")
        seen = run_natively("training", backend, directory, FAILSAFE, {}, **arguments(backend, directory))
        return seen, metrics_of(backend)


def test_the_program_ends_alike_however_it_runs(
    drive: Drive, backend: ScriptedBackend, native: Any, tmp_path: Path
) -> None:
    backend.lm.always(stand_in)
    seen = drive("training", **arguments(backend, tmp_path))
    assert seen == native[0]
    assert metrics_of(backend) == native[1]
