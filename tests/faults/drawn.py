"""What ``fuzz`` feeds in: values, messages, texts and frames, more or less right."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from tellurio_sync.transport.frames import encode_frame

from .conversation import server_frame

MAX_MESSAGE_SIZE = 4000
"""Bytes: small, so that the limit is met often."""
_IDS = (0, 1, -1, 1.5, "", "a", "pending", None, True, [], {}, "\ud800", 10**30, "x" * 300)
_METHODS = ("good", "bad", "worst", "slow", "unknown", "", None, 7, [], "\ud800", "heartbeat")
_SCALARS = (None, True, False, 0, -1, 1.5, 1e308, "", "text", "é", "\ud800", "\0", 2**64, float("nan"), float("inf"))
_RARE_TEXTS: tuple[Callable[[], str], ...] = (
    lambda: "[" * 100_000,
    lambda: '{"a":' * 50_000,
    lambda: "[" * 900 + "]" * 900,
    lambda: "9" * 5000,
    lambda: '{"jsonrpc":"2.0","method":"good","id":' + "9" * 5000 + "}",
    lambda: '{"jsonrpc":"2.0","id":"pending","result":' + "[" * 950 + "]" * 950 + "}",
)


# --- what is drawn ------------------------------------------------------------------------------------


def draw_value(dice: random.Random, depth: int = 0) -> Any:
    if depth > 3 or dice.random() < 0.6:
        return dice.choice(_SCALARS)
    size = dice.randrange(4)
    if dice.random() < 0.5:
        return [draw_value(dice, depth + 1) for _ in range(size)]
    return {dice.choice(("n", "id", "error", "", "é")): draw_value(dice, depth + 1) for _ in range(size)}


def draw_envelope(dice: random.Random) -> Any:
    """Something like a JSON-RPC message, more or less."""
    point = dice.random()
    if point < 0.05:
        return draw_value(dice)
    if point < 0.12:
        return [draw_envelope(dice) for _ in range(dice.randrange(5))]
    envelope: dict[str, Any] = {}
    if dice.random() < 0.9:
        envelope["jsonrpc"] = "2.0" if dice.random() < 0.9 else draw_value(dice)
    if dice.random() < 0.6:
        envelope["method"] = dice.choice(_METHODS)
    if dice.random() < 0.6:
        envelope["params"] = {"n": draw_value(dice)} if dice.random() < 0.7 else draw_value(dice)
    if dice.random() < 0.7:
        envelope["id"] = dice.choice(_IDS)
    if dice.random() < 0.25:
        envelope["result"] = draw_value(dice)
    if dice.random() < 0.25:
        is_good = dice.random() < 0.5
        envelope["error"] = {"code": dice.choice(_IDS), "message": "m"} if is_good else draw_value(dice)
    return envelope


def draw_text(dice: random.Random) -> str:
    """A message, sometimes broken."""
    if dice.random() < 0.002:
        return dice.choice(_RARE_TEXTS)()
    text = json.dumps(draw_envelope(dice), ensure_ascii=dice.random() < 0.5)
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    while dice.random() < 0.3:
        at = dice.randrange(len(text) + 1)
        text = (
            text[:at]
            + dice.choice(("", '"', "{", "]", ",", "\\u", "NaN", "1e999", "\0", "é"))
            + text[at + dice.randrange(3) :]
        )
    return text


def draw_message(dice: random.Random) -> str | bytes:
    if dice.random() < 0.02:
        return dice.randbytes(dice.randrange(20))
    return draw_text(dice)


def draw_frames(dice: random.Random, count: int) -> bytes:
    """A stream of frames; a third holds none that are wrong, in half some bytes are changed."""
    is_right = dice.random() < 0.33
    stream = b"".join(_draw_right_frame(dice) if is_right else _draw_frame(dice) for _ in range(count))
    if dice.random() < 0.5:
        stream = mutated(dice, stream)
    return stream


def _draw_right_frame(dice: random.Random) -> bytes:
    point = dice.random()
    if point < 0.75:
        payload = draw_text(dice).encode()
        if len(payload) > MAX_MESSAGE_SIZE:
            payload = b"{}"
        if point < 0.65:
            return server_frame(0x1, payload)
        middle = dice.randrange(len(payload) + 1)
        return server_frame(0x1, payload[:middle], is_final=False) + server_frame(0x0, payload[middle:])
    if point < 0.95:
        return server_frame(dice.choice((0x9, 0xA)), dice.randbytes(dice.randrange(126)))
    return server_frame(0x2, dice.randbytes(dice.choice((0, 1, 125, 126, 127, MAX_MESSAGE_SIZE))))


_CLOSES = (b"", b"\x03", b"\x03\xe8bye", b"\x03\xee", b"\x0f\xa0", b"\x03\xe8\xff")


def _draw_frame(dice: random.Random) -> bytes:
    point = dice.random()
    if point < 0.9:
        return _draw_right_frame(dice)
    if point < 0.92:
        return server_frame(0x8, dice.choice(_CLOSES))
    if point < 0.95:
        return server_frame(dice.randrange(16), dice.randbytes(dice.randrange(200)), is_final=dice.random() < 0.5)
    if point < 0.96:
        return encode_frame(0x1, b"masked")
    if point < 0.98:
        return server_frame(0x1, draw_text(dice).encode() + b"\xff")
    return server_frame(0x1, b"x" * (MAX_MESSAGE_SIZE + dice.randrange(-1, 2)))


def mutated(dice: random.Random, stream: bytes) -> bytes:
    data = bytearray(stream)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(4)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at:at] = dice.randbytes(dice.randrange(1, 5))
        elif kind == 2:
            del data[at : at + dice.randrange(1, 20)]
        else:
            data[at:at] = data[: dice.randrange(1, 50)]
    return bytes(data)


def draw_pieces(dice: random.Random, stream: bytes) -> list[bytes]:
    longest = dice.choice((1, 3, 50, 5000))
    pieces = []
    while stream:
        size = dice.randint(1, longest)
        pieces.append(stream[:size])
        stream = stream[size:]
    return pieces
