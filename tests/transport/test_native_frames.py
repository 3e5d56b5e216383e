"""Frames made and taken apart in C: to the byte what the Python code makes of the same, and the same errors."""

from __future__ import annotations

import codecs
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tellurio_sync.transport import frames
from tellurio_sync.transport.frames import Event, FrameDecoder, FrameError, encode_texts_in_python

from ..native import compiled
from .test_frames import LIMIT, server_frame

BORDERS = [0, 1, 7, 8, 9, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537]
"""Sizes in bytes at which the form of a frame changes, or how it is masked."""

MASKS = bytes(range(1, 256)) * 40

CHARACTERS = ["x", "é", "€", "😀", "\0", "\ud800", "\udfff", "\ud83d"]


def outcome(function: Any, *args: Any) -> Any:
    """What it returns, or the text of its UnicodeEncodeError with all its parts."""
    try:
        return function(*args)
    except UnicodeEncodeError as exc:
        return exc.encoding, exc.object, exc.start, exc.end, exc.reason


@pytest.fixture(autouse=True)
def needs_the_extension() -> None:
    compiled()


# --- encoding ---------------------------------------------------------------------------------------------


@given(
    st.lists(st.text(max_size=300) | st.text(st.sampled_from(CHARACTERS), max_size=10), max_size=6),
    st.binary(min_size=24, max_size=32),
)
@example(["\ud800"], bytes(24))
@example(["fine", "a\udc80", "\ud800"], bytes(24))
def test_any_texts_become_the_same_bytes_or_the_same_error(texts: list[str], masks: bytes) -> None:
    masks = masks[: 4 * len(texts)]
    copies = [f"{text} "[:-1] for text in texts]  # without what the other way has left in them
    assert outcome(compiled().encode_texts, texts, masks) == outcome(encode_texts_in_python, copies, masks)


@pytest.mark.parametrize("character", ["x", "é", "€", "😀"])
@pytest.mark.parametrize("size", BORDERS)
def test_texts_of_any_size_become_the_same_bytes(size: int, character: str) -> None:
    bytes_each = len(character.encode())
    text = character * (size // bytes_each) + "x" * (size % bytes_each)
    assert len(text.encode()) == size
    for mask in (b"\0\0\0\0", b"\xff\x00\x80\x7f", b"\x37\xfa\x21\x3d"):
        assert compiled().encode_texts([text], mask) == encode_texts_in_python([text], mask)


@pytest.mark.parametrize("count", [0, 1, 2, 50, 2000])
def test_each_text_has_the_next_four_bytes_for_its_mask(count: int) -> None:
    texts = [str(number) * (number % 40) for number in range(count)]
    assert compiled().encode_texts(texts, MASKS) == encode_texts_in_python(texts, MASKS[: 4 * count])


def test_masks_that_are_left_over_do_not_matter() -> None:
    assert compiled().encode_texts(["a"], b"12345678") == compiled().encode_texts(["a"], b"1234")
    assert compiled().encode_texts(["a"], b"12345") == compiled().encode_texts(["a"], b"1234")
    assert compiled().encode_texts([], b"") == []


def test_a_kind_of_str_is_a_str() -> None:
    class Text(str):
        __slots__ = ()

    assert compiled().encode_texts([Text("é" * 100)], b"1234") == encode_texts_in_python(["é" * 100], b"1234")


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), TypeError),
        ((["a"],), TypeError),
        ((["a"], b"1234", 1), TypeError),
        ((("a",), b"1234"), TypeError),
        ((None, b"1234"), TypeError),
        ((type("Other", (list,), {})("a"), b"1234"), TypeError),
        ((["a"], "1234"), TypeError),
        ((["a"], bytearray(b"1234")), TypeError),
        ((["a"], memoryview(b"1234")), TypeError),
        ((["a"], type("Other", (bytes,), {})(b"1234")), TypeError),
        (([b"a"], b"1234"), TypeError),
        (([None], b"1234"), TypeError),
        ((["a", 1], b"12341234"), TypeError),
        ((["a"], b""), ValueError),
        ((["a"], b"123"), ValueError),
        ((["a", "b"], b"1234567"), ValueError),
    ],
)
def test_what_encoding_does_not_take_is_refused(args: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        compiled().encode_texts(*args)
    with pytest.raises(TypeError):
        compiled().encode_texts(texts=["a"], masks=b"1234")


@pytest.fixture
def own_strictness() -> Iterator[None]:
    """What the test does to the handling of errors ends with it."""
    yield
    codecs.register_error("strict", codecs.strict_errors)


@pytest.mark.usefixtures("own_strictness")
def test_texts_may_be_taken_out_of_the_list_while_one_is_encoded() -> None:
    texts: list[str] = []

    def empty_the_list(error: UnicodeError) -> tuple[str | bytes, int]:
        assert isinstance(error, UnicodeEncodeError)
        texts.clear()
        return "?", error.end

    codecs.register_error("strict", empty_the_list)
    texts.append("".join(["\ud800x"] * 10))  # of which nobody else has a reference
    (frame,) = compiled().encode_texts(texts, bytes(4))
    assert frame[6:] == b"?x" * 10
    texts += ["\ud800" * 10, "a", "b"]
    with pytest.raises(TypeError):  # fewer than there were
        compiled().encode_texts(texts, MASKS)


# --- taking apart -----------------------------------------------------------------------------------------


def read(pieces: list[bytes], limit: int, extension: Any) -> list[Any]:
    """Everything that the decoder tells of a stream, with the extension or without (None)."""
    told: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "compiled", extension)
        decoder = FrameDecoder(limit)
        for piece in pieces:
            events: list[Event] = []
            try:
                told.append(decoder.feed(piece, events))
            except FrameError as exc:
                return [*told, events, exc.code, str(exc), type(exc.__cause__)]
            finally:
                told.append(events)
    return told


