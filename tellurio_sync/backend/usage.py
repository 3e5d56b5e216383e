"""Counts of tokens and money (protocol §H.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .prices import price

UNPRICED = "unpriced_tokens"
"""A key in ``cost``, for clients that give it with the model (protocol §K.11): the number of tokens whose price is not
known, which ``amount`` leaves out."""


def zero_usage() -> dict[str, Any]:
    """The initial usage: all counts are zero."""
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


def taken_over(given: Any) -> dict[str, Any]:
    """The usage that a client gives; what it leaves out is zero.

    Raises:
        ValueError: something in it is of another kind than in usage.
    """
    return _taken_over(zero_usage(), {} if given is None else given, "usage")


def _taken_over(own: dict[str, Any], given: Any, name: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{name} is no object")
    found = {**own, **given}
    for key, value in own.items():
        if isinstance(value, dict):
            found[key] = _taken_over(value, found[key] or {}, key)
        elif isinstance(value, (int, float)):
            found[key] = found[key] or type(value)()
            if isinstance(found[key], bool) or not isinstance(found[key], (int, float)):
                raise ValueError(f"{key} is no number")
    if UNPRICED in found and (isinstance(found[UNPRICED], bool) or not isinstance(found[UNPRICED], int)):
        raise ValueError(f"{UNPRICED} is no number of tokens")
    return found


def cleared(usage: dict[str, Any]) -> dict[str, Any]:
    """The same structure with all its numbers zero."""
    return {key: _cleared(value) for key, value in usage.items()}


def _cleared(value: Any) -> Any:
    if isinstance(value, dict):
        return cleared(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return type(value)()


def add(usage: dict[str, Any], reported: Mapping[str, Any], model_name: str, cost: float | None) -> float | None:
    """Add to ``usage`` what one answer reported, and what it cost.

    Args:
        usage: of the model.
        reported: by the endpoint; what is missing, null or no number counts as zero.
        model_name: for the price, where the endpoint reports none.
        cost: US dollars, as the endpoint reports it; None: it does not.

    Returns:
        What it cost; None: not known. Then its tokens are counted as :data:`UNPRICED`.
    """
    for key, value in zero_usage().items():
        if key == "cost":
            continue
        if isinstance(value, dict):
            details, new = usage.setdefault(key, dict(value)), reported.get(key)
            new = new if isinstance(new, dict) else {}
            for detail in value:
                details[detail] = details.get(detail, 0) + tokens(new.get(detail))
        else:
            usage[key] = usage.get(key, 0) + tokens(reported.get(key))
    spent = price(reported, model_name) if cost is None else cost
    total = usage.setdefault("cost", {"amount": 0.0, "currency": "USD"})
    if spent is None:
        count = tokens(reported.get("total_tokens"))
        count = count or tokens(reported.get("prompt_tokens")) + tokens(reported.get("completion_tokens"))
        if UNPRICED in total:
            total[UNPRICED] += count
    else:
        total["amount"] = (total.get("amount") or 0.0) + spent
    return spent


def tokens(value: Any) -> int:
    """A count of tokens in an endpoint's answer; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
