"""Counts of tokens and money (protocol §H.3)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class Price(NamedTuple):
    """US dollars per million tokens."""

    prompt: float
    cached: float
    completion: float


# Protocol §H.3. A model that is not listed costs nothing here.
PRICES = {
    "gpt-4o": Price(2.50, 1.25, 10.00),
    "gpt-4o-mini": Price(0.15, 0.075, 0.60),
}
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def zero_usage() -> dict[str, Any]:
    """Usage in its initial form."""
    return {
        "completion_tokens": 0,
        "prompt_tokens": 0,
        "total_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
        "cost": {"amount": 0.0, "currency": "USD"},
    }


def cleared(usage: dict[str, Any]) -> dict[str, Any]:
    """The same structure with all its numbers zero."""
    return {key: _cleared(value) for key, value in usage.items()}


def _cleared(value: Any) -> Any:
    if isinstance(value, dict):
        return cleared(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return type(value)()


def add(usage: dict[str, Any], reported: dict[str, Any], model_name: str) -> None:
    """Add the reported tokens of one call, and its cost, to ``usage``. Missing or null counts are zero."""
    for key, value in zero_usage().items():
        if key == "cost":
            continue
        if isinstance(value, dict):
            details, new = usage.setdefault(key, dict(value)), reported.get(key) or {}
            for detail in value:
                details[detail] = details.get(detail, 0) + (new.get(detail) or 0)
        else:
            usage[key] = usage.get(key, 0) + (reported.get(key) or 0)
    price = usage.setdefault("cost", {"amount": 0.0, "currency": "USD"})
    price["amount"] = price.get("amount", 0.0) + cost(reported, model_name)


def cost(reported: dict[str, Any], model_name: str) -> float:
    """US dollars for one call; 0 for a model without a known price. Dated names cost as their base name."""
    price = PRICES.get(_DATE.sub("", model_name))
    if price is None:
        return 0.0
    prompt, completion = reported.get("prompt_tokens") or 0, reported.get("completion_tokens") or 0
    cached = (reported.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    dollars = (prompt - cached) * price.prompt + cached * price.cached + completion * price.completion
    return dollars / 1_000_000
