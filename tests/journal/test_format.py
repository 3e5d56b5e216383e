from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellurio_sync.journal import format as journal_format
from tellurio_sync.journal.format import MAGIC, Decoder, Encoder, MalformedJournal

NAMES = st.sampled_from([f"metric {number}" for number in range(50)]) | st.text(min_size=1, max_size=5)
STEPS = st.none() | st.integers(0, 20) | st.integers(0, 2**63 - 1)
FLOATS = st.floats(width=64)
JSON = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5) | st.lists(st.integers(), max_size=3)
)
CALLS = st.lists(
    st.tuples(st.just("number"), NAMES, FLOATS, STEPS)
    | st.tuples(st.just("numbers"), st.dictionaries(NAMES, FLOATS, min_size=1, max_size=4), STEPS)
    | st.tuples(st.just("any"), st.dictionaries(NAMES, FLOATS | JSON, min_size=1, max_size=4), STEPS)
    | st.tuples(st.just("aside"), st.dictionaries(NAMES, FLOATS | JSON, min_size=1, max_size=2), STEPS),
    max_size=30,
)


def written(calls: list[Any]) -> tuple[list[bytes], list[Any]]:
    """The records, and what is expected of them, in a form in which NaN is equal to itself."""
    encoder, records, expected = Encoder(), [], []
    for kind, *arguments in calls:
        if kind == "number":
            name, value, step = arguments
            records.append(encoder.number(name, value, step))
            values = {name: value}
        elif kind == "numbers":
            values, step = arguments
            records.append(encoder.numbers(values, step))
        else:
            values, step = arguments
            records.append(encoder.any(values, step, aside=kind == "aside"))
        if kind != "aside":
            encoder.written()
        expected.append(comparable(step, list(values.items())))
    return records, expected


def comparable(step: int | None, values: list[tuple[str, Any]]) -> Any:
    return step, [(name, struct.pack("<d", value) if type(value) is float else value) for name, value in values]


def read(data: bytes, pieces: list[int]) -> list[Any]:
    """Read in pieces of these sizes, each with a decoder made from the state of the last one."""
    decoder, got, sizes = Decoder(), [], iter(pieces)
    while decoder.position < len(data):
        size = next(sizes, len(data))
        before = decoder.position
        got += decoder.feed(data[before : before + size])
        if decoder.position == before and size >= len(data) - before:
            break
        decoder = Decoder(decoder.state(), decoder.position)
    return [comparable(record.step, record.values) for record in got]


@settings(deadline=None, max_examples=50)
@given(CALLS, st.lists(st.integers(1, 60), max_size=20))
def test_what_is_written_is_read_in_any_pieces(calls: list[Any], pieces: list[int]) -> None:
    records, expected = written(calls)
    assert read(MAGIC + b"".join(records), pieces) == expected


@settings(deadline=None, max_examples=50)
@given(CALLS, st.data())
def test_of_a_torn_journal_the_whole_records_are_read(calls: list[Any], data: st.DataObject) -> None:
    records, expected = written(calls)
    whole = MAGIC + b"".join(records)
    cut = data.draw(st.integers(0, len(whole)))
    got = read(whole[:cut], [])
    assert got == expected[: len(got)]
    position, kept = len(MAGIC), 0
    for record in records:
        position += len(record)
        kept += position <= cut
    assert len(got) == kept


@settings(deadline=None, max_examples=50)
@given(CALLS.filter(bool), st.data())
def test_a_changed_byte_is_never_read_as_a_value(calls: list[Any], data: st.DataObject) -> None:
    records, expected = written(calls)
    whole = bytearray(MAGIC + b"".join(records))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    decoder = Decoder()
    try:
        got = decoder.feed(bytes(whole))
    except MalformedJournal as exc:
        got = exc.records
    got = [comparable(record.step, record.values) for record in got]
    assert got == expected[: len(got)]


def test_sizes() -> None:
    encoder = Encoder()

    def size(record: bytes) -> int:
        encoder.written()
        return len(record)

    encoder.number("loss", 1.0, None)
    assert size(encoder.number("loss", 0.5, None)) == 11
    assert size(encoder.number("loss", 0.5, 0)) == 12
    assert {size(encoder.number("loss", 0.5, step)) for step in range(1, 100_000, 1)} == {11}
    many = {f"metric {number}": 0.5 for number in range(20)}
    encoder.numbers(many, 1)
    encoder.written()
    assert size(encoder.numbers(many, 2)) <= 20 * 9


def test_a_record_that_was_not_written_changes_nothing() -> None:
    encoder = Encoder()
    data = encoder.number("loss", 1.0, 5)
    encoder.written()
    encoder.number("loss", 2.0, 6)  # never written
    data += encoder.number("loss", 3.0, 7)
    assert [record.step for record in Decoder().feed(MAGIC + data)] == [5, 7]


