"""JSON texts: strict out, tolerant in."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellurio_sync.errors import LocalProtocolError
from tellurio_sync.jsonrpc import MalformedText, decode, encode

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_what_is_encoded_is_decoded_to_the_same(value: Any) -> None:
    text = encode(value)
    assert decode(text) == value
    assert decode(text.encode()) == value


@given(st.text(st.characters(categories=["Cs", "L", "So"]), max_size=8))
def test_every_text_can_be_sent_as_utf8_lone_surrogates_included(text: str) -> None:
    encoded = encode({"t": text})
    assert json.loads(encoded.encode().decode()) == json.loads(json.dumps({"t": text}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True]}, '{"a":[1,2.5,null,true]}'),
        ("ü€😀", '"ü€😀"'),
        ("\ud800", r'"\ud800"'),
        ("ü\udfff", r'"\u00fc\udfff"'),
        ((1, 2), "[1,2]"),
        ({1: "int key"}, '{"1":"int key"}'),
        ("\u2028\x00", '"\u2028\\u0000"'),
    ],
)
def test_the_text_is_compact(value: Any, text: str) -> None:
    assert encode(value) == text


def _nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def _circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        {"deep": [{"x": math.nan}]},
        {math.nan: 1},
        object(),
        b"bytes",
        {1, 2},
        {("tuple", "key"): 1},
        1j,
        _circle(),
        _nested(200_000),
    ],
    ids=["nan", "inf", "-inf", "deep nan", "nan key", "object", "bytes", "set", "key", "complex", "circle", "deep"],
)
def test_what_json_does_not_have_is_a_local_protocol_error(value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="cannot be sent as JSON") as caught:
        encode(value)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "}",
        '{"a":}',
        "nul",
        "'a'",
        '{"a":1}{"b":2}',
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000,
        '"\x01"',
        '"\\x"',
        "\ufeff{}",
        b"\xff",
        b'"\xc3\x28"',
    ],
)
def test_what_is_not_json_is_malformed(text: str | bytes) -> None:
    with pytest.raises(MalformedText) as caught:
        decode(text)
    assert len(str(caught.value)) < 400


def test_a_number_of_5000_digits_is_read_or_malformed_but_nothing_else() -> None:
    try:
        assert decode("9" * 5000) > 0  # interpreters before the limit of digits
    except MalformedText:
        pass  # all others


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ('"x"', "x"),
        ("null", None),
        ("1e999", math.inf),
        ("-0.0", 0.0),
        (" [1 , 2]\n", [1, 2]),
        (r'"\ud800"', "\ud800"),
        ('{"a":1,"a":2}', {"a": 2}),
    ],
)
def test_what_is_json_is_read(text: str, value: Any) -> None:
    assert decode(text) == value


def test_nan_is_read_although_it_is_not_json() -> None:
    assert math.isnan(decode('{"x": NaN}')["x"])
