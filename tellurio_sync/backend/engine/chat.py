"""A chat completion (protocol §G)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data import Data, per_sample
from ..objects import Model
from ..questions import Question
from ..refused import Refused
from ..wire import plain
from .concurrency import map_at_once
from .conversation import Conversation
from .op import Host, Op, Output

ROLE = "response"


class ChatCompletion(Op):
    """The answer of a language model; a list of answers for a batch, asked for at once."""

    def __init__(self, forward_model_client: Any, messages: Any, inputs: Any = None, **completion_args: Any) -> None:
        if not isinstance(forward_model_client, Model):
            raise Refused("ChatCompletion needs a language model as `forward_model_client`.")
        self._model = forward_model_client
        self._conversation = Conversation(messages, inputs)
        self._completion_args = {name: plain(value) for name, value in completion_args.items()}
        self._answers: list[str] = []
        self.operands = self._conversation.operands

    async def forward(self, host: Host) -> list[Output]:
        async def answer(index: int) -> str:
            messages = self._conversation.messages(index)
            question = Question("forward", messages, self._model, self._completion_args, self._sample(index))
            return (await host.ask(question)).text

        self._answers = await map_at_once(answer, self._conversation.samples)
        return [Output(self._answers[0] if self._conversation.size is None else self._answers, ROLE)]

    def _sample(self, index: int) -> int | None:
        return None if self._conversation.size is None else index

    async def backward(self, host: Host, gradients: Sequence[Data], wanted: Sequence[bool]) -> list[Data]:
        feedback = per_sample(gradients[0], self._conversation.size)
        return await self._conversation.propagate(host, wanted, self._answers, ROLE, feedback)
