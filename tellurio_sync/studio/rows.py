"""What was logged, read back as rows, which can become tables, files and plots."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from ..journal.folder import RunFolder
from ..journal.format import Columns, Decoder, MalformedJournal


class Rows(list[dict[str, Any]]):
    """Rows with ``name``, ``step`` and ``value``."""

    def to_pandas(self) -> Any:
        """The numbers as a ``pandas.DataFrame``: a row per step, a column per metric; of a step's values the last.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as exc:
            raise ModuleNotFoundError("to_pandas() needs pandas: pip install pandas", name="pandas") from exc
        columns: dict[str, dict[int, Any]] = {}
        for row in self:
            if is_number(row["value"]):
                columns.setdefault(row["name"], {})[row["step"]] = row["value"]
        frame = pandas.DataFrame({name: pandas.Series(values) for name, values in columns.items()})
        frame.index.name = "step"
        return frame.sort_index()

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a CSV file with the columns name, step and value; what is neither number nor text is JSON in it.

        Raises:
            OSError: it cannot be written.
        """
        with open(path, "w", newline="", encoding="utf-8") as file:
            self.write_csv(file)

    def write_csv(self, file: TextIO) -> None:
        """As :meth:`to_csv`, to an open file. The lines end with CR LF, as RFC 4180 §2 says."""
        writer = csv.writer(file)
        writer.writerow(("name", "step", "value"))
        for row in self:
            value = row["value"]
            kept = value if isinstance(value, str) or is_number(value) else json.dumps(value)
            writer.writerow((row["name"], row["step"], kept))

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON object per line; NaN and infinities, which JSON does not have, are null.

        Raises:
            OSError: it cannot be written.
        """
        with open(path, "w", encoding="utf-8") as file:
            self.write_jsonl(file)

    def write_jsonl(self, file: TextIO) -> None:
        """As :meth:`to_jsonl`, to an open file."""
        for row in self:
            value = row["value"]
            if isinstance(value, float) and not math.isfinite(value):
                row = {**row, "value": None, "not_finite": str(value)}
            file.write(json.dumps(row) + "\n")

    def of_metrics(self, names: Collection[str]) -> Rows:
        """Those of these metrics, in the same order; of all, if there are no names."""
        return Rows(row for row in self if row["name"] in names) if names else self

    def numbers(self) -> dict[str, list[tuple[int, float]]]:
        """For each metric that has numbers: its steps and numbers, in the order in which they came."""
        found: dict[str, list[tuple[int, float]]] = {}
        for row in self:
            if is_number(row["value"]):
                found.setdefault(row["name"], []).append((row["step"], float(row["value"])))
        return found


def is_number(value: Any) -> bool:
    """Whether a value is a number; a truth value is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def rows_of_folder(path: Path | None) -> Rows:
    """What is in the journals of a run, writer by writer; values without a step are numbered as the server does it."""
    rows = Rows()
    highest: dict[str, int] = {}
    for columns in () if path is None else _journals_of(path):
        for name, value, step in zip(columns.names, columns.values, columns.steps):
            at = highest.get(name, -1) + 1 if step is None else step
            highest[name] = max(at, highest.get(name, -1))
            rows.append({"name": name, "step": at, "value": value})
    return rows


def numbers_of_folder(path: Path) -> dict[str, list[float]]:
    """The numbers of each metric that has any, in the order in which they were logged."""
    found: dict[str, list[Any]] = {}
    for columns in _journals_of(path):
        for name in dict.fromkeys(columns.names):
            found.setdefault(name, [])
        for name, value in zip(columns.names, columns.values):
            found[name].append(value)
    numbers = {name: list(map(float, filter(is_number, values))) for name, values in found.items()}
    return {name: values for name, values in numbers.items() if values}


def _journals_of(path: Path) -> Iterator[Columns]:
    """What can be read of the journal of each writer."""
    folder = RunFolder(path)
    for writer in folder.writers():
        try:
            yield Decoder().read(folder.read(writer, 0, folder.size(writer)))
        except MalformedJournal as exc:
            yield exc.columns
        except OSError:
            continue


def plot(rows: Rows, names: tuple[str, ...], ax: Any, title: str) -> Any:
    """Draw the numbers of these metrics over their steps; of all metrics if none is named. See ``Run.plot``."""
    numbers = rows.numbers()
    for name in names:
        if name not in numbers:
            raise ValueError(f"There is no metric {name!r} with numbers; there are: {', '.join(numbers) or 'none'}")
    if ax is None:
        try:
            from matplotlib import pyplot
        except ModuleNotFoundError as exc:
            raise ModuleNotFoundError(
                'plot() needs matplotlib: pip install "tellurio_sync[plot]"', name="matplotlib"
            ) from exc
        _, ax = pyplot.subplots()
    for name in names or numbers:
        points = sorted(numbers[name], key=lambda point: point[0])
        # Infinities are gaps as NaN are: an axis has no room for them.
        ax.plot(
            [step for step, _ in points],
            [value if math.isfinite(value) else math.nan for _, value in points],
            label=name,
        )
    ax.set_xlabel("step")
    ax.set_title(title)
    if names or numbers:
        ax.legend()
    return ax
