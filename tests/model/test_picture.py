"""The picture of the graph behind a Variable."""

from __future__ import annotations

import re

import pytest

import tellurio_sync as te

pytestmark = pytest.mark.slow


def test_the_graph_behind_a_variable(tellurio_run: te.Run) -> None:
    prompt = te.Parameter("Be <brief>.", role="system prompt", requires_grad=True)
    both = te.functional.add(prompt, te.Variable(" Always.", role="ending"))
    twice = te.functional.add(both, prompt)
    graph = twice.graph()
    assert [box.label for box in graph.boxes if box.kind == "function"] == ["Add", "Add"]
    assert [box.text for box in graph.boxes if box.kind == "parameter"] == ["Be <brief>."]
    assert len(graph.boxes) == 6
    twice.backward(te.Variable("Say please.", role="feedback"))
    svg = twice.graph().svg
    assert re.search("<title>.*Say please.*</title>", svg), "what came back is written on the arrow"
    assert "Be &lt;brief&gt;." in svg
    assert te.Variable("alone", role="r").graph().dot.count("label") == 1
