"""Backward passes as pictures: of each run the last ones are kept, for people to look at.

Event loop's thread only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ..graph_picture import Arrow, Box, Graph
from .data import Data, text
from .objects import PARAMETER, Node, Variable

if TYPE_CHECKING:
    from .store import Store

PASSES_PER_RUN = 20

# Of one pass: more could not be looked at, and each text is a tooltip.
_MOST_BOXES = 150
_MOST_CHARS = 400

_ITEM = re.compile("</?ITEM>")

TABLES = """
CREATE TABLE IF NOT EXISTS passes (
    number INTEGER PRIMARY KEY,
    run_uuid TEXT NOT NULL REFERENCES runs (uuid) ON DELETE CASCADE,
    date_created TEXT NOT NULL,
    graph TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS passes_by_run ON passes (run_uuid, number);
"""


class Way:
    """Where feedback came along in one pass."""

    def __init__(self) -> None:
        self.feedback: dict[tuple[Node, int], list[Data]] = {}

    def on_arrival(self, node: Node, output_nr: int, data: Data) -> None:
        """A piece of feedback arrived on one output of a node."""
        self.feedback.setdefault((node, output_nr), []).append(data)


class Passes:
    """Keeps the last backward passes of each run in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.add_tables(TABLES)

    def note(self, run_uuid: str, graph: Graph) -> None:
        """Keep one pass of a run, and let the oldest go if they are too many."""
        made = self._store.write(
            "INSERT INTO passes (run_uuid, date_created, graph) SELECT uuid, ?, ? FROM runs WHERE uuid = ?",
            *(datetime.now(timezone.utc).isoformat(), as_json(graph), run_uuid),
        )
        if made.rowcount:
            self._store.write(
                "DELETE FROM passes WHERE run_uuid = ?1 AND number <= (SELECT number FROM passes WHERE run_uuid = ?1"
                " ORDER BY number DESC LIMIT 1 OFFSET ?2)",
                *(run_uuid, PASSES_PER_RUN),
            )


def graph_of(roots: Sequence[Variable], way: Way, clean: Callable[[str], str] = str) -> Graph:
    """The graph behind ``roots``, with the feedback that came; the nodes nearest to the roots if they are many.

    ``clean`` takes keys out of a text.
    """
    nodes, left_out = _nodes(roots)
    boxes: dict[str, Box] = {}
    arrows: dict[tuple[str, str, int], Arrow] = {}
    for node in nodes:
        outputs = {variable.output_nr: variable for variable in node.outputs}
        if not node.is_accumulator:
            boxes[node.node_id] = Box(node.node_id, "function", node.name.removesuffix("Backward0"))
            for output_nr, variable in outputs.items():
                feedback = _feedback(way, node, output_nr, clean)
                if feedback or variable in roots:
                    boxes[variable.variable_id] = _variable_box(variable, clean)
                    arrows[node.node_id, variable.variable_id, 0] = Arrow(node.node_id, variable.variable_id, feedback)
        else:
            for variable in outputs.values():
                boxes[variable.variable_id] = _variable_box(variable, clean)
    for node in nodes:
        for place, edge in enumerate(node.edges):
            if edge.target is None or edge.target not in nodes:
                continue
            source = next((one for one in edge.target.outputs if one.output_nr == edge.output_nr), None)
            feedback = _feedback(way, edge.target, edge.output_nr, clean) if edge.target.is_accumulator else ""
            key = edge.target.node_id
            if source is not None and source.variable_id in boxes:
                key = source.variable_id
            arrows[key, node.node_id, place] = Arrow(key, node.node_id, feedback)
    return Graph(list(boxes.values()), list(arrows.values()), left_out)


def _nodes(roots: Sequence[Variable]) -> tuple[dict[Node, None], int]:
    """The nodes behind ``roots``, breadth first; and how many are left out."""
    found = dict.fromkeys(root.grad_fn for root in roots if root.grad_fn is not None)
    ready = list(found)
    while ready:
        later = []
        for node in ready:
            for edge in node.edges:
                if edge.target is not None and edge.target not in found:
                    found[edge.target] = None
                    later.append(edge.target)
        ready = later
    return dict.fromkeys(list(found)[:_MOST_BOXES]), max(len(found) - _MOST_BOXES, 0)


def _variable_box(variable: Variable, clean: Callable[[str], str]) -> Box:
    kind: Any = "parameter" if variable.obj_type == PARAMETER else "variable"
    # Cleaned before they are cut: half a key would not be found.
    role, data = clean(variable.role or kind), clean(text(variable.data))
    return Box(variable.variable_id, kind, role[:_MOST_CHARS], data[:_MOST_CHARS])


def _feedback(way: Way, node: Node, output_nr: int, clean: Callable[[str], str]) -> str:
    texts = (part for data in way.feedback.get((node, output_nr), []) for part in _texts(data))
    return clean(" ".join(texts))[:_MOST_CHARS]


def _texts(data: Data) -> list[str]:
    texts = (text(part) for part in (data if isinstance(data, list) else [data]))
    # A batch's feedback in one text has a mark around that of each sample.
    return [found for one in texts if (found := _ITEM.sub(" ", one).strip())]


def as_json(graph: Graph) -> str:
    """A graph as text for the database."""
    boxes = [[box.key, box.kind, box.label, box.text] for box in graph.boxes]
    arrows = [[arrow.source, arrow.target, arrow.feedback] for arrow in graph.arrows]
    return json.dumps({"boxes": boxes, "arrows": arrows, "left_out": graph.left_out})


def from_json(content: str) -> Graph:
    """A graph from :func:`as_json`."""
    found = json.loads(content)
    return Graph([Box(*box) for box in found["boxes"]], [Arrow(*arrow) for arrow in found["arrows"]], found["left_out"])
