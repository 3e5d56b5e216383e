"""Trying new data for parameters on the samples of a backward pass, before it is adopted (protocol §K.13).

The functions between the parameters and the evaluators are applied again, sample by sample, with the new data in the
place of the old.  What does not depend on the parameters is taken as it was.  Graph and Variables stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..data import Data
from ..objects import Node, Variable
from ..refused import Refused
from ..wire import Operand
from .backward import reachable
from .client_function import ClientFunction
from .concurrency import AT_ONCE
from .evaluators import Evaluator, Judged
from .op import Host, Op, Output
from .samples import OF_ALL, gather

# Arguments whose lists hold one item for each sample of a batch, and not the data of a Variable.
_OF_SAMPLES = ("inputs", "target")


class _Impossible(Exception):
    """It cannot be tried: no fault of a sample."""


class Verdict(NamedTuple):
    """How new data did beside the old: sums of scores, over as many ``samples`` as it took to know.

    A sample that could not be answered counts as wrong.
    """

    is_better: bool
    new: float
    old: float
    samples: int


class Replay:
    """The functions behind the roots of one backward pass, as they were applied."""

    def __init__(self, roots: Sequence[Variable]) -> None:
        """To be made before the pass, which frees the graph."""
        self.ops: dict[Node, Op] = {node: node.op for node in reachable(roots) if node.op is not None}


@dataclasses.dataclass(frozen=True)
class _Place:
    """A sample that was evaluated."""

    replay: Replay
    node: Node
    evaluator: Evaluator
    index: int

    @property
    def judged(self) -> Judged:
        return self.evaluator.judged[self.index]

    @property
    def is_right(self) -> bool:
        known = self.evaluator.rights
        return bool(known[self.index] if known else self.evaluator.is_right(self.judged))


async def tried(host: Host, replays: Iterable[Replay], new: Mapping[Variable, Data]) -> Verdict:
    """Whether the sum of all scores is higher with the ``new`` data of some parameters; a higher score is better.

    The samples that are not right come first, all at once.  If they gain nothing, nothing is won: a sample that is
    right cannot gain.  Then come those that are right, until the gain is lost.

    Raises:
        Refused: a function on the way runs at the client, or nothing on the way was evaluated.
        QuestionFailed: the budget is used up, or the model cannot be asked at all.
    """
    places = _places(replays, new)
    if not places:
        raise Refused(
            "accept='batch' has nothing to try the new data on: no evaluator stands behind the feedback on it. Make "
            "the optimizer before the backward pass, and let feedback start from an evaluator."
        )
    wrong = [place for place in places if not place.is_right]
    right = [place for place in places if place.is_right]
    total = old = 0.0
    count = 0
    waves = [wrong] * bool(wrong) + [right[i : i + AT_ONCE] for i in range(0, len(right), AT_ONCE)]
    for wave in waves:
        total += sum(await _scores(host, wave, new))
        old += sum(float(place.judged.score) for place in wave)
        count += len(wave)
        if total <= old:
            return Verdict(False, total, old, count)
    return Verdict(True, total, old, count)


def _places(replays: Iterable[Replay], new: Mapping[Variable, Data]) -> list[_Place]:
    return [
        _Place(replay, node, op, index)
        for replay in dict.fromkeys(replays)
        for node in _depending(replay.ops, new)
        if isinstance(op := replay.ops[node], Evaluator)
        for index in range(len(op.judged))
        if index not in op.missing
    ]


def _depending(ops: Mapping[Node, Op], new: Mapping[Variable, Data]) -> list[Node]:
    """The functions whose outputs depend on parameters that have new data, in the order of ``ops``."""
    before = {node: list(op.operands) for node, op in ops.items()}
    found: dict[Node, bool] = {}

    def depends(node: Node) -> bool:
        stack = [node]
        while stack:
            at = stack[-1]
            if at in found:
                stack.pop()
                continue
            sources = [operand.grad_fn for operand in before[at] if operand.grad_fn in before]
            open_ones = [source for source in sources if source is not None and source not in found]
            if open_ones:
                stack += open_ones
                continue
            is_direct = any(operand.grad_fn is None and operand.variable in new for operand in before[at])
            found[at] = is_direct or any(found[source] for source in sources if source is not None)
            stack.pop()
        return found[node]

    return [node for node in ops if depends(node)]


async def _scores(host: Host, places: Sequence[_Place], new: Mapping[Variable, Data]) -> list[float]:
    async def score(number: int) -> float:
        place = places[number]
        again = _Again(host, place.replay.ops, new, place)
        return float((await again.judged()).score)

    try:
        found = await gather(score, range(len(places)))
    except _Impossible as exc:
        raise Refused(str(exc)) from None
    if found.cause is not None:
        raise found.cause
    for failure in found.failures:
        if failure.kind in OF_ALL:
            raise Refused(f"The new data could not be tried: {failure.error}")
    return [
        min(0.0, float(place.judged.score)) if (one := found.results.get(number)) is None else one
        for number, place in enumerate(places)
    ]


class _Again:
    """One sample, with new data."""

    def __init__(self, host: Host, ops: Mapping[Node, Op], new: Mapping[Variable, Data], place: _Place) -> None:
        self._host, self._ops, self._new, self._place = host, ops, new, place
        self._depending = set(_depending(ops, new))
        self._size = place.evaluator.size
        self._outputs: dict[Node, list[Output]] = {}

    async def judged(self) -> Judged:
        evaluator = await self._applied(self._place.node)
        assert isinstance(evaluator, Evaluator)
        return await evaluator.judge(self._host, 0)

    async def _output(self, node: Node, output_nr: int) -> Data:
        if node not in self._outputs:
            self._outputs[node] = await (await self._applied(node)).forward(self._host)
        outputs = self._outputs[node]
        # Split: this sample may have fewer parts than the longest of its batch.
        return outputs[output_nr].data if output_nr < len(outputs) else ""

    async def _applied(self, node: Node) -> Op:
        """The function of ``node``, with what this sample has now."""
        op = self._ops[node]
        if isinstance(op, ClientFunction):
            raise _Impossible(
                f"accept='batch' cannot try new data where {op.name} is on the way: it runs at the client."
            )
        arguments = {name: await self._now(value, name in _OF_SAMPLES) for name, value in op.arguments.items()}
        return type(op)(**arguments)

    async def _now(self, value: Any, is_of_samples: bool) -> Any:
        if isinstance(value, Operand):
            return await self._operand_now(value)
        if isinstance(value, list):
            if is_of_samples and self._size is not None:
                return await self._now(self._item(value), False)
            return [await self._now(item, False) for item in value]
        if isinstance(value, dict):
            return {key: await self._now(item, is_of_samples) for key, item in value.items()}
        return value

    async def _operand_now(self, operand: Operand) -> Operand:
        if operand.grad_fn is None and operand.variable in self._new:
            data = self._new[operand.variable]
        elif operand.grad_fn in self._depending and operand.grad_fn is not None:
            return dataclasses.replace(operand, data=await self._output(operand.grad_fn, operand.output_nr))
        else:
            data = operand.data
        return dataclasses.replace(operand, data=self._item(data) if isinstance(data, list) and self._size else data)

    def _item(self, data: list[Any]) -> Any:
        if len(data) != self._size:
            raise _Impossible(
                f"accept='batch' cannot tell which of {len(data)} items belong to which of {self._size} samples."
            )
        return data[self._place.index]