_TEXT = st.text(max_size=150).map(str.encode) | st.sampled_from([bytes(125), bytes(126), bytes(127)])
_FRAME = st.builds(
    server_frame,
    st.sampled_from([1, 1, 1, 1, 1, 1, 0, 2, 8, 9, 10, 3]),
    _TEXT | st.binary(max_size=130),
    fin=st.sampled_from([True, True, True, False]),
    reserved=st.sampled_from([0, 0, 0, 0, 0, 0, 0x40, 0x10]),
)
_ODDITIES = st.sampled_from(
    [
        b"\x81\x7e\x00\x7d" + bytes(125),  # not in the shortest form
        b"\x81\x7e\x00\x7e" + bytes(126),
        b"\x81\x7f" + (70_000).to_bytes(8, "big") + bytes(70_000),
        b"\x81\x7f" + (65_535).to_bytes(8, "big"),
        b"\x81\x85\x00\x00\x00\x00Hello",  # masked
        b"\x81\xfe\x00\x80",
        b"\x81\xff",
        b"\x81\x02\xc3\xa9",
        b"\x81\x01\xc3",  # half a character
        b"\x81",
        b"\x81\x7e",
        b"\x81\x7e\x01",
        b"\x81\x05Hell",
    ]
)
_STREAM = st.lists(_FRAME | _ODDITIES, max_size=8).map(b"".join) | st.binary(max_size=300)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(place, len(stream)) for place in places), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(bounds)]


@settings(max_examples=500)
@given(_STREAM, st.lists(st.integers(0, 2000), max_size=8), st.sampled_from([1, 10, 125, 126, 200, LIMIT]))
@example(b"\x81\x01a" * 3, [4], 1)
@example(b"\x01\x01a" + b"\x81\x01b", [], LIMIT)
def test_any_stream_cut_anyhow_says_the_same_with_and_without_it(stream: bytes, places: list[int], limit: int) -> None:
    for pieces in (cut(stream, places), [stream]):
        assert read(pieces, limit, compiled()) == read(pieces, limit, None)


