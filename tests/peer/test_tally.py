"""What a peer counts: each way in which a call can end, once; and what it says of the last things at a time-out."""

from __future__ import annotations

import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tellurio_sync import events
from tellurio_sync.client.stats import ClientStats, Latency, stats_of
from tellurio_sync.errors import CallTimeout, ConnectionLost
from tellurio_sync.events import Event, on_event
from tellurio_sync.peer.lifecycle import Lifecycle
from tellurio_sync.peer.pending import OpenCall, PendingTable
from tellurio_sync.peer.tally import Tally

from ..conftest import FAILSAFE, wait_until
from .rig import LOST, Background, Rig, unreachable


def stats(rig: Rig) -> ClientStats:
    return stats_of("ws://server", rig.peer.lifecycle)


@contextmanager
def listening() -> Iterator[list[Event]]:
    heard: list[Event] = []
    stop = on_event(heard.append)
    try:
        yield heard
    finally:
        events.flush(FAILSAFE)
        stop()


def answer(rig: Rig, method: str = "m", **members: object) -> None:
    call = Background(rig.peer.request, method, {}, 10.0)
    request = rig.server_receive()
    rig.server_send({"jsonrpc": "2.0", "id": request["id"], **(members or {"result": 1})})
    call.result()


def time_out(rig: Rig, **options: object) -> CallTimeout:
    call = Background(rig.peer.request, "slow", {}, 10.0, **options)
    rig.server_receive()
    rig.clock.advance(11.0)
    error = call.error()
    assert isinstance(error, CallTimeout)
    return error


def test_a_call_is_counted_by_how_it_ended() -> None:
    with listening() as heard, Rig() as rig:
        rig.open()
        answer(rig)
        answer(rig, error={"code": -32603, "message": "no"})
        time_out(rig)
        future = rig.peer.submit("cancelled", {}, 10.0)
        rig.server_receive()
        assert future.cancel()
        expired = rig.peer.submit("expired", {}, 10.0)
        rig.server_receive()
        rig.clock.advance(11.0)
        assert isinstance(expired.exception(FAILSAFE), CallTimeout)
        waiting = Background(rig.peer.request, "lost", {}, 10.0)
        rig.server_receive()
        assert stats(rig).waiting == 1
        rig.transport.abort(LOST)
        assert isinstance(waiting.error(), ConnectionLost)
        found = stats(rig)
    assert (found.answered, found.errors, found.timeouts, found.given_up, found.lost) == (2, 1, 2, 1, 1)
    assert (found.calls, found.waiting) == (6, 0)
    ends = Counter((event.method, event.text) for event in heard if event.kind == "call ended")
    assert ends == {
        ("m", "answered"): 1,
        ("m", "error"): 1,
        ("slow", "timed out"): 1,
        ("cancelled", "given up"): 1,
        ("expired", "timed out"): 1,
        ("lost", "lost"): 1,
    }


def test_connections_are_counted_and_told() -> None:
    with listening() as heard, Rig("greet", unreachable(), "greet") as rig:
        rig.open()
        rig.transport.abort(LOST)
        wait_until(lambda: _reopened(rig), "the connection was not opened again")
        found = stats(rig)
        assert (found.reconnects, found.failed_attempts) == (1, 1)
    assert [event.kind for event in heard][:4] == ["opened", "lost", "attempt failed", "reopened"]
    assert heard[1].text == "reset"
    assert heard[2].text == "TCP: Connection refused"


def _reopened(rig: Rig) -> bool:
    rig.clock.advance(60.0)  # the pause before the next attempt
    return rig.peer.lifecycle.tally.reconnects == 1


def test_waits_heartbeats_pushes_and_bytes(rig: Rig) -> None:
    call = Background(rig.peer.request, "long", {"data": "x" * 1000}, 10.0, is_extendable=True)
    request = rig.server_receive()
    before = stats(rig)
    rig.heartbeat(request["id"])
    rig.heartbeat("unknown")
    rig.reply(request)
    call.result()
    found = stats(rig)
    assert (found.heartbeats, found.pushes) == (1, 2)
    assert before.bytes_sent > 1000
    assert found.bytes_received - before.bytes_received > 100
    rig.transport.server_stop_reading()
    full = Background(rig.peer.request, "m", {}, 10.0)
    wait_until(lambda: stats(rig).waits_for_room == 1, "nobody waits for room")
    rig.transport.abort(LOST)
    assert isinstance(full.error(), ConnectionLost)
    found = stats(rig)  # whichever thread comes first, counts it
    assert (found.given_up + found.lost, found.calls) == (1, 2)


