"""Pauses between attempts."""

from __future__ import annotations

from itertools import islice

import pytest

from tellurio_sync.peer.backoff import FIRST_PAUSE, LONGEST_PAUSE, backoff


@pytest.mark.parametrize(
    ("draw", "pauses"),
    [(1.0, [1, 2, 4, 8, 10, 10]), (0.0, [0.5, 1, 2, 4, 5, 5]), (0.5, [0.75, 1.5, 3, 6, 7.5, 7.5])],
)
def test_pauses_double_up_to_the_longest_with_jitter_down_to_half(draw: float, pauses: list[float]) -> None:
    assert list(islice(backoff(1, 10, lambda: draw), 6)) == pauses


def test_pauses_never_end_and_stay_in_their_range() -> None:
    pauses = list(islice(backoff(), 200))
    assert all(FIRST_PAUSE / 2 <= pause <= LONGEST_PAUSE for pause in pauses)
    assert min(pauses[20:]) >= LONGEST_PAUSE / 2
    assert len(set(pauses)) > 100, "no jitter"
