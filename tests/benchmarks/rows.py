"""The rows of the table: what is measured, on which link, for whom, and what it is to reach."""

from __future__ import annotations

from typing import Any, NamedTuple

OURS = "tellurio_sync"
OTHER = "other tree"
AFNIO = "afnio 0.3.7"
WEBSOCKET_CLIENT = "websocket-client"
WEBSOCKETS_SYNC = "websockets.sync"
RAW_TCP = "raw TCP"

RPC = (OURS, OTHER, AFNIO)
EVERYBODY = (*RPC, WEBSOCKET_CLIENT, WEBSOCKETS_SYNC, RAW_TCP)
MIB = 1024 * 1024
ROUND_TRIP_S = 0.05


class Target(NamedTuple):
    """``ours / versus`` is to be at most (of a rate: at least) ``limit``; with ``versus`` None the figure itself."""

    versus: str | None
    limit: float


class Row(NamedTuple):
    """One figure.

    Attributes:
        title: as printed.
        command: the worker's measurement, and its arguments.
        unit: of the printed figure, which is the measured one times ``scale``.
        peers: who is measured.
        targets: what it is to reach.
        field: which value of a measurement with several.
        is_rate: more is better; ratios are then "times".
        rounds: how often at most.
        quick: the arguments in quick mode.
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


def local_rows(tls: bool) -> list[Row]:
    """The rows on loopback."""
    one = ("round_trip", (300,), "µs", 1e6)
    rows = [
        Row(
            "one caller, p50 round trip",
            *one,
            EVERYBODY,
            (Target(WEBSOCKET_CLIENT, 1.4), Target(AFNIO, 0.38)),
            "p50",
            quick=(30,),
        ),
        Row("CPU per call", *one, EVERYBODY, (Target(AFNIO, 0.30),), "cpu", quick=(30,)),
    ]
    for threads, limit in ((1, 2.0), (8, 2.3), (64, 2.0)):
        target = Target(AFNIO, limit)
        title = f"calls/s, {threads} thread{'s' if threads > 1 else ''}"
        rows.append(Row(title, "threads", (threads, 640), "/s", 1, RPC, (target,), is_rate=True, quick=(threads, 64)))
    for title, command, target in (
        ("1,000 submitted at once", "submit_all", Target(AFNIO, 3)),
        ("call_many of 1,000", "call_many", Target(AFNIO, 5)),
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
            (Target(AFNIO, 0.75),),
            rounds=5,
            quick=("bench_up", MIB),
        ),
        Row(
            "16 MiB both ways",
            "big",
            ("bench_big", 16 * MIB),
            "ms",
            1e3,
            (OURS, OTHER, WEBSOCKET_CLIENT, WEBSOCKETS_SYNC),
            (Target(WEBSOCKETS_SYNC, 1.2),),
            rounds=5,
            quick=("bench_big", MIB),
        ),
        Row("close(), server alive", "close", (), "ms", 1e3, EVERYBODY[:-1], (Target(None, 5),), rounds=3),
    ]
    if not tls:
        rows += [
            Row(
                "memory per pending call",
                "memory",
                (2000,),
                "B",
                1,
                RPC,
                (Target(None, 400),),
                rounds=1,
                quick=(200,),
            ),
            Row("idle CPU per 10 s", "idle", (10,), "ms", 1e3, EVERYBODY, (Target(None, 1),), rounds=1, quick=(0.5,)),
        ]
    return rows


def delayed_rows() -> list[Row]:
    """The rows on the link with a delay; in round trips of that link, as raw TCP sees them."""
    pipelined = Target(None, 1.3)
    return [
        Row("1,000 calls pipelined", "call_many", (1000,), "round trips", 1, RPC, (pipelined,), rounds=5, quick=(100,)),
        Row(
            "20 calls in a row, each",
            "round_trip",
            (20,),
            "round trips",
            1,
            (*RPC, WEBSOCKET_CLIENT, WEBSOCKETS_SYNC),
            (Target(None, 1.02),),
            "p50",
            rounds=3,
            quick=(3,),
        ),
    ]


IMPORT = Row("import (wall, less bare Python)", "", (), "ms", 1e3, (OURS, OTHER, AFNIO), (Target(AFNIO, 0.15),))


def _times(target: Target) -> Target:
    """A target in "times as fast", for a row in seconds."""
    return Target(target.versus, 1 / target.limit)
