"""JSON texts: strict out, tolerant in.  Every test runs with each of the writers, and all give the same."""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
import threading
import weakref
from collections import Counter, OrderedDict, namedtuple
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, time
from enum import Enum, Flag, IntEnum
from fractions import Fraction
from importlib.util import find_spec
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellurio_sync.errors import LocalProtocolError
from tellurio_sync.jsonrpc import MalformedText, codec, decode, encode, encode_request, request

needs_orjson = pytest.mark.skipif(find_spec("orjson") is None, reason="orjson (the extra speed) is not installed")


@pytest.fixture(
    scope="module",
    autouse=True,
    params=["json", pytest.param("orjson", marks=needs_orjson)],
)
def writer(request: pytest.FixtureRequest) -> Iterator[str]:
    """Lets ``encode`` write in this way, whatever is installed."""
    with pytest.MonkeyPatch.context() as patch:
        with_orjson = request.param == "orjson"
        patch.setattr(codec, "BACKEND", "orjson" if with_orjson else "json")
        patch.setattr(codec, "_write", codec._write_with_orjson if with_orjson else codec._write_plainly)
        yield request.param


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


@given(JSON)
def test_the_text_is_that_of_the_standard_library_but_for_the_form_of_floats(value: Any) -> None:
    text = encode(value)
    compact = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert json.loads(text, parse_float=lambda _: "float") == json.loads(compact, parse_float=lambda _: "float")
    if not any(character in compact for character in ".eE"):
        assert text == compact


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_read_as_the_same_float(value: float) -> None:
    again = decode(encode([value]))[0]
    assert (again, math.copysign(1, again)) == (value, math.copysign(1, value))
    assert isinstance(again, float)


@given(st.text(st.characters(categories=["Cs", "L", "So"]), max_size=8))
def test_every_text_can_be_sent_as_utf8_lone_surrogates_included(text: str) -> None:
    encoded = encode({"t": text})
    assert json.loads(encoded.encode().decode()) == json.loads(json.dumps({"t": text}))


class Text(str):
    pass


class Number(int):
    def __repr__(self) -> str:
        return "many"


class Real(float):
    def __repr__(self) -> str:
        return "real"


Pair = namedtuple("Pair", "a b")


class Members(list[int]):
    pass


class Named(dict[str, int]):
    """Holds its items elsewhere."""

    def items(self) -> Any:
        return [("of", "items")]


def last_first() -> OrderedDict[str, int]:
    ordered = OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    return ordered


class Plain(Enum):
    A = "a"


class Whole(IntEnum):
    ONE = 1


class Word(str, Enum):
    A = "a"


class Marks(Flag):
    A = 1
    B = 2


class Deep(Enum):
    A = {"a": (Plain.A,)}  # noqa: RUF012


class Unfit(Enum):
    NAN = math.nan
    OBJECT = object()


@dataclass
class Data:
    a: int = 1


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
        ('\b\f\n\r\t\x1b\x7f"\\/<', r'"\b\f\n\r\t\u001b' + "\x7f" + r'\"\\/<"'),
        ("null", '"null"'),
        ({None: 1, True: 2, 1.5: 3, "1": 4}, '{"null":1,"true":2,"1.5":3,"1":4}'),
        ({1: "a", "1": "b"}, '{"1":"a","1":"b"}'),
        (2**64, "18446744073709551616"),
        (-(2**63) - 1, "-9223372036854775809"),
        (10**40, "1" + "0" * 40),
        (Text("x"), '"x"'),
        ({Text("k"): Number(7)}, '{"k":7}'),
        (Real(1.5), "1.5"),
        (Pair(1, 2), "[1,2]"),
        (Members([1]), "[1]"),
        (last_first(), '{"b":2,"a":1}'),
        (Counter("a"), '{"a":1}'),
        (Named(a=1), '{"of":"items"}'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Plain.A, '"a"'),
        ([Whole.ONE, Word.A, Marks.B], '[1,"a",2]'),
        (Deep.A, '{"a":["a"]}'),
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
        [None, math.inf],
        Real(math.nan),
        Unfit.NAN,
        Unfit.OBJECT,
        {Plain.A: 1},
        {UUID(int=1): 1},
        date(2024, 1, 1),
        time(1),
        datetime(2024, 1, 1),
        Data(),
        Data,
        Fraction(1, 2),
        bytearray(b"x"),
        memoryview(b"x"),
        iter([1]),
        range(3),
        ...,
        _circle(),
        [_circle(), 1],
        _nested(200_000),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_does_not_have_is_a_local_protocol_error(value: Any) -> None:
    with pytest.raises(LocalProtocolError, match="cannot be sent as JSON") as caught:
        encode(value)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 400


