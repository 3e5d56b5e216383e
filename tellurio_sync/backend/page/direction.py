"""Whether more of a metric is better, as far as its name tells; pages say beside it which end they show."""

from __future__ import annotations

import re

_LOWER_IS_BETTER = re.compile(
    "loss(es)?|errors?|err|perplexity|ppl|nll|mse|rmse|mae|mape|wer|cer|regret|distance|costs?|usd|price|seconds|ms"
    "|latency|duration|tokens|failures|failed|misses|retries"
)
_WORDS = re.compile("[A-Z]?[a-z]+|[A-Z]+")


def is_lower_better(name: str) -> bool:
    """Whether the lowest value of the metric is its best one: a loss, an error, a cost."""
    return any(_LOWER_IS_BETTER.fullmatch(word.lower()) for word in _WORDS.findall(name))
