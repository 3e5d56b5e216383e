"""A training whose connection is cut on the way, over afnio's own client and over ours.

The program is that of ``test_training``, unchanged. Which question of the language model cuts the connection is drawn
with a seed, so that cuts fall into forward passes, backward passes and steps.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from tellurio_sync.examples.data import load_mails, split_mails
from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import stand_in
from tellurio_sync.testing import ScriptedBackend

from .conftest import Drive

BATCH = 8
TRAINED = 24
VALIDATED = 16


@pytest.fixture(scope="module")
def train(drive: Drive, backend: ScriptedBackend, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that trains, with the connection cut at each question whose number is named."""
    mails = split_mails(load_mails(), seed=0)

    def train(cuts: set[int]) -> Any:
        asked = 0

        def answer(messages: Any, **options: Any) -> str:
            nonlocal asked
            asked += 1
            if asked in cuts:
                backend.drop_connections()
            return stand_in(messages, **options)

        backend.lm.always(answer)
        return drive(
            "training",
            {"TELLURIO_BACKEND_WS_PORT": str(backend.port)},
            namespace=backend.namespace,
            base_url=backend.lm.base_url,
            directory=str(tmp_path_factory.mktemp("checkpoints")),
            prompt=START_PROMPT,
            train=[[mail.text, mail.sentiment] for mail in mails.train[:TRAINED]],
            validation=[[mail.text, mail.sentiment] for mail in mails.validation[:VALIDATED]],
            epochs=1,
            batch_size=BATCH,
        )

    return train


@pytest.fixture(scope="module")
def undisturbed(train: Any) -> Any:
    return train(set())


def cuts_of(seed: int) -> set[int]:
    return set(random.Random(seed).sample(range(VALIDATED + 1, VALIDATED + 90), 3))


@pytest.mark.parametrize("seed", range(3))
def test_a_training_whose_line_is_cut(train: Any, undisturbed: Any, way: str, seed: int) -> None:
    """Over our client it ends as the undisturbed one, over afnio's own it does not end well."""
    if way == "our client":
        assert train(cuts_of(seed)) == undisturbed
    elif seed:
        pytest.skip("over afnio's own client once is enough: it costs half a minute of time-outs")
    else:
        with pytest.raises(AssertionError, match="the driver training failed"):
            train(cuts_of(seed))
