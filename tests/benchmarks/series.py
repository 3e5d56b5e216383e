"""The rows about scale: one operation beside few others and beside very many, and whether it costs the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from .processes import ROOT, Worker
from .rows import OURS, Row, Target
from .table import Values

# A million objects and the garbage collector's walks over them take their time on a slow machine.
TIMEOUT = 600.0


class Operation(NamedTuple):
    """One figure of a series: its title, its unit and scale, and its place in the measurement's answer.

    At every size it may cost at most ``limit`` times (a rate: it is to be at least ``limit`` times) what it is at the
    smallest; None: it is only shown.
    """

    title: str
    unit: str
    scale: float
    field: str | None
    limit: float | None
    is_rate: bool = False


class Series(NamedTuple):
    """A measurement at growing sizes.

    Attributes:
        command: of ``scale.py``; its arguments are the size and ``args``.
        sizes, quick: the sizes, and those in quick mode.
        operations: what it measures.
        rounds: how often at most; the sizes alternate.
        is_alone: each measurement in a process of its own, without a connection.
    """

    command: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]
    operations: tuple[Operation, ...]
    args: tuple[int, ...] = ()
    rounds: int = 5
    is_alone: bool = False


def _cpu(title: str, field: str, limit: float | None) -> Operation:
    return Operation(title, "µs of CPU", 1e6, field, limit)


SERIES = (
    Series(
        "pending",
        (1, 100, 10_000),
        (1, 10, 100),
        (
            _cpu("one more call while others wait for their replies", "call", 1.5),
            _cpu("one more submitted and answered while others wait", "answered", 1.5),
            _cpu("one more submitted, which is to wait, too", "submit", 1.5),
            _cpu("one of these cancelled", "cancel", 1.5),
        ),
        args=(300,),
    ),
    Series(
        "expire",
        (100, 1_000, 10_000),
        (10, 50, 100),
        (
            _cpu("submitted and expired, each of", "submitted", 1.5),
            _cpu("expired in call_many, each of", "waiting", 1.5),
        ),
        rounds=3,
    ),
    Series(
        "threads",
        (1, 64, 256),
        (1, 8, 16),
        (Operation("calls/s with this many threads", "/s", 1, None, 0.5, is_rate=True),),
        args=(2560,),
    ),
    Series(
        "variables",
        (1_000, 100_000, 1_000_000),
        (100, 1_000, 10_000),
        (
            _cpu("the server pushes one more Variable", "push", 1.5),
            _cpu("a Variable made here (the network aside)", "construct", 1.5),
            _cpu("the server updates one of", "update", 1.5),
            _cpu("one let go, of", "release", 3.0),
            _cpu("pushed, Python's garbage collector included", "push, gc", 2.0),
            _cpu("made here, Python's garbage collector included", "construct, gc", 2.0),
        ),
        rounds=1,
        is_alone=True,
    ),
    Series(
        "bytes",
        (1_000, 100_000, 1_000_000),
        (100, 1_000, 10_000),
        (Operation("memory per Variable, with its id, without data and role", "B", 1, None, 1.2),),
        rounds=1,
        is_alone=True,
    ),
)


def measure(series: Series, sizes: tuple[int, ...], core: int, port: int, rounds: int) -> Iterator[tuple[Row, Values]]:
    """Measure a series of this package; each figure as a row, the sizes in the place of the peers.

    Raises:
        Failed: a process could not do it.
    """
    answers: dict[int, list[Any]] = {size: [] for size in sizes}
    worker = None if series.is_alone else _start(core, port)
    try:
        for _ in range(min(rounds, series.rounds)):
            for size in sizes:
                answers[size].append(_measure(worker, core, series.command, size, *series.args))
    finally:
        if worker is not None:
            worker.stop()
    labels = tuple(f"{size:,}" for size in sizes)
    for title, unit, scale, field, limit, is_rate in series.operations:
        targets = () if limit is None else (Target(labels[0], limit),)
        row = Row(title, "", (), unit, scale, labels, targets, field, is_rate, judged=labels[1:])
        numbers = ([answer if field is None else answer[field] for answer in answers[size]] for size in sizes)
        yield row, dict(zip(labels, numbers))


def _start(core: int, port: int | None) -> Worker:
    worker = Worker(sys.executable, core, OURS, {"PYTHONPATH": str(ROOT)}, "scale.py")
    if port is not None:
        worker.tell("connect", port, False)
        worker.value(TIMEOUT)
    return worker


def _measure(worker: Worker | None, core: int, *command: Any) -> Any:
    if worker is not None:
        worker.tell(*command)
        return worker.value(TIMEOUT)
    alone = _start(core, None)
    try:
        return _measure(alone, core, *command)
    finally:
        alone.stop()
