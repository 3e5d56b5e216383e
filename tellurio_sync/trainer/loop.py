"""The training loop: forward, backward, step, for each batch of each epoch.

A loop that you write yourself is just as good.  This one adds what such loops usually lack: a batch is tried again
after a lost connection, metrics are averaged over an epoch, the best parameters are kept, the training ends when
nothing gets better, and there are checkpoints.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union

from ..autodiff.grad_mode import no_grad
from ..cards import card, text_block
from ..errors import TellurioError
from ..ledger import Ledger
from ..model.batch.block import batch as one_round_trip
from ..model.data import Data, copy_data
from ..model.language import ChatCompletionModel
from ..model.riders import Rider
from ..model.suppression import suppress_variable_notifications
from ..model.told import collected, tell
from ..model.variable import Variable
from ..model.wire import link_of
from ..optim.optimizer import Optimizer
from . import checkpoint
from .callbacks import Callback, EpochResult
from .checkpoint import CheckpointError
from .copying import CopiedTrainingData, copied_characters, copied_text, texts_in
from .retrying import LOST, tried
from .spending import OutOfQuestions, Spending, samples_in, size_of
from .steps import Means, StepCounts, StepOutput
from .trials import Trials, names_of

Step = Callable[[Any, int], Any]
"""``step(batch, batch_idx)`` gives ``(score, explanation)``, a dict with these under ``"loss"``, or None."""

Changes = list[tuple[Variable, Data]]

PathLike = Union[str, "os.PathLike[str]"]

LAST = "last.json"
BEST = "best.json"


@dataclass
class FitResult:
    """The result of a training; ``print(result)`` says what was done, what not, and what it cost.

    Attributes:
        epochs: one result for each epoch that was trained.
        best_epoch: the epoch whose parameters are kept; None: no metric was watched, the last ones are.
        best_value: of the watched metric, in that epoch.
        reason: in words, why the training ended.
        steps: what became of the batches.
        questions: what was asked, by kind, without what was asked before it was resumed; empty where the server counts
            no questions.
        monitor: the metric that was watched.
    """

    epochs: list[EpochResult] = field(default_factory=list)
    best_epoch: int | None = None
    best_value: float | None = None
    reason: str = ""
    steps: StepCounts = field(default_factory=StepCounts)
    questions: Ledger = field(default_factory=Ledger)
    monitor: str | None = None

    def __str__(self) -> str:
        lines = [self.reason]
        if self.best_epoch is not None:
            lines.append(f"Best: epoch {self.best_epoch}, {self.monitor} {self.best_value:.4g}.")
        lines.append(f"{self.steps}.")
        if self.questions.counts:
            lines.append(f"{self.questions}.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return card("Training", "", [text_block(str(self))])


def fit(
    training_step: Step,
    optimizers: Optimizer | Sequence[Optimizer],
    train: Iterable[Any],
    validation_step: Step | None = None,
    validation: Iterable[Any] | None = None,
    *,
    max_epochs: int = 1,
    monitor: str | None = None,
    mode: Literal["max", "min"] = "max",
    patience: int | None = None,
    min_delta: float = 0.0,
    retries: int = 3,
    models: Sequence[ChatCompletionModel] = (),
    max_questions: int | None = None,
    trials: Trials | None = None,
    checkpoint_dir: PathLike | None = None,
    resume: PathLike | None = None,
    agent: Any = None,
    log_metric: Callable[[str, float, int], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> FitResult:
    """Train parameters: for each batch clear the gradients, run ``training_step``, its backward pass, and a step.

    Blocks until the training is over.

    Args:
        training_step: computes a batch; see ``Step``.
        optimizers: change the parameters; several of them step one after another. If the connection is lost between
            two of these steps, the batch is begun again, and the first optimizer makes one step more.
        train: batches: a ``DataLoader``, a list, any object that can be iterated once for each epoch.
        validation_step, validation: the same without backward and step, after each epoch.
        max_epochs: passes over ``train`` in all, >= 1; a training that is resumed counts those before.
        monitor: the metric that says how good an epoch was, such as ``"val_accuracy"``: the parameters of the best
            epoch are put back at the end. None: the last ones stay.
        mode: whether more of it (``"max"``) or less is better.
        patience: epochs without improvement after which the training ends, >= 1; None: never. Needs ``monitor``.
        min_delta: by how much better an epoch must be, >= 0.
        retries: how often a batch is tried again after a lost connection or a time-out, >= 0.
        models: the models whose cost is counted.
        max_questions: how many questions to language models the training may ask in all, >= 0, those before it was
            resumed included; None: any number. It ends before the step that would ask more, with enough left to
            validate what was learnt, and the best parameters so far (see ``monitor``). What a step will ask is judged
            by those before; if it turns out to be more, the step is broken off at the limit and not made.
        trials: gets a version for each step that changed a parameter, with its validation: the metrics, and the score
            of each sample where the steps give a list of them (evaluators with ``reduction_fn=None``).
        checkpoint_dir: where ``last.json`` is written after each epoch, and ``best.json``; None: nowhere.
        resume: a checkpoint to go on from; its epochs are not trained again. What it says of the best epoch counts only
            if ``monitor`` and ``mode`` are the same.
        agent: an object with ``state_dict`` and ``load_state_dict``, such as a ``Module``: kept in checkpoints, too.
        log_metric: called with name, value and epoch for each mean; None: nothing is logged.
        callbacks: are told about the progress.

    Returns:
        The result, even if the training had nothing left to do.

    Raises:
        TypeError, ValueError: an argument, or the output of a step, has the wrong form.
        CheckpointError: the file is no checkpoint, or does not fit.
        OSError: a checkpoint cannot be read or written.
        UsageError: ``max_questions`` at a server that counts no questions.
        Every exception of a step, a loader or the server, and KeyboardInterrupt. The parameters then are as the last
            step left them, not those of the best epoch; ``last.json`` has the last whole epoch, from which ``resume``
            goes on, and ``best.json`` the best one.
    """
    training = _Training(
        training_step,
        [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers),
        train,
        (validation_step, validation),
        _Watch(monitor, mode, patience, min_delta),
        retries=retries,
        cost=_Cost(models),
        max_questions=max_questions,
        trials=trials,
        directory=None if checkpoint_dir is None else Path(checkpoint_dir),
        agent=agent,
        log_metric=log_metric,
        callbacks=callbacks,
    )
    if isinstance(max_epochs, bool) or not isinstance(max_epochs, int) or max_epochs < 1:
        raise ValueError(f"max_epochs must be a whole number of at least 1, not {max_epochs!r}.")
    first = 1 if resume is None else training.resume(Path(resume)) + 1
    return training.run(first, max_epochs)


def run_steps(
    name: str,
    step: Step,
    batches: Iterable[Any],
    kind: str,
    callbacks: Sequence[Callback] = (),
    retries: int = 3,
    scores: list[float | None] | None = None,
) -> dict[str, float]:
    """The means of a step without backward over all batches.

    Args:
        name: of the step, for error texts.
        scores: gets the score of each sample, where every batch gives a list of them.
    """
    means = Means()
    count = _length(batches)
    each: list[float] | None = []
    for index, batch in enumerate(batches):
        output, _ = tried(partial(_output_of, name, step, batch, index), retries)
        means.add(output.metrics)
        each = None if each is None or output.scores is None else [*each, *output.scores]
        for callback in callbacks:
            callback.on_batch_end(kind, index, count, means.now())
    if scores is not None:
        scores.extend(each or ())
    return means.now()


class _Watch:
    """The metric that says how good an epoch was."""

    def __init__(self, monitor: str | None, mode: str, patience: int | None, min_delta: float) -> None:
        if mode not in ("max", "min"):
            raise ValueError(f"mode must be 'max' or 'min', not {mode!r}.")
        if patience is not None and (monitor is None or patience < 1):
            raise ValueError("patience must be at least 1, and needs monitor: the name of the metric to watch.")
        if not min_delta >= 0:
            raise ValueError(f"min_delta must be 0 or more, not {min_delta!r}.")
        self.monitor = monitor
        self.mode = mode
        self._sign = 1 if mode == "max" else -1
        self._patience = patience
        self._min_delta = min_delta
        self._since = 0
        self.best_epoch: int | None = None
        self.best_value: float | None = None

    def resume(self, epoch: int, best: dict[str, Any] | None) -> bool:
        """Go on after this epoch of a checkpoint; whether its best epoch was the best by the same measure."""
        self._since = epoch
        if best is None or (best["monitor"], best["mode"]) != (self.monitor, self.mode):
            return False
        self.best_epoch, self.best_value = best["epoch"], best["value"]
        return True

    def is_better(self, epoch: int, metrics: dict[str, float]) -> bool:
        """Note this epoch; whether it is the best so far."""
        if self.monitor is None:
            return False
        if self.monitor not in metrics:
            known = ", ".join(sorted(metrics)) or "none"
            raise ValueError(f"monitor={self.monitor!r}: the epoch has no such metric. It has: {known}.")
        value = metrics[self.monitor]
        if math.isnan(value):
            return False
        if self.best_value is not None and self._sign * (value - self.best_value) <= self._min_delta:
            return False
        self.best_epoch, self.best_value = epoch, value
        return True

    def is_out_of_patience(self, epoch: int) -> bool:
        return self._patience is not None and epoch - (self.best_epoch or self._since) >= self._patience


class _Cost:
    """What the models cost since the training began."""

    def __init__(self, models: Sequence[ChatCompletionModel]) -> None:
        self._models = list(models)
        self._before = self._amounts()
        self.resumed: float | None = 0.0

    def now(self) -> float | None:
        """USD; None: not known."""
        now = self._amounts()
        if not self._models or self.resumed is None or None in now or None in self._before:
            return None
        return self.resumed + math.fsum(now) - math.fsum(self._before)  # type: ignore[arg-type]

    def _amounts(self) -> list[float | None]:
        return [(model.get_usage().get("cost") or {}).get("amount") for model in self._models]


class _Training:
    """One call of ``fit``."""

    def __init__(
        self,
        training_step: Step,
        optimizers: list[Optimizer],
        train: Iterable[Any],
        validation: tuple[Step | None, Iterable[Any] | None],
        watch: _Watch,
        *,
        retries: int,
        cost: _Cost,
        max_questions: int | None,
        trials: Trials | None,
        directory: Path | None,
        agent: Any,
        log_metric: Callable[[str, float, int], None] | None,
        callbacks: Sequence[Callback],
    ) -> None:
        if not optimizers or not all(isinstance(optimizer, Optimizer) for optimizer in optimizers):
            raise TypeError(f"optimizers must be an optimizer, or a list of them, not {optimizers!r}.")
        if isinstance(train, (str, bytes)) or not isinstance(train, Iterable):
            raise TypeError(f"train must be batches that can be iterated, not {type(train).__name__}.")
        if retries < 0:
            raise ValueError(f"retries must be 0 or more, not {retries!r}.")
        if validation[1] is not None and validation[0] is None:
            raise ValueError("validation needs a validation_step.")
        self._training_step = training_step
        self._optimizers = optimizers
        self._train = train
        self._validation_step, self._validation = validation
        self._watch = watch
        self._retries = retries
        self._cost = cost
        self._directory = directory
        self._agent = agent
        self._log_metric = log_metric
        self._callbacks = callbacks
        self._best: list[Variable] = []
        self._steps = StepCounts()
        self._spending = Spending(link_of(self._parameters()), max_questions)
        self._ended_by_limit: str | None = None
        self._batch_size = 1
        self._trials = trials
        self._version: int | None = None

    def run(self, first: int, last: int) -> FitResult:
        self._check_can_be_iterated_again(last - first)
        result = FitResult(reason=f"All {last} epochs are done.", steps=self._steps, monitor=self._watch.monitor)
        with self._spending.limited():
            self._tell("on_fit_start", first, last)
            self._begin_trials()
            for epoch in range(first, last + 1):
                # Before the epoch: a training that has ended by itself is not gone on with when it is resumed.
                if self._watch.is_out_of_patience(epoch - 1):
                    best = self._watch.best_epoch or 0
                    result.reason = f"Nothing was better than epoch {best}: ended after {epoch - 1}."
                    break
                trained = self._epoch(epoch)
                if trained is not None:
                    result.epochs.append(trained)
                if self._ended_by_limit is not None:
                    result.reason = self._ended_by_limit
                    break
            result.best_epoch, result.best_value = self._watch.best_epoch, self._watch.best_value
            self._put_back_best()
        # Each epoch has read them at its end.
        result.questions = self._spending.counted if result.epochs else self._spending.ledger()
        if self._trials is not None:
            self._trials.end(result.reason, result.questions)
        self._tell("on_fit_end", result.reason)
        self._tell("on_fit_result", result)
        return result

    def _check_can_be_iterated_again(self, more: int) -> None:
        for name, batches in (("train", self._train), ("validation", self._validation)):
            if more > 0 and isinstance(batches, Iterator):
                raise ValueError(f"{name} is an iterator, which can be read only once: pass a list or a DataLoader.")

    def _epoch(self, epoch: int) -> EpochResult | None:
        """Train and validate an epoch; None: the limit of questions did not allow a single step of it."""
        means = Means()
        count = _length(self._train)
        repeated = batches = 0
        for index, batch in enumerate(self._train):
            size = size_of(batch)
            if not self._may_go_on(epoch, index, size):
                break
            try:
                with self._counting("train", size), self._spending.breaking_off():
                    (output, changes), tries = tried(partial(self._batch, batch, index), self._retries)
            except OutOfQuestions:
                self._steps.broken_off += 1
                self._end_by_limit(f"step {index + 1} of epoch {epoch} would have asked more, and was not made")
                break
            if changes:
                self._note_version(changes, batch, f"step {index + 1} of epoch {epoch}")
            repeated += tries - 1
            batches += 1
            means.add(output.metrics)
            self._tell("on_batch_end", "train", index, count, means.now())
        self._steps.repeated += repeated
        is_whole = self._ended_by_limit is None
        if not batches and not is_whole:
            return None
        metrics = means.now("train_")
        scores: list[float | None] = []
        validated = self._validated(epoch, scores)
        metrics.update(validated)
        if self._trials is not None and self._version is not None:
            self._trials.score(self._version, scores or None, metrics=validated)
        # Without a validation it is not known how good the parameters are.
        is_known = self._ended_by_limit is None or self._watch.monitor in metrics
        is_best = is_known and self._watch.is_better(epoch, metrics)
        if is_best:
            self._best = checkpoint_copies(self._parameters())
        cost, asked = self._cost.now(), self._spending.asked
        self._log(metrics, cost, epoch)
        result = EpochResult(epoch, metrics, batches, repeated, cost, is_best, asked)
        # Of an epoch that was not finished the rest is still to be trained.
        self._save(epoch if is_whole else epoch - 1, cost, is_best, asked)
        self._tell("on_epoch_end", result)
        return result

    def _validated(self, epoch: int, scores: list[float | None]) -> dict[str, float]:
        """The metrics of a validation; none if there is none, or if there are not enough questions left for it.

        Args:
            scores: gets that of each sample, where the steps give it.
        """
        if self._validation is None:
            return {}
        assert self._validation_step is not None
        try:
            with self._counting("val", self._validation_size()), self._spending.breaking_off():
                arguments = (self._validation_step, self._validation, "val", self._callbacks, self._retries)
                validated = run_steps("validation_step", *arguments, scores=scores)
        except OutOfQuestions:
            self._end_by_limit(f"the validation of epoch {epoch} would have asked more, and was broken off")
            return {}
        return {f"val_{name}": value for name, value in validated.items()}

    # --- the limit of questions ------------------------------------------------------------------

    def _may_go_on(self, epoch: int, index: int, size: int) -> bool:
        """Whether the next step, and the validation after it, fit into the limit."""
        left = self._spending.left()
        if left is None:
            return True
        self._batch_size = max(self._batch_size, size)
        step, validation = self._spending.expected("train", size), 0
        if self._validation is not None:
            validation = self._spending.expected("val", self._validation_size())
        if step + validation <= left:
            return True
        needs = f"it needs about {step:,} questions"
        if validation:
            needs += f", and the validation after it {validation:,}"
        self._end_by_limit(f"{left:,} were left before step {index + 1} of epoch {epoch}: {needs}")
        return False

    def _end_by_limit(self, why: str) -> None:
        self._ended_by_limit = f"Ended by max_questions={self._spending.limit:,}: {why}."

    def _validation_size(self) -> int:
        return samples_in(self._validation, self._batch_size)

    @contextmanager
    def _counting(self, kind: str, size: int) -> Iterator[None]:
        """Note how many questions are asked inside, where that matters."""
        before = None if self._spending.limit is None else self._spending.asked
        yield
        if before is not None:
            self._spending.note(kind, size, self._spending.asked - before)

    # --- a batch ----------------------------------------------------------------------------------

    def _batch(self, batch: Any, index: int) -> tuple[StepOutput, Changes]:
        """One try of a batch: its output, and the parameters that got other data, each with the old one."""
        clearing = [optimizer.clear_grad_with_next_call() for optimizer in self._optimizers]
        with collected() as told:
            try:
                output = StepOutput("training_step", self._trained(clearing, batch, index))
                if output.explanation is None or not output.explanation.requires_grad:
                    self._steps.without_step += 1
                    return output, []
                before = [copy_data(parameter.data) for parameter in self._parameters()]
                rejected = sum(optimizer.rejected for optimizer in self._optimizers)
                if len(self._optimizers) == 1:
                    self._optimizers[0].backward_and_step(output.explanation)
                else:
                    output.explanation.backward()
                    for optimizer in self._optimizers:
                        optimizer.step()
            finally:
                self._steps.note_left_out(told)
        changes = [(one, old) for one, old in zip(self._parameters(), before) if one.data != old]
        self._steps.note(bool(changes), told, sum(optimizer.rejected for optimizer in self._optimizers) - rejected)
        return output, changes

    def _trained(self, clearing: list[Rider], batch: Any, index: int) -> Any:
        """What the training step gives. When this ends, the server has cleared the gradients."""
        try:
            output = self._training_step(batch, index)
        except Exception as exc:
            if not isinstance(exc, LOST):
                for rider in clearing:
                    with suppress(TellurioError):  # the user sees the first failure
                        rider.settle()
            raise
        for rider in clearing:
            rider.settle()
        return output

    # --- versions ---------------------------------------------------------------------------------

    def _begin_trials(self) -> None:
        if self._trials is not None:
            named = self._named_parameters()
            known = self._trials.find(named)
            self._version = (known or self._trials.add(named, note="the start")).number

    def _note_version(self, changes: Changes, batch: Any, note: str) -> None:
        samples = list(texts_in(batch))
        copied = 0
        for parameter, old in changes:
            count = copied_characters(" ".join(texts_in(parameter.data)), " ".join(texts_in(old)), samples)
            if count:
                self._steps.copied += 1
                tell(CopiedTrainingData(copied_text(parameter.role, count, note), count))
            copied += count
        if self._trials is not None and self._version is not None:
            asked = self._spending.asked
            added = self._trials.add(self._named_parameters(), [self._version], note, questions=asked, copied=copied)
            self._version = added.number

    def _named_parameters(self) -> dict[str, Variable]:
        return names_of(self._parameters(), self._agent)

    def _log(self, metrics: dict[str, float], cost: float | None, epoch: int) -> None:
        if self._log_metric is None:
            return
        for name, value in metrics.items():
            self._log_metric(name, value, epoch)
        if cost is not None:
            self._log_metric("total_cost($)", cost, epoch)

    def _tell(self, event: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, event, _ignore)(*arguments)

    # --- parameters and checkpoints ------------------------------------------------------------------------

    def _parameters(self) -> list[Variable]:
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        return [parameter for group in groups for parameter in group["params"]]

    def _put_back_best(self) -> None:
        if self._best:
            _take_over(self._parameters(), self._best)

    def _save(self, epoch: int, cost: float | None, is_best: bool, asked: int) -> None:
        if self._directory is None:
            return
        best = None
        if self._watch.best_epoch is not None:
            best = {
                "monitor": self._watch.monitor,
                "mode": self._watch.mode,
                "epoch": self._watch.best_epoch,
                "value": self._watch.best_value,
                "parameters": self._best,
            }
        loader_state = getattr(self._train, "state_dict", None)
        content = {
            "epoch": epoch,
            "best": best,
            "parameters": list(self._parameters()),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "agent": None if self._agent is None else self._agent.state_dict(),
            "loader": {} if loader_state is None else loader_state(),
            "cost": cost,
            "questions": asked,
        }
        if is_best:
            checkpoint.write(self._directory / BEST, content)
        checkpoint.write(self._directory / LAST, content)

    def resume(self, path: Path) -> int:
        """Take over a checkpoint; the number of its last epoch."""
        saved = checkpoint.read(path)
        present = self._parameters()
        if len(saved["optimizers"]) != len(self._optimizers) or len(saved["parameters"]) != len(present):
            there = f"{len(saved['optimizers'])} optimizers with {len(saved['parameters'])} parameters"
            here = f"{len(self._optimizers)} with {len(present)}"
            raise CheckpointError(f"{path} is of another training: it has {there}, this one {here}.")
        with one_round_trip():
            if self._agent is not None and saved["agent"] is not None:
                self._agent.load_state_dict(saved["agent"])
            _take_over(present, saved["parameters"])
        for optimizer, state in zip(self._optimizers, saved["optimizers"]):
            clients = [group.get("model_client") for group in optimizer.param_groups]
            optimizer.load_state_dict(state, model_clients=clients)
        load_loader = getattr(self._train, "load_state_dict", None)
        if load_loader is not None and saved["loader"]:
            load_loader(saved["loader"])
        epoch = int(saved["epoch"])
        if self._watch.resume(epoch, saved["best"]):
            self._best = saved["best"]["parameters"]
        self._cost.resumed = saved["cost"]
        self._spending.before = saved.get("questions") or 0
        return epoch


def checkpoint_copies(parameters: Sequence[Variable]) -> list[Variable]:
    """Copies of these, which the server does not know."""
    values = [(type(each), copy_data(each.data), each.role, each.requires_grad) for each in parameters]
    with suppress_variable_notifications():
        return [kind(data, role, requires_grad) for kind, data, role, requires_grad in values]


def _take_over(parameters: Sequence[Variable], saved: Sequence[Variable]) -> None:
    with one_round_trip():
        for parameter, copy in zip(parameters, saved):
            if parameter.data != copy.data:
                parameter.data = copy_data(copy.data)


def _output_of(name: str, step: Step, batch: Any, index: int) -> StepOutput:
    with no_grad():
        return StepOutput(name, step(batch, index))


def _ignore(*arguments: Any) -> None:
    """In the place of an event that a callback, written before there was such an event, does not know."""


def _length(batches: Any) -> int | None:
    try:
        return len(batches)
    except TypeError:
        return None
