"""What tokens cost, in US dollars.

The prices of protocol §H.3 are here. For all other models they come from ``genai-prices``, a maintained table, where
that is installed (the extra ``prices``). A price that is in neither is unknown, which is not the same as free.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

logger: logging.Logger = logging.getLogger(__name__)


class Price(NamedTuple):
    """US dollars per million tokens."""

    prompt: float
    cached: float
    completion: float


# Protocol §H.3.
PRICES = {
    "gpt-4o": Price(2.50, 1.25, 10.00),
    "gpt-4o-mini": Price(0.15, 0.075, 0.60),
}
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def price(reported: Mapping[str, Any], model_name: str) -> float | None:
    """US dollars for the tokens that an endpoint reported; None: not known. Dated names cost as their base name."""
    details = reported.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
    prompt, completion = _count(reported.get("prompt_tokens")), _count(reported.get("completion_tokens"))
    known = PRICES.get(_DATE.sub("", model_name))
    if known is not None:
        dollars = (prompt - cached) * known.prompt + cached * known.cached + completion * known.completion
        return dollars / 1_000_000
    return _from_table(prompt, min(cached, prompt), completion, model_name)


async def prepare(model_name: str) -> None:
    """Load the table if the price of this model will be looked for there: on another thread, it takes a second."""
    if _DATE.sub("", model_name) not in PRICES and not _table.cache_info().currsize:
        await asyncio.to_thread(_table)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _from_table(prompt: int, cached: int, completion: int, model_name: str) -> float | None:
    table = _table()
    if table is None:
        return None
    tokens = table.Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
    provider, _, rest = model_name.partition("/")
    for name, provider_id in [(model_name, None), *([(rest, provider)] if rest else [])]:
        try:
            return float(table.calc_price(tokens, model_ref=name, provider_id=provider_id).total_price)
        except LookupError:
            continue
        except Exception as exc:  # noqa: BLE001 - a foreign table; without it the price is not known
            logger.warning("! the table of prices failed for %r: %s", model_name, exc)
            return None
    return None


@lru_cache(maxsize=1)
def _table() -> Any:
    try:
        return importlib.import_module("genai_prices")
    except ImportError:
        return None
