"""Batches in which some samples fail: the results of the other samples are kept.

A language model may refuse one sample of forty, or a function of the user may fail on it.  All other samples are asked
all the same.  Then one error names the samples that failed, and has the results of the others; or the sample is left
out, and the user is told.

If the first questions show that none can be answered (no key, no server listens), the others are not asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from ...errors import shorten
from ..questions import QuestionFailed
from ..refused import Refused
from .concurrency import AT_ONCE

R = TypeVar("R")

RAISE, SKIP = "raise", "skip"
NOT_ASKED = "not_asked"

FORWARD_HINT = (
    "The error's `results` hold those of the other samples, `failures` what went wrong; "
    "with on_error='skip' it goes on without the failed ones."
)
BACKWARD_HINT = "No gradient was appended, and the graph is as it was: the same pass can be tried again."

# Where a question fails so, all others of its model do, too.
OF_ALL = ("settings", "key", "budget")
# Where nothing else comes of the first ones, nothing will come of the others.
_LIKELYOF_ALL = ("unreachable", "timeout", "rate", "server")

# So many of them, without one answer, are enough to know.
_ENOUGH = 8

# Of what went wrong, in a text: how many kinds of it, how many samples of each, how many characters.
_TOLD_KINDS = 3
_TOLD_SAMPLES = 10
_TOLD_CHARS = 300


@dataclass(frozen=True)
class Failure:
    """What went wrong with one sample.

    Attributes:
        sample: its index in the batch, from 0.
        kind: as ``questions.FailureKind``; ``"function"`` for a function of the user; ``"not_asked"`` if others have
            shown that it would fail; ``"other"``.
        error: the same in words; it quotes at most a short piece of the sample.
    """

    sample: int
    kind: str
    error: str

    def as_json(self) -> dict[str, Any]:
        """Its form in messages."""
        return asdict(self)


@dataclass(frozen=True)
class Gathered(Generic[R]):
    """The results and failures of the samples of a batch.

    Attributes:
        results: the results, by index of the sample.
        failures: the failures of the other samples, in order.
        cause: the failure of all samples, if all have failed for the same reason.
    """

    results: dict[int, R]
    failures: list[Failure]
    cause: Refused | None = None

    def listed(self, size: int) -> list[R | None]:
        """The results of a batch of ``size``, with gaps (None) where there is none."""
        return [self.results.get(index) for index in range(size)]


class SamplesFailed(Refused):
    """Some samples of a batch failed. ``data`` holds the others' results, and what went wrong."""

    def __init__(self, failures: Sequence[Failure], size: int, results: Sequence[Any], hint: str) -> None:
        helps = len(failures) < size or hint != FORWARD_HINT  # there are no others, whose results it could hold
        super().__init__(f"{told(failures, size)} {hint if helps else ''}".rstrip())
        kinds = {failure.kind for failure in failures} - {NOT_ASKED}
        self.data = {
            "exception": self.text,
            "kind": kinds.pop() if len(kinds) == 1 else "other",
            "results": list(results),
            "failures": [failure.as_json() for failure in failures],
        }


async def gather(
    function: Callable[[int], Awaitable[R]], samples: Sequence[int], at_once: int = AT_ONCE
) -> Gathered[R]:
    """The results of all ``samples``, at most ``at_once`` of them in work at a time; waits for all of them.

    Raises:
        Exception: what is not ``Refused``: a defect, after the others were cancelled and have ended.
    """
    gate = asyncio.Semaphore(at_once)
    results: dict[int, R] = {}
    failed: dict[int, Refused] = {}
    is_hopeless = False

    async def one(index: int) -> None:
        nonlocal is_hopeless
        async with gate:
            if is_hopeless:
                return
            try:
                results[index] = await function(index)
            except Refused as exc:
                failed[index] = exc
                kind = _kind(exc)
                likely = sum(_kind(other) in _LIKELYOF_ALL for other in failed.values())
                is_hopeless = is_hopeless or kind in OF_ALL or (not results and likely >= _ENOUGH)

    tasks = [asyncio.ensure_future(one(index)) for index in samples]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    failures = [
        Failure(index, _kind(failed[index]), shorten(str(failed[index]), 2 * _TOLD_CHARS))
        if index in failed
        else Failure(index, NOT_ASKED, "It was not asked: those before it have shown that it would fail, too.")
        for index in samples
        if index not in results
    ]
    causes = {exc.text for exc in failed.values()}
    is_one = not results and len(causes) == 1 and all(_kind(exc) in OF_ALL for exc in failed.values())
    return Gathered(results, failures, next(iter(failed.values())) if is_one else None)


