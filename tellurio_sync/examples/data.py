"""Labelled mails for the demo: loading, splitting, batching. This module does not use the server.

A file of mails is a JSON list; each entry looks like::

    {"fields": {"input": "the text of the mail"}, "answer": "{\\"sentiment\\": \\"neutral\\"}"}

``answer`` is a string that holds JSON; the object in it may have more members than ``sentiment``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

SENTIMENTS = ("neutral", "positive", "negative")
SHIPPED_MAILS = Path(__file__).with_name("mails.json")

TRAIN_SHARE = 0.5
VALIDATION_SHARE = 0.2  # the rest is the test set


@dataclass(frozen=True)
class Mail:
    """One labelled mail."""

    text: str
    sentiment: str


class Split(NamedTuple):
    """Three lists without a mail in common, each with every sentiment."""

    train: list[Mail]
    validation: list[Mail]
    test: list[Mail]


def load_mails(path: str | Path = SHIPPED_MAILS) -> list[Mail]:
    """The mails of a file in the format above.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not in the format; the text names the file, the entry and the expected form.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))  # Windows puts a mark before it
    except ValueError as exc:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is not a JSON file: {exc}") from exc
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} must hold a JSON list of mails with at least one entry.")
    mails = []
    for number, entry in enumerate(entries, start=1):
        try:
            mails.append(_mail(entry))
        except ValueError as exc:
            raise ValueError(f"{path}, entry {number} of {len(entries)}: {exc}") from exc
    return mails


def _mail(entry: Any) -> Mail:
    fields = entry.get("fields") if isinstance(entry, dict) else None
    text = fields.get("input") if isinstance(fields, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise ValueError('expected the text of the mail at ["fields"]["input"], a string that is not empty.')
    try:
        answer = json.loads(entry["answer"])
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError('expected "answer" to be a string of JSON such as {"sentiment": "neutral"}.') from exc
    sentiment = answer.get("sentiment") if isinstance(answer, dict) else None
    if sentiment not in SENTIMENTS:
        raise ValueError(
            f'expected the "sentiment" in "answer" to be one of {", ".join(SENTIMENTS)}, not {sentiment!r}.'
        )
    return Mail(text, sentiment)


def split_mails(mails: Sequence[Mail], seed: int) -> Split:
    """Shuffle and split, sentiment by sentiment, so that each part has the same shares.

    The same mails and seed always give the same split.

    Raises:
        ValueError: a sentiment has fewer than three mails, too few for three parts.
    """
    rng = random.Random(seed)
    split = Split([], [], [])
    for sentiment in SENTIMENTS:
        group = [mail for mail in mails if mail.sentiment == sentiment]
        if len(group) < len(split):
            raise ValueError(
                f"At least three {sentiment} mails are needed to train, validate and test; got {len(group)}."
            )
        rng.shuffle(group)
        train_end = max(1, int(len(group) * TRAIN_SHARE))
        validation_end = train_end + max(1, int(len(group) * VALIDATION_SHARE))
        split.train.extend(group[:train_end])
        split.validation.extend(group[train_end:validation_end])
        split.test.extend(group[validation_end:])
    for part in split:
        rng.shuffle(part)
    return split


def shuffled_batches(mails: Sequence[Mail], size: int, rng: random.Random) -> Iterator[list[Mail]]:
    """Every mail once, in a new order, ``size`` at a time; the last batch may be smaller."""
    order = rng.sample(mails, len(mails))
    for start in range(0, len(order), size):
        yield order[start : start + size]
