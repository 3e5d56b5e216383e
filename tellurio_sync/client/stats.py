"""What a client has done so far, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..peer.lifecycle import Lifecycle
from ..peer.tally import copied


@dataclass(frozen=True)
class Latency:
    """How long calls took, from their start to their reply, in seconds.

    Attributes:
        count: how many calls this is about.
        p50, p90, p99: half, nine tenths, and 99 of a hundred took at most so long.
        longest: of them.
    """

    count: int
    p50: float
    p90: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Latency | None:
        """Of these calls; None if there are none."""
        ordered = sorted(seconds)
        if not ordered:
            return None

        def quantile(percent: int) -> float:
            """The smallest value that so many per cent do not exceed (nearest rank)."""
            return ordered[-(-len(ordered) * percent // 100) - 1]

        return cls(len(ordered), quantile(50), quantile(90), quantile(99), ordered[-1])

    def __str__(self) -> str:
        shown = ", ".join(
            f"{name} {1000 * value:.1f} ms"
            for name, value in (("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("longest", self.longest))
        )
        return f"{shown} (of the last {self.count})"


@dataclass(frozen=True)
class ClientStats:
    """What a client has done since its last ``connect``, over all its connections.

    The numbers are read one after the other while other threads go on, so they can differ by a call or two.

    Attributes:
        url: of the server, without the key.
        state: see ``TellurioWebSocketClient.state``.
        seconds: since ``connect``.
        calls: that were sent, or tried to: the sum of the five below.
        answered: of these, by a reply.
        timeouts: ended by a ``CallTimeout``.
        lost: ended because the connection did.
        given_up: cancelled, interrupted, or found the connection over.
        waiting: for their reply, at the moment.
        errors: replies that were errors; they are answers, too.
        waits_for_room: how often a caller had to wait because the server did not take what was sent before.
        waits_for_connection: how often a caller had to wait because the connection was being opened again.
        heartbeats: of long calls.
        pushes: requests and notifications of the server, heartbeats among them.
        reconnects: how often the connection was opened again.
        failed_attempts: to connect.
        bytes_sent: that the operating system has taken, without what TLS adds.
        bytes_received: from the socket.
        latency: of the last 512 calls that were answered; None: there are none.
        latency_by_method: the same by the method of the call.
    """

    url: str = ""
    state: str = "new"
    seconds: float = 0.0
    calls: int = 0
    answered: int = 0
    timeouts: int = 0
    lost: int = 0
    given_up: int = 0
    waiting: int = 0
    errors: int = 0
    waits_for_room: int = 0
    waits_for_connection: int = 0
    heartbeats: int = 0
    pushes: int = 0
    reconnects: int = 0
    failed_attempts: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    latency: Latency | None = None
    latency_by_method: Mapping[str, Latency] = field(default_factory=dict)

    def __str__(self) -> str:
        ends = (
            ("answered", self.answered),
            ("timed out", self.timeouts),
            ("lost", self.lost),
            ("given up", self.given_up),
            ("waiting", self.waiting),
        )
        waits = f"{self.waits_for_room} for room, {self.waits_for_connection} for a connection"
        lines = [
            f"{self.url}: {self.state}, for {self.seconds:.0f} s",
            f"calls: {self.calls:,} ({', '.join(f'{number:,} {name}' for name, number in ends if number)})",
            f"errors: {self.errors:,}; waits: {waits}",
            f"heartbeats: {self.heartbeats:,}; pushes: {self.pushes:,}",
            f"reconnects: {self.reconnects:,}; failed attempts: {self.failed_attempts:,}",
            f"bytes: {self.bytes_sent:,} sent, {self.bytes_received:,} received",
        ]
        if self.latency is not None:
            lines.append(f"latency: {self.latency}")
            slowest = sorted(self.latency_by_method.items(), key=lambda item: -item[1].p50)
            lines += [f"  {method}: {latency}" for method, latency in slowest]
        return "\n".join(lines)


def stats_of(url: str, lifecycle: Lifecycle) -> ClientStats:
    """What has happened on the connections of this peer."""
    tally = lifecycle.tally
    # A connection that ends is added to the past first, and then put away. So where the past stays the same while the
    # connection is looked up, it is in one of the two; where it is in both, the past says so.
    while True:
        past, connection = tally.past, lifecycle.connection
        if tally.past is past:
            break
    answered, received, sent, latest = past
    waiting = 0
    if connection is not None and connection is not latest:
        waiting = len(connection.pending.copy())
        answered += connection.replies
        received += connection.transport.bytes_received
        sent += connection.transport.bytes_sent
    given_up = tally.given_up - tally.timeouts_registered
    by_method: dict[str, list[float]] = {}
    for method, start, end in copied(tally.answers):
        by_method.setdefault(method, []).append(end - start)
    return ClientStats(
        url=url,
        state=lifecycle.state,
        seconds=lifecycle.clock.now() - tally.started,
        calls=answered + tally.timeouts + tally.lost + given_up + waiting,
        answered=answered,
        timeouts=tally.timeouts,
        lost=tally.lost,
        given_up=given_up,
        waiting=waiting,
        errors=tally.errors,
        waits_for_room=tally.waits_for_room,
        waits_for_connection=tally.waits_for_connection,
        heartbeats=tally.heartbeats,
        pushes=tally.pushes,
        reconnects=tally.reconnects,
        failed_attempts=tally.failed_attempts,
        bytes_sent=sent,
        bytes_received=received,
        latency=Latency.of(one for each in by_method.values() for one in each),
        latency_by_method={
            method: latency for method, each in by_method.items() if (latency := Latency.of(each)) is not None
        },
    )
