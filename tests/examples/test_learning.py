"""The learning loop without a server: the questions that the backend asks, put to the stand-in one by one."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tellurio_sync.backend import prompts
from tellurio_sync.backend.prompts import Part
from tellurio_sync.backend.records import Record
from tellurio_sync.examples.data import SHIPPED_MAILS, Mail, load_mails, shuffled_batches, split_mails
from tellurio_sync.examples.facility_support import START_PROMPT
from tellurio_sync.examples.stand_in import MOST_SIGNS, STRENGTHS, read_signs, stand_in, words


def chat_for(prompt: str, mail: Mail) -> list[dict[str, str]]:
    return [{"role": "system", "content": prompt}, {"role": "user", "content": mail.text}]


def accuracy(prompt: str, mails: list[Mail]) -> float:
    return sum(stand_in(chat_for(prompt, mail)) == mail.sentiment for mail in mails) / len(mails)


def record_of(prompt: str, mail: Mail) -> Record:
    answer = stand_in(chat_for(prompt, mail))
    is_right = answer == mail.sentiment
    return Record(answer, target=mail.sentiment, is_right=is_right, inputs={"message": mail.text})


def step(prompt: str, batch: list[Mail]) -> str:
    records = [record_of(prompt, mail) for mail in batch]
    if all(record.is_right for record in records):
        return prompt  # nothing is asked then
    answer = stand_in(prompts.optimizer_question(Part("system prompt", prompt), [], records=records).messages)
    return prompts.read_blocks(answer, prompts.IMPROVED)[0]


class Trained(NamedTuple):
    """The prompt that is best on the validation mails, of equals the latest, and accuracies on the test mails."""

    prompt: str
    before: float
    after: float
    after_last: float


def trained(file: Path, seed: int, epochs: int = 4) -> Trained:
    split = split_mails(load_mails(file), seed)
    rng = random.Random(seed)
    prompt, seen = START_PROMPT, [START_PROMPT]
    for _ in range(epochs):
        for batch in shuffled_batches(split.train, 10, rng):
            prompt = step(prompt, batch)
        seen.append(prompt)
    best = max(reversed(seen), key=lambda candidate: accuracy(candidate, split.validation))
    return Trained(best, *(accuracy(candidate, split.test) for candidate in (START_PROMPT, best, prompt)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learning_improves_held_out_accuracy_on_the_shipped_mails(seed: int) -> None:
    result = trained(SHIPPED_MAILS, seed)
    assert result.after >= result.before + 0.1


@pytest.mark.parametrize("epochs", [4, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learning_improves_held_out_accuracy_on_long_mails(long_mails: Path, seed: int, epochs: int) -> None:
    result = trained(long_mails, seed, epochs)
    assert result.after >= result.before + 0.1


def test_all_that_was_learnt_comes_from_the_training_mails() -> None:
    """Each word that the prompt names is in a training mail; without training there are none."""
    prompt = trained(SHIPPED_MAILS, seed=0).prompt
    train = split_mails(load_mails(), 0).train
    learnt = set(read_signs(prompt))
    assert learnt
    assert learnt <= set().union(*(words(mail.text) for mail in train))
    assert not read_signs(START_PROMPT)


def test_what_was_learnt_reads_like_a_prompt() -> None:
    """The instructions stay, and below them is a line of words for each answer: no table, and no points."""
    prompt = trained(SHIPPED_MAILS, seed=0).prompt
    assert prompt.startswith(START_PROMPT)
    lines = [line for line in prompt.splitlines() if line.startswith("- ")]
    assert [line.partition(":")[0] for line in lines] == ["- negative", "- neutral", "- positive"]
    assert len(prompt.splitlines()) <= 12
    assert STRENGTHS[-1] in prompt
    for line in lines:
        assert 5 <= line.count('"') / 2 <= MOST_SIGNS
        assert any(strength in line for strength in STRENGTHS[1:])
        assert not any(character.isdigit() for character in line)


def accuracy_after_wrong_labels(seed: int) -> float:
    split = split_mails(load_mails(), 0)
    labels = [mail.sentiment for mail in split.train]
    random.Random(seed).shuffle(labels)
    shuffled = [Mail(mail.text, label) for mail, label in zip(split.train, labels)]
    prompt = START_PROMPT
    for batch in shuffled_batches(shuffled, 10, random.Random(seed)):
        prompt = step(prompt, batch)
    return accuracy(prompt, split.test)


def test_nothing_is_learnt_from_wrong_labels() -> None:
    """With shuffled labels the held-out accuracy is that of chance: the gain comes from the feedback.

    Chance is the share of the most frequent sentiment. The mean of some shuffles lies within three of its standard
    errors (binomial) above that; what is learnt from true labels lies far beyond.
    """
    test = split_mails(load_mails(), 0).test
    chance = max(Counter(mail.sentiment for mail in test).values()) / len(test)
    shuffles = 10
    bound = chance + 3 * math.sqrt(chance * (1 - chance) / (len(test) * shuffles))
    assert bound < 0.48
    assert sum(map(accuracy_after_wrong_labels, range(shuffles))) / shuffles <= bound
    assert trained(SHIPPED_MAILS, seed=0).after > bound + 0.2
