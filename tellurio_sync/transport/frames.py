"""RFC 6455 frames without I/O: the client's end of one connection.

``encode_frame`` and ``TextEncoder`` make masked frames.  ``FrameDecoder`` takes bytes in pieces of any size, and gives
whole messages and control frames.  Neither knows sockets or time.

The decoder's memory is bounded by ``max_message_size`` plus one piece: a frame that announces more is
refused at its header, before a byte of it is stored.  Only the receive thread uses the decoder.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``TextEncoder._masks`` | any thread that sends | the same | each step is one C call on a list | – |
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, NoReturn, Union

from ..speedups import compiled

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

# RFC 6455 §7.4.1
NORMAL_CLOSURE = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
NO_STATUS = 1005
INVALID_DATA = 1007
MESSAGE_TOO_BIG = 1009

_FIN = 0x80
_MASKED = 0x80
_MASKED_16 = _MASKED | 126
_MASKED_64 = _MASKED | 127
_WHOLE_TEXT = _FIN | TEXT
_MAX_CONTROL_BYTES = 125

# RFC 6455 §5.2: opcode, size, mask; the size in one, three or nine bytes.
_HEAD = struct.Struct("!BB4s").pack
_HEAD_16 = struct.Struct("!BBH4s").pack
_HEAD_64 = struct.Struct("!BBQ4s").pack
_SIZE_16 = struct.Struct("!H").unpack_from
_SIZE_64 = struct.Struct("!Q").unpack_from

_MASKS_AT_ONCE = 256
_MASKS = struct.Struct("4s" * _MASKS_AT_ONCE).unpack

_MASK_PIECE_BYTES = 256 * 1024  # a multiple of 4, and small enough for the processor's cache

# Below this an XOR of two big integers is faster than the strided translate, above it slower.
_XOR_AS_INTEGER_BYTES = 1024
_from_bytes = int.from_bytes


class Ping(NamedTuple):
    """A ping; answered by a pong with the same payload (RFC 6455 §5.5.2)."""

    payload: bytes


class Pong(NamedTuple):
    """A pong."""

    payload: bytes


class Close(NamedTuple):
    """A close frame; ``code`` is 1005 if the frame holds none (RFC 6455 §7.1.5)."""

    code: int
    reason: str


Event = Union[str, bytes, Ping, Pong, Close]
"""The content of a stream of frames: a whole text message, a whole binary message, or a control frame."""


class FrameError(Exception):
    """The bytes break RFC 6455, or a limit; the connection must be closed with ``code``."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


# --- encoding -----------------------------------------------------------------------------------


