"""When to ping, and when to give up: a table of times."""

from __future__ import annotations

import math

import pytest

from tellurio_sync.peer.keepalive import Keepalive

# interval 20, timeout 5, started at 100; ("life" | "ping", time) so far; at a time: is a ping due, is it dead
CASES = [
    ([], 100, False, False),
    ([], 119.9, False, False),
    ([], 120, True, False),
    ([], 500, True, False),  # never pinged: nothing was left unanswered
    ([("ping", 120)], 120, False, False),
    ([("ping", 120)], 124.9, False, False),
    ([("ping", 120)], 125, False, True),
    ([("ping", 120), ("life", 120)], 125, False, False),  # a coarse clock: it came after the ping
    ([("ping", 120), ("life", 124.9)], 125, False, False),
    ([("ping", 120), ("life", 124.9)], 144.8, False, False),
    ([("ping", 120), ("life", 124.9)], 144.9, True, False),
    ([("life", 119)], 120, False, False),
    ([("life", 119)], 139, True, False),
    ([("ping", 130)], 134.9, False, False),  # sent late: counted from its sending
    ([("ping", 130)], 135, False, True),
]


@pytest.mark.parametrize(("history", "now", "is_ping_due", "is_dead"), CASES)
def test_the_table(history: list[tuple[str, float]], now: float, is_ping_due: bool, is_dead: bool) -> None:
    keepalive = Keepalive(20, 5, 100)
    for what, at in history:
        if what == "life":
            keepalive.last_life = at
        else:
            keepalive.note_ping(at)
            assert keepalive.next_at == at + 5
    assert (keepalive.is_ping_due(now), keepalive.is_dead(now)) == (is_ping_due, is_dead)
    if is_ping_due or is_dead:  # it may be too early, but never too late
        assert keepalive.next_at <= now
    keepalive.plan()
    assert (keepalive.next_at <= now) == (is_ping_due or is_dead)


def test_without_an_interval_nothing_is_ever_due() -> None:
    keepalive = Keepalive(None, 5, 100)
    assert keepalive.next_at == math.inf
    assert not keepalive.is_ping_due(1e12)
    assert not keepalive.is_dead(1e12)
