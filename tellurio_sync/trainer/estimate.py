"""What a training will ask, before it begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..ledger import Ledger
from ..optim.functional import Accept
from .spending import samples_in, size_of


@dataclass(frozen=True)
class Estimate:
    """What a training will ask.

    Attributes:
        least: questions, if there is nothing to learn: the answers alone.
        records: questions, if each step learns from the records of its samples: one more for each step, and with
            ``accept`` those that try it.
        most: questions, if a critic is asked for each sample, and its feedback is passed on for each.
        usd: of ``least``, ``records`` and ``most``; None: it is not known what a question costs.
    """

    least: int
    records: int
    most: int
    usd: tuple[float, float, float] | None = None

    def __str__(self) -> str:
        text = f"{self.least:,} to {self.most:,} questions (with feedback by records about {self.records:,})"
        if self.usd is None:
            return text
        least, records, most = self.usd
        return f"{text}; ${least:.2f} to ${most:.2f} (${records:.2f})"


def estimate(
    train: Iterable[Any],
    validation: Iterable[Any] | None = None,
    *,
    max_epochs: int = 1,
    per_sample: int = 1,
    parameters: int = 1,
    accept: Accept | None = None,
    like: Ledger | None = None,
) -> Estimate:
    """What a training over these batches will ask. Asks nothing itself, and reads no batch of a loader.

    ::

        print(te.trainer.estimate(loader, held_out, max_epochs=3, like=earlier_run.questions()))

    Not counted are questions that are asked again because their answer had the wrong form, and batches that are begun
    again after a lost connection.

    Args:
        train, validation, max_epochs: as for ``fit``. Loaders need a length.
        per_sample: questions for the answer to one sample: chats one after another, and a judge, if there is one.
        parameters: how many are learnt.
        accept: that of the optimizer: with ``"batch"`` new data is tried on the batch, at most on each sample.
        like: the ledger of an earlier training, from which the price of a question of each kind is taken.

    Raises:
        TypeError: ``train`` has no length.
    """
    batches = len(train)  # type: ignore[arg-type]
    first = next(iter(train), None) if isinstance(train, (list, tuple)) else None
    samples = samples_in(train, 1 if first is None else size_of(first))
    asked = per_sample * max_epochs * (samples + samples_in(validation, 1))
    steps = parameters * max_epochs * batches
    feedback = 2 * max_epochs * samples
    tries = 0 if accept is None else per_sample * max_epochs * samples
    usd = None
    if like is not None and (prices := _prices(like)):
        forward, critic, optimizer = (prices.get(kind) for kind in ("forward", "critic", "optimizer"))
        answers = asked * (forward or 0.0)
        # What was never asked there costs about as much as an answer.
        rewritten = steps * (forward or 0.0 if optimizer is None else optimizer)
        criticised = feedback * (forward or 0.0 if critic is None else critic)
        records = answers + rewritten + tries * (forward or 0.0)
        usd = (answers, records, records + criticised)
    records_asked = asked + steps + tries
    return Estimate(asked, records_asked, records_asked + feedback, usd)


def _prices(ledger: Ledger) -> dict[str, float]:
    """US dollars for a question of each kind, where the prices of all are known."""
    return {
        kind: count.usd / count.asked for kind, count in ledger.by_kind.items() if count.asked and not count.unpriced
    }
