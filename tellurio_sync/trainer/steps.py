"""The output of a training step, and the means of its metrics over an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..model.data import is_scalar
from ..model.variable import Variable

LOSS = "loss"


class StepOutput:
    """The checked output of a ``training_step``, ``validation_step`` or ``test_step``.

    Args:
        name: of the step, for error texts.
        output: ``(score, explanation)``; a dict with these under ``"loss"``, and further metrics; None.

    Attributes:
        explanation: the start of the backward pass; None: there is none.
        metrics: name to number.
    """

    def __init__(self, name: str, output: Any) -> None:
        self.explanation: Variable | None = None
        self.metrics: dict[str, float] = {}
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
        for metric, value in others.items():
            self.metrics[metric] = _number(name, metric, value)


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
