"""A search for better parameters by a pool of versions, with the library ``gepa`` (extra ``search``).

``gepa`` decides: from which version to go on (one that is best on some sample), on which samples, whether a candidate
is good enough to be validated, whether two versions are merged.  What is asked of language models is ours: the answers,
and a step of an optimizer that makes a candidate, from the records of the samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cards import card, text_block
from ..data.collate import collate
from ..errors import RemoteProtocolError, TellurioError
from ..ledger import Ledger
from ..model.batch.block import batch as one_round_trip
from ..model.language import ChatCompletionModel
from ..model.told import collected, tell
from ..model.variable import Variable
from ..model.wire import link_of
from ..optim.optimizer import Optimizer
from ..optim.textual import TGD
from ..session.default import current_session
from .copying import CopiedTrainingData, copied_characters, copied_text, texts_in
from .evaluation import Evaluator, Forward, answered, evaluate, scores_of
from .retrying import tried
from .spending import OutOfQuestions, Spending
from .steps import StepCounts
from .trials import VALIDATION, PathLike, Trials, Version, names_of

if TYPE_CHECKING:
    from gepa.core.adapter import EvaluationBatch

log: logging.Logger = logging.getLogger("tellurio_sync.search")

TRIALS = "trials.json"
_FOLDER = "gepa"

# With fewer samples than these "best on some sample" says little: then the version with the best mean is gone on with.
_FEW_SAMPLES = 30

# Traces that are kept: those of the samples that a proposal may still be made from.
_TRACES_KEPT = 16

_TRACE = "trace"


@dataclass
class SearchResult:
    """The result of a search; ``print(result)`` says what was found, and what it took.

    Attributes:
        trials: all versions, with parents and the score of each validation sample.
        best: the version whose data the parameters have now; None: not even the first one could be validated.
        reason: in words, why it ended.
        steps: what became of the proposals.
        rejected: candidates that were no better than their parents on the samples that they were made from.
        questions: what was asked, without what was asked before it was resumed.
        gepa: the result object of the library, with its pool and its frontier; None: the search was broken off.
    """

    trials: Trials
    best: Version | None = None
    reason: str = ""
    steps: StepCounts = field(default_factory=StepCounts)
    rejected: int = 0
    questions: Ledger = field(default_factory=Ledger)
    gepa: Any = None

    def __str__(self) -> str:
        lines = [self.reason]
        first = self.trials[1].evaluation() if len(self.trials) else None
        if self.best is not None and first is not None:
            evaluation = self.best.evaluation()
            lines.append(f"Best: version {self.best.number} of {len(self.trials)}, {evaluation}; the start: {first}.")
        lines.append(f"{self.steps}; candidates that were no better on their samples: {self.rejected:,}.")
        lines.append(f"{self.questions}.")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return card("Search", "", [text_block(str(self))])


def search(
    parameters: Optimizer | Mapping[str, Variable] | Sequence[Variable],
    forward: Forward,
    evaluator: Evaluator,
    train: Sequence[Any],
    validation: Sequence[Any],
    *,
    budget: int,
    model_client: ChatCompletionModel | None = None,
    completion_args: Mapping[str, Any] | None = None,
    batch_size: int = 8,
    minibatch_size: int = 8,
    strategy: str | None = None,
    at_once: str = "round_robin",
    highest: float = 1.0,
    seed: int = 0,
    folder: PathLike | None = None,
    trials: Trials | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    retries: int = 3,
    **options: Any,
) -> SearchResult:
    """Search for better texts of parameters; at the end they have those of the best version. Blocks.

    ::

        result = te.search([prompt], forward, evaluator, train, held_out, budget=500, model_client=lm, folder="search")
        print(result)

    A version is validated on all samples of ``validation``. Of a candidate only ``minibatch_size`` questions are asked
    before that, where it is no better than its parent.

    Args:
        parameters: an optimizer, whose step makes the candidates; or Variables with texts, as a list or by name: then a
            ``TGD`` with ``model_client`` and ``completion_args`` does.
        forward, evaluator: as for ``te.evaluate``. The evaluator must give scores and explanations as Variables, as
            those of ``te.functional`` with ``reduction_fn=None`` do, so that feedback finds its way back.
        train: the samples from which candidates are made.
        validation: the samples on which versions are compared.
        budget: questions to language models in all, those before it was resumed included. The search ends before the
            round that would ask more.
        batch_size: samples of the validation that are answered at the same time, >= 1.
        minibatch_size: samples from which a candidate is made, >= 1.
        strategy: which version is gone on with: ``"pareto"``, ``"current_best"``, ``"epsilon_greedy"``; None:
            ``"current_best"`` for fewer than 30 validation samples, else ``"pareto"``.
        at_once: of several parameters ``"round_robin"`` changes one in each round, ``"all"`` all together.
        highest: the highest score of a sample; a round whose samples all have it makes no candidate.
        seed: of the library's random choices. With models that give the same answers the result is the same.
        folder: where the search is kept after each round, and from where it is gone on with if it is there already.
            What the library keeps in it is read with ``pickle``: give no folder of strangers.
        trials: gets the versions; None: those of ``folder``, else new ones.
        log_metric: called with name and value: ``search_score`` of each version that is validated, and
            ``search_best``; None: they go to the active run.
        retries: how often a batch is begun again after a lost connection or a time-out, >= 0.
        options: more for ``gepa.optimize``, such as ``use_merge=True``, ``stop_callbacks=...``, ``callbacks=[...]``.

    Raises:
        ModuleNotFoundError: the extra ``search`` is not installed.
        TypeError, ValueError: an argument, a score or an explanation of another form.
        UsageError: the server counts no questions; the local backend does.
        Every exception of ``forward``, ``evaluator`` and the server; the versions so far are in ``trials`` and
            ``folder``.
    """
    optimize = _gepa()
    optimizer = _optimizer(parameters, model_client, completion_args)
    named = _named(parameters, optimizer)
    for name, samples in (("train", train), ("validation", validation)):
        if not samples:
            raise ValueError(f"{name} has no samples.")
    directory = None if folder is None else Path(folder)
    if trials is None:
        trials = Trials(None if directory is None else directory / TRIALS)
    spending = Spending(link_of(list(named.values())), budget)
    spending.before = trials.questions.asked if directory is not None else 0
    result = SearchResult(trials)
    adapter = _Adapter(optimizer, named, forward, evaluator, batch_size, highest, retries, spending, result.steps)
    watch = _Watch(adapter, result, spending, minibatch_size, len(validation), log_metric or _log)
    if directory is not None:
        (directory / _FOLDER).mkdir(parents=True, exist_ok=True)
    given_stops, given_callbacks = options.pop("stop_callbacks", None) or [], options.pop("callbacks", None) or []
    stops = [watch.must_stop, *(given_stops if isinstance(given_stops, Sequence) else [given_stops])]
    with spending.limited():
        try:
            with spending.breaking_off():
                result.gepa = optimize(
                    seed_candidate={name: parameter.data for name, parameter in named.items()},
                    trainset=list(train),
                    valset=list(validation),
                    adapter=adapter,
                    candidate_selection_strategy=strategy
                    or ("current_best" if len(validation) < _FEW_SAMPLES else "pareto"),
                    module_selector=at_once,
                    reflection_minibatch_size=min(minibatch_size, len(train)),
                    perfect_score=highest,
                    run_dir=None if directory is None else str(directory / _FOLDER),
                    stop_callbacks=stops,
                    callbacks=[watch, *given_callbacks],
                    logger=_Logger(),
                    seed=seed,
                    **{"track_best_outputs": False, **options},
                )
            if adapter.failure is not None:  # the library goes on after an exception of a proposal
                with spending.breaking_off():
                    raise adapter.failure
        except OutOfQuestions:
            watch.reason = f"budget={budget:,} ended a round before its end: it asked more than those before."
        except BaseException as exc:
            # What was asked counts when it is gone on with.
            with suppress(TellurioError):  # nobody can be asked where the connection is lost
                trials.end(f"Broken off: {type(exc).__name__}.", spending.ledger())
            raise
        if result.gepa is not None:
            watch.take_over(result.gepa.candidates, result.gepa.parents, result.gepa.val_subscores)
        result.best = trials.best()
        if result.best is not None:
            result.best.restore(named)
    result.questions = spending.ledger()
    result.reason = watch.reason or "It was ended by one of the conditions that were given."
    trials.end(result.reason, result.questions)
    return result


def _gepa() -> Callable[..., Any]:
    try:
        from gepa.api import optimize
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError('te.search needs gepa: pip install "tellurio_sync[search]"', name="gepa") from exc
    return optimize


def _optimizer(
    parameters: Any, model_client: ChatCompletionModel | None, completion_args: Mapping[str, Any] | None
) -> Optimizer:
    if isinstance(parameters, Optimizer):
        if model_client is not None or completion_args:
            raise TypeError("An optimizer has its own model: model_client and completion_args are for Variables.")
        return parameters
    listed = list(parameters.values()) if isinstance(parameters, Mapping) else list(parameters)
    return TGD(listed, model_client, **(completion_args or {}))


def _named(parameters: Any, optimizer: Optimizer) -> dict[str, Variable]:
    if isinstance(parameters, Mapping):
        named = dict(parameters)
    else:
        named = names_of([one for group in optimizer.param_groups for one in group["params"]])
    for name, parameter in named.items():
        if not isinstance(parameter.data, str):
            raise TypeError(f"The parameter {name!r} must hold a text to be searched for, not {parameter.data!r:.50}.")
    return named


def _log(name: str, value: float) -> None:
    current_session().log(name, value)


class _Logger:
    """What ``gepa`` prints goes to the log instead."""

    def log(self, message: str) -> None:
        log.debug("%s", message)


class _NothingNew(Exception):
    """A step left the parameters as they were: there is no candidate to try."""


@dataclass(frozen=True)
class _Trace:
    """The answers to some samples, from which feedback can go back."""

    candidate: dict[str, str]
    explanation: Any
    samples: list[Any]


class _Adapter:
    """How ``gepa`` evaluates a candidate, and gets a new one."""

    def __init__(
        self,
        optimizer: Optimizer,
        named: dict[str, Variable],
        forward: Forward,
        evaluator: Evaluator,
        batch_size: int,
        highest: float,
        retries: int,
        spending: Spending,
        steps: StepCounts,
    ) -> None:
        self._optimizer = optimizer
        self._named = named
        self._forward, self._evaluator = forward, evaluator
        self._batch_size, self._highest, self._retries = batch_size, highest, retries
        self._spending = spending
        self._steps = steps
        self._traces: dict[str, _Trace] = {}
        self._made = 0
        self.failure: Exception | None = None
        # Characters of training data in candidates that are not validated yet, by their texts.
        self.copied: dict[tuple[str, ...], int] = {}

    def evaluate(
        self, batch: list[Any], candidate: dict[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        from gepa.core.adapter import EvaluationBatch

        try:
            self._become(candidate)
            if capture_traces:
                return self._traced(batch, candidate)
            with collected() as told:
                sizes = {"batch_size": self._batch_size, "highest": self._highest, "retries": self._retries}
                found = evaluate(self._forward, self._evaluator, batch, **sizes)  # type: ignore[arg-type]
            self._steps.note_left_out(told)
            return EvaluationBatch(list(found.outputs), [score or 0.0 for score in found.scores])
        except Exception as exc:
            self.failure = exc
            raise

    def _traced(self, batch: list[Any], candidate: dict[str, str]) -> EvaluationBatch[Any, Any]:
        from gepa.core.adapter import EvaluationBatch

        def attempt() -> tuple[Any, Any]:
            collated = collate(batch)
            return answered(self._forward, self._evaluator, collated)

        with collected() as told:
            (answers, found), _ = tried(attempt, self._retries)
        self._steps.note_left_out(told)
        scores, outputs, texts = scores_of(answers, found, len(batch))
        explanation = found[1] if isinstance(found, tuple) and len(found) == 2 else None
        if not isinstance(explanation, Variable):
            raise TypeError(
                "The evaluator must give (scores, explanations) as Variables, as those of te.functional do, so that "
                "feedback finds its way to the parameters."
            )
        self._made += 1
        self._traces[str(self._made)] = _Trace(dict(candidate), explanation, list(batch))
        while len(self._traces) > _TRACES_KEPT:
            del self._traces[next(iter(self._traces))]
        trajectories = [
            {_TRACE: str(self._made), "output": str(output), "score": score, "feedback": text}
            for output, score, text in zip(outputs, scores, texts)
        ]
        return EvaluationBatch(outputs, scores, trajectories)

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch[Any, Any], components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        return {name: [dict(record) for record in eval_batch.trajectories or ()] for name in components_to_update}

    def propose_new_texts(
        self,
        candidate: dict[str, str],
        reflective_dataset: Mapping[str, Sequence[Mapping[str, Any]]],
        components_to_update: list[str],
    ) -> dict[str, str]:
        """One step of the optimizer, for these parameters."""
        if self.failure is not None:
            raise self.failure  # some versions of the library ask again after an exception
        trace = self._traces.pop(reflective_dataset[components_to_update[0]][0][_TRACE], None)
        if trace is None:
            raise _NothingNew
        try:
            rejected = self._optimizer.rejected
            (new, told), _ = tried(partial(self._stepped, trace, components_to_update), self._retries)
        except Exception as exc:
            self.failure = exc
            raise
        changed = {name: text for name, text in new.items() if text != candidate[name]}
        self._steps.note(bool(changed), told, self._optimizer.rejected - rejected)
        if not changed:
            raise _NothingNew("The step left the parameters as they were.")
        self._note_copies(trace, candidate, changed)
        return new

    def _stepped(self, trace: _Trace, names: list[str]) -> tuple[dict[str, str], list[Warning]]:
        self._become(trace.candidate)
        with collected() as told:
            self._optimizer.clear_grad()
            trace.explanation.backward(retain_graph=True, inputs=[self._named[name] for name in names])
            self._optimizer.step()
        new = {name: self._named[name].data for name in names}
        for name, data in new.items():
            if not isinstance(data, str):
                raise RemoteProtocolError(f"The step made something else than a text of {name!r}.", received=repr(data))
        return new, told

    def _note_copies(self, trace: _Trace, candidate: Mapping[str, str], changed: Mapping[str, str]) -> None:
        samples = list(texts_in(trace.samples))
        copied = 0
        for name, text in changed.items():
            count = copied_characters(text, candidate[name], samples)
            if count:
                self._steps.copied += 1
                tell(CopiedTrainingData(copied_text(self._named[name].role, count, "a step of the search"), count))
            copied += count
        if copied:
            self.copied[tuple({**candidate, **changed}.values())] = copied

    def _become(self, candidate: Mapping[str, str]) -> None:
        with one_round_trip():
            for name, text in candidate.items():
                if self._named[name].data != text:
                    self._named[name].data = text


class _Watch:
    """Is told by ``gepa`` what happens: notes versions, logs, and says when it must end."""

    def __init__(
        self,
        adapter: _Adapter,
        result: SearchResult,
        spending: Spending,
        minibatch: int,
        validation: int,
        log_metric: Callable[[str, float], None],
    ) -> None:
        self._adapter = adapter
        self._result = result
        self._spending = spending
        self._log_metric = log_metric
        # What a round asks: a minibatch twice, the step, and a validation.
        self._dearest = 2 * minibatch + 1 + validation
        self._asked: int | None = None
        # The library's number of a candidate -> ours.
        self._numbers: dict[int, int] = {}
        self.reason = ""

    def must_stop(self, state: Any) -> bool:
        """Whether the search ends before the next round."""
        self.take_over(state.program_candidates, state.parent_program_for_candidate, state.prog_candidate_val_subscores)
        if self._adapter.failure is not None:
            return True
        asked = self._spending.asked
        if self._asked is not None:
            self._dearest = max(self._dearest, asked - self._asked)
        self._asked = asked
        left = self._spending.left() or 0
        if left >= self._dearest:
            return False
        self.reason = (
            f"Ended by budget={self._spending.limit or 0:,}: {left:,} questions were left, and a round may need "
            f"{self._dearest:,}."
        )
        return True

    def take_over(
        self, candidates: Sequence[dict[str, str]], parents: Sequence[Iterable[int | None]], scores: Sequence[Any]
    ) -> None:
        """Note the versions that are new in the pool."""
        trials = self._result.trials
        for number, candidate in enumerate(candidates):
            if number in self._numbers:
                continue
            known = trials.find(candidate)
            if known is None:
                of = [self._numbers[parent] for parent in parents[number] if parent is not None]
                note = "the start" if not of else "a step" if len(of) == 1 else "a merge"
                copied = self._adapter.copied.pop(tuple(candidate.values()), 0)
                known = trials.add(candidate, of, note, questions=self._spending.asked, copied=copied)
            self._numbers[number] = known.number
            if VALIDATION not in known.scores:
                by_sample = scores[number]
                trials.score(known.number, [by_sample.get(sample) for sample in range(len(by_sample))])
                mean, best = known.evaluation(), trials.best()
                if mean is not None and mean.mean is not None:
                    self._log_metric("search_score", mean.mean)
                if best is not None:
                    self._log_metric("search_best", (best.evaluation() or mean).mean or 0.0)  # type: ignore[union-attr]

    def on_candidate_rejected(self, event: Mapping[str, Any]) -> None:
        self._result.rejected += 1