def test_what_a_connection_has_counted_is_there_once_at_every_step_of_its_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any thread may ask at any moment."""
    answer(rig)
    seen: list[tuple[int, bool]] = []

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append((stats(rig).answered, stats(rig).bytes_sent > 0))
            try:
                return method(*args, **kwargs)
            finally:
                seen.append((stats(rig).answered, stats(rig).bytes_sent > 0))

        return call

    for owner, name in ((Tally, "take_over"), (Tally, "ended"), (Lifecycle, "_set_state_locked")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    rig.transport.abort(LOST)
    wait_until(lambda: _reopened(rig), "the connection was not opened again")
    assert len(seen) >= 6
    assert set(seen) == {(1, True)}
    assert rig.peer.lifecycle.tally.past.latest is None, "it keeps what nobody needs any more"


def test_bytes_and_replies_of_a_former_connection_still_count(rig: Rig) -> None:
    answer(rig)
    former = stats(rig)
    first = rig.transport
    first.abort(LOST)
    wait_until(lambda: _reopened(rig), "the connection was not opened again")
    answer(rig)
    found = stats(rig)
    assert found.answered == 2
    assert found.bytes_received > former.bytes_received
    assert found.bytes_sent >= 2 * former.bytes_sent


def test_a_caller_that_waits_for_a_connection_is_counted_and_told_why(rig: Rig) -> None:
    rig.dialers.default = "silent"
    rig.transport.abort(LOST)
    rig.wait_for_state("reconnecting")
    call = Background(rig.peer.request, "m", {}, 10.0)
    wait_until(lambda: stats(rig).waits_for_connection == 1, "nobody waits for a connection")
    rig.clock.advance(11.0)
    error = call.error()
    assert isinstance(error, CallTimeout)
    assert not error.was_sent
    assert any("the connection ended: reset" in line for line in error.recent), error.recent
    found = stats(rig)
    assert (found.timeouts, found.given_up, found.waits_for_connection) == (1, 0, 1)


def test_of_many_calls_that_expire_together_each_costs_the_same_however_many_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at all that wait, for each of them, would be quadratic."""
    copies: list[PendingTable] = []
    copy = PendingTable.copy

    def copy_counted(table: PendingTable) -> dict[str, OpenCall]:
        copies.append(table)
        return copy(table)

    futures = [rig.peer.submit("m", {}, 10.0) for _ in range(300)]
    monkeypatch.setattr(PendingTable, "copy", copy_counted)
    rig.clock.advance(11.0)
    for future in futures:
        assert isinstance(future.exception(FAILSAFE), CallTimeout)
    assert 1 <= len(copies) <= 10


def test_latencies_are_those_of_the_clock(rig: Rig) -> None:
    for seconds in (1.0, 2.0, 9.0):
        call = Background(rig.peer.request, "m", {}, 10.0)
        request = rig.server_receive()
        rig.clock.advance(seconds)
        rig.reply(request)
        call.result()
    latency = stats(rig).latency
    assert latency == stats(rig).latency_by_method["m"]
    assert latency is not None
    assert (latency.count, latency.p50, latency.p90, latency.longest) == (3, 2.0, 9.0, 9.0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([], None),
        ([5.0], (1, 5.0, 5.0, 5.0, 5.0)),
        ([2.0, 1.0], (2, 1.0, 2.0, 2.0, 2.0)),
        ([float(n) for n in range(1, 101)], (100, 50.0, 90.0, 99.0, 100.0)),
    ],
)
def test_quantiles(seconds: list[float], expected: tuple[float, ...] | None) -> None:
    found = Latency.of(seconds)
    assert (found and (found.count, found.p50, found.p90, found.p99, found.longest)) == expected


def test_a_time_out_says_what_happened_last(rig: Rig) -> None:
    answer(rig, "create_variable")
    rig.clock.advance(5.0)
    error = time_out(rig, is_extendable=True)
    lines = "\n".join(error.recent)
    assert "16.0 s ago: create_variable was answered after 0.000 s" in lines
    assert "11.0 s ago: slow (" in lines
    assert "began, and waits" in lines
    if sys.version_info >= (3, 11):
        assert "What happened last on this connection:\n  16.0 s ago" in error.__notes__[0]
    copy = pickle.loads(pickle.dumps(error))
    assert copy.recent == error.recent


def test_many_waiting_calls_are_summed_up(rig: Rig) -> None:
    futures = [rig.peer.submit(f"m{n}", {}, 10.0) for n in range(20)]
    lines = rig.peer.lifecycle.tally.recent(rig.peer.lifecycle.connection.pending.copy().values())  # type: ignore[union-attr]
    assert [line for line in lines if "more calls" in line] == ["0.0 s ago: 15 more calls began later, and wait"]
    assert len(lines) == 7  # five that wait, the others, and that the connection is open
    for future in futures:
        future.cancel()


def test_what_is_kept_is_bounded(rig: Rig) -> None:
    tally = rig.peer.lifecycle.tally
    for n in range(2000):
        tally.answers.append(("m", 0.0, float(n)))
        tally.pushed("x" * 5000)
    lines = tally.recent()
    assert len(tally.answers) == 512
    assert len(tally.happened) == 64
    assert len(lines) <= 12
    assert max(map(len, lines)) < 500


def test_a_number_read_while_others_call_is_never_an_error(rig: Rig) -> None:
    future = rig.peer.submit("m", {}, 10.0)
    for _ in range(100):
        json.dumps(str(stats(rig)))
    future.cancel()
