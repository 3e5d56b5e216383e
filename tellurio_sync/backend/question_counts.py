"""How many questions were asked, by what for: the bill of a session (protocol §K.12).

Event loop's thread only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

from .questions import Purpose
from .usage import tokens

if TYPE_CHECKING:
    from .questions import Asked

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


@dataclass
class Count:
    """The questions of one purpose.

    Attributes:
        asked: those that went to a language model, the failed ones among them included; a question that is asked again
            because its answer had the wrong form is one more.
        cached: those that were answered without asking: by an answer on disk, or by that to the same question.
        failed: those without an answer, also the ones that were not asked because a budget did not allow it.
        retries: further requests for the same question, after an endpoint had failed.
        usd: what is known of the cost.
        unpriced: how many of ``asked`` have a cost that is not known.
    """

    asked: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0


Counts = dict[Purpose, Count]


def no_counts() -> Counts:
    """A count of nothing for each purpose."""
    return {purpose: Count() for purpose in PURPOSES}


def note(counts: Counts, asked: Asked) -> None:
    """Count one question that has ended."""
    count, answer = counts[asked.purpose], asked.answer
    if answer is None:
        count.failed += 1
    if answer is not None and answer.is_cached:
        count.cached += 1
        return
    if not asked.tries:
        return
    count.asked += 1
    count.retries += asked.tries - 1
    if answer is not None:
        count.prompt_tokens += tokens(answer.usage.get("prompt_tokens"))
        count.completion_tokens += tokens(answer.usage.get("completion_tokens"))
    count.usd += asked.cost or 0.0
    count.unpriced += asked.cost is None


def as_json(counts: Counts) -> dict[str, Any]:
    """Their form in messages."""
    return {purpose: asdict(count) for purpose, count in counts.items()}
