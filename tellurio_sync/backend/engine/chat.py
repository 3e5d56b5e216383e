"""A chat completion (protocol §G)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data import Data, per_sample
from ..objects import Model
from ..questions import Question
from ..records import CRITIC
from ..refused import Refused
from ..wire import plain
from .concurrency import at_once
from .conversation import Conversation
from .op import Host, Op, Output
from .samples import FORWARD_HINT, RAISE, check_on_error, gather, left_out

ROLE = "response"


class ChatCompletion(Op):
    """The answer of a language model; a list of answers for a batch, asked for at once.

    With ``on_error="skip"`` a sample without an answer is a gap (null); otherwise one error names all such samples.
    """

    def __init__(
        self,
        forward_model_client: Any,
        messages: Any,
        inputs: Any = None,
        on_error: Any = RAISE,
        **completion_args: Any,
    ) -> None:
        if not isinstance(forward_model_client, Model):
            raise Refused("ChatCompletion needs a language model as `forward_model_client`.")
        self._model = forward_model_client
        self._conversation = Conversation(messages, inputs)
        self._completion_args = {name: plain(value) for name, value in completion_args.items()}
        self._leaves_out = check_on_error(on_error)
        self._answers: list[str | None] = []
        self.operands = self._conversation.operands

    def subject(self, index: int) -> list[Any]:
        """What one sample is, as JSON: the same for the same input, whatever the parameters hold."""
        return self._conversation.subject(index)

    async def forward(self, host: Host) -> list[Output]:
        async def answer(index: int) -> str:
            messages = self._conversation.messages(index)
            question = Question("forward", messages, self._model, self._completion_args, self._sample(index))
            return (await host.ask(question)).text

        size = self._conversation.size
        if size is None:
            self._answers = [await answer(0)]
            return [Output(self._answers[0], ROLE)]
        # What is missing in a batch is missing in what is made of it: asking about nothing would be paid in vain.
        asked = [index for index in range(size) if not self._conversation.is_gap(index)]
        found = await gather(answer, asked, at_once(self._model))
        self._answers = found.listed(size)
        most = len(asked) - 1 if self._leaves_out else 0
        host.left_out += left_out(found, size, most=most, hint=FORWARD_HINT, results=self._answers)
        return [Output(self._answers, ROLE)]

    def _sample(self, index: int) -> int | None:
        return None if self._conversation.size is None else index

    async def backward(self, host: Host, gradients: Sequence[Data], wanted: Sequence[bool]) -> list[Data]:
        feedback = per_sample(gradients[0], self._conversation.size)
        if host.feedback != CRITIC:
            return await self._conversation.pass_records(host, wanted, self._answers, ROLE, feedback)
        return await self._conversation.propagate(host, wanted, self._answers, ROLE, feedback)
