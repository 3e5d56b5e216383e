"""The interface of a function of the graph, and of the request that it works for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ..data import Data
from ..questions import Answer, Question
from ..wire import Callable, Operand
from .samples import LeftOut


class Host(Protocol):
    """What the engine may ask of the request it works for.

    Attributes:
        max_failed: the share of a batch, from 0 to 1, for which feedback may be missing before a backward pass fails.
        feedback: what goes backward from evaluators: "critic", "records" or "batch_critic" (protocol §K.5).
        left_out: samples that the work goes on without, for the user to be told.
        told: parameters that keep their data, and why, in words for the user.
        notes: what else may interest the user.
        rejected: parameters whose new data was no better, in words.
    """

    max_failed: float
    feedback: str
    left_out: list[LeftOut]
    told: list[str]
    notes: list[str]
    rejected: list[str]

    async def call(self, function: Callable, /, *args: Any) -> Any:
        """The result of a function of the client, called with plain JSON values."""
        ...

    async def ask(self, question: Question) -> Answer:
        """A language model's answer."""
        ...


class Output(NamedTuple):
    """One result of a function, before it becomes a Variable."""

    data: Data
    role: str


class Op(ABC):
    """One application of a function: built from its arguments, run forward once, and backward any number of times.

    The object holds everything that the backward pass needs; to drop the object frees it.

    Attributes:
        returns_list: whether the client expects a list of outputs, even if there is one output.
        operands: the Variables among the arguments, in order, nested ones flattened (protocol §G.1).
        arguments: all arguments by name, decoded; those that only a model takes among the others.
    """

    returns_list: bool = False
    operands: Sequence[Operand]
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The function's name on the wire."""
        return type(self).__name__

    @abstractmethod
    async def forward(self, host: Host) -> list[Output]:
        """The outputs. May call the client and language models."""

    def passes_to(self, position: int) -> bool:
        """Whether feedback can flow to the operand at ``position``."""
        return True

    @abstractmethod
    async def backward(self, host: Host, gradients: Sequence[Data], wanted: Sequence[bool]) -> list[Data]:
        """Feedback for the operands.

        Args:
            host: for questions.
            gradients: one per output; None if none came. ``""`` is feedback without content.
            wanted: per operand, whether its feedback will be used.

        Returns:
            One per operand; None for no feedback.  A list for an operand with a batch of data.
        """
