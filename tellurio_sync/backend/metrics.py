"""The values of metrics in SQLite: numbers packed by hundreds, other JSON values one by one.

A row for each value would take 20 to 30 bytes, for numbers that are nearly always one more than the last ones, and as
much again for an index.  Here a row holds up to some hundred numbers of one metric:

    byte     what is regular: numbers (1), steps (2); all values are floats (4)
    uint16   count
    int64    number of the first value within the run: the order in which values of all metrics came
    int64    step of the first value
    numbers  regular: uint32, the distance from one to the next; else uint32 * count, from the first one on
    steps    regular: int64, the distance; else int64 * count
    kinds    unless all are floats: byte * count, 1 for an integer
    values   double * count

All integers are little-endian.  NaN and infinities are doubles as others are.
"""

from __future__ import annotations

import json
import math
import sqlite3
import struct
import sys
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import le, lt
from typing import Any, NamedTuple, Protocol

from .outlines import BUCKET, Ends, ends_of, outline

# A packed row stays below half a page of SQLite, so that two of them share a page.
_PACKED_BYTES = 1_900
_MAX_OFFSET = 0xFFFFFFFF
_HEAD = struct.Struct("<BHqq")
_DOUBLE = struct.Struct("<d")
_REGULAR_NUMBERS, _REGULAR_STEPS, _FLOATS = 1, 2, 4
_MAX_EXACT = 2**53
_MAX_STEP = 2**63 - 1
_CLOCK_SECONDS = 1.0


class Value(NamedTuple):
    """One value of a metric. ``number``: its place among all values of its run."""

    number: int
    step: int
    value: Any


