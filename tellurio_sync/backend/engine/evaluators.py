"""Evaluators: they score predictions, and turn scores into feedback (protocol §G.2, §G.3)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..asking import ask_for
from ..data import Data, Number, chars, check_chars, per_sample, sample, text
from ..prompts import ChatMessage, Part, critic_messages
from ..questions import Question
from ..reading.answers import read_text
from ..records import CRITIC, Record, Recorded
from ..refused import Refused
from ..wire import Callable, Operand, plain
from .concurrency import AT_ONCE
from .conversation import batch_size
from .op import Host, Op, Output
from .samples import FORWARD_HINT, RAISE, by_sample, check_on_error, feedback_left_out, gather, left_out

# The default of `reduction_fn`, which needs no call to the client.
SUM = Callable("sum")


class Judged(NamedTuple):
    """The score of one sample, and why."""

    score: Number
    explanation: str


# A number, so that reductions by functions of the user's go on working.
_GAP = Judged(0, "There is no prediction for this sample, so it counts as wrong, with a score of 0.")
_FAILED = Judged(0, "This sample could not be evaluated, so it counts as wrong, with a score of 0.")


class Evaluator(Op):
    """Scores a prediction, or each prediction of a batch, and goes backward without a gradient."""

    returns_list = True

    explains = False
    """Whether an explanation says more than prediction, target and score."""

    def __init__(
        self,
        prediction: Any,
        target: Any,
        success_fn: Any,
        reduction_fn: Any,
        reduction_fn_purpose: Any,
        on_error: Any = RAISE,
    ) -> None:
        if not isinstance(prediction, Operand):
            raise Refused("`prediction` must be a Variable.")
        self.prediction = prediction
        self.target: Any = plain(target)
        self.operands: Sequence[Operand] = (prediction, target) if isinstance(target, Operand) else (prediction,)
        self.size = batch_size([prediction.data])
        if self.size is not None and isinstance(self.target, list):
            self.size = batch_size([prediction.data, self.target])
        # Each sample's explanation quotes its prediction and its target.
        of_targets = chars(self.target) * (1 if isinstance(self.target, list) else self.size or 1)
        check_chars(chars(prediction.data) + of_targets)
        self._success_fn = _function(success_fn, "success_fn")
        self._reduction_fn = _function(reduction_fn, "reduction_fn")
        self._reduction_purpose = plain(reduction_fn_purpose)
        if self._reduction_fn is not None and not _is_purpose(self._reduction_purpose):
            raise Refused("`reduction_fn_purpose` must say in words what reduction_fn does.")
        self._leaves_out = check_on_error(on_error)
        self.judged: list[Judged] = []
        # Which samples are right, once that was found out; None in it: nobody knows.
        self.rights: list[bool | None] = []
        # Those without a prediction, and those that could not be evaluated: they count as wrong, and get no feedback.
        self.missing: set[int] = set()

    @property
    @abstractmethod
    def purpose(self) -> str:
        """What is evaluated, for the critic."""

    @abstractmethod
    async def judge(self, host: Host, index: int) -> Judged:
        """The score of one sample."""

    @abstractmethod
    def reduced_explanation(self, score: Data) -> str:
        """The explanation of the reduced score of a batch."""

    def passes_to(self, position: int) -> bool:
        return position == 0

    def prediction_of(self, index: int) -> Data:
        """The prediction in one sample."""
        return self.prediction.data if self.size is None else sample(self.prediction.data, index)

    def target_of(self, index: int) -> Data:
        """The target in one sample; for a single sample the whole target, even if it is a list."""
        return self.target if self.size is None else sample(self.target, index)

    async def forward(self, host: Host) -> list[Output]:
        if self.size is None:
            self.judged = [await self.judge(host, 0)]
        else:
            await self._judge_all(host, self.size)
        score, explanation = await self._result(host)
        role = self.prediction.role
        return [
            Output(score, f"Evaluation result score of {role}"),
            Output(explanation, f"Evaluation result explanation of {role}"),
        ]

    async def _judge_all(self, host: Host, size: int) -> None:
        gaps = {index for index in range(size) if self.is_gap(index)}
        asked = [index for index in range(size) if index not in gaps]
        found = await gather(lambda index: self.judge(host, index), asked, self.at_once)
        scores = [None if one is None else one.score for one in found.listed(size)]
        most = len(asked) - 1 if self._leaves_out else 0
        host.left_out += left_out(found, size, most=most, hint=FORWARD_HINT, results=scores)
        self.missing = gaps | {failure.sample for failure in found.failures}
        self.judged = [found.results.get(index, _GAP if index in gaps else _FAILED) for index in range(size)]

    @property
    def at_once(self) -> int:
        """How many samples are judged at a time."""
        return AT_ONCE

    def is_gap(self, index: int) -> bool:
        """Whether a sample of a batch has no prediction."""
        return isinstance(self.prediction.data, list) and self.prediction.data[index] is None

    async def _result(self, host: Host) -> tuple[Data, Data]:
        scores = [one.score for one in self.judged]
        if self.size is None:
            return self.judged[0]
        if self._reduction_fn is None:
            return scores, [one.explanation for one in self.judged]
        if self._reduction_fn is SUM:
            score: Data = sum(scores)
        else:
            score = number(await host.call(self._reduction_fn, scores), "reduction_fn")
        return score, self.reduced_explanation(score)

    async def backward(self, host: Host, gradients: Sequence[Data], wanted: Sequence[bool]) -> list[Data]:
        rest: list[Data] = [None] * (len(self.operands) - 1)
        if not wanted[0]:
            return [None, *rest]
        behind = self.feedback_from_behind(gradients)
        if host.feedback != CRITIC:
            texts = await self._recorded(host, behind)
        elif await self.is_success(host):
            texts = [""] * len(self.judged)
        else:
            texts = await self._criticisms(host, behind)
        return [texts if isinstance(self.prediction.data, list) else texts[0], *rest]

    async def _recorded(self, host: Host, behind: list[str]) -> list[str]:
        """What is known of each sample; no words for those that are right."""
        rights = self.rights = await self._rights(host)
        texts: list[str] = []
        for index, (judged, is_right) in enumerate(zip(self.judged, rights)):
            if index in self.missing:
                texts.append("")
                continue
            target = self.target_of(index)
            record = Record(
                text(self.prediction_of(index)),
                self.purpose,
                None if target is None else text(target),
                judged.score,
                judged.explanation if self.explains else "",
                behind[index],
                is_right,
            )
            texts.append(Recorded("" if is_right and not behind[index] else record.text, [record]))
        return texts

    async def _rights(self, host: Host) -> list[bool | None]:
        """Of each sample whether it is right; None: nobody knows which scores are good."""
        if await self.is_success(host):
            return [True] * len(self.judged)
        known = [self.is_right(one) for one in self.judged]
        if self._success_fn is None or self.size is None:
            return known if self._success_fn is None else [False]
        found: dict[Number, bool] = {}
        for score in dict.fromkeys(one.score for one in self.judged):
            try:
                found[score] = bool(await host.call(self._success_fn, [score]))
            except Refused:
                return known  # It takes whole batches only.
        return [found[one.score] for one in self.judged]

    def is_right(self, judged: Judged) -> bool | None:
        """Whether a score alone says that nothing has to change; None: it does not."""
        return True if judged.score is True else None

    async def _criticisms(self, host: Host, behind: list[str]) -> list[str]:
        """A text for each sample, where not all are known to be right. None is asked about twice.

        Beside wrong ones, those that are right are asked about, too: else what they have right is soon forgotten.
        """
        asked = [index for index in range(len(self.judged)) if index not in self.missing]
        if all(self.is_right(self.judged[index]) and not behind[index] for index in asked):
            asked = []
        if self.size is None:
            return [await self._criticise(host, 0, behind[0])] if asked else [""]
        same: dict[tuple[str, ...], list[int]] = {}
        for index in asked:
            texts = tuple(message["content"] for message in self._critic_messages(index, behind[index]))
            same.setdefault(texts, []).append(index)
        groups = list(same.values())
        answers = await gather(lambda n: self._criticise(host, groups[n][0], behind[groups[n][0]]), range(len(groups)))
        found = by_sample(answers, groups)
        host.left_out += feedback_left_out(found, self.size, host.max_failed)
        return [criticism or "" for criticism in found.listed(self.size)]

    async def is_success(self, host: Host) -> bool:
        """Whether ``success_fn`` says of the scores that nothing needs feedback."""
        if self._success_fn is None:
            return False
        return bool(await host.call(self._success_fn, [one.score for one in self.judged]))

    def feedback_from_behind(self, gradients: Sequence[Data]) -> list[str]:
        """The feedback on score and explanation, one text per sample."""
        columns = [per_sample(gradient, self.size) for gradient in gradients if gradient is not None]
        return ["\n".join(filter(None, row)) for row in zip(*columns)]

    async def _criticise(self, host: Host, index: int, behind: str) -> str:
        messages = self._critic_messages(index, behind)
        question = Question("critic", messages, sample=None if self.size is None else index)
        return await ask_for(host.ask, question, read_text)

    def _critic_messages(self, index: int, behind: str) -> list[ChatMessage]:
        judged = self.judged[index]
        target = self.target_of(index)
        return critic_messages(
            Part(self.prediction.role, text(self.prediction_of(index))),
            None if target is None else text(target),
            self.purpose,
            text(judged.score),
            judged.explanation,
            behind,
        )


class DeterministicEvaluator(Evaluator):
    """Scores by a function of the client, which is called once per sample with plain data."""

    def __init__(
        self,
        prediction: Any,
        target: Any,
        eval_fn: Any,
        eval_fn_purpose: Any,
        success_fn: Any,
        reduction_fn: Any,
        reduction_fn_purpose: Any,
        on_error: Any = RAISE,
    ) -> None:
        super().__init__(prediction, target, success_fn, reduction_fn, reduction_fn_purpose, on_error)
        eval_function = _function(eval_fn, "eval_fn")
        if eval_function is None:
            raise Refused("DeterministicEvaluator needs an `eval_fn`.")
        self._eval_fn = eval_function
        self._purpose = plain(eval_fn_purpose)
        if not _is_purpose(self._purpose):
            raise Refused("`eval_fn_purpose` must say in words what eval_fn evaluates.")
        self.operands = _operands(prediction, target, eval_fn_purpose, reduction_fn_purpose)

    @property
    def purpose(self) -> str:
        return str(self._purpose)

    async def judge(self, host: Host, index: int) -> Judged:
        prediction, target = self.prediction_of(index), self.target_of(index)
        score = number(await host.call(self._eval_fn, prediction, target), "eval_fn")
        return Judged(score, explanation(self.purpose, prediction, target, score))

    def reduced_explanation(self, score: Data) -> str:
        return reduced_explanation(self.purpose, self._reduction_purpose, score)


class ExactMatchEvaluator(Evaluator):
    """Scores 1 where prediction and target are equal, else 0."""

    def __init__(
        self, prediction: Any, target: Any, reduction_fn: Any = SUM, reduction_fn_purpose: Any = "summation"
    ) -> None:
        super().__init__(prediction, target, None, reduction_fn, reduction_fn_purpose)
        self.operands = _operands(prediction, target, reduction_fn_purpose)

    @property
    def purpose(self) -> str:
        return "exact match"

    def is_right(self, judged: Judged) -> bool | None:
        return judged.score == 1

    async def judge(self, host: Host, index: int) -> Judged:
        prediction, target = self.prediction_of(index), self.target_of(index)
        score = int(prediction == target)
        return Judged(score, explanation(self.purpose, prediction, target, score))

    def reduced_explanation(self, score: Data) -> str:
        return reduced_explanation(self.purpose, self._reduction_purpose, score)


# Protocol §G.2, texts 1 and 2: programs compare them.


def explanation(purpose: str, prediction: Data, target: Data, score: Data) -> str:
    """Why one sample got its score."""
    return (
        f"The evaluation function, designed for '{purpose}', compared the <DATA> field of the predicted variable "
        f"('{prediction}') with the <DATA> field of the target variable ('{target}'), resulting in a score: {score}."
    )


def reduced_explanation(purpose: str, reduction: str, score: Data) -> str:
    """Why a batch got its reduced score."""
    return (
        f"The evaluation function, designed for '{purpose}', compared the <DATA> fields of the predicted variable and "
        "the target variable across all samples in the batch, generating individual scores for each pair. These "
        f"scores were then aggregated using the reduction function '{reduction}', resulting in a final aggregated "
        f"score: {score}."
    )


def number(value: Any, function: str) -> Number:
    """``value``, if it is a number or a bool.

    Raises:
        Refused: it is not; the text names the ``function`` of the client that returned it.
    """
    if not isinstance(value, (int, float)):
        raise Refused(f"`{function}` must return a number, not {type(value).__name__}.")
    return value


def _function(value: Any, name: str) -> Callable | None:
    if value is not None and not isinstance(value, Callable):
        raise Refused(f"`{name}` must be a function.")
    return value


def _is_purpose(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _operands(*values: Any) -> tuple[Operand, ...]:
    return tuple(value for value in values if isinstance(value, Operand))