def test_after_forgetting_everything_is_told_again() -> None:
    encoder = Encoder()
    encoder.number("lost", 1.0, 5)
    encoder.written()
    encoder.forget()
    data = MAGIC + encoder.number("kept", 2.0, 6) + encoder.numbers({"kept": 1.0, "lost": 2.0}, 7)
    records = Decoder().feed(data)
    assert [(record.step, record.values) for record in records] == [
        (6, [("kept", 2.0)]),
        (7, [("kept", 1.0), ("lost", 2.0)]),
    ]


# --- many at once -----------------------------------------------------------------------------------

# How a loop may count its steps: none, the same, the next, one of many apart, and back.
GAPS = st.sampled_from([None, 0, 1, 10, 1_000_000, -3, 2**62])
STREAKS = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40), GAPS, st.booleans()), min_size=1, max_size=6)


def streaks(drawn: list[Any]) -> list[Any]:
    """Calls of a program that logs so many numbers of so many metrics one by one, and at times something else."""
    calls: list[Any] = []
    step = 0
    for count, names, gap, has_other in drawn:
        for number in range(count):
            calls.append(("number", f"metric {number % names}", number / 3, None if gap is None else step))
            step = min(max(0, step + (gap or 0)), 2**63 - 1)
        if has_other:
            calls.append(("any", {"other": step, "note": "text"}, step))
    return calls


