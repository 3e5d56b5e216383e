"""One writer's journal as bytes: a header, then records, each with a checksum.  No input and output, no threads.

All numbers are little-endian; ``varint`` is an unsigned LEB128 integer, ``zigzag`` a signed one in that form.

    file      = "tellurio journal 1\\n" record*
    record    = kind body crc                     crc: the low 16 bits of the CRC-32 of kind and body
    kind 0x00-0x7f   mode (2 bits), name (5 bits): one number.    body: double [step]
    kind 0x80        a name gets its number.       body: varint number, varint length, UTF-8
    kind 0x81        any values, all or nothing.   body: mode [step] varint count, (varint name, type, value)*
    kind 0x82        a list of names.              body: varint number, varint count, varint name*
    kind 0x83        numbers for such a list.      body: varint list, mode [step] double*
    kind 0x90-0x93   mode (2 bits): one number.    body: varint name, double [step]
    mode      = 0 without a step | 1 the current step | 2 the one after it | 3 a step (varint), which becomes the
                current one | 4 a step (varint), and the current one stays; 2 makes its step the current one
    type      = 0 double | 1 zigzag integer | 2 a JSON text: varint length, UTF-8

A single number takes 11 bytes (12 with a new step that is not the next one), 20 numbers in one record 9 bytes each.
Names and lists are defined before their first use, so a file is read from its beginning, or from a place for which the
state of the reader was kept (:meth:`Decoder.state`).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Container, Mapping
from itertools import accumulate, chain, compress, starmap
from typing import Any, NamedTuple

MAGIC = b"tellurio journal 1\n"

NONE, CURRENT, NEXT, NEW, ASIDE = range(5)
_NAME, _ANY, _LIST, _NUMBERS, _WIDE = 0x80, 0x81, 0x82, 0x83, 0x90
_FLOAT, _INTEGER, _JSON = range(3)
_SHORT_NAMES = 32
_MAX_STEP = 2**63

_crc32 = zlib.crc32
_pack_crc = struct.Struct("<H").pack
_unpack_crc = struct.Struct("<H").unpack_from
_pack_short = struct.Struct("<Bd").pack
_pack_double = struct.Struct("<d").pack
_unpack_double = struct.Struct("<d").unpack_from

# How many single numbers are read one by one before it is tried to read as many again at once.
_FEW = 8
# Bits of an integer whose bytes are added up quickly: enough for steps; a file made to do harm may tell millions.
_LONGEST_USUAL = 70
# A single number with a step of nine bytes: those below 2**63.
_LONGEST_NUMBER = 20
# By the size of the record of a single number: what the checksum is made of, and the number.
_BODIES = {size: struct.Struct(f"{size - 2}s2x") for size in range(11, _LONGEST_NUMBER + 1)}
_DOUBLES = {size: struct.Struct(f"<xd{size - 9}x") for size in range(11, _LONGEST_NUMBER + 1)}
# Bytes that may stand at one place of such a record: its kind, and its step.
_WITHOUT_STEP, _WITH_STEP = bytes(range(NEW << 5)), bytes(range(NEW << 5, _NAME))
_LAST, _NOT_LAST = bytes(range(0x80)), bytes(range(0x80, 0x100))
# By the kind of such a record: how far it moves the current step.
_MOVES = bytes(kind >> 5 == NEXT for kind in range(0x100))


class Record(NamedTuple):
    """The values of one call of ``log``.

    Attributes:
        step: None: none was given, so the server counts.
        values: name and value of each metric.
        end: where the next record begins.
    """

    step: int | None
    values: list[tuple[str, Any]]
    end: int


class Columns(NamedTuple):
    """The values of many records in their order, part by part: a list of each part costs far less than a record each.

    Attributes:
        names: of the metrics.
        values: numbers, or other JSON values.
        steps: None: none was given, so the server counts.
        ends: where the record of a value ends. Values with the same end were logged together.
    """

    names: list[str]
    values: list[Any]
    steps: list[int | None]
    ends: list[int]

    def without(self, names: Container[str]) -> Columns:
        """Those of other metrics."""
        kept = [name not in names for name in self.names]
        columns = [list(compress(column, kept)) for column in self]
        return Columns._make(columns)

    def records(self) -> list[Record]:
        """The same, record by record."""
        records: list[Record] = []
        last = -1
        for name, value, step, end in zip(*self):
            if end != last:
                records.append(Record(step, [], end))
                last = end
            records[-1].values.append((name, value))
        return records


class MalformedJournal(ValueError):
    """A record cannot be read, and so nothing that follows it can.

    Attributes:
        position: where it begins.
        columns: the values before it that were read in the same step.
    """

    def __init__(self, position: int, why: str) -> None:
        super().__init__(f"The journal cannot be read from byte {position} on: {why}.")
        self.position = position
        self.columns: Columns = Columns([], [], [], [])

    @property
    def records(self) -> list[Record]:
        """The records before it that were read in the same step."""
        return self.columns.records()


def _sealed(record: bytes) -> bytes:
    return record + _pack_crc(_crc32(record) & 0xFFFF)


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


class Encoder:
    """Makes the records of one file. Not thread-safe: the writer takes a lock.

    The current step changes only by :meth:`written`, so that a record that was not written changes nothing.
    """

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._lists: dict[tuple[str, ...], tuple[bytes, struct.Struct]] = {}
        self._step: int | None = None
        self._made: int | None = None

    def number(self, name: str, value: float, step: int | None) -> bytes:
        """The record of one float; definitions it needs come before it."""
        number = self._names.get(name)
        if number is None:
            return self._define(name) + self.number(name, value, step)
        self._made = step
        rest = b""
        if step is None:
            mode = NONE
        else:
            current = self._step
            if step == current:
                mode = CURRENT
            elif current is not None and step == current + 1:
                mode = NEXT
            else:
                mode, rest = NEW, _varint(step)
        if number < _SHORT_NAMES:
            record = _pack_short(mode << 5 | number, value)
        else:
            record = bytes((_WIDE | mode,)) + _varint(number) + _pack_double(value)
        if rest:
            record += rest
        return record + _pack_crc(_crc32(record) & 0xFFFF)

    def numbers(self, values: Mapping[str, float], step: int | None) -> bytes:
        """One record of several floats."""
        names = tuple(values)
        known = self._lists.get(names)
        if known is None:
            before = b"".join(self._define(name) for name in names if name not in self._names)
            list_number = _varint(len(self._lists))
            listed = b"".join(_varint(self._names[name]) for name in names)
            before += _sealed(bytes((_LIST,)) + list_number + _varint(len(names)) + listed)
            self._lists[names] = bytes((_NUMBERS,)) + list_number, struct.Struct(f"<{len(names)}d")
            return before + self.numbers(values, step)
        head, packer = known
        return _sealed(head + self._mode(step) + packer.pack(*values.values()))

    def any(self, values: Mapping[str, Any], step: int | None, *, aside: bool = False) -> bytes:
        """One record of values of any kind that JSON has, and of NaN and infinities.

        Args:
            aside: the current step stays as it is: for a record that is made while another one is being made.

        Raises:
            ValueError, TypeError: as ``json.dumps``.
        """
        before = b""
        parts = [bytes((_ANY,)), b"", _varint(len(values))]
        for name, value in values.items():
            text = b"" if type(value) is float or type(value) is int else json.dumps(value, allow_nan=False).encode()
            # Aside: the record that is being made may not have been written, with the names that it tells.
            if aside or name not in self._names:
                before += self._define(name)
            parts.append(_varint(self._names[name]))
            if type(value) is float:
                parts += bytes((_FLOAT,)), _pack_double(value)
            elif type(value) is int:
                parts += bytes((_INTEGER,)), _varint(value << 1 if value >= 0 else ~(value << 1))
            else:
                parts += bytes((_JSON,)), _varint(len(text)), text
        parts[1] = bytes((ASIDE,)) + _varint(step) if aside and step is not None else self._mode(step)
        return before + _sealed(b"".join(parts))

    def written(self) -> None:
        """Note that the last record is in the file."""
        if self._made is not None:
            self._step = self._made

    def forget(self) -> None:
        """Note that it is not known what is in the file: the next records define everything again."""
        self._names, self._lists, self._step, self._made = {}, {}, None, None

    def _mode(self, step: int | None) -> bytes:
        self._made = step
        if step is None:
            return bytes((NONE,))
        if step == self._step:
            return bytes((CURRENT,))
        if self._step is not None and step == self._step + 1:
            return bytes((NEXT,))
        return bytes((NEW,)) + _varint(step)

    def _define(self, name: str) -> bytes:
        number = self._names.setdefault(name, len(self._names))
        text = name.encode(errors="surrogatepass")
        return _sealed(bytes((_NAME,)) + _varint(number) + _varint(len(text)) + text)


class _Incomplete(Exception):
    """The bytes end inside a record."""


class Decoder:
    """Reads the records of one file, piece by piece.

    Args:
        state: of a decoder that has read up to ``position``; None: at the begin.
        position: where in the file the next piece begins.
    """

    def __init__(self, state: dict[str, Any] | None = None, position: int = 0) -> None:
        state = state or {}
        self.position: int = position
        self._names: dict[int, str] = {int(number): name for number, name in state.get("names", {}).items()}
        self._lists: dict[int, tuple[list[str], struct.Struct]] = {}
        for number, names in state.get("lists", {}).items():
            self._lists[int(number)] = list(names), struct.Struct(f"<{len(names)}d")
        self._step: int | None = state.get("step")

    def state(self) -> dict[str, Any]:
        """What has been told up to ``position``, as plain JSON values."""
        return {
            "names": {str(number): name for number, name in self._names.items()},
            "lists": {str(number): names for number, (names, _) in self._lists.items()},
            "step": self._step,
        }

    def feed(self, data: bytes) -> list[Record]:
        """The whole records in ``data``, as :meth:`read` reads them. Records without a value are left out."""
        return self.read(data).records()

    def read(self, data: bytes) -> Columns:
        """The values of the whole records in ``data``, which begins at ``position``; ``position`` moves to their end.

        Bytes of a record that has not ended are left over: they come again, with more, as the next piece.

        Raises:
            MalformedJournal: something that is no record; the values before it are in ``columns`` of the error.
        """
        columns = Columns([], [], [], [])
        at, base, length = 0, self.position, len(data)
        if base == 0:
            if not data.startswith(MAGIC):
                if MAGIC.startswith(data[: len(MAGIC)]):
                    return columns
                raise MalformedJournal(0, "it does not begin as a journal of this version does")
            at = len(MAGIC)
        streak = 0  # so many single numbers were read before this place, and nothing in between
        while at < length:
            self.position = base + at
            is_number = data[at] < _NAME
            if is_number and streak >= _FEW:
                count, end = self._read_alike(data, at, streak, columns)
                if count:
                    streak += count
                    at = end
                    continue
            try:
                at = self._read_usual(data, at, columns) or self._read_one(data, at, columns)
            except _Incomplete:
                break
            except (ValueError, KeyError, RecursionError) as exc:
                error = MalformedJournal(base + at, str(exc) or type(exc).__name__)
                error.columns = columns
                raise error from None
            streak = streak + 1 if is_number else 0
        else:
            self.position = base + at
        return columns

    def _read_alike(self, data: bytes, at: int, most: int, columns: Columns) -> tuple[int, int]:
        """Read single numbers whose records are equally long, up to ``most`` of them, in a few steps for all.

        Returns:
            How many were read, and where the next record begins. It may be that the first one cannot be read in this
            way. Then nothing is read, and :meth:`_read_one` tells what is the matter with it.
        """
        has_step = data[at] >> 5 == NEW
        size = 11
        if has_step:
            size += 1
            while size <= _LONGEST_NUMBER and data[at + size - 3 : at + size - 2] >= b"\x80":
                size += 1
        count = min(most, (len(data) - at) // size)
        if not count or size > _LONGEST_NUMBER:
            return 0, at
        count = _leading(data[at : at + size * count : size], _WITH_STEP if has_step else _WITHOUT_STEP)
        for place in range(9, size - 2):
            # All bytes of a step but its last one say that another one follows.
            count = _leading(data[at + place : at + size * count : size], _LAST if place == size - 3 else _NOT_LAST)
        count = _sealed_count(data, at, size, count)
        if not count:
            return 0, at
        end = at + size * count
        kinds = data[at:end:size]
        known = {kind: self._names.get(kind & 0x1F) for kind in set(kinds)}
        steps = self._steps_after(data, at, size, kinds) if has_step else self._steps_of(kinds)
        if steps is None or None in known.values():
            return 0, at
        columns.names.extend(map(known.__getitem__, kinds))  # type: ignore[arg-type]
        columns.values.extend(chain.from_iterable(_DOUBLES[size].iter_unpack(data[at:end])))
        columns.steps.extend(steps)
        first = self.position + size
        columns.ends.extend(range(first, first + size * count, size))
        return count, end

    def _steps_after(self, data: bytes, at: int, size: int, kinds: bytes) -> list[int | None]:
        """The steps of records that tell them, all in equally many bytes."""
        steps = [0] * len(kinds)
        for place in range(size - 3, 8, -1):
            steps = [step << 7 | byte & 0x7F for step, byte in zip(steps, data[at + place :: size])]
        self._step = steps[-1]
        return steps  # type: ignore[return-value]

    def _steps_of(self, kinds: bytes) -> list[int | None] | None:
        """The steps of records that do not tell them; None: they cannot be known."""
        if max(kinds) < CURRENT << 5:
            return [None] * len(kinds)
        if self._step is None:
            return None
        steps = list(accumulate(kinds.translate(_MOVES), initial=self._step))[1:]
        if steps[-1] >= _MAX_STEP:
            return None
        self._step = steps[-1]
        if min(kinds) >= CURRENT << 5:
            return steps  # type: ignore[return-value]
        return [None if kind < CURRENT << 5 else step for kind, step in zip(kinds, steps)]

    def _step_of(self, mode: int, step: int | None) -> int | None:
        if mode == NONE:
            return None
        if mode == NEXT:
            if self._step is None:
                raise ValueError("a step after none")
            if self._step + 1 >= _MAX_STEP:
                raise ValueError("a step beyond the last one")
            self._step += 1
            return self._step
        if mode == CURRENT:
            if self._step is None:
                raise ValueError("no step was told")
            return self._step
        if mode == NEW:
            self._step = step
        return step

    def _read_usual(self, data: bytes, at: int, columns: Columns) -> int:
        """As :meth:`_read_one`, three times as fast, for what most records are: numbers of metrics with low numbers.

        Returns:
            0: it is another one, or something is wrong with it. Nothing was read.
        """
        kind = data[at]
        try:
            if kind < _NAME:
                mode, place = kind >> 5, at + 9
                names, values = [self._names[kind & 0x1F]], [_unpack_double(data, at + 1)[0]]
            elif kind == _ANY:
                mode, place = data[at + 1], at + 2
            else:
                return 0
            step = shift = 0
            if mode == NEW:
                while (byte := data[place]) >= 0x80:
                    step |= (byte & 0x7F) << shift
                    shift += 7
                    place += 1
                    if shift > _LONGEST_USUAL:
                        return 0
                step |= byte << shift
                place += 1
            if mode > NEW or step >= _MAX_STEP:
                return 0
            if kind == _ANY:
                names, values = [], []
                count, place = data[place], place + 1
                if count >= 0x80:
                    return 0
                for _ in range(count):
                    # A number of 0x80 and more takes two bytes, the first of which no name has here.
                    number, kind = data[place], data[place + 1]
                    if number >= 0x80 or kind > _INTEGER:
                        return 0
                    names.append(self._names[number])
                    if kind == _FLOAT:
                        values.append(_unpack_double(data, place + 2)[0])
                        place += 10
                        continue
                    whole, shift, place = 0, 0, place + 2
                    while (byte := data[place]) >= 0x80:
                        whole |= (byte & 0x7F) << shift
                        shift += 7
                        place += 1
                        if shift > _LONGEST_USUAL:
                            return 0
                    whole |= byte << shift
                    place += 1
                    values.append(~(whole >> 1) if whole & 1 else whole >> 1)
            if _crc32(data[at:place]) & 0xFFFF != data[place] | data[place + 1] << 8:
                return 0
        except (IndexError, KeyError, struct.error):
            return 0
        at_step, count = self._step_of(mode, step), len(values)
        columns.steps.extend([at_step] * count)
        columns.names.extend(names)
        columns.values.extend(values)
        columns.ends.extend([self.position + place + 2 - at] * count)
        return place + 2

    def _read_one(self, data: bytes, at: int, columns: Columns) -> int:
        """Read the record at ``at``; returns where the next one begins.

        Looks at the checksum before anything has an effect.
        """
        cursor = _Cursor(data, at + 1)
        kind = data[at]
        names: list[str]
        values: list[Any]
        if kind < 0x80:
            mode, numbers, values = kind >> 5, [kind & 0x1F], [cursor.double()]
            step = cursor.varint() if mode == NEW else None
        elif _WIDE <= kind <= _WIDE | NEW:
            mode, numbers, values = kind & 3, [cursor.varint()], [cursor.double()]
            step = cursor.varint() if mode == NEW else None
        elif kind == _ANY:
            mode = cursor.byte()
            step = cursor.varint() if mode in (NEW, ASIDE) else None
            numbers, values = [], []
            for _ in range(cursor.varint()):
                numbers.append(cursor.varint())
                values.append(cursor.value())
        elif kind == _NUMBERS:
            number = cursor.varint()
            mode = cursor.byte()
            step = cursor.varint() if mode in (NEW, ASIDE) else None
            if number not in self._lists:
                raise ValueError("it names a list that was not told")
            names, packer = self._lists[number]
            values = list(packer.unpack(cursor.take(packer.size)))
            numbers = []
        elif kind == _NAME:
            number = cursor.varint()
            text = cursor.take(cursor.varint())
            cursor.check(at)
            self._names[number] = text.decode(errors="surrogatepass")
            return cursor.at
        elif kind == _LIST:
            number = cursor.varint()
            listed = [cursor.varint() for _ in range(cursor.varint())]
            cursor.check(at)
            known = [self._names[one] for one in listed]
            self._lists[number] = known, struct.Struct(f"<{len(known)}d")
            return cursor.at
        else:
            raise ValueError("a record of an unknown kind")
        cursor.check(at)
        if mode > ASIDE or (step is not None and step >= _MAX_STEP):
            raise ValueError("a step of an unknown form")
        if kind != _NUMBERS:
            if any(number not in self._names for number in numbers):
                raise ValueError("it names a metric that was not told")
            names = [self._names[number] for number in numbers]
        count = len(values)
        columns.steps.extend([self._step_of(mode, step)] * count)
        columns.names.extend(names)
        columns.values.extend(values)
        columns.ends.extend([self.position + cursor.at - at] * count)
        return cursor.at


def _leading(column: bytes, accepted: bytes) -> int:
    """How many of the first bytes are among those accepted."""
    return len(column) - len(column.lstrip(accepted))


def _sealed_count(data: bytes, at: int, size: int, count: int) -> int:
    """How many of the first of these records, all of one size, have the right checksum."""
    wanted = struct.pack(f"<{count}I", *starmap(_crc32, _BODIES[size].iter_unpack(data[at : at + size * count])))
    for place in range(2):
        found = data[at + size - 2 + place : at + size * count : size]
        if found != wanted[place : 4 * count : 4]:
            count = next(number for number in range(count) if found[number] != wanted[4 * number + place])
    return count


class _Cursor:
    __slots__ = ("_data", "at")

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.at = at

    def take(self, length: int) -> bytes:
        end = self.at + length
        if end > len(self._data):
            raise _Incomplete
        part = self._data[self.at : end]
        self.at = end
        return part

    def byte(self) -> int:
        try:
            byte = self._data[self.at]
        except IndexError:
            raise _Incomplete from None
        self.at += 1
        return byte

    def double(self) -> float:
        value: float = _unpack_double(self.take(8))[0]
        return value

    def varint(self) -> int:
        byte = self.byte()
        number, shift = byte & 0x7F, 7
        while byte >= 0x80:
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            shift += 7
            if shift > 700:
                raise ValueError("an integer without an end")
        return number

    def value(self) -> Any:
        kind = self.byte()
        if kind == _FLOAT:
            return self.double()
        if kind == _INTEGER:
            number = self.varint()
            return ~(number >> 1) if number & 1 else number >> 1
        if kind == _JSON:
            return json.loads(self.take(self.varint()))
        raise ValueError("a value of an unknown type")

    def check(self, begin: int) -> None:
        """Read the checksum of the record that began there."""
        body = self._data[begin : self.at]
        if _crc32(body) & 0xFFFF != _unpack_crc(self.take(2))[0]:
            raise ValueError("the checksum of a record is another one")
