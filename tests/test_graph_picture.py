"""Pictures of computations: as SVG, as DOT, of a Variable, and of a backward pass on the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellurio_sync.graph_picture import Arrow, Box, Graph

HOSTILE = "<script>alert(1)</script> \" ' & \x00\x1b\u202e \ud83d \ufffe ]]>"


def chain(length: int) -> Graph:
    boxes = [Box(str(i), "function" if i % 2 else "variable", f"node {i}", "text") for i in range(length)]
    return Graph(boxes, [Arrow(one.key, other.key, "feedback") for one, other in pairwise(boxes)])


def places(svg: str) -> dict[str, tuple[float, float, float]]:
    """Per label the left edge, the top and the width of its box."""
    found = {}
    for group in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}g"):
        rect = group.find("{http://www.w3.org/2000/svg}rect")
        title = group.find("{http://www.w3.org/2000/svg}title")
        if rect is not None and title is not None and title.text:
            x, y, width = (float(rect.get(name, "")) for name in ("x", "y", "width"))
            found[title.text.split(".")[0]] = (x, y, width)
    return found


def test_what_is_computed_stands_below_what_it_is_computed_from() -> None:
    found = places(chain(5).svg)
    tops = [found[f"node {i}"][1] for i in range(5)]
    assert tops == sorted(set(tops))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=40))
def test_boxes_never_overlap_and_stay_in_the_picture(edges: list[tuple[int, int]]) -> None:
    boxes = [Box(str(i), "variable", f"n{i}") for i in range(13)]
    # From the smaller to the larger: no circles, as in every computation.
    arrows = [Arrow(str(min(edge)), str(max(edge))) for edge in edges if edge[0] != edge[1]]
    svg = Graph(boxes, arrows).svg
    width, height = (float(number) for number in re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0])
    found = list(places(svg).values())
    assert len(found) == 13
    for x, y, wide in found:
        assert 0 <= x <= x + wide <= width
        assert 0 <= y < height
    for one, other in ((a, b) for i, a in enumerate(found) for b in found[:i] if a[1] == b[1]):
        assert one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]


@pytest.mark.parametrize("graph", [Graph([], []), chain(1), chain(40), Graph([], [Arrow("no", "where")], 3)])
def test_every_graph_is_a_picture(graph: Graph) -> None:
    assert ET.fromstring(graph.svg).tag.endswith("svg")
    assert graph._repr_svg_() == graph.svg == str(graph)
    assert graph.dot.startswith("digraph {")


def test_even_a_circle_is_drawn() -> None:
    boxes = [Box("a", "variable", "a"), Box("b", "function", "b")]
    assert len(places(Graph(boxes, [Arrow("a", "b"), Arrow("b", "a")]).svg)) == 2


def test_hostile_texts_stay_texts() -> None:
    graph = Graph([Box("a", "parameter", HOSTILE, HOSTILE), Box("b", "variable", "b")], [Arrow("a", "b", HOSTILE)])
    root = ET.fromstring(graph.svg)
    assert {element.tag.split("}")[1] for element in root.iter()} == {"svg", "g", "title", "rect", "text", "path"}
    assert "<script" not in graph.svg
    assert "\u202e" not in graph.svg
    assert "style=" not in graph.svg, "a page with a strict policy shows it too"
    assert graph.dot.count('"') % 2 == graph.dot.count('\\"') % 2
    assert "alert" in graph.dot


def test_what_is_left_out_is_said() -> None:
    assert "… and 7 more nodes" in Graph([Box("a", "variable", "a")], [], 7).svg
