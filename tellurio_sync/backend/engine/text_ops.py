"""Functions that need no language model (protocol §G.2, §G.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..data import MAX_CHARS, Data, chars, check_chars, items, text
from ..records import CRITIC, carried
from ..refused import Refused
from ..wire import Operand, plain
from .op import Host, Op, Output

# Outputs of one Split.
MAX_PARTS = 10_000


class Add(Op):
    """``x + y``: texts joined, numbers added, lists item by item."""

    def __init__(self, x: Any, y: Any) -> None:
        for operand in (x, y):
            if not isinstance(operand, Operand):
                raise Refused("Only Variables can be added to each other.")
        self.operands: tuple[Any, Any] = (x, y)

    async def forward(self, host: Host) -> list[Output]:
        x, y = self.operands
        check_chars(sum(chars(operand.data) + len(operand.role) for operand in self.operands))
        return [Output(_added(x.data, y.data), f"{x.role} and {y.role}")]

    async def backward(self, host: Host, gradients: Sequence[Data], wanted: Sequence[bool]) -> list[Data]:
        return [_shared(host, operand.role, gradients[0]) for operand in self.operands]


class Sum(Op):
    """The sum of a list of Variables: numbers added, texts as items, lists item by item."""

    def __init__(self, x: Any) -> None:
        if not (isinstance(x, list) and x and all(isinstance(operand, Operand) for operand in x)):
            raise Refused("Sum needs a list of at least one Variable.")
        self.operands = tuple(x)

    async def forward(self, host: Host) -> list[Output]:
        check_chars(sum(chars(operand.data) + len(operand.role) for operand in self.operands))
        data = _summed([operand.data for operand in self.operands])
        return [Output(data, " and ".join(operand.role for operand in self.operands))]

    async def backward(self, host: Host, gradients: Sequence[Data], wanted: Sequence[bool]) -> list[Data]:
        return [_shared(host, operand.role, gradients[0]) for operand in self.operands]


class Split(Op):
    """The parts of a text; for a list of texts output i holds the i-th part of each, ``""`` if there is none."""

    returns_list = True

    def __init__(self, x: Any, sep: Any = None, maxsplit: Any = -1) -> None:
        if not isinstance(x, Operand):
            raise Refused("Split needs a Variable.")
        self.operands: tuple[Operand, ...] = tuple(value for value in (x, sep, maxsplit) if isinstance(value, Operand))
        self._sep, self._maxsplit = plain(sep), plain(maxsplit)
        if self._maxsplit is None:
            self._maxsplit = -1
        if not (self._sep is None or (isinstance(self._sep, str) and self._sep)):
            raise Refused("`sep` must be a text that is not empty, or null for any white space.")
        if isinstance(self._maxsplit, bool) or not isinstance(self._maxsplit, int):
            raise Refused("`maxsplit` must be an integer.")

    def passes_to(self, position: int) -> bool:
        return position == 0

    async def forward(self, host: Host) -> list[Output]:
        x = self.operands[0]
        parts = self._parts(x.data)
        if not parts:
            raise Refused("Split cannot split an empty text.")
        return [Output(part, f"split part {i} of {x.role}") for i, part in enumerate(parts)]

    def _parts(self, data: Data) -> list[Data]:
        if not isinstance(data, list):
            parts = self._parts_of_one(data)
            _check_parts(len(parts), 1)
            return list(parts)
        # A gap of a batch stays one.
        rows = [None if row is None else self._parts_of_one(row) for row in data]
        width = max((len(row) for row in rows if row is not None), default=0)
        _check_parts(width, len(rows))
        return [[None if row is None else row[i] if i < len(row) else "" for row in rows] for i in range(width)]

    def _parts_of_one(self, data: Data) -> list[str]:
        if not isinstance(data, str):
            raise Refused("Split needs a text or a list of texts.")
        return data.split(self._sep, self._maxsplit)

    async def backward(self, host: Host, gradients: Sequence[Data], wanted: Sequence[bool]) -> list[Data]:
        x = self.operands[0]
        rest: list[Data] = [None] * (len(self.operands) - 1)
        if not isinstance(x.data, list):
            return [_of_parts(host, x.role, gradients), *rest]
        rows = range(len(x.data))
        return [[_of_parts(host, x.role, [_row(g, i, len(x.data)) for g in gradients]) for i in rows], *rest]


def _check_parts(width: int, rows: int) -> None:
    # Each part becomes a Variable that stays in memory, and short rows are filled up.
    if width > MAX_PARTS or width * rows > MAX_CHARS:
        raise Refused(f"Split gives too many parts: {width} of {rows} texts; {MAX_PARTS} is the limit.")


def _sentence(role: str, feedback: str) -> str:
    # Protocol §G.3: programs compare this text.
    return f"Here is the combined feedback we got for this specific {role} and other variables: {feedback}"


def _passed_on(host: Host, words: str, *gradients: Data) -> str:
    """The feedback made of other feedback; where records are wanted, nothing is made of nothing."""
    if host.feedback != CRITIC and not any(map(_flat, gradients)):
        words = ""
    return carried(words, *gradients)


def _shared(host: Host, role: str, gradient: Data) -> Data:
    if isinstance(gradient, list):
        return [_passed_on(host, _sentence(role, text(item)), item) for item in gradient]
    return _passed_on(host, _sentence(role, text(gradient)), gradient)


def _of_parts(host: Host, role: str, gradients: Sequence[Data]) -> str:
    return _passed_on(host, _sentence(role, _all_items(gradients)), *gradients)


def _all_items(gradients: Sequence[Data]) -> str:
    # Not data.items(): here the empty items show which part the feedback is for, even if all are empty.
    return "".join(f"<ITEM>{_flat(gradient)}</ITEM>" for gradient in gradients)


def _row(gradient: Data, index: int, size: int) -> Data:
    if not isinstance(gradient, list):
        return gradient
    if len(gradient) != size:
        raise Refused(f"The gradient holds {len(gradient)} items for a batch of {size} samples.")
    return gradient[index]


def _flat(gradient: Data) -> str:
    return items([text(item) for item in gradient]) if isinstance(gradient, list) else text(gradient)


def _added(x: Data, y: Data) -> Data:
    if isinstance(x, list) and isinstance(y, list):
        if len(x) != len(y):
            raise Refused(f"Lists of different lengths cannot be added: {len(x)} and {len(y)}.")
        # A gap of a batch stays one.
        return [None if a is None or b is None else _added(a, b) for a, b in zip(x, y)]
    if isinstance(x, list) or isinstance(y, list):
        raise Refused("A list and a scalar cannot be added.")
    _check_addable(x, y)
    if isinstance(x, str) or isinstance(y, str):
        return f"{x}{y}"
    return x + y


def _summed(values: list[Data]) -> Data:
    if any(isinstance(value, list) for value in values):
        if not all(isinstance(value, list) for value in values):
            raise Refused("Lists and scalars cannot be summed.")
        if len({len(value) for value in values}) > 1:
            raise Refused(f"Lists of different lengths cannot be summed: {[len(value) for value in values]}.")
        return [None if None in row else _summed(list(row)) for row in zip(*values)]
    _check_addable(*values)
    if any(isinstance(value, str) for value in values):
        return "".join(f"<ITEM>{value}</ITEM>" for value in values)
    return sum(values)


def _check_addable(*values: Data) -> None:
    if None in values:
        raise Refused("A missing value (null) cannot be added.")
