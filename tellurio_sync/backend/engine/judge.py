"""A language model as judge (protocol §G.2)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..asking import ask_for
from ..data import Data, text
from ..objects import Model
from ..prompts import JUDGE_UNDER_TRAINING
from ..questions import Question
from ..reading.answers import judgement_schema, read_judgement
from ..refused import Refused
from ..wire import Operand, plain
from .concurrency import at_once
from .conversation import Conversation
from .evaluators import SUM, Evaluator, Judged
from .op import Host
from .samples import RAISE

_RESERVED = ("prediction", "target")


class LMJudgeEvaluator(Evaluator):
    """Scores by a language model, which must answer one JSON object with ``score`` and ``explanation``.

    In evaluation mode the prediction gets feedback; otherwise the messages and inputs of the judge do.
    """

    explains = True

    def __init__(
        self,
        forward_model_client: Any,
        messages: Any,
        prediction: Any,
        target: Any = None,
        inputs: Any = None,
        success_fn: Any = None,
        reduction_fn: Any = SUM,
        reduction_fn_purpose: Any = "summation",
        eval_mode: Any = True,
        on_error: Any = RAISE,
        **completion_args: Any,
    ) -> None:
        super().__init__(prediction, target, success_fn, reduction_fn, reduction_fn_purpose, on_error)
        if not isinstance(forward_model_client, Model):
            raise Refused("LMJudgeEvaluator needs a language model as `forward_model_client`.")
        if taken := [name for name in _RESERVED if isinstance(inputs, dict) and name in inputs]:
            raise Refused(f"`inputs` must not use the name {taken[0]!r}, which the judge fills itself.")
        self._model = forward_model_client
        self._completion_args = {name: plain(value) for name, value in completion_args.items()}
        # A list as target makes a batch only together with a list of predictions.
        beside = [prediction.data, self.target] if isinstance(prediction.data, list) else []
        self._conversation = Conversation(messages, inputs, beside)
        self.size: int | None = self._conversation.size
        self._is_evaluating = bool(plain(eval_mode))

        in_messages = self._conversation.message_operands
        in_inputs = self._conversation.operands[len(in_messages) :]
        given = [value for value in (target, reduction_fn_purpose, eval_mode) if isinstance(value, Operand)]
        beside_target = 1 if isinstance(target, Operand) else 0
        self.operands = [*in_messages, prediction, *given[:beside_target], *in_inputs, *given[beside_target:]]
        self._prediction_at = len(in_messages)
        self._inputs_at = self._prediction_at + 1 + beside_target

    @property
    def purpose(self) -> str:
        return "judgement by a language model"

    @property
    def at_once(self) -> int:
        return at_once(self._model)

    def passes_to(self, position: int) -> bool:
        if self._is_evaluating:
            return position == self._prediction_at
        return position in self._conversation_positions

    @property
    def _conversation_positions(self) -> list[int]:
        inputs = len(self._conversation.operands) - self._prediction_at
        return [*range(self._prediction_at), *range(self._inputs_at, self._inputs_at + inputs)]

    async def judge(self, host: Host, index: int) -> Judged:
        messages = self._conversation.messages(index, self._compared(index))
        sample = None if self.size is None else index
        question = Question("judge", messages, self._model, self._completion_args, sample, judgement_schema())
        return Judged(*await ask_for(host.ask, question, read_judgement))

    def _compared(self, index: int) -> dict[str, str]:
        values = {"prediction": text(self.prediction_of(index))}
        if self.target is not None:
            values["target"] = text(self.target_of(index))
        return values

    def reduced_explanation(self, score: Data) -> str:
        # Protocol §G.2, text 3.
        return (
            "The evaluation function, designed using an LM as the judge, compared the <DATA> fields of the predicted "
            "variable and the target variable across all samples in the batch. These scores were then aggregated using "
            f"the reduction function '{self._reduction_purpose}', resulting in a final aggregated score: {score}."
        )

    async def backward(self, host: Host, gradients: Sequence[Data], wanted: Sequence[bool]) -> list[Data]:
        result: list[Data] = [None] * len(self.operands)
        if self._is_evaluating:
            at = self._prediction_at
            result[at] = (await super().backward(host, gradients, [wanted[at]] + [False] * (len(wanted) - 1)))[0]
            return result
        places = self._conversation_positions
        if await self.is_success(host):
            feedback = [""] * len(self.judged)
        else:
            behind = self.feedback_from_behind(gradients)
            feedback = [
                "" if index in self.missing else text or JUDGE_UNDER_TRAINING for index, text in enumerate(behind)
            ]
        found = await self._conversation.propagate(
            host,
            [wanted[place] for place in places],
            [json.dumps(one._asdict(), ensure_ascii=False) for one in self.judged],
            "judgement",
            feedback,
            {index: self._compared(index) for index in range(len(self.judged))},
        )
        for place, data in zip(places, found):
            result[place] = data
        return result
