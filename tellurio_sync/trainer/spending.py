"""The questions of a training: what they were, and whether the next part of it fits into a limit.

How many questions a step will take is not known before it is made.  It is expected to take as many for each sample as
the dearest one so far.  If that was too few, the server does not ask the question that would pass the limit, so that a
limit is never passed, and the step is not made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from ..errors import BudgetExceeded, MethodNotFound, UsageError
from ..ledger import Ledger
from ..model.call import Call
from ..model.reply_checks import member
from ..model.riders import Requests, Rider
from ..model.session_link import SessionLink, use_link
from ..model.variable import Variable
from ..session.budget import Spent, budget
from .retrying import tried

EXTENSION = "questions"
"""Of servers that count the questions of a session (protocol §K.12)."""

_COUNT = "count_questions"


# How often the counts are asked for again after a lost connection: a training is not to end because of them.
_RETRIES = 5


class OutOfQuestions(Exception):
    """A part of the training was broken off, because the server did not ask what would pass the limit."""


class Spending:
    """Counts the questions of one training. One thread only.

    Args:
        link: of the parameters.
        limit: questions in all; None: no limit.

    Attributes:
        before: questions of the training before it was resumed.
    """

    def __init__(self, link: SessionLink, limit: int | None) -> None:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise ValueError(f"max_questions must be a whole number of at least 0, or None, not {limit!r}.")
        self.limit = limit
        self.before = 0
        self._link = link
        self._counted = self._last = Ledger()
        self._counts = False  # whether the server counts
        self._beginning: Rider | None = None
        self._guard = ExitStack()
        self._spent: Spent | None = None
        # Per part of a training ("train", "val"): questions for a sample, of the dearest batch so far.
        self._dearest: dict[str, float] = {}

    # --- the limit ------------------------------------------------------------------------------

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Inside, questions are counted, and the server asks no more than the limit allows.

        Raises:
            UsageError: there is a limit, and the server counts no questions.
        """
        if EXTENSION in self._link.extensions:
            # What was asked before is told with the first call of the training.
            self._beginning = Rider(self._link, self, _requests)
        if self.limit is not None:
            self._begin()
            if not self._counts:
                raise UsageError("max_questions needs a server that counts questions; the local backend does.")
        with self._guard:
            if self.limit is not None:
                with use_link(self._link):
                    self._spent = self._guard.enter_context(budget(questions=max(self.limit - self.before, 0)))
            yield

    @contextmanager
    def breaking_off(self) -> Iterator[None]:
        """Inside, ``BudgetExceeded`` becomes ``OutOfQuestions``, where it was this limit that did not suffice."""
        try:
            yield
        except BudgetExceeded as exc:
            if self._spent is None:
                raise
            self._guard.close()  # ... which is how to learn what was asked within it
            questions, limit = self._spent.questions, self.limit
            if questions is None or limit is None or self.before + questions < limit:
                raise  # another budget, of the user's own
            raise OutOfQuestions from exc

    def left(self) -> int | None:
        """How many questions may still be asked; None: there is no limit."""
        return None if self.limit is None else max(self.limit - self.asked, 0)

    def expected(self, kind: str, samples: int) -> int:
        """How many questions a batch of this kind, or a validation, will take at least, judged by those before."""
        if kind in self._dearest:
            return math.ceil(self._dearest[kind] * samples)
        # One for each sample, and one for the step.
        return samples + 1 if kind == "train" else samples

    def note(self, kind: str, samples: int, asked: int) -> None:
        """This many questions were asked for a batch, or a validation."""
        if samples:
            self._dearest[kind] = max(self._dearest.get(kind, 0.0), asked / samples)

    # --- counting -------------------------------------------------------------------------------

    @property
    def asked(self) -> int:
        """Questions so far, with those before it was resumed. One round trip, if the server counts them."""
        return self.before + self.ledger().asked

    def ledger(self) -> Ledger:
        """What was asked since the beginning; empty where the server counts nothing. One round trip."""
        self._begin()
        if not self._counts:
            return self._counted
        now = _ledger_in(tried(self._count, _RETRIES)[0])
        since = now - self._last
        # The counts of a session begin again if the server was started again.
        is_new = any(count.asked < 0 for count in since.counts.values()) or now.asked < self._last.asked
        self._counted += now if is_new else since
        self._last = now
        return self._counted

    @property
    def counted(self) -> Ledger:
        """What was asked between the beginning and the last time that ``asked`` or ``ledger`` was read. Local."""
        return self._counted

    def _begin(self) -> None:
        """Take in what had been asked before the training."""
        beginning, self._beginning = self._beginning, None
        if beginning is None:
            return
        try:
            (result,), _ = tried(beginning.settle, _RETRIES)
        except MethodNotFound:
            return
        self._last = _ledger_in(result)
        self._counts = True

    def _count(self) -> Any:
        with Call(self._link) as call:
            return call.request(*_requests()[0])


def _requests() -> Requests:
    return [(_COUNT, {})]


def _ledger_in(result: Any) -> Ledger:
    counts: Mapping[str, Mapping[str, Any]] = member(_COUNT, result, "session")
    return Ledger.from_rows({"step": None, "kind": kind, "model": "", **of} for kind, of in counts.items())


def size_of(batch: Any) -> int:
    """How many samples a batch has, by its form (see ``data.collate``): that of its first column, or of a list."""
    if isinstance(batch, Variable):
        batch = batch.data
    elif isinstance(batch, (tuple, Mapping)):
        columns = list(batch.values()) if isinstance(batch, Mapping) else batch
        return size_of(columns[0]) if columns else 1
    return max(len(batch), 1) if isinstance(batch, list) else 1


def samples_in(batches: Iterable[Any] | None, batch_size: int) -> int:
    """How many samples an epoch over these has, as far as can be said without reading them: 0 for nothing.

    Args:
        batches: a list of batches, or a loader.
        batch_size: where only the number of batches is known.
    """
    if batches is None:
        return 0
    if isinstance(batches, (list, tuple)):
        return sum(map(size_of, batches))
    try:
        count = len(batches)  # type: ignore[arg-type]
    except TypeError:
        return 0
    own = getattr(batches, "batch_size", None)
    most = count * (own if isinstance(own, int) else batch_size)
    try:
        return min(len(batches.dataset), most)  # type: ignore[attr-defined]
    except (AttributeError, TypeError):
        return most