@dataclass(frozen=True)
class LeftOut:
    """Samples that a function, or a backward pass, has left out.

    Attributes:
        failures: the reasons.
        size: the size of the batch.
    """

    failures: list[Failure]
    size: int

    def as_json(self) -> dict[str, Any]:
        """Its form in messages."""
        text = f"{told(self.failures, self.size)} What was asked goes on without them."
        return {"text": text, "size": self.size, "failures": [failure.as_json() for failure in self.failures]}


def left_out(found: Gathered[Any], size: int, *, most: int, hint: str, results: Sequence[Any] = ()) -> list[LeftOut]:
    """What to tell of the samples that failed, if at most ``most`` did.

    Args:
        found: what became of those that were worked on.
        size: of the batch.
        most: how many may fail.
        hint: for the error, what can be done.
        results: for the error, all of them.

    Raises:
        Refused: more failed, or for a reason that no other sample will escape.
    """
    failures = found.failures
    if not failures:
        return []
    if found.cause is not None:
        raise found.cause
    if len(failures) > most or any(failure.kind in OF_ALL for failure in failures):
        raise SamplesFailed(failures, size, results, hint)
    return [LeftOut(failures, size)]


def feedback_left_out(found: Gathered[Any], size: int, share: float) -> list[LeftOut]:
    """The same for a backward pass, where at most this ``share`` of what was asked may fail."""
    asked = len(found.results) + len(found.failures)
    return left_out(found, size, most=int(share * asked), hint=BACKWARD_HINT)


def by_sample(found: Gathered[Any], groups: Sequence[Sequence[int]]) -> Gathered[Any]:
    """What became of the samples of groups, each of which was worked on as one."""
    results = {index: result for number, result in found.results.items() for index in groups[number]}
    failures = [
        Failure(index, failure.kind, failure.error) for failure in found.failures for index in groups[failure.sample]
    ]
    return Gathered(results, sorted(failures, key=lambda failure: failure.sample), found.cause)


def told(failures: Sequence[Failure], size: int) -> str:
    """What went wrong with which samples, in a few lines at most."""
    kinds: dict[tuple[str, str], list[int]] = {}
    for failure in failures:
        kinds.setdefault((failure.kind, failure.error), []).append(failure.sample)
    causes = [(error, indices) for (kind, error), indices in kinds.items() if kind != NOT_ASKED]
    if len(failures) == size > 1 and len(causes) == 1:
        ((cause, indices),) = causes
        asked = "" if len(indices) == size else f" ({len(indices)} of them were asked, and then no more)"
        return f"All {size} samples failed, for one reason{asked}: {shorten(cause, _TOLD_CHARS)}"
    parts = [f"{_named(indices)}: {shorten(error, _TOLD_CHARS)}" for (_, error), indices in kinds.items()]
    if len(parts) > _TOLD_KINDS:
        left = sum(len(indices) for indices in list(kinds.values())[_TOLD_KINDS:])
        parts[_TOLD_KINDS:] = [f"and {left} more samples for other reasons."]
    return f"{len(failures)} of {size} samples failed (counted from 0): {' '.join(parts)}"


def check_on_error(value: Any) -> bool:
    """Whether failing samples are left out.

    Raises:
        Refused: neither "raise" nor "skip".
    """
    if value not in (RAISE, SKIP):
        raise Refused(f"`on_error` must be {RAISE!r} or {SKIP!r}, not {shorten(repr(value), 50)}.")
    return bool(value == SKIP)


def _named(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:_TOLD_SAMPLES]))
    more = f" and {len(indices) - _TOLD_SAMPLES} more" if len(indices) > _TOLD_SAMPLES else ""
    return f"{'sample' if len(indices) == 1 else 'samples'} {shown}{more}"


def _kind(exc: Refused) -> str:
    return exc.kind if isinstance(exc, QuestionFailed) else "other"