def test_a_stream_that_comes_byte_by_byte_says_the_same_with_and_without_it() -> None:
    stream = b"".join(server_frame(1, b"x" * size) + server_frame(9, b"p") for size in (0, 1, 125, 126, 127, 300))
    pieces = [stream[place : place + 1] for place in range(len(stream))]
    assert read(pieces, LIMIT, compiled()) == read(pieces, LIMIT, None)


@pytest.mark.parametrize("size", BORDERS)
def test_a_text_of_any_size_is_read_the_same_with_and_without_it(size: int) -> None:
    stream = server_frame(1, b"x" * size) * 2
    for limit in {1, size - 1, size, size + 1, LIMIT} - {-1, 0}:
        for pieces in ([stream], cut(stream, [1]), cut(stream, [5, size + 3])):
            assert read(pieces, limit, compiled()) == read(pieces, limit, None)


def whole_texts(data: bytes, room: int) -> tuple[int, list[str]]:
    """The whole texts that ``data`` begins with, and where they end: of RFC 6455 §5.2, with up to two bytes of size."""
    texts = []
    position = 0
    while data[position : position + 1] == b"\x81" and len(data) > position + 1:
        size, start = data[position + 1], position + 2
        if size == 126:
            size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            if size < 126:
                break
        elif size > 126:
            break
        payload = data[start : start + size]
        if size > room or len(payload) < size:
            break
        try:
            texts.append(payload.decode())
        except UnicodeDecodeError:
            break
        position = start + size
    return position, texts


@settings(max_examples=300)
@given(_STREAM, st.integers(-1, 200) | st.just(LIMIT))
def test_it_takes_all_whole_texts_that_come_first_and_nothing_else(stream: bytes, room: int) -> None:
    texts = ["before"]
    position = compiled().split_texts(stream, room, texts)
    assert (position, texts) == (whole_texts(stream, room)[0], ["before", *whole_texts(stream, room)[1]])


@pytest.mark.parametrize("size", [size for size in BORDERS if size < 65536])
def test_a_text_may_be_as_long_as_there_is_room(size: int) -> None:
    stream = server_frame(1, b"x" * size)
    for room, is_taken in ((size - 1, False), (size, True), (size + 1, True), (1 << 100, True), (-(1 << 100), False)):
        texts: list[str] = []
        assert compiled().split_texts(stream, room, texts) == (len(stream) if is_taken else 0)
        assert texts == (["x" * size] if is_taken else [])


def test_the_room_is_each_texts_own() -> None:
    texts: list[str] = []
    assert compiled().split_texts(b"\x81\x02ab" * 5 + b"\x81\x03abc", 2, texts) == 20
    assert texts == ["ab"] * 5


def test_a_limit_may_be_larger_than_any_message() -> None:
    events: list[Event] = []
    assert not FrameDecoder(1 << 100).feed(server_frame(1, b"x") * 2, events)
    assert events == ["x", "x"]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((), TypeError),
        ((b"", 1), TypeError),
        ((b"", 1, [], None), TypeError),
        (("", 1, []), TypeError),
        ((bytearray(b"\x81\x00"), 1, []), TypeError),
        ((memoryview(b"\x81\x00"), 1, []), TypeError),
        ((type("Other", (bytes,), {})(b"\x81\x00"), 1, []), TypeError),
        ((b"\x81\x00", "1", []), TypeError),
        ((b"\x81\x00", 1.0, []), TypeError),
        ((b"\x81\x00", None, []), TypeError),
        ((b"\x81\x00", 1, ()), TypeError),
        ((b"\x81\x00", 1, None), TypeError),
        ((b"\x81\x00", 1, type("Other", (list,), {})()), TypeError),
    ],
)
def test_what_splitting_does_not_take_is_refused(args: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        compiled().split_texts(*args)
    with pytest.raises(TypeError):
        compiled().split_texts(data=b"\x81\x00", room=1, texts=[])


def test_a_long_stream_of_texts_is_taken_apart_at_once() -> None:
    texts: list[str] = []
    stream = b"".join(server_frame(1, f"text {number} é".encode()) for number in range(5000))
    assert compiled().split_texts(stream, sys.maxsize, texts) == len(stream)
    assert texts == [f"text {number} é" for number in range(5000)]
