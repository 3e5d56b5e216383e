from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.backend import usage
from tellurio_sync.backend.data import items, normalised, per_sample
from tellurio_sync.backend.prices import price
from tellurio_sync.backend.refused import Refused


@pytest.mark.parametrize(
    ("data", "result"),
    [
        ("a", "a"),
        (None, None),
        ([True, 1.0], [1.0, 1.0]),
        ([[1, 2.0], None], [[1.0, 2.0], None]),
        (["a", None, ["b"]], ["a", None, ["b"]]),
    ],
)
def test_normalised(data: Any, result: Any) -> None:
    found = normalised(data)
    assert found == result
    assert repr(found) == repr(result)


def test_what_needs_no_change_stays_the_same_list() -> None:
    data = [1, True, None]
    assert normalised(data) is data


@pytest.mark.parametrize("data", [{}, ["a", 1], [["a"], [1]], [{}], [[None, {}]]])
def test_refused(data: Any) -> None:
    with pytest.raises(Refused):
        normalised(data)


def test_feedback_per_sample() -> None:
    assert per_sample("f", 2) == ["f", "f"]
    assert per_sample(["f", "g"], 2) == ["f", "g"]
    assert per_sample(["f", "g"], None) == ["<ITEM>f</ITEM><ITEM>g</ITEM>"]
    assert items(["", ""]) == ""


@pytest.mark.parametrize(
    ("model", "reported", "dollars"),
    [
        ("gpt-4o", {"prompt_tokens": 1_000_000, "completion_tokens": 0}, 2.50),
        ("gpt-4o", {"prompt_tokens": 1_000_000, "prompt_tokens_details": {"cached_tokens": 1_000_000}}, 1.25),
        ("gpt-4o-2024-08-06", {"completion_tokens": 1_000_000}, 10.0),
        ("gpt-4o-mini", {"prompt_tokens": 2_000_000, "completion_tokens": 1_000_000}, 0.9),
        ("gpt-4o-mini", {"prompt_tokens": None, "prompt_tokens_details": None}, 0.0),
    ],
)
def test_cost(model: str, reported: dict[str, Any], dollars: float) -> None:
    assert price(reported, model) == pytest.approx(dollars)


def test_usage_adds_up_and_clears() -> None:
    total = usage.zero_usage()
    for _ in range(2):
        reported = {"prompt_tokens": 1, "total_tokens": 3, "completion_tokens_details": {"audio_tokens": 5}}
        usage.add(total, reported, "gpt-4o", cost=None)
    assert (total["prompt_tokens"], total["total_tokens"], total["completion_tokens"]) == (2, 6, 0)
    assert total["completion_tokens_details"]["audio_tokens"] == 10
    assert total["cost"]["amount"] == pytest.approx(5e-6)
    assert usage.cleared(total) == usage.zero_usage()