class Records(Protocol):
    """Where rows come from: the store itself, or a reader's own connection."""

    def read(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """The rows that a SELECT gives."""
        ...


# --- writing ------------------------------------------------------------------------------------


def add_values(
    db: sqlite3.Connection, run: int, values: Iterable[tuple[str, Any, int | None]], now: float | None = None
) -> list[int]:
    """Add values (name, value, step) to a run as :func:`add_columns` does, and return their steps."""
    names: list[str] = []
    items: list[Any] = []
    steps: list[int | None] = []
    for name, value, step in values:
        names.append(name)
        items.append(value)
        steps.append(step)
    found = {name: iter(own) for name, own in add_columns(db, run, names, items, steps, now).items()}
    return [next(found[name]) for name in names]


def add_columns(
    db: sqlite3.Connection,
    run: int,
    names: Sequence[str],
    values: Sequence[Any],
    steps: Sequence[int | None],
    now: float | None = None,
) -> dict[str, list[int]]:
    """Add values to a run in this order, part by part, and return the steps of each metric.

    Without a step a value gets the one after the highest of its metric, the first is 0. To be called inside a
    transaction: all are kept or none.

    Args:
        run: its ``number`` in the table ``runs``.
        names: of which metric each value is.
        now: when they came, in seconds since 1970; None: that is not known.
    """
    (first,) = db.execute("SELECT value_count FROM runs WHERE number = ?", (run,)).fetchone()
    if now is not None:
        _note_time(db, run, first, now)
    places: dict[str, list[int]] = {name: [] for name in dict.fromkeys(names)}
    if len(places) == 1:
        places[names[0]] += range(len(names))
    else:
        for place, name in enumerate(names):
            places[name].append(place)
    found = {}
    for name, own in places.items():
        numbers = array("q", [first + place for place in own])
        found[name] = _Series(db, run, name).add(
            numbers, [values[place] for place in own], [steps[place] for place in own]
        )
    db.execute("UPDATE runs SET value_count = ? WHERE number = ?", (first + len(names), run))
    return found


def _note_time(db: sqlite3.Connection, run: int, number: int, now: float) -> None:
    last = db.execute("SELECT time FROM clock WHERE run = ? ORDER BY number DESC LIMIT 1", (run,)).fetchone()
    # Also where the machine's clock was set back: times of values that came later must not be earlier.
    if last is None or now >= last[0] + _CLOCK_SECONDS:
        db.execute("INSERT OR IGNORE INTO clock VALUES (?, ?, ?)", (run, number, now))


# --- reading ------------------------------------------------------------------------------------


def all_values(records: Records, run_uuid: str) -> list[tuple[str, Any, int]]:
    """Name, value and step of all values of a run, in the order in which they came."""
    found: list[tuple[int, str, Any, int]] = []
    for series in records.read(f"SELECT {_SERIES} AND TRUE", run_uuid):
        found += [(number, series["name"], value, step) for number, step, value in _values(records, series["number"])]
    found.sort(key=_number)
    return [row[1:] for row in found]


def values_of(records: Records, run_uuid: str, name: str) -> list[Value]:
    """The values of one metric, by step; those of one step in the order in which they came."""
    return sorted(
        (value for row in _series(records, run_uuid, name) for value in _values(records, row["number"])),
        key=_step_and_number,
    )


def last_values(records: Records, run_uuid: str, name: str, limit: int) -> list[Value]:
    """The last ``limit`` values of one metric, by step, latest first. Takes as long as they are many, as a rule."""
    for row in _series(records, run_uuid, name):
        if not row["is_in_order"]:
            break
        found = [
            Value(other["number"], other["step"], json.loads(other["value"]))
            for other in records.read(
                "SELECT number, step, value FROM others WHERE series = ? ORDER BY number DESC LIMIT ?",
                *(row["number"], limit),
            )
        ]
        packed, before = 0, _MAX_STEP
        while packed < limit:
            block = records.read(
                "SELECT number, data FROM points WHERE series = ? AND number < ? ORDER BY number DESC LIMIT 1",
                *(row["number"], before),
            )
            if not block:
                break
            before = block[0]["number"]
            new = list(unpack(block[0]["data"]).values())
            found += new
            packed += len(new)
        found.sort(key=_step_and_number, reverse=True)
        return found[:limit]
    return values_of(records, run_uuid, name)[::-1][:limit]


def summaries(records: Records, run_uuid: str, limit: int = -1) -> list[dict[str, Any]]:
    """``name``, ``count``, ``last`` value, ``last_step``, ``low`` and ``high`` of at most ``limit`` metrics.

    In the order in which they began; -1: of all. Takes as long as there are metrics, not values.
    """
    rows = records.read(
        f"SELECT series.name, count, last_value AS last, last_step, low, high, {_SERIES}"
        " AND count > 0 ORDER BY first_number LIMIT ?",
        *(run_uuid, limit),
    )
    return [{**row, "last": json.loads(row["last"])} for row in rows]


def count_of(records: Records, run_uuid: str, name: str) -> int:
    """How many values one metric has."""
    return sum(row["count"] for row in _series(records, run_uuid, name))


_SERIES = (
    "series.number, series.name, series.is_in_order, series.count FROM series JOIN runs ON runs.number = series.run"
    " WHERE runs.uuid = ?"
)


def _series(records: Records, run_uuid: str, name: str) -> list[dict[str, Any]]:
    return records.read(f"SELECT {_SERIES} AND series.name = ?", run_uuid, name)


def _values(records: Records, series: int) -> Iterator[Value]:
    for row in records.read("SELECT data FROM points WHERE series = ? ORDER BY number", series):
        yield from unpack(row["data"]).values()
    for row in records.read("SELECT number, step, value FROM others WHERE series = ?", series):
        yield Value(row["number"], row["step"], json.loads(row["value"]))


def _number(row: tuple[int, str, Any, int]) -> int:
    return row[0]


def _step_and_number(value: Value) -> tuple[int, int]:
    return value.step, value.number


# --- packing ------------------------------------------------------------------------------------


def is_packed(value: Any) -> bool:
    """Whether a value is one of those that are packed: a number that a double holds exactly, NaN and infinities."""
    kind = type(value)
    return kind is float or (kind is int and -_MAX_EXACT <= value <= _MAX_EXACT)


class _Series:
    """One metric while values are added to it."""

    def __init__(self, db: sqlite3.Connection, run: int, name: str) -> None:
        self._db = db
        db.execute("INSERT OR IGNORE INTO series (run, name) VALUES (?, ?)", (run, name))
        row = db.execute(
            "SELECT number, count, first_step, first_number, last_step, last_value, low, high, is_in_order FROM series"
            " WHERE run = ? AND name = ?",
            (run, name),
        ).fetchone()
        self._number, self._count, self._first_step, self._first_number = row[0], row[1], row[2], row[3]
        self._last_step, last, self._low, self._high, self._is_in_order = row[4], row[5], row[6], row[7], row[8]
        self._last: Any = None if last is None else json.loads(last)

    def add(self, numbers: array[int], values: list[Any], given_steps: list[int | None]) -> list[int]:
        """Add values, at least one, and return their steps."""
        steps = self._steps(given_steps)
        self._note_steps(numbers, values, steps)
        self._count += len(values)
        kinds = set(map(type, values))
        if kinds == {float} or (kinds <= {float, int} and all(map(is_packed, values))):
            self._pack(numbers, array("q", steps), values, has_integers=int in kinds)
        else:
            self._add_mixed(numbers, values, steps)
        self._write()
        return steps

    def _steps(self, given: list[int | None]) -> list[int]:
        if None not in given:
            return given  # type: ignore[return-value]
        steps = []
        last = -1 if self._last_step is None else self._last_step
        for step in given:
            if step is None:
                step = min(last + 1, _MAX_STEP)
            if step > last:
                last = step
            steps.append(step)
        return steps

    def _note_steps(self, numbers: array[int], values: list[Any], steps: list[int]) -> None:
        before = self._last_step
        if all(map(le, steps, islice(steps, 1, None))):
            self._is_in_order = self._is_in_order and (before is None or steps[0] >= before)
            lowest, highest = 0, len(steps) - 1
        else:
            self._is_in_order = False
            lowest = steps.index(min(steps))
            highest = len(steps) - 1 - steps[::-1].index(max(steps))
        if self._first_step is None or steps[lowest] < self._first_step:
            self._first_step, self._first_number = steps[lowest], numbers[lowest]
        if before is None or steps[highest] >= before:
            self._last_step, self._last = steps[highest], values[highest]

    def _add_mixed(self, numbers: array[int], values: list[Any], steps: list[int]) -> None:
        packed: list[int] = []
        others: list[int] = []
        for place, value in enumerate(values):
            (packed if is_packed(value) else others).append(place)
        self._db.executemany(
            "INSERT INTO others VALUES (?, ?, ?, ?)",
            [(self._number, numbers[place], steps[place], json.dumps(values[place])) for place in others],
        )
        if packed:
            self._pack(
                array("q", [numbers[place] for place in packed]),
                array("q", [steps[place] for place in packed]),
                [values[place] for place in packed],
                has_integers=True,
            )

    def _pack(self, numbers: array[int], steps: array[int], values: list[float], *, has_integers: bool) -> None:
        """Add values that :func:`is_packed` accepts."""
        doubles = array("d", values)
        integers = bytes(type(value) is int for value in values) if has_integers else bytes(len(values))
        row, block = self._last_block()
        rises = all(map(lt, steps, islice(steps, 1, None)))
        begin = block.add(numbers, steps, doubles, integers, 0, rises=rises)
        if begin and row is not None:
            self._db.execute("UPDATE points SET data = ? WHERE number = ?", (block.pack(), row))
        elif begin:
            row = self._insert(block)
        self._note_ends(ends_of(values[:begin]))
        ends = ends_of(block.doubles.tolist()) if begin < len(values) else None
        outlines = []
        while ends is not None and begin < len(values):
            # The row before grows no more.
            outlines.append((row, outline(ends, len(block.doubles), block.steps[0], block.step_distance)))
            block = _Block()
            end = begin + block.add(numbers, steps, doubles, integers, begin, rises=rises)
            ends, begin = ends_of(values[begin:end]), end
            self._note_ends(ends)
            row = self._insert(block)
        self._db.executemany("INSERT OR REPLACE INTO outlines VALUES (?, ?)", outlines)

    def _note_ends(self, ends: Ends) -> None:
        lows, highs = ends.lows, ends.highs
        if ends.has_gaps:
            lows, highs = [low for low in lows if not math.isnan(low)], [high for high in highs if not math.isnan(high)]
        if lows:
            low, high = min(lows), max(highs)
            self._low = low if self._low is None else min(self._low, low)
            self._high = high if self._high is None else max(self._high, high)

    def _insert(self, block: _Block) -> int | None:
        made = self._db.execute("INSERT INTO points (series, data) VALUES (?, ?)", (self._number, block.pack()))
        return made.lastrowid

    def _last_block(self) -> tuple[int | None, _Block]:
        row = self._db.execute(
            "SELECT number, data FROM points WHERE series = ? ORDER BY number DESC LIMIT 1", (self._number,)
        ).fetchone()
        return (None, _Block()) if row is None else (row[0], unpack(row[1]))

    def _write(self) -> None:
        last = self._last
        is_number = type(last) in (int, float) and abs(last) < math.inf and is_packed(last)
        self._db.execute(
            "UPDATE series SET count = ?, first_step = ?, first_number = ?, last_step = ?, last_value = ?,"
            " last_number = ?, low = ?, high = ?, is_in_order = ? WHERE number = ?",
            (
                *(self._count, self._first_step, self._first_number, self._last_step, json.dumps(last)),
                *(last if is_number else None, self._low, self._high, self._is_in_order, self._number),
            ),
        )


class _Block:
    """Numbers of one metric that share a row."""

    def __init__(self) -> None:
        self.numbers: array[int] = array("q")
        self.steps: array[int] = array("q")
        self.doubles: array[float] = array("d")
        self.integers: bytes = b""  # of each value whether it is one: 1 or 0
        # The distance from each to the next while that is always the same, else None.
        self.number_distance: int | None = 0
        self.step_distance: int | None = 0

    def add(
        self,
        numbers: array[int],
        steps: array[int],
        doubles: array[float],
        integers: bytes,
        begin: int,
        *,
        rises: bool,
    ) -> int:
        """Add as many values as there is room for, from this place on; returns how many.

        ``rises``: each step is above the one before.
        """
        own = len(self.doubles)
        end = begin + max(0, _MOST - own)
        if own or numbers[-1] - numbers[begin] > _MAX_OFFSET:
            first = self.numbers[0] if own else numbers[begin]
            end = min(end, bisect_right(numbers, first + _MAX_OFFSET, begin))
        number_distance = _distance(self.number_distance, self.numbers[-2:] + numbers[begin:end], rises=True)
        rises = rises and not (own and self.steps[-1] >= steps[begin])
        step_distance = _distance(self.step_distance, self.steps[-2:] + steps[begin:end], rises=rises)
        has_integers = 1 in self.integers or 1 in integers[begin:end]
        end = min(end, begin + max(0, _room(number_distance, step_distance, has_integers) - own))
        if end > begin:
            self.numbers += numbers[begin:end]
            self.steps += steps[begin:end]
            self.doubles += doubles[begin:end]
            self.integers += integers[begin:end]
            self.number_distance, self.step_distance = number_distance, step_distance
        return len(self.doubles) - own

    def values(self) -> Iterator[Value]:
        doubles: Iterable[float] = self.doubles
        if 1 in self.integers:
            doubles = [int(one) if is_integer else one for one, is_integer in zip(self.doubles, self.integers)]
        return map(Value._make, zip(self.numbers, self.steps, doubles))

    def pack(self) -> bytes:
        flags = 0
        parts = [b""]
        if self.number_distance is not None:
            flags |= _REGULAR_NUMBERS
            parts.append(struct.pack("<I", self.number_distance))
        else:
            first = self.numbers[0]
            parts.append(_bytes(array("I", [number - first for number in self.numbers])))
        if self.step_distance is not None:
            flags |= _REGULAR_STEPS
            parts.append(struct.pack("<q", self.step_distance))
        else:
            parts.append(_bytes(self.steps))
        if 1 in self.integers:
            parts.append(self.integers)
        else:
            flags |= _FLOATS
        parts.append(_bytes(self.doubles))
        parts[0] = _HEAD.pack(flags, len(self.doubles), self.numbers[0], self.steps[0])
        return b"".join(parts)


def _room(number_distance: int | None, step_distance: int | None, has_integers: bool) -> int:
    """How many values a row takes at most, if :meth:`_Block.pack` is to keep within the bytes of a row."""
    once = _HEAD.size + (4 if number_distance is not None else 0) + (8 if step_distance is not None else 0)
    each = 8 + (4 if number_distance is None else 0) + (8 if step_distance is None else 0) + has_integers
    room = (_PACKED_BYTES - once) // each
    # Whole buckets where few bytes are lost: as a rule, the outlines of rows then go on as if they were one.
    return room - room % BUCKET if room % BUCKET < 4 else room


# Of values at equal distances.
_MOST = _room(0, 0, False)


def _distance(known: int | None, numbers: array[int], *, rises: bool) -> int | None:
    """The distance from each to the next if it is always the same, else None; 0 if there are not two.

    Args:
        known: of the numbers before the second of these.
        rises: each of them is above the one before.
    """
    if known is None or len(numbers) < 2:
        return known
    distance = numbers[1] - numbers[0]
    if numbers[-1] - numbers[0] != distance * (len(numbers) - 1):
        return None
    # In so few steps those that rise can only rise by one each.
    if rises and distance == 1:
        return 1
    return distance if numbers == array("q", _evenly(numbers[0], distance, len(numbers))) else None


def outline_of(data: bytes) -> bytes:
    """The outline of a packed row that has none (outlines.py)."""
    block = unpack(data)
    return outline(ends_of(block.doubles.tolist()), len(block.doubles), block.steps[0], block.step_distance)


def unpack(data: bytes) -> _Block:
    """The numbers of one packed row."""
    packed = look_into(data)
    block = _Block()
    block.numbers, block.steps = array("q", packed.numbers), array("q", packed.steps)
    block.number_distance, block.step_distance = packed.number_distance, packed.step_distance
    block.doubles = packed.doubles
    block.integers = packed.integers or bytes(len(packed.doubles))
    return block


class Line:
    """The numbers of packed rows one behind the other, joined without looking at each.

    Attributes:
        steps: of the values; a ``range`` where each is as far from the one before.
        doubles: the values.
    """

    def __init__(self, rows: Iterable[bytes]) -> None:
        self._rows = list(rows)
        self._begins: list[int] = []
        total, pieces, packed = 0, [], []
        for data in self._rows:
            flags, count, _, first_step = _HEAD.unpack_from(data)
            self._begins.append(total)
            at = _HEAD.size + (4 if flags & _REGULAR_NUMBERS else 4 * count)
            if flags & _REGULAR_STEPS:
                (distance,) = struct.unpack_from("<q", data, at)
                pieces.append(_evenly(first_step, distance, count))
            else:
                pieces.append(_array("q", data[at : at + 8 * count]))
            packed.append(data[len(data) - 8 * count :])
            total += count
        self.steps = _in_one(pieces)
        self.doubles = _array("d", b"".join(packed))

    def number(self, place: int) -> int:
        """The number of the value at a place: how many values of the run came before it."""
        row = bisect_right(self._begins, place) - 1
        return _number_in(self._rows[row], place - self._begins[row])


class LazyLine:
    """The numbers of packed rows one behind the other, of which a row is read once it is asked for."""

    def __init__(self, read: Callable[[int], bytes], begins: Sequence[int], count: int, *, has_gaps: bool) -> None:
        """Make one.

        Args:
            read: the packed row of this index.
            begins: per row the place of its first value.
            count: of the values of all rows.
            has_gaps: whether there may be infinities, which are given as NaN.
        """
        self._read, self._has_gaps = read, has_gaps
        self._begins, self._ends = begins, [*begins[1:], count]
        self._rows: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, places: slice) -> array[float]:
        begin, end, _ = places.indices(len(self))
        row = bisect_right(self._begins, begin) - 1
        found = self._part(row, begin, min(end, self._ends[row]))
        while self._ends[row] < end:
            row += 1
            found += self._part(row, self._begins[row], min(end, self._ends[row]))
        return without_infinities(found) if self._has_gaps else found

    def _part(self, row: int, begin: int, end: int) -> array[float]:
        data = self._row(row)
        at = len(data) - 8 * self._ends[row]
        return _array("d", data[at + 8 * begin : at + 8 * end])

    def value(self, place: int) -> float:
        """The value at a place."""
        row = bisect_right(self._begins, place) - 1
        data = self._row(row)
        value: float = _DOUBLE.unpack_from(data, len(data) - 8 * (self._ends[row] - place))[0]
        return value if math.isfinite(value) else math.nan

    def number(self, place: int) -> int:
        """The number of the value at a place: how many values of the run came before it."""
        row = bisect_right(self._begins, place) - 1
        return _number_in(self._row(row), place - self._begins[row])

    def _row(self, row: int) -> bytes:
        data = self._rows.get(row)
        if data is None:
            data = self._rows[row] = self._read(row)
        return data


