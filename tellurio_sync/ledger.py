"""What a run has asked language models: questions by kind, tokens and money, in all and per step. Plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .cards import card, grid
from .errors import HttpError

KINDS = ("forward", "judge", "critic", "propagator", "optimizer")
"""The order in which kinds are shown; others, which a server may have, come after them."""


@dataclass(frozen=True)
class Count:
    """How much was asked.

    Attributes:
        asked: questions that were sent to a model; each counts once, however often it was tried.
        cached: answers that were there already; nothing was asked for them, and nothing is paid.
        failed: of those asked: without a usable answer.
        not_asked: that a budget did not allow, or that could not be sent as they were.
        retries: further tries of questions.
        prompt_tokens, completion_tokens: as the endpoints reported them.
        usd: US dollars, without the questions whose price is not known.
        unpriced: how many questions those are; all questions to functions in the place of models are.
    """

    asked: int = 0
    cached: int = 0
    failed: int = 0
    not_asked: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0

    @property
    def tokens(self) -> int:
        """Of questions and answers together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Count) -> Count:
        return Count(*(getattr(self, name) + getattr(other, name) for name in _COUNTED))

    def __sub__(self, other: Count) -> Count:
        return Count(*(getattr(self, name) - getattr(other, name) for name in _COUNTED))


_COUNTED = tuple(one.name for one in fields(Count))

Key = tuple["int | None", str, str]
"""Step (from 1; None: not counted), kind, model ("" for a function in the place of one)."""


@dataclass(frozen=True)
class Ledger:
    """What was asked, by step, kind and model.

    ``later - earlier`` is what was asked in between.

    Attributes:
        counts: step, kind and model to how much. A question belongs to the step of an optimizer that ended next after
            it; those after the last step to the one that has not ended.
    """

    counts: Mapping[Key, Count] = field(default_factory=dict)

    @staticmethod
    def from_answer(answer: Mapping[str, Any]) -> Ledger:
        """The ledger in an answer of the server.

        Raises:
            HttpError: it has another form.
        """
        try:
            return Ledger.from_rows(answer["questions"])
        except (KeyError, TypeError, ValueError) as exc:
            raise HttpError(f"The server's answer about questions has another form: {exc!r}") from None

    @staticmethod
    def from_rows(rows: Iterable[Mapping[str, Any]]) -> Ledger:
        """The ledger of rows as ``rows`` gives them; counts that a row leaves out are zero.

        Raises:
            KeyError, TypeError, ValueError: they have another form.
        """
        counts: dict[Key, Count] = {}
        for row in rows:
            step = row["step"]
            key = (None if step is None else int(step), str(row["kind"]), str(row["model"]))
            given = {name: row.get(name) or 0 for name in _COUNTED}
            whole = {name: int(number) for name, number in given.items() if name != "usd"}
            count = Count(**whole, usd=float(given["usd"]))
            counts[key] = counts.get(key, Count()) + count
        return Ledger(counts)

    def rows(self) -> list[dict[str, Any]]:
        """One flat dict for each step, kind and model: for ``pandas.DataFrame``, or JSON."""
        return [
            {"step": step, "kind": kind, "model": model, **asdict(count)}
            for (step, kind, model), count in self.counts.items()
        ]

    @property
    def total(self) -> Count:
        """All together."""
        return sum(self.counts.values(), Count())

    @property
    def asked(self) -> int:
        """How many questions were asked."""
        return self.total.asked

    @property
    def by_kind(self) -> dict[str, Count]:
        """What was asked, by what for: ``"forward"`` (your chats), ``"judge"``, ``"critic"``, ..."""
        found = self._by(lambda key: key[1])
        return {kind: found[kind] for kind in sorted(found, key=_place_of)}

    @property
    def by_model(self) -> dict[str, Count]:
        """What was asked, by the name of the model; ``""`` for functions."""
        return self._by(lambda key: key[2])

    @property
    def steps(self) -> dict[int, Ledger]:
        """What was asked up to the end of each step of an optimizer, since the end of the step before it."""
        found: dict[int, dict[Key, Count]] = {}
        for key, count in self.counts.items():
            if key[0] is not None:
                found.setdefault(key[0], {})[key] = count
        return {step: Ledger(counts) for step, counts in sorted(found.items())}

    def _by(self, name_of: Any) -> dict[str, Count]:
        found: dict[str, Count] = {}
        for key, count in self.counts.items():
            name = name_of(key)
            found[name] = found.get(name, Count()) + count
        return found

    def __add__(self, other: Ledger) -> Ledger:
        counts = dict(self.counts)
        for key, count in other.counts.items():
            counts[key] = counts.get(key, Count()) + count
        return Ledger(counts)

    def __sub__(self, earlier: Ledger) -> Ledger:
        left = {key: count - earlier.counts.get(key, Count()) for key, count in self.counts.items()}
        return Ledger({key: count for key, count in left.items() if count != Count()})

    def __str__(self) -> str:
        total = self.total
        kinds = ", ".join(f"{count.asked:,} {kind}" for kind, count in self.by_kind.items() if count.asked)
        parts = [f"{total.asked:,} {'question' if total.asked == 1 else 'questions'}{f' ({kinds})' if kinds else ''}"]
        if total.tokens:
            parts.append(f"{total.tokens:,} tokens")
        if total.usd:
            parts.append(f"${total.usd:.4f}")
        for name in ("cached", "failed", "not_asked"):
            if count := getattr(total, name):
                parts.append(f"{count:,} {name.replace('_', ' ')}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"<Ledger: {self}>"

    def _repr_html_(self) -> str:
        columns = ("asked", "cached", "failed", "not_asked", "prompt_tokens", "completion_tokens", "usd")
        head = [name.replace("_", " ") for name in ("kind", *columns)]
        lines = [*self.by_kind.items(), ("all", self.total)]
        rows = [(kind, *(_shown(getattr(count, name)) for name in columns)) for kind, count in lines]
        return card("Questions", "", [grid(head, rows)])


def _shown(value: float) -> object:
    return round(value, 4) if isinstance(value, float) else value


def _place_of(kind: str) -> tuple[int, str]:
    return (KINDS.index(kind) if kind in KINDS else len(KINDS), kind)
