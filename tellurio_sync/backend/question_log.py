"""The questions to language models, kept for people to look at: the question, the answer, and how right it was.

A question is one row.  Each text of its messages is kept once, even if many questions hold it (a prompt that was asked
with 10,000 inputs is one text).  The total usage of a run is counted separately, and stays when questions are deleted.

The size and the age are bounded: with each new question at most a few of the oldest are deleted, so there is no long
clean-up.  Only the event loop's thread uses this module.
"""

from __future__ import annotations

import contextvars
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .kept_out import KeptOut
from .question_counts import Count, Counts, no_counts

if TYPE_CHECKING:
    from .questions import Asked
    from .store import Store

TABLES = """
CREATE TABLE IF NOT EXISTS questions (
    number INTEGER PRIMARY KEY,
    run_uuid TEXT NOT NULL REFERENCES runs (uuid) ON DELETE CASCADE,
    purpose TEXT NOT NULL,
    model TEXT NOT NULL,
    sample INTEGER,
    sample_key BLOB,                 -- the same for the same input, whatever the prompt
    answer TEXT,
    thoughts TEXT NOT NULL,
    error TEXT,
    error_kind TEXT,
    score REAL,                      -- what an evaluator gave to the answer
    explanation TEXT,
    tries INTEGER NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost REAL,
    started_at REAL NOT NULL,
    seconds REAL NOT NULL,
    size_bytes INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS questions_by_run ON questions (run_uuid, purpose, number);
CREATE INDEX IF NOT EXISTS questions_in_order ON questions (run_uuid, number);
CREATE INDEX IF NOT EXISTS questions_by_sample ON questions (run_uuid, sample_key, number);
CREATE TABLE IF NOT EXISTS texts (
    number INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    content TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS question_texts (
    question INTEGER NOT NULL REFERENCES questions (number) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    role TEXT NOT NULL,
    text INTEGER NOT NULL REFERENCES texts (number),
    PRIMARY KEY (question, position)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS question_texts_by_text ON question_texts (text);
CREATE TABLE IF NOT EXISTS question_prompts (
    question INTEGER NOT NULL REFERENCES questions (number) ON DELETE CASCADE,
    variable_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (question, variable_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS question_prompts_by_version ON question_prompts (variable_id, version, question);
CREATE TABLE IF NOT EXISTS usage (
    run_uuid TEXT NOT NULL REFERENCES runs (uuid) ON DELETE CASCADE,
    model TEXT NOT NULL,
    purpose TEXT NOT NULL,
    questions INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost REAL NOT NULL,
    unpriced INTEGER NOT NULL,       -- questions whose price is not known
    seconds REAL NOT NULL,
    PRIMARY KEY (run_uuid, model, purpose)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS usage_by_step (
    run_uuid TEXT NOT NULL REFERENCES runs (uuid) ON DELETE CASCADE,
    step INTEGER NOT NULL,           -- the optimizer's step that ended next after the question, from 1
    model TEXT NOT NULL,
    purpose TEXT NOT NULL,
    asked INTEGER NOT NULL,          -- a request was sent for it
    cached INTEGER NOT NULL,
    failed INTEGER NOT NULL,         -- of those asked
    not_asked INTEGER NOT NULL,      -- a budget did not allow it, or a setting was wrong
    retries INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost REAL NOT NULL,
    unpriced INTEGER NOT NULL,
    PRIMARY KEY (run_uuid, step, model, purpose)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS steps (
    run_uuid TEXT PRIMARY KEY REFERENCES runs (uuid) ON DELETE CASCADE,
    ended INTEGER NOT NULL           -- steps of optimizers
) WITHOUT ROWID;
"""

DEFAULT_MAX_BYTES = 256 * 2**20
DEFAULT_MAX_DAYS = 90.0

# The most old questions that are deleted with a new one.
_GO_AT_ONCE = 20

# To add up all sizes takes long, so it is not done for each question.
_MEASURE_EVERY = 5000

# The most characters that are kept of each text of a question.
_MOST_CHARS = 1_000_000

# Answers whose score may still come.
_AWAITING_SCORE = 10_000

_DAY_SECONDS = 86400.0


class Sample(NamedTuple):
    """The subject of a question.

    Attributes:
        key: the same for the same input, whatever the prompt.
        prompts: the versions of the parameters in it.
    """

    key: bytes
    prompts: Mapping[str, int]