@contextmanager
def one_by_one() -> Iterator[None]:
    """Inside, each record is read by itself, in the way that knows all kinds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_format, "_FEW", math.inf)
        patch.setattr(Decoder, "_read_usual", lambda self, data, at, columns: 0)
        yield


def outcome(decoder: Decoder, data: bytes) -> Any:
    problem = None
    try:
        columns = decoder.read(data)
    except MalformedJournal as exc:
        columns, problem = exc.columns, str(exc)
    values = [struct.pack("<d", value) if type(value) is float else value for value in columns.values]
    return columns.names, values, columns.steps, columns.ends, problem, decoder.position, decoder.state()


@settings(deadline=None, max_examples=50)
@given(STREAKS, st.lists(st.integers(1, 2000), max_size=10))
def test_numbers_in_succession_are_read_in_any_pieces(drawn: list[Any], pieces: list[int]) -> None:
    records, expected = written(streaks(drawn))
    assert read(MAGIC + b"".join(records), pieces) == expected


@settings(deadline=None, max_examples=100)
@given(STREAKS, st.data())
def test_many_at_once_are_read_as_one_by_one_whatever_is_wrong_with_them(drawn: list[Any], data: st.DataObject) -> None:
    records, _ = written(streaks(drawn))
    whole = bytearray(MAGIC + b"".join(records))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(whole)))
    with one_by_one():
        expected = outcome(Decoder(), bytes(whole[:cut]))
    assert outcome(Decoder(), bytes(whole[:cut])) == expected


@pytest.mark.parametrize("gap", [None, 0, 1, 300, "both"])
def test_a_bit_changed_anywhere_among_many_changes_nothing_before_it(gap: Any) -> None:
    steps = [
        step * 300 if gap == "both" and step % 20 > 9 else step * (gap if type(gap) is int else 1) for step in range(40)
    ]
    records, _ = written([("number", "loss", step / 3, None if gap is None else at) for step, at in enumerate(steps)])
    whole = MAGIC + b"".join(records)
    for place in range(len(MAGIC), len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        with one_by_one():
            expected = outcome(Decoder(), bytes(changed))
        assert outcome(Decoder(), bytes(changed)) == expected, place


def sealed(*records: bytes) -> bytes:
    return b"".join(map(journal_format._sealed, records))


NAME = b"\x80\x00\x01a"
ZERO = struct.pack("<d", 0.0)
LATEST = b"\x60" + ZERO + b"\xff" * 8 + b"\x7f"  # at step 2**63 - 1


def check_both_ways(data: bytes) -> None:
    """That the quick ways to read give what the one gives that knows all kinds, down to the words of an error."""
    with one_by_one():
        expected = outcome(Decoder(), data)
    assert outcome(Decoder(), data) == expected


@settings(deadline=None, max_examples=100)
@given(CALLS, st.data())
def test_usual_records_are_read_as_all_are_whatever_is_wrong_with_them(calls: list[Any], data: st.DataObject) -> None:
    records, _ = written(calls)
    whole = bytearray(MAGIC + b"".join(records))
    if data.draw(st.booleans()):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    check_both_ways(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


# The begin of a record, and what may follow: modes, counts, names, kinds of values and integers, or anything.
PIECES = st.sampled_from([b"\0", b"\1", b"\2", b"\3", b"\4", b"\x80\1", b"\xff" * 9 + b"\x7f", b"\0" + ZERO, b"\1\5"])
BODIES = st.lists(PIECES | st.binary(max_size=3), max_size=8).map(b"".join)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from([b"\x81", b"\x81", b"\x60", b"\x20"]), BODIES).map(b"".join), max_size=4))
def test_records_that_are_sealed_and_wrong_are_refused_in_the_same_words(records: list[bytes]) -> None:
    check_both_ways(MAGIC + sealed(NAME, *records))


def test_integers_of_a_million_bytes_are_given_up_soon() -> None:
    """Adding up their bytes would take hours."""
    for begin in (b"\x81\0\1\0\1", b"\x81\3", b"\x60" + ZERO):
        check_both_ways(MAGIC + sealed(NAME) + begin + b"\xff" * 1_000_000)
        check_both_ways(MAGIC + sealed(NAME, b"\x60" + ZERO + b"\5") + begin + b"\xff" * 1_000_000)


@pytest.mark.parametrize(
    ("good", "bad", "why"),
    [
        ([NAME], [b"\x40" + ZERO], "a step after none"),
        ([NAME], [b"\x20" + ZERO], "no step was told"),
        ([NAME], [b"\x01" + ZERO], "it names a metric that was not told"),
        ([NAME, b"\x60" + ZERO + b"\x07"], [b"\x41" + ZERO], "it names a metric that was not told"),
        ([NAME, LATEST], [b"\x40" + ZERO], "a step beyond the last one"),
        ([NAME, LATEST], [b"\x60" + ZERO + b"\x80" * 9 + b"\x01"], "a step of an unknown form"),
        ([NAME], [b"\x81\x00\x01\x00\x02" + b"\xa0\x8d\x06" + b"[" * 100_000], "recursion"),
        ([NAME], [b"\x81\x05\x01\x00\x00" + ZERO], "a step of an unknown form"),
        ([NAME, b"\x82\x00\x01\x00"], [b"\x83\x00\x03" + b"\x80" * 9 + b"\x01" + ZERO], "a step of an unknown form"),
    ],
)
@pytest.mark.parametrize("others", [0, 1, 50])
def test_what_a_record_cannot_say(good: list[bytes], bad: list[bytes], why: str, others: int) -> None:
    """With all checksums right; after this many others, and the same however many are read at once."""
    data = MAGIC + sealed(*good, *[b"\x00" + ZERO] * others, *bad * 50)
    decoder = Decoder()
    with pytest.raises(MalformedJournal, match=why) as caught:
        decoder.read(data)
    told_a_value = sum(record[0] < 0x80 for record in good)
    assert len(caught.value.columns.values) == len(caught.value.records) == told_a_value + others
    assert caught.value.position == decoder.position == len(MAGIC + sealed(*good)) + 11 * others


@pytest.mark.parametrize(
    ("others", "head", "value", "tail", "size", "step"),
    [
        (b"\x60" + ZERO + b"\x80\x01", b"\x00", 13174 / 7, b"", 13, None),
        (b"\x00" + ZERO, b"\x60", 97820 / 7, b"\x80\x01", 11, 128),
        (b"\x60" + ZERO + b"\x80\x01", b"\x60", 16922 / 7, b"\x80\x80\x80\x01", 13, 2**21),
    ],
)
def test_a_record_that_looks_like_one_of_another_size_is_read_as_what_it_is(
    others: bytes, head: bytes, value: float, tail: bytes, size: int, step: int | None
) -> None:
    """One in 65,536 has, at that size, a checksum that is right by chance; here after many that are of that size."""
    record, last = sealed(head + struct.pack("<d", value) + tail), sealed(b"\x01" + ZERO)
    window = (record + last)[:size]
    assert journal_format._sealed(window[:-2]) == window, "it does look like one"
    read = Decoder().read(MAGIC + sealed(NAME, b"\x80\x01\x01b", *[others] * 20) + record + last)
    assert (len(read.steps), read.names[-2:], read.values[-2:], read.steps[-2]) == (22, ["a", "b"], [value, 0.0], step)


@pytest.mark.parametrize("gap", [0, 1, 10, 12345, 2**40])
def test_records_that_are_alike_are_read_many_at_once(gap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    records, expected = written([("number", "loss", step / 3, gap * step) for step in range(20_000)])
    calls = itertools.count()
    real = Decoder._read_one
    monkeypatch.setattr(Decoder, "_read_one", lambda *arguments: (next(calls), real(*arguments))[1])
    assert read(MAGIC + b"".join(records), []) == expected
    assert next(calls) < 100


@pytest.mark.parametrize(
    "data", [b"another file", b"tellurio journal 2\n", MAGIC + b"\x00" * 64, MAGIC + b"\xff", MAGIC + b"\x81\x09" * 9]
)
def test_what_is_no_journal(data: bytes) -> None:
    with pytest.raises(MalformedJournal) as caught:
        Decoder().feed(data)
    assert caught.value.records == []


def test_the_end_of_a_record_is_where_the_next_begins() -> None:
    records, _ = written([("number", "a", 1.0, None), ("number", "a", math.inf, 3)])
    first, second = Decoder().feed(MAGIC + b"".join(records))
    assert (first.end, second.end) == (len(MAGIC) + len(records[0]), len(MAGIC) + len(b"".join(records)))
