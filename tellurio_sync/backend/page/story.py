"""The story of a prompt: its versions on the curve of a metric, and of each what changed, why, and what came of it."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from datetime import datetime
from typing import Any

from ..snapshot import Records
from ..store import Row
from .plots import columns_for, drawn, in_words
from .queries.around import around
from .queries.metrics import count_of_values, highest, names_of_metrics
from .queries.parameters import parameters, version, versions
from .queries.samples import with_answers
from .queries.scores import changed_samples, scores_of_versions
from .queries.series import Point, line_of
from .render import number, query
from .words import compare

SAMPLES_SHOWN = 12
_METRICS_SHOWN = 8

# A batch's feedback in one text.
_ITEM = re.compile(r"<ITEM>(.*?)</ITEM>", re.DOTALL)

_CAUSES = {"begin": "as it began", "step": "made by an optimizer", "set": "set by the program", "": ""}


class Marks:
    """Where on a curve the versions of a run's parameters came: behind the values that were logged before the step.

    Clients send values together, some tenths of a second after they were logged.  Where a client does not tell how much
    it had logged (protocol §K.14), what counts is what had arrived: in a fast loop a mark then stands too early.
    """

    def __init__(self, records: Records, run_uuid: str, path: str, here: tuple[int, int] = (0, 0)) -> None:
        """``here`` is the parameter and the version that is looked at; 0 is none."""
        self._changes: list[tuple[int, Row]] = []
        self._begins: list[tuple[str, str, list[Row]]] = []
        self.first: list[int] = []
        self._first_id = ""
        found = parameters(records, run_uuid)
        for position, parameter in enumerate(found, 1):
            if parameter["count"] < 2:
                continue
            rows = versions(records, run_uuid, parameter["variable_id"])
            if not self.first:
                self._first_id = parameter["variable_id"]
                # The axis of versions is that of the first parameter that has some.
                self.first = [row["value_count"] for row in rows]
            prefix = "v" if len(found) == 1 else f"{position}·v"
            self._begins.append((prefix, f"{path}prompts/{position}/?version=", rows))
            for row in rows[1:]:
                mark = {
                    "label": f"{prefix}{row['version']}",
                    "t": datetime.fromisoformat(row["date_created"]).timestamp(),
                    "v": row["version"] if parameter["variable_id"] == self._first_id else None,
                    "href": f"{path}prompts/{position}/?version={row['version']}",
                    "isHere": here == (position, row["version"]),
                    "isSwap": here[0] == position,
                }
                self._changes.append((row["value_count"], mark))

    @property
    def all(self) -> list[Row]:
        """The marks of all plots of a page; where each stands on a curve is told by :meth:`on`."""
        return [mark for _, mark in self._changes]

    def on(self, points: list[Point]) -> list[float] | None:
        """The step of each mark on one curve: between the last value before a change and the first one after it."""
        numbers = [point.number for point in points]
        if numbers != sorted(numbers) or not points:
            # Values that came in another order than their steps: a change has no place among them.
            return None
        steps = []
        for count, _ in self._changes:
            at = bisect_right(numbers, count - 1)
            before, after = points[max(at - 1, 0)], points[min(at, len(points) - 1)]
            steps.append((before.step + after.step) / 2)
        return steps

    def in_force(self, number: int) -> list[tuple[str, str]]:
        """Which versions a value of the run belongs to, by its number: a label and an address for each parameter."""
        found = []
        for prefix, address, rows in self._begins:
            at = max(bisect_right([row["value_count"] for row in rows], number) - 1, 0)
            found.append((f"{prefix}{rows[at]['version']}", f"{address}{rows[at]['version']}"))
        return found

    def axis(self, points: list[Point]) -> list[float] | None:
        """Per point the version that was in force, and how far on it was; None without versions."""
        if len(self.first) < 2:
            return None
        begins = self.first
        end = max(points[-1].number + 1, begins[-1] + 1)
        found = []
        for point in points:
            at = max(bisect_right(begins, point.number) - 1, 0)
            begin, until = begins[at], begins[at + 1] if at + 1 < len(begins) else end
            share = (point.number - begin) / max(until - begin, 1)
            found.append(round(at + 1 + min(max(share, 0.0), 0.999), 4))
        return found if found == sorted(found) else None


def story(records: Records, run: Row, path: str, position: int, asked: dict[str, Any]) -> Row | None:
    """The values of the page of one parameter; None if there is none at this position.

    Args:
        records: where to look.
        run: whose parameter.
        path: of the run.
        position: of the parameter, from 1.
        asked: ``version`` to look at, ``against`` which other, and the ``metric`` of the curve; each may be missing.
    """
    found = parameters(records, run["uuid"])
    if not 1 <= position <= len(found):
        return None
    parameter = found[position - 1]
    variable_id = parameter["variable_id"]
    rows = versions(records, run["uuid"], variable_id)
    numbers = [row["version"] for row in rows]
    here: int = asked["version"] if asked.get("version") in numbers else numbers[-1]
    place = numbers.index(here)
    earlier = numbers[place - 1] if place else here
    against: int = asked["against"] if asked.get("against") in numbers else earlier
    shown = version(records, run["uuid"], variable_id, here)
    other = version(records, run["uuid"], variable_id, against)
    assert shown is not None
    assert other is not None

    scores = scores_of_versions(records, run["uuid"], variable_id)
    names = names_of_metrics(records, run["uuid"])[:_METRICS_SHOWN]
    names = [name for name in names if highest(records, run["uuid"], name) is not None]
    metric = asked["metric"] if asked.get("metric") in names else _best_to_see(records, run["uuid"], names)
    base = {"version": here, "against": against if against != earlier else None, "metric": asked.get("metric")}
    changes = changed_samples(records, run["uuid"], variable_id, earlier, here) if place else []
    return {
        "parameter": parameter,
        "position": position,
        "shown": {
            **shown,
            "how": _CAUSES[shown["cause"] or ""],
            "step": rows[place]["step"],
            "texts": feedback_texts(shown["feedback"]),
        },
        "against": against,
        "earlier": earlier,
        "words": compare(other["value"], shown["value"]),
        "versions": [_chip(row, scores, rows, i, here, base) for i, row in enumerate(rows)],
        "numbers": numbers,
        "before_link": query(base, version=numbers[place - 1], against=None) if place else None,
        "next_link": query(base, version=numbers[place + 1], against=None) if place + 1 < len(numbers) else None,
        "score": scores.get(here),
        "score_before": scores.get(earlier) if place else None,
        "metrics": _around(records, run["uuid"], names, shown["value_count"] or 0) if place else [],
        "has_changes": bool(changes),
        "broke": _changed(records, run["uuid"], [row for row in changes if row["now"] < row["was"]], earlier, here),
        "mended": _changed(records, run["uuid"], [row for row in changes if row["now"] > row["was"]], earlier, here),
        "most": SAMPLES_SHOWN,
        "curves": [(name, query(base, metric=name), name == metric) for name in names],
        "plot": _plot(records, run, path, metric, (position, here)) if metric else None,
        "restore": restore_lines(parameter["role"], shown),
        "looked_at": base,
    }


def _best_to_see(records: Records, run_uuid: str, names: list[str]) -> str | None:
    """Of the curves the one with most values: the story is told along it."""
    return max(names, key=lambda name: count_of_values(records, run_uuid, name), default=None)


def _plot(records: Records, run: Row, path: str, name: str, here: tuple[int, int]) -> Row:
    marks, line = Marks(records, run["uuid"], path, here), line_of(records, run["uuid"], name)
    return {
        "name": name,
        "marks": marks.all,
        "in_words": in_words(name, line),
        "data": {"name": name, "path": path, **drawn(records, run, line, marks, columns_for(1))},
    }


def _chip(row: Row, scores: dict[int, Row], rows: list[Row], i: int, here: int, base: Row) -> Row:
    score = scores.get(row["version"])
    before = scores.get(rows[i - 1]["version"]) if i else None
    change = score["mean"] - before["mean"] if score and before else 0
    return {
        **row,
        "link": query(base, version=row["version"], against=None),
        "is_here": row["version"] == here,
        "title": _title(row["step"], score),
        "trend": "up" if change > 0 else "down" if change < 0 else "",
    }


def _changed(records: Records, run_uuid: str, rows: list[Row], before: int, after: int) -> Row:
    """Samples that a change broke, or mended: for ``sure``, and ``perhaps``, with how many there are of each.

    A sample that was not asked under just these two versions may have changed by another one in between.
    """
    sure = [row for row in rows if (row["was_version"], row["now_version"]) == (before, after)]
    perhaps = [row for row in rows if (row["was_version"], row["now_version"]) != (before, after)]
    return {
        "sure": with_answers(records, run_uuid, sure[:SAMPLES_SHOWN]),
        "sure_count": len(sure),
        "perhaps": with_answers(records, run_uuid, perhaps[:SAMPLES_SHOWN]),
        "perhaps_count": len(perhaps),
    }


def _title(step: int | None, score: Row | None) -> str:
    parts = [f"step {step}"] if step else []
    if score:
        parts.append(f"{score['count']} answers evaluated, mean score {number(score['mean'])}")
    return ", ".join(parts)


def _around(records: Records, run_uuid: str, names: list[str], count: int) -> list[Row]:
    """Of each metric the last value before a change, and the first one after it."""
    found = []
    for name in names:
        before, after = around(records, run_uuid, name, count)
        if before is not None or after is not None:
            found.append({"name": name, "before": before, "after": after})
    return found


def feedback_texts(feedback: list[str]) -> list[str]:
    """Pieces of feedback, those of a batch one by one."""
    texts = []
    for one in feedback:
        items = [item.strip() for item in _ITEM.findall(one)]
        texts += [item for item in items if item] if items else [one]
    return texts


# --- to take away ---------------------------------------------------------------------------------


def restore_lines(role: str, shown: Row) -> str:
    """The lines of Python that bring a version back."""
    literal = _literal(shown["data"])
    return f"# version {shown['version']} of {role or 'the parameter'!r}\nprompt.data = {literal}\n"


def _literal(data: Any) -> str:
    if not isinstance(data, str):
        return repr(data)
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return repr(data)
    return "(\n" + "".join(f"    {line!r}\n" for line in lines) + ")"


def export(role: str, shown: Row, form: str) -> tuple[str, str]:
    """A version as text, Markdown, or the JSON that ``te.load`` reads; and its media type."""
    if form == "txt":
        return shown["value"], "text/plain"
    if form == "md":
        fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`{3,}", shown["value"]))])
        title = f"{_one_line(role) or 'Parameter'}, version {shown['version']}"
        text = f"# {title}\n\n{fence}text\n{shown['value']}\n{fence}\n"
        for feedback in feedback_texts(shown["feedback"]):
            quoted = "\n".join(f"> {line}" for line in feedback.splitlines())
            text += f"\n## Feedback\n\n{quoted}\n" if "## Feedback" not in text else f"\n{quoted}\n"
        return text, "text/markdown"
    content = {"format": "tellurio parameter", "role": role, "data": shown["data"], "version": shown["version"]}
    return json.dumps(content, ensure_ascii=True, indent=1) + "\n", "application/json"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def trend(was: float, now: float) -> str:
    """Two scores as text."""
    return f"{number(was)} → {number(now)}"
