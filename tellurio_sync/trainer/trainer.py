"""The training of a module, in the shape that users of PyTorch's trainers know."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..autodiff.grad_mode import no_grad
from ..cognitive.module import Module, set_optimizers
from ..model.language import ChatCompletionModel
from ..session.default import current_session
from .callbacks import Callback, Progress
from .estimate import estimate
from .loop import FitResult, PathLike, fit, run_steps
from .retrying import tried
from .trials import Trials

Models = Sequence[ChatCompletionModel]


class Trainer:
    """Trains, validates, tests and runs modules.

    Args:
        max_epochs: passes over the training data, >= 1; None: 1.
        enable_checkpointing: whether ``last.json`` (and ``best.json``) are written after each epoch.
        enable_progress_bar: whether a line for each epoch is printed to the standard error.
        enable_agent_summary: whether a summary of the module is printed first.
        default_root_dir: the folder of ``checkpoints/``; None: the working directory.
        monitor, mode, patience, min_delta: see ``fit``: the best parameters kept, and an early end.
        retries: how often a batch is tried again after a lost connection or a time-out, >= 0.
        trials: gets the versions of the parameters; see ``fit``.
        max_questions: how many questions to language models a training may ask in all; see ``fit``.
        callbacks: are told about the progress.

    Metrics go to the active run: ``train_...`` and ``val_...`` with the epoch as step, ``test_...``, and
    ``total_cost($)``, the cost of ``llm_clients`` since the trainer began with them.
    """

    def __init__(
        self,
        *,
        max_epochs: int | None = None,
        enable_checkpointing: bool | None = True,
        enable_progress_bar: bool | None = True,
        enable_agent_summary: bool | None = True,
        default_root_dir: PathLike | None = None,
        monitor: str | None = None,
        mode: Literal["max", "min"] = "max",
        patience: int | None = None,
        min_delta: float = 0.0,
        retries: int = 3,
        max_questions: int | None = None,
        trials: Trials | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._max_epochs = 1 if max_epochs is None else max_epochs
        self._directory = Path(default_root_dir or ".") / "checkpoints" if enable_checkpointing else None
        self._callbacks = [*([Progress()] if enable_progress_bar else []), *callbacks]
        self._shows_summary = bool(enable_agent_summary)
        self._watched: dict[str, Any] = {
            "monitor": monitor,
            "mode": mode,
            "patience": patience,
            "min_delta": min_delta,
        }
        self._retries = retries
        self._max_questions = max_questions
        self._trials = trials

    def fit(
        self,
        agent: Module,
        train_dataloader: Iterable[Any] | None = None,
        val_dataloader: Iterable[Any] | None = None,
        ckpt_path: PathLike | None = None,
        llm_clients: Models | None = None,
    ) -> FitResult:
        """Train a module with its ``training_step``, ``validation_step`` and ``configure_optimizers``. Blocks.

        Args:
            agent: the module.
            train_dataloader: batches: a ``DataLoader``, a list, anything that can be iterated once for each epoch.
            val_dataloader: the same, for the validation after each epoch; None: none.
            ckpt_path: a checkpoint (``last.json``) from which to continue.
            llm_clients: models whose cost is counted; None: those among the module's attributes.

        Returns:
            See ``FitResult``.

        Raises:
            ValueError: there is no training data.
            TypeError: ``agent`` is no module.
            As ``fit``.
        """
        if train_dataloader is None:
            raise ValueError("Trainer.fit() needs train_dataloader: the batches to learn from.")
        if not isinstance(agent, Module):
            raise TypeError(
                f"Trainer.fit() takes a te.Module first, not {type(agent).__name__}. For a loop over plain functions "
                "there is te.fit."
            )
        models = list(agent.models()) if llm_clients is None else list(llm_clients)
        if self._shows_summary:
            print(_summary(agent), file=sys.stderr, flush=True)
            with suppress(TypeError):  # a loader without a length: nothing is known before
                parameters = sum(parameter.requires_grad for parameter in agent.parameters())
                expected = estimate(
                    train_dataloader, val_dataloader, max_epochs=self._max_epochs, parameters=parameters
                )
                print(f"expected   {expected}, if a sample takes one question", file=sys.stderr, flush=True)
        optimizers = agent.configure_optimizers()
        set_optimizers(agent, optimizers)
        agent.train()
        return fit(
            agent.training_step,
            optimizers,
            train_dataloader,
            None if val_dataloader is None else _evaluating(agent, agent.validation_step),
            val_dataloader,
            max_epochs=self._max_epochs,
            retries=self._retries,
            models=models,
            max_questions=self._max_questions,
            trials=self._trials,
            checkpoint_dir=self._directory,
            resume=ckpt_path,
            agent=agent,
            log_metric=current_session().log,
            callbacks=self._callbacks,
            **self._watched,
        )

    def validate(
        self, agent: Module, val_dataloader: Iterable[Any] | None = None, llm_clients: Models | None = None
    ) -> dict[str, float]:
        """The means of ``validation_step`` over all batches, without gradients. Blocks. Raises as ``fit``."""
        return self._evaluate("validation_step", agent, val_dataloader, "val", llm_clients)

    def test(
        self, agent: Module, test_dataloader: Iterable[Any] | None = None, llm_clients: Models | None = None
    ) -> dict[str, float]:
        """The means of ``test_step`` over all batches, without gradients. Blocks. Raises as ``fit``."""
        return self._evaluate("test_step", agent, test_dataloader, "test", llm_clients)

    def predict(self, agent: Module, dataloader: Iterable[Any] | None = None) -> list[Any]:
        """The output of ``predict_step`` for each batch, without gradients. Blocks.

        Raises:
            ValueError: there are no batches.
            Every exception of the step, the loader or the server.
        """
        if dataloader is None:
            raise ValueError("Trainer.predict() needs dataloader: the batches to answer.")
        step = _evaluating(agent, agent.predict_step)
        return [tried(partial(step, batch, index), self._retries)[0] for index, batch in enumerate(dataloader)]

    def _evaluate(
        self, name: str, agent: Module, batches: Iterable[Any] | None, kind: str, models: Models | None
    ) -> dict[str, float]:
        if batches is None:
            raise ValueError(f"There are no batches for {name}(): pass a data loader.")
        step = _evaluating(agent, getattr(agent, name))
        metrics = run_steps(name, step, batches, kind, self._callbacks, self._retries)
        session = current_session()
        for metric, value in metrics.items():
            session.log(f"{kind}_{metric}", value)
        return metrics


def _evaluating(agent: Module, step: Any) -> Any:
    def evaluate(batch: Any, index: int) -> Any:
        was_training = agent.training
        agent.eval()
        try:
            with no_grad():
                return step(batch, index)
        finally:
            agent.train(was_training)

    return evaluate


def _summary(agent: Module) -> str:
    lines = [repr(agent), ""]
    for name, parameter in agent.named_parameters():
        size = len(parameter.data) if isinstance(parameter.data, str) else None
        shown = f"{size:,} characters" if size is not None else f"shape {parameter.shape}"
        learnt = "" if parameter.requires_grad else ", not optimised"
        lines.append(f"parameter  {name}: {shown}{learnt} ({parameter.role})")
    for name, model in agent.named_models():
        lines.append(f"model      {name}: {type(model).__name__}")
    return "\n".join(lines)
