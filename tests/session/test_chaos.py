"""A training with an endpoint that does everything that endpoints do, at random.

Each answer is drawn: right, chatty, thinking aloud, cut off, refused, 429, 500, slow, dripping, huge, or no HTTP.
The training ends with the same kind of gain as with a quiet endpoint, no sample is paid for a second time once it has
its answer, and the bill is right to the token.
"""

from __future__ import annotations

import random
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.backend.lm import again, exchange
from tellurio_sync.backend.prompts import OPTIMIZER
from tellurio_sync.examples.data import Mail, load_mails
from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import stand_in
from tests.backend.lm_endpoint import LmEndpoint, Reply, completion

KINDS = {
    "right": 60,
    "chatty": 10,
    "thinking": 10,
    "cut off": 3,
    "refused": 2,
    "429": 4,
    "500": 4,
    "slow": 3,
    "dripping": 1,
    "huge": 1,
    "no HTTP": 2,
}
QUIET = {"right": 1}
BATCH = 10


class ChaosEndpoint(LmEndpoint):
    """Answers as the stand-in does, in the clothes that are drawn.

    Attributes:
        drawn: how often each kind was.
        billed: the tokens of all answers that went out whole.
        answered: how many answers that can be used went out, by call and first line of the question.
        call: which call of the program is under way.
        missing: of each forward call: how many samples have no answer.
    """

    def __init__(self, kinds: dict[str, int], seed: int) -> None:
        super().__init__(self._draw)
        self._kinds, self._dice = kinds, random.Random(seed)
        self._deck: list[str] = []
        self.drawn: Counter[str] = Counter()
        self.billed: Counter[str] = Counter()
        self.answered: Counter[tuple[int, str]] = Counter()
        self.missing: dict[int, int] = {}
        self.call = 0

    def _draw(self, request: dict[str, Any]) -> Any:
        messages = request["messages"]
        with self.lock:
            if not self._deck:
                self._deck = [kind for kind, count in self._kinds.items() for _ in range(count)]
                self._dice.shuffle(self._deck)
            kind = self._deck.pop()
            self.drawn[kind] += 1
            usage = {"prompt_tokens": self._dice.randrange(1, 99), "completion_tokens": self._dice.randrange(1, 99)}
        usage["total_tokens"] = sum(usage.values())
        # A correction asks for what the first question asked for.
        text = stand_in(messages[:2])
        if kind == "429":
            return Reply(429, {"error": {"message": "Slow down."}}, {"Retry-After": "0.02"})
        if kind == "500":
            return Reply(500, {"error": {"message": "Something broke."}})
        if kind == "no HTTP":
            return Reply(raw=b"SSH-2.0-nothing-here\r\n" if self._dice.random() < 0.5 else b"")
        if kind == "dripping":
            return Reply(chunks=self._drip())
        if kind == "huge":
            return Reply(body=b" " * 400_000)
        if kind == "refused":
            return Reply(400, {"error": {"message": "This text is not allowed here.", "code": "content_filter"}})
        if kind == "slow":
            self.closing.wait(0.1)
        asked = messages[0]["content"].splitlines()[0]
        is_text = text[:1] not in "{<"
        with self.lock:
            self.billed.update(usage)
            # Of a text the half is an answer too; of an object or a prompt it is none.
            self.answered[self.call, asked] += kind != "cut off" or is_text
        if kind == "cut off":
            return completion(text[: len(text) // 2], "length", usage=usage)
        if kind == "chatty" and not is_text:
            return completion(f"Sure! Here it is:\n```\n{text}\n```\nAnything else?", usage=usage)
        if kind == "thinking":
            return completion(f"<think>Perhaps {text}? Yes, I think so.</think>\n\n{text}", usage=usage)
        return completion(text, usage=usage)

    def _drip(self) -> Iterator[bytes]:
        while not self.closing.wait(0.05):
            yield b" "


def train(endpoint: ChaosEndpoint, mails: list[Mail]) -> tuple[str, dict[str, Any]]:
    """The prompt after a pass over the mails, and what the model has used. A plain loop, as a user would write it."""
    model = te.OpenAI(base_url=endpoint.url, api_key="none", timeout=6.0, max_retries=5)
    args = {"model": "m"}
    te.set_backward_model_client(model, completion_args=args)
    prompt = te.Parameter(START_PROMPT, role="system prompt of a sentiment classifier", requires_grad=True)
    optimizer = te.TGD([prompt], model_client=model, **args)
    message = te.Variable("{message}", role="message")
    chat = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [message]}]
    for start in range(0, len(mails), BATCH):
        batch = mails[start : start + BATCH]
        endpoint.call += 1
        answers = te.functional.chat_completion(
            model, chat, inputs={"message": [mail.text for mail in batch]}, on_error="skip", **args
        )
        endpoint.missing[endpoint.call] = sum(answer is None for answer in answers.data)
        _, explanation = te.functional.exact_match_evaluator(answers, [mail.sentiment for mail in batch])
        try:
            endpoint.call += 1
            explanation.backward(feedback="critic")  # asks most
            endpoint.call += 1
            optimizer.step()
        except te.RemoteError:
            # What could not be had for this batch: the next one brings its own.
            pass
        optimizer.clear_grad()
    return str(prompt.data), model.get_usage()


def accuracy(prompt: str, mails: list[Mail]) -> float:
    """The share of right answers with this prompt, by the stand-in itself."""
    chats = ([{"role": "system", "content": prompt}, {"role": "user", "content": mail.text}] for mail in mails)
    return sum(stand_in(chat) == mail.sentiment for chat, mail in zip(chats, mails)) / len(mails)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_training_bears_everything_that_endpoints_do(
    session: te.Session, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "MAX_ANSWER_BYTES", 200_000)
    monkeypatch.setattr(again, "_FIRST_PAUSE", 0.01)
    mails = list({mail.text: mail for mail in load_mails()}.values())
    random.Random(seed).shuffle(mails)
    learning, held_out = mails[:60], mails[60:]
    gains = {}
    for name, kinds in (("quiet", QUIET), ("chaos", KINDS)):
        with ChaosEndpoint(kinds, seed) as endpoint, warnings.catch_warnings():
            warnings.simplefilter("ignore", te.errors.SamplesLeftOut)
            prompt, usage = train(endpoint, learning)
        gains[name] = accuracy(prompt, held_out) - accuracy(START_PROMPT, held_out)
        assert {key: usage[key] for key in endpoint.billed} == dict(endpoint.billed), f"the bill, {name}"
        for (call, asked), count in endpoint.answered.items():
            # The forward call says how many of its samples got an answer; the other two ask once for each sample.
            if call in endpoint.missing:
                assert count == BATCH - endpoint.missing[call], f"paid for twice, {name}"
            assert count <= (1 if asked == OPTIMIZER else BATCH), f"paid for twice, {name}: {asked}"
        if name == "chaos":
            assert set(endpoint.drawn) == set(KINDS), "every kind was drawn"
    assert gains["quiet"] >= 0.1
    assert gains["chaos"] >= gains["quiet"] / 2
    assert threading.active_count() < 50
