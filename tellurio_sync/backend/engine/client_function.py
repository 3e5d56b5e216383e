"""A function of the client as a step of the graph: forward and backward run there (protocol §K.10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..data import Data, chars, check_chars, normalised
from ..records import plain_feedback
from ..refused import Refused
from ..wire import Callable, Operand
from .op import Host, Op, Output


class ClientFunction(Op):
    """``forward(inputs)`` gives the outputs, ``backward(gradients, wanted)`` the feedback for the operands."""

    def __init__(self, name: Any, forward: Any, backward: Any, inputs: Any) -> None:
        if not (isinstance(name, str) and name.isidentifier()):
            raise Refused("`name` must be the name of a class.")
        if not (isinstance(forward, Callable) and isinstance(backward, Callable)):
            raise Refused("`forward` and `backward` must be functions.")
        self._name = name
        self._forward, self._backward = forward, backward
        self._inputs = inputs
        self.operands: tuple[Operand, ...] = tuple(_operands_in(inputs))
        self.returns_list: bool = False

    @property
    def name(self) -> str:
        return self._name

    async def forward(self, host: Host) -> list[Output]:
        made = await host.call(self._forward, _plain(self._inputs))
        form = "`forward` must return {'outputs': [{'data': ..., 'role': ...}, ...], 'is_list': bool}"
        if not (isinstance(made, dict) and isinstance(made.get("outputs"), list) and made["outputs"]):
            raise Refused(f"{form}.")
        outputs = []
        for output in made["outputs"]:
            if not (isinstance(output, dict) and "data" in output and isinstance(output.get("role"), str)):
                raise Refused(f"{form}.")
            outputs.append(Output(normalised(output["data"]), output["role"]))
        check_chars(sum(chars(output.data) for output in outputs))
        self.returns_list = bool(made.get("is_list"))
        if len(outputs) > 1 and not self.returns_list:
            raise Refused(f"{form}: several outputs are a list.")
        return outputs

    async def backward(self, host: Host, gradients: Sequence[Data], wanted: Sequence[bool]) -> list[Data]:
        if not any(wanted):
            return [None] * len(self.operands)
        feedback = await host.call(self._backward, [plain_feedback(gradient) for gradient in gradients], list(wanted))
        if not isinstance(feedback, list) or len(feedback) != len(self.operands):
            count = len(feedback) if isinstance(feedback, list) else "no list of"
            raise Refused(
                f"backward of {self._name} must give feedback for each of its {len(self.operands)} Variables, "
                f"or None; it gave {count}."
            )
        for operand, item in zip(self.operands, feedback):
            _check_feedback(self._name, operand, item)
        return feedback


def _operands_in(value: Any) -> Iterator[Operand]:
    if isinstance(value, Operand):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _operands_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _operands_in(item)


def _plain(value: Any) -> Any:
    if isinstance(value, Operand):
        return value.data
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _check_feedback(name: str, operand: Operand, feedback: Data) -> None:
    if feedback is None or isinstance(feedback, str):
        return
    is_batch = isinstance(operand.data, list) and isinstance(feedback, list) and len(feedback) == len(operand.data)
    if not is_batch or not all(item is None or isinstance(item, str) for item in feedback):
        raise Refused(
            f"backward of {name} must give a text for {operand.role!r}, None, or a list with a text for each sample "
            "of a batch."
        )