@dataclass
class Forward:
    """One use of a function, while its questions are asked.

    Attributes:
        sample: what a question is about, by the index of the sample; None where that is not known.
        numbers: the last question about each sample.
    """

    sample: Callable[[int], Sample] | None = None
    numbers: dict[int, int] = field(default_factory=dict)


# Tasks that are begun inside see it, too.
_forward: contextvars.ContextVar[Forward | None] = contextvars.ContextVar("_forward", default=None)


@contextmanager
def asking(forward: Forward | None) -> Iterator[None]:
    """Inside, questions belong to this use of a function; None: to none."""
    token = _forward.set(forward)
    try:
        yield
    finally:
        _forward.reset(token)


class QuestionLog:
    """Keeps questions in a store, up to a size and an age.

    Attributes:
        kept_out: the keys that stand in none of them.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_days: float = DEFAULT_MAX_DAYS,
        kept_out: KeptOut | None = None,
    ) -> None:
        """``max_bytes`` of 0: no question is kept; what they used in all is still counted."""
        self._store = store
        self.kept_out: KeptOut = kept_out or KeptOut()
        self._max_bytes = max_bytes
        self._max_seconds = max_days * _DAY_SECONDS
        store.add_tables(TABLES)
        self._size_bytes = self._measured()
        self._until_measured = _MEASURE_EVERY
        # Of runs that were deleted while no backend kept count.
        store.write("DELETE FROM texts WHERE number NOT IN (SELECT text FROM question_texts)")
        # Variable id of answers -> the questions that gave them, by sample.
        self._answers: OrderedDict[str, dict[int, int]] = OrderedDict()

    def _clean(self, text: str) -> str:
        # SQLite takes no text with half a surrogate pair.
        whole = self.kept_out.clean(text).encode(errors="replace").decode()
        left_out = len(whole) - _MOST_CHARS
        return whole if left_out <= 0 else f"{whole[:_MOST_CHARS]} … ({left_out} more characters)"

    def note(self, asked: Asked) -> None:
        """Keep one question, if it belongs to a run."""
        self.kept_out.add(asked.completion_args)
        if not self._store.read("SELECT 1 FROM runs WHERE uuid = ?", asked.run_uuid):
            return
        with self._store.transaction():
            self._count(asked)
            if self._max_bytes:
                self._keep(asked)
        self._let_old_go()

    def _keep(self, asked: Asked) -> None:
        use = _forward.get()
        place = asked.sample or 0
        sample = None
        if use is not None and use.sample is not None and asked.purpose == "forward":
            sample = use.sample(place)
        answer = asked.answer
        prompt_tokens, completion_tokens = _tokens(asked)
        made = self._store.write(
            "INSERT INTO questions (run_uuid, purpose, model, sample, sample_key, answer, thoughts, error, error_kind,"
            " tries, prompt_tokens, completion_tokens, cost, started_at, seconds, size_bytes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            *(
                asked.run_uuid,
                asked.purpose,
                self._clean(asked.model_name),
                asked.sample,
                sample.key if sample else None,
            ),
            *(self._clean(answer.text) if answer else None, self._clean(answer.thoughts) if answer else ""),
            *(self._clean(asked.error) if asked.error is not None else None, asked.error_kind, asked.tries),
            *(prompt_tokens, completion_tokens, _cost(asked), asked.started_at, asked.seconds),
        )
        number = made.lastrowid
        assert number is not None
        size = 200 + (len(answer.text) + len(answer.thoughts) if answer else 0) + len(asked.error or "")
        for position, message in enumerate(asked.messages):
            text, is_new = self._text(_content(message))
            size += len(_content(message)) if is_new else 20
            self._store.write(
                "INSERT INTO question_texts VALUES (?, ?, ?, ?)",
                number,
                position,
                self._clean(str(message.get("role", ""))),
                text,
            )
        for variable_id, version in (sample.prompts if sample else {}).items():
            self._store.write("INSERT INTO question_prompts VALUES (?, ?, ?)", number, variable_id, version)
        self._store.write("UPDATE questions SET size_bytes = ? WHERE number = ?", size, number)
        self._size_bytes += size
        if use is not None and asked.purpose in ("forward", "judge"):
            use.numbers[place] = number

    def _text(self, content: str) -> tuple[int, bool]:
        text = self._clean(content)
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        known = self._store.read("SELECT number FROM texts WHERE digest = ?", digest)
        if known:
            return int(known[0]["number"]), False
        made = self._store.write("INSERT INTO texts (digest, content) VALUES (?, ?)", digest, text)
        assert made.lastrowid is not None
        return made.lastrowid, True

    def _count(self, asked: Asked) -> None:
        is_cached = asked.answer is not None and asked.answer.is_cached
        prompt_tokens, completion_tokens = (0, 0) if is_cached else _tokens(asked)
        cost = 0.0 if is_cached else _cost(asked)
        self._store.write(
            "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " questions = questions + excluded.questions, cached = cached + excluded.cached,"
            " errors = errors + excluded.errors, retries = retries + excluded.retries,"
            " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
            " completion_tokens = completion_tokens + excluded.completion_tokens, cost = cost + excluded.cost,"
            " unpriced = unpriced + excluded.unpriced, seconds = seconds + excluded.seconds",
            # One that was neither sent nor answered, because of a budget for instance, is an error alone.
            *(asked.run_uuid, self._clean(asked.model_name), asked.purpose, int(is_cached or asked.tries > 0)),
            *(int(is_cached), int(asked.answer is None)),
            *(max(asked.tries - 1, 0), prompt_tokens or 0, completion_tokens or 0),
            *(cost or 0.0, int(cost is None and asked.tries > 0), asked.seconds),
        )
        was_asked = not is_cached and asked.tries > 0
        self._store.write(
            "INSERT INTO usage_by_step VALUES (?, coalesce((SELECT ended FROM steps WHERE run_uuid = ?), 0) + 1,"
            " ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " asked = asked + excluded.asked, cached = cached + excluded.cached, failed = failed + excluded.failed,"
            " not_asked = not_asked + excluded.not_asked, retries = retries + excluded.retries,"
            " prompt_tokens = prompt_tokens + excluded.prompt_tokens,"
            " completion_tokens = completion_tokens + excluded.completion_tokens, cost = cost + excluded.cost,"
            " unpriced = unpriced + excluded.unpriced",
            *(
                asked.run_uuid,
                asked.run_uuid,
                self._clean(asked.model_name),
                asked.purpose,
                int(was_asked),
                int(is_cached),
            ),
            *(int(was_asked and asked.answer is None), int(not was_asked and not is_cached)),
            *(max(asked.tries - 1, 0), prompt_tokens or 0, completion_tokens or 0),
            *(cost or 0.0, int(was_asked and cost is None)),
        )

    def end_step(self, run_uuid: str) -> None:
        """A step of an optimizer has ended: later questions of the run belong to the next one."""
        self._store.write(
            "INSERT INTO steps SELECT uuid, 1 FROM runs WHERE uuid = ? ON CONFLICT DO UPDATE SET ended = ended + 1",
            run_uuid,
        )

    def current_step(self, run_uuid: str) -> int:
        """The number of the step of an optimizer that ends next, from 1."""
        rows = self._store.read("SELECT ended FROM steps WHERE run_uuid = ?", run_uuid)
        return int(rows[0]["ended"]) + 1 if rows else 1

    def counts(self, run_uuid: str) -> Counts:
        """How many questions a run has asked, of all models, by what for."""
        rows = self._store.read(
            "SELECT purpose, sum(questions) AS questions, sum(cached) AS cached, sum(errors) AS errors,"
            " sum(retries) AS retries, sum(prompt_tokens) AS prompt_tokens,"
            " sum(completion_tokens) AS completion_tokens, sum(cost) AS cost, sum(unpriced) AS unpriced"
            " FROM usage WHERE run_uuid = ? GROUP BY purpose",
            run_uuid,
        )
        counts = no_counts()
        for row in rows:
            counts[row["purpose"]] = Count(
                asked=row["questions"] - row["cached"],
                cached=row["cached"],
                failed=row["errors"],
                retries=row["retries"],
                prompt_tokens=row["prompt_tokens"],
                completion_tokens=row["completion_tokens"],
                usd=row["cost"],
                unpriced=row["unpriced"],
            )
        return counts

    # --- scores ---------------------------------------------------------------------------------

    def note_answers(self, variable_id: str, numbers: Mapping[int, int]) -> None:
        """The answers to these questions became the data of a Variable."""
        if numbers:
            self._answers[variable_id] = dict(numbers)
            if len(self._answers) > _AWAITING_SCORE:
                self._answers.popitem(last=False)

    def note_scores(self, variable_id: str, scores: Sequence[tuple[float, str] | None]) -> None:
        """The data of a Variable was evaluated: per sample a score and why, None for none."""
        numbers = self._answers.get(variable_id, {})
        with self._store.transaction():
            for place, scored in enumerate(scores):
                if scored is not None and place in numbers:
                    self._store.write(
                        "UPDATE questions SET score = ?, explanation = ? WHERE number = ?",
                        *(float(scored[0]), self._clean(scored[1]), numbers[place]),
                    )

    # --- bounds ---------------------------------------------------------------------------------

    def _measured(self) -> int:
        return int(self._store.read("SELECT coalesce(sum(size_bytes), 0) AS size FROM questions")[0]["size"])

    def _let_old_go(self) -> None:
        self._until_measured -= 1
        if self._size_bytes > self._max_bytes and self._until_measured < 0:
            # Whole runs may have been deleted meanwhile.
            self._size_bytes, self._until_measured = self._measured(), _MEASURE_EVERY
        for _ in range(_GO_AT_ONCE):
            oldest = self._store.read("SELECT number, started_at, size_bytes FROM questions ORDER BY number LIMIT 1")
            if not oldest:
                return
            is_old = oldest[0]["started_at"] < time.time() - self._max_seconds
            if not is_old and self._size_bytes <= self._max_bytes:
                return
            self._delete([oldest[0]["number"]])
            self._size_bytes -= oldest[0]["size_bytes"]

    def _delete(self, numbers: Sequence[int]) -> None:
        """Delete questions, and the texts that no other question holds."""
        which = json.dumps(list(numbers))
        with self._store.transaction():
            texts = self._store.read(
                "SELECT DISTINCT text FROM question_texts WHERE question IN (SELECT value FROM json_each(?))", which
            )
            self._store.write("DELETE FROM questions WHERE number IN (SELECT value FROM json_each(?))", which)
            self._store.write(
                "DELETE FROM texts WHERE number IN (SELECT value FROM json_each(?))"
                " AND NOT EXISTS (SELECT 1 FROM question_texts WHERE question_texts.text = texts.number)",
                json.dumps([row["text"] for row in texts]),
            )

    def delete_some(self, run_uuid: str, most: int) -> bool:
        """Delete ``most`` questions of a run at most; whether there are more."""
        rows = self._store.read(
            "SELECT number, size_bytes FROM questions WHERE run_uuid = ? LIMIT ?", run_uuid, most + 1
        )
        self._delete([row["number"] for row in rows[:most]])
        self._size_bytes -= sum(row["size_bytes"] for row in rows[:most])
        return len(rows) > most


def questions_by_step(store: Store, run_uuid: str) -> list[dict[str, Any]]:
    """What a run has asked, per step, kind and model; ``step`` is None where steps were not counted yet."""
    return store.read(
        "SELECT step, model, purpose AS kind, asked, cached, failed, not_asked, retries, prompt_tokens,"
        " completion_tokens, cost AS usd, unpriced FROM usage_by_step WHERE run_uuid = ? ORDER BY step, kind, model",
        run_uuid,
    ) or store.read(
        "SELECT NULL AS step, model, purpose AS kind, questions - cached AS asked, cached, errors AS failed,"
        " 0 AS not_asked, retries, prompt_tokens, completion_tokens, cost AS usd, unpriced"
        " FROM usage WHERE run_uuid = ? ORDER BY kind, model",
        run_uuid,
    )


def sample_of(parts: object, prompts: Mapping[str, int]) -> Sample:
    """A sample from what identifies it, as JSON."""
    text = json.dumps(parts, sort_keys=True)
    return Sample(hashlib.blake2b(text.encode(), digest_size=16).digest(), prompts)


def _content(message: Mapping[str, object]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else json.dumps(content)


def _tokens(asked: Asked) -> tuple[int | None, int | None]:
    usage = asked.answer.usage if asked.answer else {}
    return _whole(usage.get("prompt_tokens")), _whole(usage.get("completion_tokens"))


def _whole(value: object) -> int | None:
    # An endpoint may report anything; SQLite takes 64 bits.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _cost(asked: Asked) -> float | None:
    if asked.answer is not None and asked.answer.is_cached:
        return 0.0
    return asked.cost
