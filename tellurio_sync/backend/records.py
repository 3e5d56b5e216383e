"""What is known of a sample without asking anybody: the feedback of ``feedback="records"`` (protocol §K.5).

On its way back through the graph feedback is a text, as ever.  A :class:`Recorded` is such a text, which also knows the
samples that it tells of; a function that makes other text of it may carry them on (:func:`carried`).  An empty one
tells of samples that came out right: nothing has to change for them, but what is written for the others must keep them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..jsonrpc import INVALID_PARAMS
from .data import Data, Number, items, text
from .refused import Refused

CRITIC, RECORDS, BATCH_CRITIC = "critic", "records", "batch_critic"
"""The kinds of feedback: written by a language model for each sample; what is known; that, and what a language model
says of all wrong samples of a batch together."""

THE_VARIABLE = "[this variable]"
"""Stands in a conversation where the data of the variable stands that is rewritten."""


@dataclass(frozen=True, eq=False)
class Record:
    """One sample: what went in, what came out, what was wanted.

    Attributes:
        output: the answer, or whatever else was evaluated.
        purpose: what was evaluated.
        target: what was wanted; None: there is no such text.
        score: what the evaluation gave; None: it is not known.
        explanation: of the score, where that says more than score and target.
        feedback: what was said of the output otherwise.
        is_right: whether nothing has to change for it; None: it is not known.
        inputs: the values of this sample.
        conversation: role and text of each message in which the variable stood, with :data:`THE_VARIABLE` in its place
            and placeholders as they are.
    """

    output: str
    purpose: str = ""
    target: str | None = None
    score: Number | None = None
    explanation: str = ""
    feedback: str = ""
    is_right: bool | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    conversation: tuple[tuple[str, str], ...] = ()

    @property
    def text(self) -> str:
        """The same in words, for people and for functions that know of no records."""
        parts = [f"{name}: {value}" for name, value in self.inputs.items()]
        parts.append(f"Output: {self.output}")
        if self.target is not None:
            parts.append(f"Target: {self.target}")
        if self.score is not None:
            parts.append(f"Score: {text(self.score)}")
        return "\n".join([*parts, *filter(None, (self.explanation, self.feedback))])


class Recorded(str):
    """Feedback in words, and the records that it was made of.

    Attributes:
        records: of the samples that it tells of.
        besides: what it says and they do not.
    """

    records: tuple[Record, ...]
    besides: str

    def __new__(cls, words: str, records: Iterable[Record], besides: str = "") -> Recorded:
        """``words`` are ``""`` where nothing has to change."""
        made = super().__new__(cls, words)
        made.records = tuple(records)
        made.besides = besides
        return made


def learnt(feedback: Data) -> Recorded | None:
    """All that feedback knows of samples, also that for a batch; None for a text alone."""
    parts = [part for part in (feedback if isinstance(feedback, list) else [feedback]) if isinstance(part, Recorded)]
    if not parts:
        return None
    besides = "\n".join(part.besides for part in parts if part.besides)
    return Recorded("\n".join(filter(None, parts)), records_of(parts), besides)


def records_of(feedback: Data) -> tuple[Record, ...]:
    """The records in feedback, also in that for a batch; none in a text alone."""
    if isinstance(feedback, list):
        return tuple(record for item in feedback for record in records_of(item))
    return feedback.records if isinstance(feedback, Recorded) else ()


def plain_feedback(feedback: Data) -> Data:
    """The words alone, for messages."""
    if isinstance(feedback, list):
        return [plain_feedback(item) for item in feedback]
    return str(feedback) if isinstance(feedback, Recorded) else feedback


def carried(words: str, *feedback: Data) -> str:
    """``words`` that were made of ``feedback``, with its records; no words where all samples are right."""
    known = [one for one in map(learnt, feedback) if one is not None]
    if not known:
        return words
    words = words if any(map(_has_words, feedback)) else ""
    return Recorded(words, records_of(known), words if any(one.besides for one in known) else "")


def of_batch(texts: Sequence[str]) -> str:
    """The feedback of all samples of a batch in one text, with their records."""
    return carried(items(list(texts)), *texts)


def at_output(feedback: str, output: str) -> Record:
    """What feedback on an output says of the sample: the record of the evaluation, where it is about this very text."""
    known = records_of(feedback)
    if len(known) == 1 and known[0].output == output:
        return known[0]
    scores = [record.score for record in known if record.score is not None]
    rights = [record.is_right for record in known]
    return Record(
        output,
        score=sum(scores) if scores and len(scores) == len(known) else None,
        feedback=str(feedback),
        is_right=None if None in rights or not rights else all(rights),
    )


def told(feedback: str, output: str, words: str) -> str:
    """``words`` of a language model on this output, in place of the feedback that they were made of."""
    known = replace(at_output(feedback, output), purpose="", target=None, explanation="", feedback=words)
    return Recorded(words, [known]) if records_of(feedback) else words


def _has_words(feedback: Any) -> bool:
    if isinstance(feedback, list):
        return any(map(_has_words, feedback))
    return bool(feedback)


# --- over the wire (protocol §K.5) --------------------------------------------------------------


def as_json(known: Recorded) -> dict[str, Any]:
    """What a client is given to keep for a gradient, and gives back when it makes that again."""
    return {"words": str(known), "besides": known.besides, "records": [asdict(record) for record in known.records]}


def from_json(value: Any) -> Recorded:
    """What :func:`as_json` gave.

    Raises:
        Refused: it is something else.
    """
    try:
        records = [
            Record(**{**one, "conversation": tuple((role, said) for role, said in one["conversation"])})
            for one in value["records"]
        ]
        made = Recorded(value["words"], records, value["besides"])
        texts = [made.besides, *(part for record in records for part in (record.output, *record.inputs.values()))]
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise Refused("`records` is nothing that this server has sent.", INVALID_PARAMS, "Invalid params") from exc
    if not all(isinstance(part, str) for part in (value["words"], *texts)):
        raise Refused("`records` is nothing that this server has sent.", INVALID_PARAMS, "Invalid params")
    return made


# --- scores -------------------------------------------------------------------------------------


def mean_score(records: Sequence[Record]) -> float | None:
    """The mean score; None: not all are known."""
    scores = [float(record.score) for record in records if record.score is not None]
    return sum(scores) / len(scores) if scores and len(scores) == len(records) else None


def summary(records: Sequence[Record]) -> str:
    """How well a version did, in a few words; "" where that is not known."""
    mean = mean_score(records)
    parts = []
    if records and all(record.is_right is not None for record in records):
        parts.append(f"{sum(bool(record.is_right) for record in records)} of {len(records)} right")
    if mean is not None:
        parts.append(f"mean score {mean:.4g}")
    return ", ".join(parts)
