"""Pauses between attempts."""

from __future__ import annotations

import pytest

from tellurio_sync.peer.backoff import AFTER_RESTART, FIRST_PAUSE, LONGEST_PAUSE, PROVEN_AFTER, Backoff


def limits(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next_pause() for _ in range(count)]


@pytest.mark.parametrize(
    ("draw", "pauses"),
    [(1.0, [1, 2, 4, 8, 10, 10]), (0.0, [0, 0, 0, 0, 0, 0]), (0.5, [0.5, 1, 2, 4, 5, 5])],
)
def test_pauses_double_up_to_the_longest_with_full_jitter(draw: float, pauses: list[float]) -> None:
    assert limits(Backoff(1, 10, lambda: draw), 6) == pauses


def test_pauses_never_end_and_stay_in_their_range() -> None:
    pauses = limits(Backoff(), 200)
    assert all(0 <= pause <= LONGEST_PAUSE for pause in pauses)
    assert pauses[0] <= FIRST_PAUSE
    assert len(set(pauses)) > 100, "no jitter"
    assert 0.3 * LONGEST_PAUSE < sum(pauses[20:]) / 180 < 0.7 * LONGEST_PAUSE


@pytest.mark.parametrize(
    ("lasted", "has_replied", "begins_anew"),
    [(0.0, False, False), (PROVEN_AFTER - 0.1, False, False), (PROVEN_AFTER, False, True), (0.0, True, True)],
)
def test_it_begins_anew_only_after_a_connection_that_worked(
    lasted: float, has_replied: bool, begins_anew: bool
) -> None:
    backoff = Backoff(1, 10, lambda: 1.0)
    limits(backoff, 3)
    backoff.note_lost(lasted, has_replied=has_replied, code=None)
    assert backoff.next_pause() == (1 if begins_anew else 8)


@pytest.mark.parametrize(("code", "first"), [(1012, AFTER_RESTART), (1013, AFTER_RESTART), (1001, 0.1), (None, 0.1)])
def test_a_server_that_restarts_or_is_overloaded_is_left_alone_for_longer(code: int | None, first: float) -> None:
    backoff = Backoff(draw=lambda: 1.0)
    backoff.note_lost(100.0, has_replied=True, code=code)
    assert backoff.next_pause() == first
    limits(backoff, 10)
    backoff.note_lost(0.0, has_replied=False, code=code)
    assert backoff.next_pause() == LONGEST_PAUSE, "a longer pause is not made shorter"