def encode_frame(opcode: int, payload: bytes, mask: bytes | None = None) -> bytes:
    """One unfragmented, masked frame.

    Args:
        opcode: TEXT, BINARY, CLOSE, PING or PONG.
        payload: at most 125 bytes for a control frame.
        mask: 4 bytes; None draws them from the operating system (RFC 6455 §5.3: unpredictable, new for each frame).
    """
    if mask is None:
        mask = os.urandom(4)
    size = len(payload)
    if size < 126:
        head = _HEAD(_FIN | opcode, _MASKED | size, mask)
    elif size < 65536:
        head = _HEAD_16(_FIN | opcode, _MASKED_16, size, mask)
    else:
        head = _HEAD_64(_FIN | opcode, _MASKED_64, size, mask)
    if size <= _XOR_AS_INTEGER_BYTES:
        key = (mask * (size // 4 + 1))[:size]
        return head + (_from_bytes(payload, "big") ^ _from_bytes(key, "big")).to_bytes(size, "big")
    return b"".join((head, *_masked_pieces(payload, mask)))


class TextEncoder:
    """Makes frames of text messages. Thread-safe. For one process: a forked child must not use the same masks."""

    def __init__(self) -> None:
        # Masks for later frames, some hundred from one system call: one system call for each frame would take 0.45 of
        # the 29 us of a call.
        self._masks: list[bytes] = []

    def encode(self, texts: list[str]) -> list[bytes]:
        """One frame for each message, each with its own mask (RFC 6455 §5.3: unpredictable, new for each frame)."""
        if len(texts) > 1:
            return _encode_texts(texts, os.urandom(4 * len(texts)))
        try:
            mask = self._masks.pop()  # one step: no two threads get the same
        except IndexError:
            mask = self._draw()
        return _encode_texts(texts, mask)

    def _draw(self) -> bytes:
        mask: bytes
        mask, *others = _MASKS(os.urandom(4 * _MASKS_AT_ONCE))
        self._masks += others
        return mask


def encode_texts_in_python(texts: list[str], masks: bytes) -> list[bytes]:
    """One frame for each message, with as many masks of 4 bytes."""
    if len(texts) == 1:
        return [encode_frame(TEXT, texts[0].encode(), masks)]
    starts = range(0, len(masks), 4)
    return [encode_frame(TEXT, text.encode(), masks[start : start + 4]) for start, text in zip(starts, texts)]


_encode_texts: Callable[[list[str], bytes], list[bytes]] = (
    encode_texts_in_python if compiled is None else compiled.encode_texts
)


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame, its reason cut to fit a control frame on a character boundary."""
    text = reason.encode("utf-8", "replace")[: _MAX_CONTROL_BYTES - 2]
    return code.to_bytes(2, "big") + text.decode("utf-8", "ignore").encode()


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """``payload`` XOR the repeated 4-byte ``mask`` (RFC 6455 §5.3)."""
    return b"".join(_masked_pieces(payload, mask))


def _masked_pieces(payload: bytes, mask: bytes) -> list[bytes | bytearray]:
    size = len(payload)
    tables = [_xor_table(byte) for byte in mask]
    pieces: list[bytes | bytearray] = []
    for start in range(0, size, _MASK_PIECE_BYTES):
        piece = bytearray(payload[start : start + _MASK_PIECE_BYTES])
        for offset, table in enumerate(tables):
            piece[offset::4] = piece[offset::4].translate(table)
        pieces.append(piece)
    return pieces


@lru_cache(maxsize=256)
def _xor_table(key: int) -> bytes:
    return bytes(byte ^ key for byte in range(256))


# --- decoding -----------------------------------------------------------------------------------


class FrameDecoder:
    """Makes events of the bytes of a server. Not thread-safe: it has one owner.

    Args:
        max_message_size: bytes, > 0; a longer message (all fragments together) is refused with close code 1009.
    """

    def __init__(self, max_message_size: int) -> None:
        self._max_message_size = max_message_size
        # Whether a frame begins with the next byte, outside a fragmented message; False without the C extension.
        self._is_between = compiled is not None
        self._rest = b""  # an incomplete frame header
        self._first = 0  # first byte of the frame whose payload is incomplete
        self._payload: bytearray | None = None  # the part of that payload that has come
        self._missing = 0
        self._message_opcode = 0  # opcode of the fragmented message that is being received, 0 if there is none
        # The part of it that has come: one buffer, because a list of tiny fragments would be far larger.
        self._message = bytearray()
        self._room = max_message_size  # bytes that the message under way may still have

    def feed(self, data: bytes, events: list[Event]) -> bool:
        """Append to ``events`` the messages and frames that ``data`` completes, also those before a broken frame.

        Returns:
            Whether control frames are among them.

        Raises:
            FrameError: the stream is broken; the decoder must not be fed again.
        """
        if self._is_between:
            # First the usual case: whole text messages. The rest is another frame, not whole, or not valid.
            position: int = compiled.split_texts(data, self._room, events)
            if position == len(data):
                return False
            data = data[position:]
        has_control = self._feed_frames(data, events)
        self._is_between = (
            compiled is not None and self._payload is None and not self._rest and not self._message_opcode
        )
        return has_control

    def _feed_frames(self, data: bytes, events: list[Event]) -> bool:
        """As ``feed``, for frames of every kind and parts of them."""
        has_control = False
        if self._payload is not None:
            missing = self._missing
            payload = self._payload
            if len(data) < missing:
                payload += data
                self._missing = missing - len(data)
                return False
            payload += data[:missing]
            data = data[missing:]
            self._payload = None
            has_control = self._on_frame(events, self._first, payload)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        position = 0
        end = len(data)
        while end - position >= 2:
            first = data[position]
            size = data[position + 1]
            start = position + 2
            if first == _WHOLE_TEXT and not self._message_opcode:
                is_plain = True
            else:
                is_plain = False
                _check_head(first, size)
            if size == 126 and end - start >= 2:
                (size,) = _SIZE_16(data, start)
                start += 2
                if size < 126:
                    raise _not_shortest()
            elif size > 125:
                start, size = _long_size(data, start, end, size)
                if not start:
                    break
            if size > self._room and first < _FIN | CLOSE:
                self._refuse(size)
            stop = start + size
            if stop > end:
                self._first = first
                self._payload = bytearray(memoryview(data)[start:])
                self._missing = stop - end
                return has_control
            # Nearly every frame is a whole text message: this saves a call for it.
            if is_plain:
                try:
                    events.append(data[start:stop].decode())
                except UnicodeDecodeError as exc:
                    raise _not_utf8(exc) from exc
            elif self._on_frame(events, first, data[start:stop]):
                has_control = True
            position = stop
        if position < end:
            self._rest = data[position:]
        return has_control

    def _on_frame(self, events: list[Event], first: int, payload: bytes | bytearray) -> bool:
        """Take one whole frame; return whether it is a control frame."""
        opcode = first & 0x0F
        if opcode >= CLOSE:
            events.append(_control(opcode, bytes(payload)))
            return True
        is_final = first >= _FIN
        if opcode == CONTINUATION:
            if not self._message_opcode:
                raise FrameError(PROTOCOL_ERROR, "a continuation frame without a message to continue")
            self._message += payload
            self._room -= len(payload)
            if not is_final:
                return False
            opcode, payload = self._message_opcode, self._message
            self._message_opcode = 0
            self._message = bytearray()
            self._room = self._max_message_size
        elif self._message_opcode:
            raise FrameError(PROTOCOL_ERROR, "a new message inside a fragmented one")
        elif not is_final:
            self._message_opcode = opcode
            self._message += payload
            self._room -= len(payload)
            return False
        events.append(_utf8(payload) if opcode == TEXT else bytes(payload))
        return False

    def _refuse(self, size: int) -> NoReturn:
        raise FrameError(
            MESSAGE_TOO_BIG,
            f"the server sent a message of at least {len(self._message) + size} bytes, "
            f"more than max_message_size={self._max_message_size}",
        )


def _check_head(first: int, size: int) -> None:
    """Raise FrameError for a first byte that is not allowed, or a control frame that is too long."""
    opcode = first & 0x0F
    if first & 0x70:
        raise FrameError(PROTOCOL_ERROR, "a reserved bit is set although no extension was negotiated")
    if size & _MASKED:
        raise _masked_frame()
    if BINARY < opcode < CLOSE or opcode > PONG:
        raise FrameError(PROTOCOL_ERROR, f"unknown opcode {opcode:#x}")
    if opcode >= CLOSE and (size > _MAX_CONTROL_BYTES or first < _FIN):
        raise FrameError(PROTOCOL_ERROR, "a control frame is fragmented or over 125 bytes")


def _long_size(data: bytes, start: int, end: int, size: int) -> tuple[int, int]:
    """Where the payload starts and its size in eight bytes; (0, 0) while the header is incomplete."""
    if size & _MASKED:
        raise _masked_frame()
    stop = start + 8
    if size == 126 or stop > end:
        return 0, 0
    (long_size,) = _SIZE_64(data, start)
    if long_size < 1 << 16 or long_size >> 63:
        raise _not_shortest()
    return stop, long_size


def _not_shortest() -> FrameError:
    return FrameError(PROTOCOL_ERROR, "a frame's length is not in its shortest form, or over 63 bits")


def _masked_frame() -> FrameError:
    return FrameError(PROTOCOL_ERROR, "the server sent a masked frame")


def _utf8(payload: bytes | bytearray) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as exc:
        raise _not_utf8(exc) from exc


def _not_utf8(exc: UnicodeDecodeError) -> FrameError:
    # RFC 6455 §8.1
    return FrameError(INVALID_DATA, f"a text message is not UTF-8: {exc.reason} at byte {exc.start}")


def _control(opcode: int, payload: bytes) -> Event:
    if opcode == PING:
        return Ping(payload)
    if opcode == PONG:
        return Pong(payload)
    if not payload:
        return Close(NO_STATUS, "")
    if len(payload) == 1:
        raise FrameError(PROTOCOL_ERROR, "a close frame with half a code")
    code = int.from_bytes(payload[:2], "big")
    # RFC 6455 §7.4: 1004 to 1006 and 1015 never travel; 3000 to 4999 belong to libraries and applications.
    if not (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) and not 3000 <= code <= 4999:
        raise FrameError(PROTOCOL_ERROR, f"invalid close code {code}")
    return Close(code, _utf8(payload[2:]))
