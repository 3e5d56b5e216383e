"""The training of afnio's own tutorial, in our words: its modules, loaders and trainer against the backend.

The language model is the demo's stand-in, which follows the rules in a prompt and writes better ones; so the prompt
really learns, and a wrong gradient or a lost update would show in the accuracy.
"""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.examples.data import load_mails, split_mails
from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import stand_in
from tellurio_sync.studio import StudioRest
from tellurio_sync.testing import ScriptedBackend

from .conftest import Drive

EPOCHS = 2
BATCH = 8


@pytest.fixture(scope="module")
def mails() -> Any:
    return split_mails(load_mails(), seed=0)


@pytest.fixture(scope="module")
def seen(drive: Drive, backend: ScriptedBackend, mails: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    backend.lm.always(stand_in)
    return drive(
        "training",
        namespace=backend.namespace,
        base_url=backend.lm.base_url,
        directory=str(tmp_path_factory.mktemp("checkpoints")),
        prompt=START_PROMPT,
        train=[[mail.text, mail.sentiment] for mail in mails.train],
        validation=[[mail.text, mail.sentiment] for mail in mails.validation],
        epochs=EPOCHS,
        batch_size=BATCH,
    )


def test_the_prompt_learns(seen: Any) -> None:
    assert seen["prompt"].startswith(START_PROMPT.splitlines()[0])
    assert len(seen["prompt"]) > len(START_PROMPT)
    # The sum of right answers.
    assert seen["after"]["loss"] > seen["before"]["loss"]
    assert seen["tested"] == seen["after"]


def test_a_checkpoint_holds_what_was_learnt(seen: Any) -> None:
    assert seen["loaded"]
    assert seen["loaded one answers alike"] == seen["after"]


def test_the_run_has_its_metrics(seen: Any, backend: ScriptedBackend) -> None:
    rest = StudioRest(backend.http_base_url, backend.direct_port, api_key=backend.api_key)
    try:
        (run,) = rest.list_runs(backend.namespace, "facility-support")
        metrics = rest.list_metrics(backend.namespace, "facility-support", run["uuid"])
    finally:
        rest.close()
    assert run["status"] == "COMPLETED"
    names = {metric["name"] for metric in metrics}
    assert any(name.startswith("train_") for name in names)
    assert any(name.startswith("val_") for name in names)
