"""The versions that a search for better parameters has tried, what they scored, and what it took. A file of JSON.

::

    {
      "format": "tellurio_sync trials",
      "version": 1,
      "stopped": "All 3 epochs are done.",     why it ended; null: it has not
      "questions": [ROW, ...],                 what was asked, as Ledger.rows()
      "versions": [
        {
          "number": 2,
          "parents": [1],                      from which it was made; none: the first one
          "parameters": {"prompt": "..."},     the data of each, by name
          "note": "step 1 of epoch 1",
          "metrics": {"val_accuracy": 0.9},
          "scores": {"validation": [1.0, null, 0.0]},   of each sample, in the order of the data; null: not evaluated
          "questions": 31,                     asked until it was there
          "copied": 0                          characters of long passages of the training data in it
        }
      ]
    }

There is nothing in it that differs from run to run: no time, no id.  So two trainings with the same seeds, and models
that give the same answers, make the same file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from ..cards import card, grid
from ..errors import shorten
from ..ledger import Ledger
from ..model.batch.block import batch as one_round_trip
from ..model.data import copy_data
from ..model.variable import Variable
from .checkpoint import write_whole
from .evaluation import Evaluation

FORMAT = "tellurio_sync trials"
VERSION = 1

PathLike = Union[str, "os.PathLike[str]"]

VALIDATION = "validation"

# How much of a parameter is shown in a table.
_SHOWN_CHARS = 80


class TrialsError(ValueError):
    """A file that holds no trials, or trials that do not fit. The text says which, and why."""


@dataclass
class Version:
    """One version of the parameters.

    Attributes:
        number: from 1, in the order in which they were made.
        parents: the numbers of those from which it was made; empty for one that was given.
        parameters: name to data.
        note: how it came to be.
        metrics: name to value, such as ``"val_accuracy"``.
        scores: by the name of a set of samples, the score of each; None: it was not evaluated on that sample.
        questions: that had been asked when it was made.
        copied: characters of long passages of training data in it, which its parents do not have.
    """

    number: int
    parents: tuple[int, ...]
    parameters: dict[str, Any]
    note: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    scores: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    questions: int = 0
    copied: int = 0

    def evaluation(self, samples: str = VALIDATION) -> Evaluation | None:
        """Its scores on these samples, as ``te.evaluate`` takes them; None: it was never evaluated on them."""
        return Evaluation(self.scores[samples]) if samples in self.scores else None

    def restore(self, parameters: Mapping[str, Variable]) -> None:
        """Give the parameters the data of this version. One round trip.

        Args:
            parameters: by name, as they were given to the trials; such as ``dict(agent.named_parameters())``.

        Raises:
            TrialsError: one of its names is missing.
        """
        missing = sorted(self.parameters.keys() - parameters.keys())
        if missing:
            raise TrialsError(f"Version {self.number} has {', '.join(missing)}, which is not among the parameters.")
        with one_round_trip():
            for name, data in self.parameters.items():
                if parameters[name].data != data:
                    parameters[name].data = copy_data(data)


class Trials:
    """The versions that were tried, oldest first; a list of ``Version``, which can be indexed and iterated.

    ::

        trials = te.Trials("trials.json")  # what is there already is read, and gone on with
        te.fit(..., trials=trials)
        trials.best().restore(parameters)
        print(trials)

    Not thread-safe.

    Args:
        path: of a file that is written after each change; None: nothing is written before ``save``.

    Attributes:
        stopped: why it ended, in words; None: it has not.
        questions: what was asked.

    Raises:
        TrialsError: there is such a file, and it holds no trials.
        OSError: the file cannot be read.
    """

    def __init__(self, path: PathLike | None = None) -> None:
        self.path: Path | None = None if path is None else Path(path)
        self.stopped: str | None = None
        self.questions: Ledger = Ledger()
        self._versions: list[Version] = []
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def __len__(self) -> int:
        return len(self._versions)

    def __iter__(self) -> Iterator[Version]:
        return iter(self._versions)

    def __getitem__(self, number: int) -> Version:
        """The version with this number, from 1."""
        if not 1 <= number <= len(self._versions):
            raise IndexError(f"There is no version {number}; there are {len(self._versions)}, the first is 1.")
        return self._versions[number - 1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trials) and self._content() == other._content()

    __hash__ = None  # type: ignore[assignment]

    # --- changes --------------------------------------------------------------------------------

    def add(
        self,
        parameters: Mapping[str, Any],
        parents: Sequence[int] = (),
        note: str = "",
        *,
        questions: int = 0,
        copied: int = 0,
    ) -> Version:
        """A new version.

        Args:
            parameters: name to Variable, or to data.
            parents: the numbers of those from which it was made.

        Raises:
            IndexError: there is no such parent.
            TypeError: data that has no form in JSON.
            OSError: the file cannot be written.
        """
        for parent in parents:
            self[parent]
        data = {name: copy_data(one.data if isinstance(one, Variable) else one) for name, one in parameters.items()}
        json.dumps(data)
        version = Version(len(self) + 1, tuple(parents), data, note, questions=questions, copied=copied)
        self._versions.append(version)
        self._changed()
        return version

    def score(
        self,
        number: int,
        scores: Evaluation | Sequence[float | None] | None = None,
        samples: str = VALIDATION,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Note what a version scored: on each of some samples, by whose name, and in all.

        Raises:
            IndexError: there is no such version.
            OSError: the file cannot be written.
        """
        version = self[number]
        if scores is not None:
            version.scores[samples] = tuple(scores.scores if isinstance(scores, Evaluation) else scores)
        version.metrics.update(metrics or {})
        self._changed()

    def end(self, reason: str, questions: Ledger | None = None) -> None:
        """Note why it ended, and what was asked since the last time. Raises OSError as ``save``."""
        self.stopped = reason
        if questions is not None:
            self.questions += questions
        self._changed()

    def _changed(self) -> None:
        if self.path is not None:
            self.save(self.path)

    # --- questions ------------------------------------------------------------------------------

    def find(self, parameters: Mapping[str, Any]) -> Version | None:
        """The last version with these data, by name; None: there is none."""
        data = {name: one.data if isinstance(one, Variable) else one for name, one in parameters.items()}
        return next((version for version in reversed(self._versions) if version.parameters == data), None)

    def best(
        self, samples: str = VALIDATION, *, metric: str | None = None, mode: Literal["max", "min"] = "max"
    ) -> Version | None:
        """The version with the highest mean score on these samples, of those evaluated on all; of equals the first.

        Args:
            metric: the name of a metric that says how good a version is, instead of the scores.
            mode: ``"min"``: the less of the metric the better.

        Returns:
            None: there is none that has been evaluated.
        """
        sign = -1 if mode == "min" else 1
        values = []
        for version in self._versions:
            if metric is not None:
                value = version.metrics.get(metric)
            else:
                evaluation = version.evaluation(samples)
                value = None if evaluation is None else evaluation.mean
            if value is not None and not math.isnan(value):
                values.append((sign * value, -version.number))
        return self[-max(values)[1]] if values else None

    def lineage(self, number: int) -> list[Version]:
        """A version and those that it came from, oldest first, each once."""
        found = {number}
        for version in reversed(self._versions[:number]):
            if version.number in found:
                found.update(version.parents)
        return [self[one] for one in sorted(found)]

    # --- files ----------------------------------------------------------------------------------

    def save(self, path: PathLike) -> None:
        """Write all of it, whole or not at all; the form is described with the module. Raises OSError."""
        write_whole(Path(path), self._content())

    @staticmethod
    def load(path: PathLike) -> Trials:
        """What ``save`` has written, and no longer bound to the file.

        Raises:
            TrialsError: it holds no trials, or those of a later version.
            OSError: it cannot be read.
        """
        trials = Trials()
        trials._read(Path(path))
        return trials

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "stopped": self.stopped,
            "questions": self.questions.rows(),
            "versions": [
                {
                    "number": version.number,
                    "parents": list(version.parents),
                    "parameters": version.parameters,
                    "note": version.note,
                    "metrics": {name: _written(value) for name, value in version.metrics.items()},
                    "scores": {name: [_written(one) for one in scores] for name, scores in version.scores.items()},
                    "questions": version.questions,
                    "copied": version.copied,
                }
                for version in self._versions
            ],
        }

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as exc:
            raise TrialsError(f"{path} holds no trials: it is not JSON ({exc}).") from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise TrialsError(f'{path} holds no trials: it lacks "format": "{FORMAT}".')
        if content.get("version") != VERSION:
            found = content.get("version")
            raise TrialsError(f"{path} has version {found!r} of the format, and this package reads {VERSION}.")
        try:
            self.stopped = content["stopped"]
            self.questions = Ledger.from_rows(content["questions"])
            self._versions = [
                Version(
                    one["number"],
                    tuple(one["parents"]),
                    dict(one["parameters"]),
                    one["note"],
                    {name: _read_back(value) for name, value in one["metrics"].items()},
                    {name: tuple(scores) for name, scores in one["scores"].items()},
                    one["questions"],
                    one["copied"],
                )
                for one in content["versions"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise TrialsError(f"{path} is damaged: {type(exc).__name__}: {exc}") from exc
        if [version.number for version in self._versions] != list(range(1, len(self) + 1)):
            raise TrialsError(f"{path} is damaged: the versions are not numbered from 1.")

    # --- showing --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        asked = f", {self.questions.asked:,} questions" if self.questions.counts else ""
        best = self.best()
        shown = "" if best is None else f", best: version {best.number} with {_mean(best)}"
        return f"<Trials: {len(self)} versions{shown}{asked}>"

    def __str__(self) -> str:
        lines = [f"{version.number:>4}  {_from(version):<10}  {_mean(version):<8}  {version.note}" for version in self]
        head = f"{'':>4}  {'from':<10}  {'score':<8}  note"
        end = [line for line in (self.stopped, str(self.questions) if self.questions.counts else None) if line]
        return "\n".join([head, *lines, *end])

    def _repr_html_(self) -> str:
        best = self.best()
        rows = []
        for version in self:
            metrics = ", ".join(f"{name} {value:.4g}" for name, value in version.metrics.items())
            shown = ((name, shorten(str(value), _SHOWN_CHARS)) for name, value in version.parameters.items())
            data = "; ".join(f"{name}: {value}" for name, value in shown)
            number = f"{version.number} (best)" if version is best else str(version.number)
            rows.append((number, _from(version), _mean(version), metrics, version.questions, version.note, data))
        head = ("version", "from", "score", "metrics", "questions", "note", "parameters")
        about = f"{len(self)} versions" + (f", {self.questions}" if self.questions.counts else "")
        return card("Trials", about, [grid(head, rows)] if rows else [], self.stopped or "")


def names_of(parameters: Sequence[Variable], agent: Any = None) -> dict[str, Variable]:
    """Parameters by their names in the agent, else by their roles, else by their places."""
    of_agent = getattr(agent, "named_parameters", None)
    known = {id(parameter): name for name, parameter in of_agent()} if of_agent is not None else {}
    named: dict[str, Variable] = {}
    for place, parameter in enumerate(parameters, 1):
        name = known.get(id(parameter)) or parameter.role or f"parameter {place}"
        named[name if name not in named else f"{name} {place}"] = parameter
    return named


def _from(version: Version) -> str:
    return ", ".join(map(str, version.parents)) or "the start"


def _mean(version: Version) -> str:
    evaluation = version.evaluation()
    if evaluation is None:
        return ""
    return "" if evaluation.mean is None else f"{evaluation.mean:.4g}"


def _written(value: float | None) -> Any:
    """A number as JSON, which has neither NaN nor infinities: their names."""
    return value if value is None or math.isfinite(value) else str(value)


def _read_back(value: Any) -> float:
    return float(value)
