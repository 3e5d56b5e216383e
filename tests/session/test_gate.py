"""``accept="batch"`` with a model that is chatty, forgetful and sometimes fails: no step makes the batch worse."""

from __future__ import annotations

import random
import threading
import warnings
from collections import Counter
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.backend.lm import again
from tellurio_sync.backend.prompts import OPTIMIZER
from tellurio_sync.examples.data import Mail, load_mails
from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import stand_in
from tests.backend.lm_endpoint import LmEndpoint, Reply, completion

BATCH = 10
OFFERS = ("better", "better", "forgetful", "half", "apology", "empty", "same")


class Moody(LmEndpoint):
    """The stand-in, which offers a bad prompt in every second step, and fails at one question of twelve."""

    def __init__(self, seed: int) -> None:
        super().__init__(self._draw)
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        self.offers: Counter[str] = Counter()

    def _draw(self, request: dict[str, Any]) -> Any:
        messages = request["messages"]
        with self._lock:
            fails, offer = self._dice.random() < 1 / 12, self._dice.choice(OFFERS)
        if fails:
            return Reply(500, {"error": {"message": "Something broke."}})
        text = stand_in(messages[:2])
        if not messages[0]["content"].startswith(OPTIMIZER):
            return completion(text)
        with self._lock:
            self.offers[offer] += 1
        if offer == "apology":
            return completion("I am sorry, but I cannot help with that.")
        if offer == "empty":
            return completion("<IMPROVED></IMPROVED>")
        if offer == "forgetful":
            return completion(f"Sure!\n<IMPROVED>{START_PROMPT}</IMPROVED>\nAnything else?")
        if offer == "half":
            return completion(f"<IMPROVED>{text[10 : 10 + len(text) // 2]}</IMPROVED>")
        if offer == "same":
            return completion(f"<IMPROVED>{text.partition('<DATA>')[0][10:200]}</IMPROVED>")
        return completion(f"Here it is.\n{text}")


def right(prompt: str, mails: list[Mail]) -> int:
    """How many of these mails are answered right with a prompt, by the stand-in itself."""
    chats = ([{"role": "system", "content": prompt}, {"role": "user", "content": mail.text}] for mail in mails)
    return sum(stand_in(chat) == mail.sentiment for chat, mail in zip(chats, mails))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_step_makes_the_batch_worse_and_the_bill_is_right_to_the_question(
    session: te.Session, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(again, "_FIRST_PAUSE", 0.01)
    mails = load_mails()
    random.Random(seed).shuffle(mails)
    moves: Counter[str] = Counter()
    seen = [START_PROMPT]
    with Moody(seed) as endpoint, warnings.catch_warnings():
        warnings.simplefilter("ignore", te.errors.SamplesLeftOut)
        warnings.filterwarnings("ignore", message="The parameter with the role")
        lm = te.OpenAI(base_url=endpoint.url, api_key="none", max_retries=5)
        prompt = te.Parameter(START_PROMPT, role="system prompt")
        optimizer = te.TGD([prompt], model_client=lm, model="m", accept="batch")
        chat = [
            {"role": "system", "content": [prompt]},
            {"role": "user", "content": [te.Variable("{mail}", role="mail")]},
        ]
        for start in range(0, 80, BATCH):
            batch = mails[start : start + BATCH]
            inputs = {"mail": [mail.text for mail in batch]}
            answers = te.functional.chat_completion(lm, chat, inputs, model="m", on_error="skip")
            te.functional.exact_match_evaluator(answers, [mail.sentiment for mail in batch])[1].backward()
            before, rejected = str(prompt.data), optimizer.rejected
            try:
                optimizer.step()
            except te.RemoteError:
                moves["no usable answer"] += 1
            optimizer.clear_grad()
            after = str(prompt.data)
            if after != before:
                moves["adopted"] += 1
                seen.append(after)
                assert right(after, batch) > right(before, batch)
            moves["rejected"] += optimizer.rejected - rejected
        counts = session.request("count_questions", {})["session"]
        requests = len(endpoint.requests)
    assert sum(count["asked"] + count["retries"] for count in counts.values()) == requests
    assert counts["optimizer"]["asked"] == sum(endpoint.offers.values()) + counts["optimizer"]["failed"]
    assert counts["critic"]["asked"] == counts["propagator"]["asked"] == 0
    assert moves["adopted"] >= 1
    assert moves["rejected"] + moves["no usable answer"] >= 1
    assert max(right(version, mails) for version in seen) > right(START_PROMPT, mails)
