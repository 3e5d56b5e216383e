"""The rows of the table: what is measured, on which link, for which peers, and the goal."""

from __future__ import annotations

from typing import Any, NamedTuple

OURS = "tellurio_sync"
SPEED = "tellurio_sync + speed"
OTHER = "other tree"
AFNIO = "afnio 0.3.7"
UNDER = "afnio over tellurio_sync"
"""afnio's own layers, unchanged, with the client of this package under them."""
FLOOR = "afnio without calls"
"""The same with a client that answers by itself: what afnio's own layers cost, whatever is under them."""
WEBSOCKET_CLIENT = "websocket-client"
WEBSOCKETS_SYNC = "websockets.sync"
RAW_TCP = "raw TCP"

PACKAGE = (OURS, SPEED, OTHER)
"""This package: with the standard library's json (whether orjson is installed or not), with orjson, in another tree."""
RPC = (*PACKAGE, AFNIO)
EVERYBODY = (*RPC, WEBSOCKET_CLIENT, WEBSOCKETS_SYNC, RAW_TCP)
MIB = 1024 * 1024
ROUND_TRIP_S = 0.05
ROUND_TRIPS = "round trips"
"""The unit of rows that are divided by the round trip which raw TCP measures in the same round."""


class Target(NamedTuple):
    """``ours / versus`` is to be at most (of a rate: at least) ``limit``; with ``versus`` None the figure itself.

    With orjson it is ``speed_limit``; None: the same.
    """

    versus: str | None
    limit: float
    speed_limit: float | None = None

    def limit_of(self, peer: str) -> float:
        return self.speed_limit if peer == SPEED and self.speed_limit is not None else self.limit


class Row(NamedTuple):
    """One figure.

    Attributes:
        title: as printed.
        command: the worker's measurement, and its arguments.
        unit: of the printed figure, which is the measured one times ``scale``.
        peers: the peers that are measured.
        targets: what it is to reach.
        field: which value of a measurement with several.
        is_rate: more is better; ratios are then "times".
        rounds: how often at most.
        quick: the arguments in quick mode.
        judged: whose figure is to reach the targets.
    """

    title: str
    command: str
    args: tuple[Any, ...]
    unit: str
    scale: float
    peers: tuple[str, ...]
    targets: tuple[Target, ...] = ()
    field: str | None = None
    is_rate: bool = False
    rounds: int = 100
    quick: tuple[Any, ...] | None = None
    judged: tuple[str, ...] = PACKAGE


def local_rows(tls: bool) -> list[Row]:
    """The rows on loopback."""
    one = ("round_trip", (300,), "µs", 1e6)
    rows = [
        Row(
            "one caller, p50 round trip",
            *one,
            EVERYBODY,
            (Target(WEBSOCKET_CLIENT, 1.4, 1.0), Target(AFNIO, 0.38, 0.28)),
            "p50",
            quick=(30,),
        ),
        Row("CPU per call", *one, EVERYBODY, (Target(AFNIO, 0.30, 0.20),), "cpu", quick=(30,)),
    ]
    for threads, *limits in ((1, 2.0, 2.2), (8, 2.3, 3.0), (64, 2.0, 2.3)):
        target = Target(AFNIO, *limits)
        title = f"calls/s, {threads} thread{'s' if threads > 1 else ''}"
        rows.append(Row(title, "threads", (threads, 640), "/s", 1, RPC, (target,), is_rate=True, quick=(threads, 64)))
    for title, command, target in (
        ("1,000 submitted at once", "submit_all", Target(AFNIO, 3, 4)),
        ("call_many of 1,000", "call_many", Target(AFNIO, 5, 8)),
    ):
        peers = (*RPC, RAW_TCP)
        rows.append(Row(title, command, (1000,), "ms", 1e3, peers, (_times(target),), quick=(100,)))
    rows += [
        Row(
            "16 MiB up",
            "big",
            ("bench_up", 16 * MIB),
            "ms",
            1e3,
            (*RPC, WEBSOCKET_CLIENT, WEBSOCKETS_SYNC),
            (Target(AFNIO, 0.75, 0.65),),
            rounds=5,
            quick=("bench_up", MIB),
        ),
        Row(
            "16 MiB both ways",
            "big",
            ("bench_big", 16 * MIB),
            "ms",
            1e3,
            (*PACKAGE, WEBSOCKET_CLIENT, WEBSOCKETS_SYNC),
            (Target(WEBSOCKETS_SYNC, 1.2, 1.1),),
            rounds=5,
            quick=("bench_big", MIB),
        ),
        Row("close(), server alive", "close", (), "ms", 1e3, EVERYBODY[:-1], (Target(None, 5),), rounds=5),
    ]
    if not tls:
        for kind in ("waiting", "submitted"):
            hold = f"hold_{kind}"
            title = f"memory per pending call, {kind}"
            targets = (Target(None, 400),)
            rows.append(Row(title, "memory", (hold, 2000), "B", 1, RPC, targets, rounds=1, quick=(hold, 200)))
        rows += [
            Row("idle CPU per 10 s", "idle", (10,), "ms", 1e3, EVERYBODY, (Target(None, 1),), rounds=1, quick=(0.5,)),
        ]
    return rows


def delayed_rows() -> list[Row]:
    """The rows on the link with a delay; in round trips of that link, as raw TCP sees them."""
    pipelined = Target(None, 1.3)
    return [
        Row("1,000 calls pipelined", "call_many", (1000,), ROUND_TRIPS, 1, RPC, (pipelined,), rounds=5, quick=(100,)),
        Row(
            "20 calls in a row, each",
            "round_trip",
            (20,),
            ROUND_TRIPS,
            1,
            (*RPC, WEBSOCKET_CLIENT, WEBSOCKETS_SYNC),
            (Target(None, 1.02),),
            "p50",
            rounds=3,
            quick=(3,),
        ),
    ]


def making_rows() -> list[Row]:
    """The rows of whole sessions on the link with a delay."""
    rows = []
    for title, make in (
        (f"1,000 Variables made by variables([...]); {AFNIO}: 10 one by one, times 100", "make_variables"),
        (f"1,000 Parameters made in a batch(); {AFNIO} as before", "make_batch"),
    ):
        target, quick = Target(None, 2), (make, 100)
        rows.append(Row(title, "made", (make, 1000), ROUND_TRIPS, 1, RPC, (target,), rounds=5, quick=quick))
    return rows


def ways_rows() -> list[Row]:
    """The rows of a program for afnio: over afnio's client, over ours, and moved over here."""
    rows = []
    peers, judged = (*PACKAGE, AFNIO, UNDER, FLOOR), (*PACKAGE, UNDER)
    for title, make in (("Variable creation", "variable"), ("run_function", "function")):
        objects = ("objects", (make, 500))
        quick = (make, 20)
        rows += [
            Row(
                f"{title}, one thread, calls/s",
                *objects,
                "/s",
                1,
                peers,
                (Target(AFNIO, 2.0),),
                "rate",
                is_rate=True,
                quick=quick,
                judged=judged,
            ),
            Row(
                f"{title}, CPU per call",
                *objects,
                "µs",
                1e6,
                peers,
                (Target(AFNIO, 0.5),),
                "cpu",
                quick=quick,
                judged=judged,
            ),
        ]
    return rows


IMPORT = Row("import (wall, less bare Python)", "", (), "ms", 1e3, RPC, (Target(AFNIO, 0.15),))


def _times(target: Target) -> Target:
    """A target in "times as fast", for a row in seconds."""
    speed_limit = None if target.speed_limit is None else 1 / target.speed_limit
    return Target(target.versus, 1 / target.limit, speed_limit)