def without_infinities(values: array[float]) -> array[float]:
    """The values, with NaN for infinities."""
    return array("d", [value if math.isfinite(value) else math.nan for value in values])


def _number_in(data: bytes, place: int) -> int:
    flags, _, first_number, _ = _HEAD.unpack_from(data)
    if flags & _REGULAR_NUMBERS:
        return int(first_number + place * struct.unpack_from("<I", data, _HEAD.size)[0])
    return int(first_number + struct.unpack_from("<I", data, _HEAD.size + 4 * place)[0])


def _in_one(pieces: list[Sequence[int]]) -> Sequence[int]:
    """The same numbers as one sequence: a range, if that holds them all."""
    if not pieces:
        return ()
    first = pieces[0][0]
    second = pieces[0][1] if len(pieces[0]) > 1 else pieces[1][0] if len(pieces) > 1 else first + 1
    distance, at = second - first, first
    for piece in pieces:
        is_even = len(piece) == 1 or (isinstance(piece, range) and piece.step == distance)
        if not (is_even and piece[0] == at):
            break
        at += distance * len(piece)
    else:
        if distance:
            return range(first, at, distance)
    joined = array("q")
    for piece in pieces:
        joined.extend(piece)
    return joined


class Packed(NamedTuple):
    """What one packed row holds, as far as it can be told without looking at each number."""

    numbers: Sequence[int]
    steps: Sequence[int]
    doubles: array[float]
    integers: bytes
    number_distance: int | None
    step_distance: int | None


