"""RFC 6455 frames without I/O: the client's end of one connection.

``encode_frame`` makes one masked frame.  ``FrameDecoder`` takes bytes as they come, in pieces of any
size, and gives whole messages and control frames.  Neither knows sockets or time.

The decoder's memory is bounded by ``max_message_size`` plus one piece: a frame that announces more is
refused at its header, before a byte of it is stored.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import NamedTuple, Union

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
_MAX_CONTROL_BYTES = 125

_MASK_PIECE_BYTES = 256 * 1024  # a multiple of 4, and small enough for the processor's cache

# Below this an XOR of two big integers is faster than the strided translate, above it slower.
_XOR_AS_INTEGER_BYTES = 1024


class Text(NamedTuple):
    """A whole text message."""

    text: str


class Binary(NamedTuple):
    """A whole binary message."""

    payload: bytes


class Ping(NamedTuple):
    """A ping; answered by a pong with the same payload (RFC 6455 §5.5.2)."""

    payload: bytes


class Pong(NamedTuple):
    """A pong."""

    payload: bytes


class Close(NamedTuple):
    """A close frame; ``code`` is 1005 where the frame holds none (RFC 6455 §7.1.5)."""

    code: int
    reason: str


Event = Union[Text, Binary, Ping, Pong, Close]


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
        head = bytes((_FIN | opcode, _MASKED | size))
    elif size < 1 << 16:
        head = bytes((_FIN | opcode, _MASKED | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, _MASKED | 127)) + size.to_bytes(8, "big")
    return b"".join((head, mask, *_masked(payload, mask)))


def close_payload(code: int, reason: str = "") -> bytes:
    """The payload of a close frame, its reason cut to fit a control frame on a character boundary."""
    text = reason.encode("utf-8", "replace")[: _MAX_CONTROL_BYTES - 2]
    return code.to_bytes(2, "big") + text.decode("utf-8", "ignore").encode()


def apply_mask(payload: bytes, mask: bytes) -> bytes:
    """``payload`` XOR the repeated 4-byte ``mask`` (RFC 6455 §5.3)."""
    return b"".join(_masked(payload, mask))


def _masked(payload: bytes, mask: bytes) -> list[bytes | bytearray]:
    """The masked payload in pieces."""
    size = len(payload)
    if size <= _XOR_AS_INTEGER_BYTES:
        key = (mask * (size // 4 + 1))[:size]
        return [(int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")]
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
    """Bytes from a server to events. Not thread-safe: one owner.

    Args:
        max_message_size: bytes, > 0; a longer message (all fragments together) is refused with close code 1009.
    """

    def __init__(self, max_message_size: int) -> None:
        self._max_message_size = max_message_size
        self._rest = b""  # an incomplete frame header
        self._opcode = 0  # of the frame whose payload is incomplete
        self._is_final = True
        self._payload: bytearray | None = None  # what has come of that payload
        self._missing = 0
        self._message_opcode = 0  # of the fragmented message under way, 0 if none
        self._message = bytearray()  # what has come of it: one buffer, for a list of tiny fragments would be far larger

    def feed(self, data: bytes, events: list[Event]) -> None:
        """Append to ``events`` what ``data`` completes, what came before a broken frame included.

        Raises:
            FrameError: the stream is broken; the decoder must not be fed again.
        """
        payload = self._payload
        if payload is not None:
            missing = self._missing
            if len(data) < missing:
                payload += data
                self._missing = missing - len(data)
                return
            payload += data[:missing]
            data = data[missing:]
            self._payload = None
            self._on_frame(events, self._opcode, self._is_final, payload)
        elif self._rest:
            data = self._rest + data
            self._rest = b""
        position = 0
        end = len(data)
        while end - position >= 2:
            start, size = self._header(data, position, end)
            if start == 0:
                break
            opcode = data[position] & 0x0F
            is_final = data[position] >= _FIN
            stop = start + size
            if stop > end:
                self._opcode, self._is_final = opcode, is_final
                self._payload = bytearray(memoryview(data)[start:])
                self._missing = stop - end
                return
            self._on_frame(events, opcode, is_final, data[start:stop])
            position = stop
        if position < end:
            self._rest = data[position:]

    def _header(self, data: bytes, position: int, end: int) -> tuple[int, int]:
        """Where the payload starts and its size; (0, 0) while the header is incomplete."""
        first = data[position]
        opcode = first & 0x0F
        size = data[position + 1]
        if first & 0x70:
            raise FrameError(PROTOCOL_ERROR, "a reserved bit is set although no extension was negotiated")
        if size & _MASKED:
            raise FrameError(PROTOCOL_ERROR, "the server sent a masked frame")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise FrameError(PROTOCOL_ERROR, f"unknown opcode {opcode:#x}")
            if size > _MAX_CONTROL_BYTES or first < _FIN:
                raise FrameError(PROTOCOL_ERROR, "a control frame is fragmented or over 125 bytes")
            return position + 2, size
        if opcode > BINARY:
            raise FrameError(PROTOCOL_ERROR, f"unknown opcode {opcode:#x}")
        start = position + 2
        if size == 126:
            start += 2
            if start > end:
                return 0, 0
            size = int.from_bytes(data[position + 2 : start], "big")
            if size < 126:
                raise FrameError(PROTOCOL_ERROR, "a frame's length is not in its shortest form")
        elif size == 127:
            start += 8
            if start > end:
                return 0, 0
            size = int.from_bytes(data[position + 2 : start], "big")
            if size < 1 << 16 or size >> 63:
                raise FrameError(PROTOCOL_ERROR, "a frame's length is not in its shortest form, or over 63 bits")
        if len(self._message) + size > self._max_message_size:
            raise FrameError(
                MESSAGE_TOO_BIG,
                f"the server sent a message of at least {len(self._message) + size} bytes, "
                f"more than max_message_size={self._max_message_size}",
            )
        return start, size

    def _on_frame(self, events: list[Event], opcode: int, is_final: bool, payload: bytes | bytearray) -> None:
        if opcode >= CLOSE:
            events.append(_control(opcode, bytes(payload)))
            return
        if opcode == CONTINUATION:
            if not self._message_opcode:
                raise FrameError(PROTOCOL_ERROR, "a continuation frame without a message to continue")
            self._message += payload
            if not is_final:
                return
            opcode, payload = self._message_opcode, self._message
            self._message_opcode = 0
            self._message = bytearray()
        elif self._message_opcode:
            raise FrameError(PROTOCOL_ERROR, "a new message inside a fragmented one")
        elif not is_final:
            self._message_opcode = opcode
            self._message += payload
            return
        events.append(Text(_utf8(payload)) if opcode == TEXT else Binary(bytes(payload)))


def _utf8(payload: bytes | bytearray) -> str:
    try:
        return payload.decode()
    except UnicodeDecodeError as exc:
        # RFC 6455 §8.1
        raise FrameError(INVALID_DATA, f"a text message is not UTF-8: {exc.reason} at byte {exc.start}") from exc


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
