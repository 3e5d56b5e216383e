"""Callbacks of a training: they are told about its progress."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from .loop import FitResult


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch.

    Attributes:
        epoch: its number, from 1.
        metrics: name to value: ``train_...`` and ``val_...``, each the mean over the batches.
        batches: how many batches were trained.
        repeated: how many of them had to be begun again after a lost connection.
        cost: of the models since the training began, in USD; None: not known.
        is_best: whether the watched metric was never better; without one, False.
        questions: to language models, since the training began; 0 where the server does not count them.
    """

    epoch: int
    metrics: dict[str, float] = field(default_factory=dict)
    batches: int = 0
    repeated: int = 0
    cost: float | None = None
    is_best: bool = False
    questions: int = 0


class Callback:
    """Base class of what listens to a training: override what you need. Called on the thread that trains.

    What a callback raises ends the training.
    """

    def on_fit_start(self, first_epoch: int, last_epoch: int) -> None:
        """The training begins: with this epoch, from 1, and is to end with that one."""

    def on_batch_end(self, kind: str, batch_idx: int, batches: int | None, metrics: dict[str, float]) -> None:
        """A batch is done.

        Args:
            kind: ``"train"``, ``"val"`` or ``"test"``.
            batch_idx: its number in the epoch, from 0.
            batches: how many there are; None: not known.
            metrics: the means so far, without the prefix of ``kind``.
        """

    def on_epoch_end(self, result: EpochResult) -> None:
        """An epoch is done, validation included."""

    def on_fit_end(self, reason: str) -> None:
        """The training is over; ``reason`` says in words why."""

    def on_fit_result(self, result: FitResult) -> None:
        """The same, after ``on_fit_end``, with all that is known of it; ``str(result)`` says it in words."""


class Progress(Callback):
    """Prints a line for each epoch, and where it is a terminal, one that changes with each batch.

    Args:
        file: None: the standard error of the time when something is printed.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file
        self._last_epoch = 0
        self._epoch = 0
        self._is_line_open = False

    def on_fit_start(self, first_epoch: int, last_epoch: int) -> None:
        """See ``Callback``."""
        self._epoch, self._last_epoch = first_epoch, last_epoch

    def on_batch_end(self, kind: str, batch_idx: int, batches: int | None, metrics: dict[str, float]) -> None:
        """See ``Callback``."""
        file = self._file or sys.stderr
        if not file.isatty():
            return
        of = "" if batches is None else f" of {batches}"
        text = f"{kind} batch {batch_idx + 1}{of}  {_shown(metrics)}"
        print(f"\r\033[K{text}", end="", file=file, flush=True)
        self._is_line_open = True

    def on_epoch_end(self, result: EpochResult) -> None:
        """See ``Callback``."""
        parts = [f"epoch {result.epoch} of {self._last_epoch}", _shown(result.metrics)]
        if result.cost:
            parts.append(f"${result.cost:.4f}")
        if result.questions:
            parts.append(f"{result.questions:,} questions")
        if result.repeated:
            parts.append(f"{result.repeated} repeated after a lost connection")
        if result.is_best:
            parts.append("best so far")
        self._line("  ".join(parts))

    def on_fit_end(self, reason: str) -> None:
        """See ``Callback``."""
        self._line(reason)

    def on_fit_result(self, result: FitResult) -> None:
        """See ``Callback``."""
        self._line(str(result).removeprefix(f"{result.reason}\n"))

    def _line(self, text: str) -> None:
        file = self._file or sys.stderr
        start = "\r\033[K" if self._is_line_open else ""
        self._is_line_open = False
        print(f"{start}{text}", file=file, flush=True)


def _shown(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