def look_into(data: bytes) -> Packed:
    """The numbers of one packed row, quickly."""
    flags, count, first_number, first_step = _HEAD.unpack_from(data)
    at = _HEAD.size
    number_distance = step_distance = None
    numbers: Sequence[int]
    steps: Sequence[int]
    if flags & _REGULAR_NUMBERS:
        (number_distance,) = struct.unpack_from("<I", data, at)
        at += 4
        numbers = _evenly(first_number, number_distance, count)
    else:
        numbers = array("q", [first_number + offset for offset in _array("I", data[at : at + 4 * count])])
        at += 4 * count
    if flags & _REGULAR_STEPS:
        (step_distance,) = struct.unpack_from("<q", data, at)
        at += 8
        steps = _evenly(first_step, step_distance, count)
    else:
        steps = _array("q", data[at : at + 8 * count])
        at += 8 * count
    integers = b""
    if not flags & _FLOATS:
        integers = data[at : at + count]
        at += count
    return Packed(numbers, steps, _array("d", data[at : at + 8 * count]), integers, number_distance, step_distance)


def first_number_of(head: bytes) -> int:
    """The number of the first value of a packed row, of which ``head`` is the beginning."""
    return int(_HEAD.unpack_from(head)[2])


def _evenly(first: int, distance: int, count: int) -> Sequence[int]:
    return range(first, first + distance * count, distance) if distance else [first] * count


def _bytes(numbers: array[Any]) -> bytes:
    if sys.byteorder == "big":
        numbers = array(numbers.typecode, numbers)
        numbers.byteswap()
    return numbers.tobytes()


def _array(typecode: str, data: bytes) -> array[Any]:
    numbers: array[Any] = array(typecode)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
