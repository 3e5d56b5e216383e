"""How good parameters are on samples: hardest first, and no further than it takes to know that they are not better."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..autodiff.grad_mode import no_grad
from ..data.collate import collate
from ..model.data import is_scalar
from ..model.variable import Variable
from .retrying import tried

Forward = Callable[[Any], Any]
"""``forward(batch)`` gives the answers to a batch, in the form in which a ``DataLoader`` makes them: a Variable or a
list, with one answer for each sample."""

Evaluator = Callable[[Any, Any], Any]
"""``evaluator(answers, batch)`` gives ``(scores, explanations)``, as the evaluators of ``te.functional`` do with
``reduction_fn=None``, or only the scores: Variables or lists, with one score for each sample."""

# Sums of scores that differ by less are equal.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Evaluation:
    """The scores of samples.

    Attributes:
        scores: of each sample, in the order in which they were given; None: it was not evaluated, because it was known
            by then that the best cannot be beaten.
        outputs: the answers; None as in ``scores``, or where there is none.
        explanations: of the scores, as texts; None as in ``scores``, or where there is none.
    """

    scores: tuple[float | None, ...]
    outputs: tuple[Any, ...] = ()
    explanations: tuple[str | None, ...] = ()

    @property
    def evaluated(self) -> int:
        """How many samples were evaluated."""
        return sum(score is not None for score in self.scores)

    @property
    def is_complete(self) -> bool:
        """Whether all samples were evaluated."""
        return self.evaluated == len(self.scores)

    @property
    def total(self) -> float:
        """The sum of the scores, in which those that are missing count nothing."""
        return math.fsum(score for score in self.scores if score is not None)

    @property
    def mean(self) -> float | None:
        """The mean of all scores; None: some are missing, or there are none."""
        return self.total / len(self.scores) if self.scores and self.is_complete else None

    def hardest_first(self) -> list[int]:
        """The numbers of the samples, lowest score first; those that are missing come between the two halves.

        Equal ones stay in their order, so that an order is the same each time.
        """
        known = sorted(score for score in self.scores if score is not None)
        middle = known[len(known) // 2] if known else 0.0
        filled = [middle if score is None else score for score in self.scores]
        return sorted(range(len(filled)), key=filled.__getitem__)

    def __str__(self) -> str:
        if self.is_complete:
            return f"{self.mean or 0.0:.4g} on {len(self.scores):,} samples"
        return f"not better, as {self.evaluated:,} of {len(self.scores):,} samples show"

    def __repr__(self) -> str:
        return f"<Evaluation: {self}>"


def evaluate(
    forward: Forward,
    evaluator: Evaluator,
    samples: Sequence[Any],
    *,
    best: Evaluation | None = None,
    batch_size: int = 8,
    highest: float = 1.0,
    retries: int = 3,
) -> Evaluation:
    """How good the parameters are as they are now, without gradients. Blocks.

    ::

        def forward(batch):
            return te.functional.chat_completion(lm, chat, inputs={"message": [mail.text for mail in batch]})

        def evaluator(answers, batch):
            return te.functional.exact_match_evaluator(answers, [mail.topic for mail in batch], reduction_fn=None)

        best = te.evaluate(forward, evaluator, held_out)
        ...  # a step
        new = te.evaluate(forward, evaluator, held_out, best=best)
        if new.is_complete and new.total > best.total: ...

    With ``best`` the samples come hardest first, and the evaluation ends as soon as the rest, were it all perfect,
    could not make the sum higher than that of ``best``: what is not better is found out by few questions. What is
    better is evaluated on all samples.

    Args:
        forward, evaluator: see ``Forward`` and ``Evaluator``.
        samples: a list; what a ``DataLoader`` takes.
        best: the evaluation of the best parameters so far, on the same samples.
        batch_size: samples that are answered at the same time, >= 1; only between two batches it can end.
        highest: the highest score that a sample can have.
        retries: how often a batch is begun again after a lost connection or a time-out, >= 0.

    Raises:
        TypeError: there is not one score for each sample.
        ValueError: an argument out of range, a score above ``highest``, or ``best`` is of other samples.
        Every exception of ``forward``, ``evaluator`` and the server.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, not {batch_size!r}.")
    if best is not None and len(best.scores) != len(samples):
        raise ValueError(f"best is of {len(best.scores)} samples, and here are {len(samples)}: it must be of the same.")
    scores: list[float | None] = [None] * len(samples)
    outputs: list[Any] = [None] * len(samples)
    explanations: list[str | None] = [None] * len(samples)
    order = list(range(len(samples))) if best is None else best.hardest_first()
    total = 0.0
    for start in range(0, len(order), batch_size):
        left = len(order) - start
        if best is not None and total + highest * left <= best.total + _TOLERANCE:
            break
        numbers = order[start : start + batch_size]
        batch = [samples[number] for number in numbers]
        (found, answers, texts), _ = tried(partial(_evaluated, forward, evaluator, batch), retries)
        for number, score, answer, text in zip(numbers, found, answers, texts):
            if score > highest:
                raise ValueError(f"Sample {number} scored {score:g}: say highest={score:g} or more, not {highest:g}.")
            scores[number], outputs[number], explanations[number] = score, answer, text
        total = math.fsum(score for score in scores if score is not None)
    return Evaluation(tuple(scores), tuple(outputs), tuple(explanations))


def answered(forward: Forward, evaluator: Evaluator, batch: Any) -> tuple[Any, Any]:
    """What ``forward`` and ``evaluator`` give for a batch."""
    answers = forward(batch)
    return answers, evaluator(answers, batch)


def scores_of(answers: Any, found: Any, size: int) -> tuple[list[float], list[Any], list[str | None]]:
    """Score, answer and explanation of each of so many samples.

    Raises:
        TypeError: there is not one score for each.
    """
    score, explanation = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    scores = list(_each(score, size))
    if len(scores) != size or not all(is_number(one) for one in scores):
        raise TypeError(
            f"The evaluator must give one score for each of the {size} samples of a batch, as a list; it gave "
            f"{_data(score)!r:.100}. With the evaluators of te.functional pass reduction_fn=None."
        )
    outputs, texts = list(_each(answers, size)), list(_each(explanation, size))
    return (
        [float(one) for one in scores],
        [*outputs, *[None] * size][:size],
        [text if isinstance(text, str) else None for text in [*texts, *[None] * size][:size]],
    )


def _evaluated(
    forward: Forward, evaluator: Evaluator, samples: list[Any]
) -> tuple[list[float], list[Any], list[str | None]]:
    with no_grad():
        return scores_of(*answered(forward, evaluator, collate(samples)), len(samples))


def is_number(value: object) -> bool:
    """Whether a score is one: a number that is finite. A truth value is."""
    return is_scalar(value) and not isinstance(value, str) and value is not None and math.isfinite(value)  # type: ignore[arg-type]


def _data(value: Any) -> Any:
    return value.data if isinstance(value, Variable) else value


def _each(value: Any, size: int) -> Iterator[Any]:
    """The value for each sample: the items of a list; of a batch of one, what is no list, too."""
    data = _data(value)
    if isinstance(data, (list, tuple)):
        yield from data
    elif size == 1:
        yield data
