"""The JSON objects in what a model wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellurio_sync.backend.reading.loose_json import MAX_DEPTH, objects

A = {"a": "x"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": "x"}', [A]),
        ('Sure:\n```json\n{"a": "x"}\n```\nAnything else?', [A]),
        ('{"a": "x"} or better {"a": "y"}', [A, {"a": "y"}]),
        ('{"a": "1.\n2.\t3."}', [{"a": "1.\n2.\t3."}]),
        ('{"a": "x",}', [A]),
        ('{"a": ["x", "y",],}', [{"a": ["x", "y"]}]),
        ('{"a": "x" // why\n}', [A]),
        ('{/* all */"a": "x"}', [A]),
        ('{"a": True, "b": None, "c": false}', [{"a": True, "b": None, "c": False}]),
        ("{'a': 'it''s'}", [{"a": "it''s"}]),
        ("{'a': 'it's'}", [{"a": "it's"}]),
        (r'{"a": "\d{3} \_ \"q\" \u00e9 \\ \/"}', [{"a": '\\d{3} \\_ "q" é \\ /'}]),
        ('{"a": -1.5e3, "b": 10}', [{"a": -1500.0, "b": 10}]),
        ("{}", [{}]),
        (r'{"a": "\ud83d\ude00 \ud83d \ude00 \ud83d\u0041"}', [{"a": "\U0001f600 \ufffd \ufffd \ufffdA"}]),
        ('{"a": {"b": {"c": 1}}}', [{"a": {"b": {"c": 1}}}]),
        # Braces that begin no object.
        ('Mind {name} and {{x}}. {"a": "x"} {', [A]),
        ('Use {"name} here: {"a": "x"}', [A]),
        # No object.
        ("", []),
        ("no braces", []),
        ('["a"]', []),
        ('{"a": "x"', []),
        ('{"a": "x', []),
        ('{"a": NaN}', []),
        ('{"a": 1e999}', []),
        ('{"a": x}', []),
        ('{"a" "x"}', []),
        ("{" * 1000, []),
        ('{"a":' * 1000, []),
        # Thoughts and drafts.
        ('<think>maybe {"a": "draft"}</think>{"a": "x"}', [A]),
        ('<think>maybe {"a": "draft"}', []),
        ('maybe {"a": "draft"}</think>{"a": "x"}', [A]),
        ('maybe {"a": "draft"}</think>', []),
        ('{"a": "x"}<think>or {"a": "y"}?</think>', [A]),
        ('{"a": "say <think> and </think>"}', [{"a": "say <think> and </think>"}]),
        ('{"a": "draft"} No: {"a": "better', []),
        ('{"a": "draft"} No: {"a": better}', []),
        ('{"b": {"a": "draft"}, "a": "better', []),
    ],
)
def test_objects(text: str, found: list[Any]) -> None:
    assert objects(text) == found


def test_quotation_marks_inside_strings_where_asked_for() -> None:
    text = '{"a": "Say "yes" or "no".", "b": "y"}'
    assert objects(text) == []
    assert objects(text, inner_quotes=True) == [{"a": 'Say "yes" or "no".', "b": "y"}]


def test_nesting_has_an_end() -> None:
    deep = '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH
    assert objects(deep) != []
    assert objects('{"a":' * 3 + deep + "}" * 3) == []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
things = st.dictionaries(st.text(), values, max_size=4)


@settings(deadline=None, max_examples=50)
@given(things, st.booleans(), st.sampled_from([None, 0, 2]))
def test_every_object_is_read_as_json_reads_it(thing: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(thing, ensure_ascii=ascii_only, indent=indent)
    assert objects(text) == [thing]


prose = st.text(max_size=20).filter(lambda text: not set("{<[◁") & set(text))


@settings(deadline=None, max_examples=50)
@given(things, prose, prose)
def test_text_around_does_not_matter(thing: dict[str, Any], before: str, after: str) -> None:
    assert objects(f"{before}{json.dumps(thing)}{after}") == [thing]


@settings(deadline=None, max_examples=50)
@given(things.filter(bool), st.data())
def test_a_part_of_an_object_is_never_one(thing: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(thing)
    end = data.draw(st.integers(1, len(text) - 1))
    assert objects(text[:end]) == []