def test_a_circle_is_refused_whatever_the_recursion_limit() -> None:
    code = """
import sys
from tellurio_sync.jsonrpc import encode
sys.setrecursionlimit(10**6)
circle = []
circle.append(circle)
try:
    encode([circle])
except ValueError as exc:
    print(exc)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "cannot be sent as JSON: Circular reference detected\n"), done.stderr


def test_what_was_refused_is_let_go_and_can_be_sent_once_mended() -> None:
    value: Any = Members([1, object()])
    with pytest.raises(LocalProtocolError, match="Object of type object"):
        encode(value)
    value.pop()
    assert encode(value) == "[1]"
    value.append(object())
    with pytest.raises(LocalProtocolError, match="Object of type object"):
        encode(value)
    gone = weakref.ref(value)
    del value
    gc.collect()
    assert gone() is None


class Interrupting(dict[str, int]):
    """Ctrl-C comes while it is being written."""

    def items(self) -> Any:
        raise KeyboardInterrupt


def test_what_ctrl_c_interrupted_is_let_go() -> None:
    value = Members([1])
    gone = weakref.ref(value)
    with pytest.raises(KeyboardInterrupt):
        encode({"params": [value, Interrupting(a=1)]})
    del value
    gc.collect()
    assert gone() is None


def test_one_value_written_by_several_threads_at_once_is_right_in_each() -> None:
    all_are_writing = threading.Barrier(4, timeout=30)
    thread = threading.local()

    class Meeting(dict[str, int]):
        def items(self) -> Any:
            if not hasattr(thread, "has_met"):
                thread.has_met = True
                all_are_writing.wait()
            return [("a", 1)]

    value = [Meeting(a=1)]
    with ThreadPoolExecutor(4) as pool:
        texts = [pool.submit(encode, value) for _ in range(4)]
        assert [text.result(30) for text in texts] == ['[{"a":1}]'] * 4


def test_a_value_of_some_depth_can_be_sent() -> None:
    assert decode(encode(_nested(300))) == _nested(300)


LEAVES = st.sampled_from(
    [
        *(None, "null", math.nan, math.inf, 2**70, 0.1, 1e300, True, "\ud800", "ü", b"x", object()),
        *((), (1,), {1: 2}, {(): 1}, Text("x"), Named(), UUID(int=1), date(2024, 1, 1), Data()),
        *(Plain.A, Unfit.NAN, Unfit.OBJECT),
    ]
)


def plainly(value: Any) -> Any:
    """What ``value`` is after a way through JSON, or how it is refused: by the documented means alone."""

    def default(other: Any) -> Any:
        if isinstance(other, UUID):
            return str(other)
        if isinstance(other, Enum):
            return other.value
        raise TypeError(f"Object of type {type(other).__name__} is not JSON serializable")

    try:
        return json.loads(json.dumps(value, allow_nan=False, default=default))
    except (TypeError, ValueError) as exc:
        return f"cannot be sent as JSON: {exc}"


@given(
    st.recursive(
        LEAVES,
        lambda children: st.lists(children, max_size=3) | st.dictionaries(st.sampled_from("ab"), children, max_size=3),
        max_leaves=6,
    )
)
def test_what_is_written_and_what_is_refused_is_the_same_everywhere(value: Any) -> None:
    try:
        outcome = decode(encode(value))
    except LocalProtocolError as exc:
        outcome = str(exc)
    assert outcome == plainly(value)


@given(st.text(max_size=5), st.text(max_size=5) | st.integers() | st.none(), st.dictionaries(st.text(), JSON))
def test_a_request_is_written_as_its_envelope(method: str, id_: Any, params: dict[str, Any]) -> None:
    assert encode_request(id_, method, params) == encode(request(id_, method, params))


@pytest.mark.parametrize("method", [1, 1.0, True, None, ["m"], {}, Text("m")])
def test_a_method_that_is_no_plain_string_is_written_as_what_it_is(method: Any) -> None:
    assert encode_request("1", method, {}) == encode(request("1", method, {}))


@pytest.mark.parametrize("member", ["method", "params", "id"])
def test_a_request_that_json_cannot_hold_is_a_local_protocol_error(member: str) -> None:
    members: dict[str, Any] = {"method": "m", "params": {}, "id": "1"}
    members[member] = {"deep": [object()]} if member == "params" else frozenset()
    with pytest.raises(LocalProtocolError, match=r"Object of type .* is not JSON serializable"):
        encode_request(members["id"], members["method"], members["params"])


def test_a_lone_surrogate_in_a_method_and_an_id_can_be_sent() -> None:
    text = encode_request("\udfff", "\ud800", {"ü": 1})
    assert text.encode()
    assert decode(text) == request("\udfff", "\ud800", {"ü": 1})


# --- which writer --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "backend"),
    [pytest.param("", "orjson", marks=needs_orjson), ("sys.modules['orjson'] = None", "json")],
    ids=["installed", "absent"],
)
def test_orjson_writes_where_it_can_be_imported(before: str, backend: str) -> None:
    code = f"import sys; {before}\nfrom tellurio_sync.jsonrpc import codec; print(codec.BACKEND, codec.encode([1]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [backend, "[1]"]


# --- reading -------------------------------------------------------------------------------------


BLANKS = st.sampled_from(["", "", " ", "\r\n\t", "\ufeff", "\u00a0", "x"])


@given(
    st.text(max_size=8)
    | st.text(st.sampled_from(' \t\n\r\ufeff{}[]",:\\u0019-+.eEtrufalsnNIity\x00'), max_size=12)
    | st.builds(lambda before, value, after: before + json.dumps(value) + after, BLANKS, JSON, BLANKS)
)
def test_a_text_is_read_as_the_standard_library_reads_it(text: str) -> None:
    try:
        wanted = repr(json.loads(text))
    except ValueError as exc:
        wanted = str(exc)
    try:
        outcome = repr(decode(text))
    except MalformedText as exc:
        outcome = str(exc)
    assert outcome == wanted


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
        ("18446744073709551617", 2**64 + 1),
        ('{"a":[-9223372036854775809]}', {"a": [-(2**63) - 1]}),
        ('{"a":1,"a":2}', {"a": 2}),
    ],
)
def test_what_is_json_is_read(text: str, value: Any) -> None:
    assert decode(text) == value
    assert decode(text.encode()) == value
    assert type(decode(text)) is type(value)


def test_nan_is_read_although_it_is_not_json() -> None:
    assert math.isnan(decode('{"x": NaN}')["x"])
