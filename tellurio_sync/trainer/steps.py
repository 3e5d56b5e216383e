"""The output of a training step, the means of its metrics over an epoch, and what became of steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import SamplesLeftOut
from ..model.data import is_scalar
from ..model.variable import Variable
from ..optim.told import ParameterUnchanged

LOSS = "loss"

NO_BETTER = "What the language model offered was tried on the batch, and was no better (accept='batch')."

# The most frequent reasons for rejections, which are said at the end.
_REASONS_SAID = 3


class StepOutput:
    """The checked output of a ``training_step``, ``validation_step`` or ``test_step``.

    Args:
        name: of the step, for error texts.
        output: ``(score, explanation)``; a dict with these under ``"loss"``, and further metrics; None.

    Attributes:
        explanation: the start of the backward pass; None: there is none.
        metrics: name to number.
        scores: of each sample, where the score is a list of numbers; None where it is not.
    """

    def __init__(self, name: str, output: Any) -> None:
        self.explanation: Variable | None = None
        self.metrics: dict[str, float] = {}
        self.scores: list[float] | None = None
        form = f'{name}() must return (score, explanation), a dict with these as "{LOSS}", or None'
        if output is None:
            return
        others: Mapping[str, Any] = {}
        if isinstance(output, Mapping):
            others = {key: value for key, value in output.items() if key != LOSS}
            output = output.get(LOSS)
        if output is not None:
            if not (isinstance(output, (tuple, list)) and len(output) == 2):
                raise TypeError(f"{form}, not {output!r}.")
            score, explanation = output
            if not isinstance(explanation, Variable):
                raise TypeError(f"{form}: the explanation is a {type(explanation).__name__}.")
            self.explanation = explanation
            self.metrics[LOSS] = _number(name, LOSS, score)
            data = score.data if isinstance(score, Variable) else score
            self.scores = [float(one) for one in data] if isinstance(data, list) else None
        for metric, value in others.items():
            self.metrics[metric] = _number(name, metric, value)


@dataclass
class StepCounts:
    """What became of the batches of a training.

    Attributes:
        changed: a parameter got other data.
        nothing_to_learn: no feedback, or feedback after which the data stayed as it was.
        rejected: what the language model offered was not taken; no parameter got other data.
        without_step: the training step gave no explanation to learn from.
        broken_off: the limit of questions was reached inside.
        copied: of those changed: they copied long passages of the training data into a parameter.
        repeated: begun again after a lost connection.
        samples_left_out: samples that failed, and were gone on without.
        reasons: why something was rejected, each text once with how often it came.
    """

    changed: int = 0
    nothing_to_learn: int = 0
    rejected: int = 0
    without_step: int = 0
    broken_off: int = 0
    copied: int = 0
    repeated: int = 0
    samples_left_out: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def note(self, is_changed: bool, told: Iterable[Warning], no_better: int = 0) -> None:
        """A step was made.

        Args:
            is_changed: whether a parameter got other data.
            told: meanwhile.
            no_better: for how many parameters new data was tried on the batch, and was no better.
        """
        rejections = [str(one) for one in told if isinstance(one, ParameterUnchanged)] + [NO_BETTER] * no_better
        self.changed += is_changed
        self.rejected += not is_changed and bool(rejections)
        self.nothing_to_learn += not is_changed and not rejections
        for text in rejections:
            self.reasons[text] = self.reasons.get(text, 0) + 1

    def note_left_out(self, told: Iterable[Warning]) -> None:
        """This was told while a batch was worked on."""
        self.samples_left_out += sum(len(one.failures) for one in told if isinstance(one, SamplesLeftOut))

    @property
    def total(self) -> int:
        """All batches, each once."""
        return self.changed + self.nothing_to_learn + self.rejected + self.without_step + self.broken_off

    def __str__(self) -> str:
        outcomes = [
            (self.changed, "changed the parameters"),
            (self.nothing_to_learn, "had nothing to learn"),
            (self.rejected, "offered nothing that was taken"),
            (self.without_step, "gave no explanation to learn from"),
            (self.broken_off, "did not fit into the limit of questions"),
        ]
        said = [f"{count:,} {outcome}" for count, outcome in outcomes if count]
        text = f"{self.total:,} {'step' if self.total == 1 else 'steps'}"
        if not self.changed:
            text = f"Nothing was learnt: {text}"
        if said:
            text += f", of which {', '.join(said)}"
        if self.copied:
            text += f"; copied long passages of the training data: {self.copied:,}"
        if self.samples_left_out:
            text += f"; samples left out: {self.samples_left_out:,}"
        if self.repeated:
            text += f"; begun again after a lost connection: {self.repeated:,}"
        for reason, count in sorted(self.reasons.items(), key=lambda item: -item[1])[:_REASONS_SAID]:
            text += f"\n  {f'{count:,} times: ' if count > 1 else ''}{reason}"
        return text


class Means:
    """The mean of each metric over the batches that have it."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of a batch."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value)

    def now(self, prefix: str = "") -> dict[str, float]:
        """The means so far, each name with this prefix."""
        return {f"{prefix}{name}": math.fsum(values) / len(values) for name, values in self._values.items()}


def _number(step: str, metric: str, value: Any) -> float:
    if isinstance(value, Variable):
        value = value.data
    if isinstance(value, list) and value and all(is_scalar(item) and not isinstance(item, str) for item in value):
        value = math.fsum(value) / len(value)
    if hasattr(value, "item"):  # a scalar of NumPy or PyTorch
        value = value.item()
    if not isinstance(value, (int, float)):
        raise TypeError(f"{metric!r} of {step}() must be a number, not {value!r}.")
    return float(value)
