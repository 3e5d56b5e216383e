"""Our RFC 6455 framing, against tables of bytes and against wsproto."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto import events as theirs
from wsproto.connection import Connection as TheirEnd
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.frame_protocol import FrameProtocol, Opcode

from tellurio_sync.transport import frames
from tellurio_sync.transport.frames import Close, Event, FrameDecoder, FrameError, Ping, Pong

LIMIT = 1 << 20


def decode(*pieces: bytes, limit: int = LIMIT) -> list[Event]:
    decoder = FrameDecoder(limit)
    events: list[Event] = []
    for piece in pieces:
        decoder.feed(piece, events)
    return events


def server_frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0) -> bytes:
    """An unmasked frame, its length in the shortest form."""
    size = len(payload)
    first = bytes([(0x80 if fin else 0) | reserved | opcode])
    if size < 126:
        return first + bytes([size]) + payload
    if size < 1 << 16:
        return first + b"\x7e" + size.to_bytes(2, "big") + payload
    return first + b"\x7f" + size.to_bytes(8, "big") + payload


# --- encoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opcode", "payload", "mask", "frame"),
    [
        # RFC 6455 §5.7: a single-frame masked text message
        (frames.TEXT, b"Hello", bytes.fromhex("37fa213d"), bytes.fromhex("818537fa213d7f9f4d5158")),
        (frames.TEXT, b"", bytes(4), bytes.fromhex("818000000000")),
        (frames.PONG, b"x", bytes(4), bytes.fromhex("8a810000000078")),
        (frames.CLOSE, b"\x03\xe8", bytes(4), bytes.fromhex("88820000000003e8")),
    ],
)
def test_the_bytes_of_a_frame(opcode: int, payload: bytes, mask: bytes, frame: bytes) -> None:
    assert frames.encode_frame(opcode, payload, mask) == frame


SIZES = [0, 1, 2, 3, 4, 5, 125, 126, 127, 1023, 1024, 1025, 1026, 1027, 65535, 65536, 65537, 300_001]


@pytest.mark.parametrize("size", SIZES)
def test_wsproto_reads_what_we_encode_at_each_boundary_of_sizes(size: int) -> None:
    payload = bytes(i * 7 % 251 for i in range(size))
    server = TheirEnd(ConnectionType.SERVER)
    server.receive_data(frames.encode_frame(frames.BINARY, payload))
    assert b"".join(bytes(event.data) for event in server.events()) == payload


def test_every_frame_has_its_own_mask() -> None:
    masks = {frames.encode_frame(frames.TEXT, b"same")[2:6] for _ in range(50)}
    assert len(masks) > 45


@pytest.mark.parametrize("count", [1, 51])
def test_every_message_has_a_mask_of_its_own(count: int) -> None:
    encoder = frames.TextEncoder()
    encoded = [frame for _ in range(1020 // count) for frame in encoder.encode(["same"] * count)]
    assert len({frame[2:6] for frame in encoded}) > 1000


def test_messages_sent_together_are_frames_of_their_own() -> None:
    encoded = frames.TextEncoder().encode(["same"] * 50 + ["ü" * 100])
    server = TheirEnd(ConnectionType.SERVER)
    server.receive_data(b"".join(encoded))
    assert [event.data for event in server.events()] == ["same"] * 50 + ["ü" * 100]


@given(st.binary(max_size=2500), st.binary(min_size=4, max_size=4))
def test_masking_is_the_xor_of_rfc_6455_and_undoes_itself(payload: bytes, mask: bytes) -> None:
    masked = frames.apply_mask(payload, mask)
    assert masked == bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    assert frames.apply_mask(masked, mask) == payload


@given(st.lists(st.text(max_size=200), max_size=8), st.data())
def test_wsproto_reads_our_messages_however_they_are_cut(texts: list[str], data: st.DataObject) -> None:
    stream = b"".join(frames.encode_frame(frames.TEXT, text.encode()) for text in texts)
    server = TheirEnd(ConnectionType.SERVER)
    received = ""
    for piece in _cut(stream, data):
        server.receive_data(piece)
        received += "".join(event.data for event in server.events())
    assert received == "".join(texts)


@given(st.sampled_from([1000, 1001, 1002, 1007, 1009, 3000, 4999]), st.text(max_size=200))
def test_wsproto_reads_our_close_frame(code: int, reason: str) -> None:
    payload = frames.close_payload(code, reason)
    assert len(payload) <= 125
    server = TheirEnd(ConnectionType.SERVER)
    server.receive_data(frames.encode_frame(frames.CLOSE, payload))
    (event,) = server.events()
    assert event.code == code
    assert reason.encode("utf-8", "replace").decode().startswith(event.reason or "")


def cuts(stream: bytes) -> list[int]:
    """Where to cut it in two: near its beginning and its end anywhere."""
    return sorted({*range(min(len(stream), 300)), *range(max(0, len(stream) - 20), len(stream))})


# --- decoding -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        # RFC 6455 §5.7
        (bytes.fromhex("810548656c6c6f"), ["Hello"]),
        (bytes.fromhex("010348656c") + bytes.fromhex("80026c6f"), ["Hello"]),
        (bytes.fromhex("890548656c6c6f"), [Ping(b"Hello")]),
        (bytes.fromhex("8a0548656c6c6f"), [Pong(b"Hello")]),
        (server_frame(2, bytes(256)), [bytes(256)]),
        (server_frame(2, bytes(65536)), [bytes(65536)]),
        (b"\x81\x00", [""]),
        (b"\x82\x00", [b""]),
        (b"\x89\x00", [Ping(b"")]),
        (b"\x01\x00\x00\x00\x80\x00", [""]),
        # control frames inside a fragmented message
        (
            server_frame(1, b"He", fin=False) + server_frame(9, b"p") + server_frame(0, b"llo"),
            [Ping(b"p"), "Hello"],
        ),
        # a character divided between two fragments
        (server_frame(1, b"\xe2\x82", fin=False) + server_frame(0, b"\xac"), ["€"]),
        (server_frame(8), [Close(1005, "")]),
        (server_frame(8, b"\x03\xe8"), [Close(1000, "")]),
        (server_frame(8, b"\x03\xe9bye \xe2\x82\xac"), [Close(1001, "bye €")]),
        (server_frame(9, bytes(125)), [Ping(bytes(125))]),
        (server_frame(1, b"a") + server_frame(1, b"b") + server_frame(8), ["a", "b", Close(1005, "")]),
        (b"", []),
        (b"\x81", []),
        (b"\x81\x05Hell", []),
    ],
)
def test_bytes_become_events_whole_cut_anywhere_and_byte_by_byte(stream: bytes, events: list[Event]) -> None:
    assert decode(stream) == events
    for cut in cuts(stream):
        assert decode(stream[:cut], stream[cut:]) == events
    assert decode(*(stream[i : i + 1] for i in range(len(stream)))) == events


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_valid_close_code_is_read(code: int) -> None:
    assert decode(server_frame(8, code.to_bytes(2, "big"))) == [Close(code, "")]


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_close_code_that_never_travels_is_a_protocol_error(code: int) -> None:
    with pytest.raises(FrameError) as caught:
        decode(server_frame(8, code.to_bytes(2, "big")))
    assert caught.value.code == 1002


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        (server_frame(1, b"x", reserved=0x40), 1002),
        (server_frame(1, b"x", reserved=0x20), 1002),
        (server_frame(1, b"x", reserved=0x10), 1002),
        (b"\x81\x81\x00\x00\x00\x00x", 1002),  # masked
        *[(server_frame(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)],
        (server_frame(9, b"", fin=False), 1002),
        (server_frame(8, b"", fin=False), 1002),
        (b"\x89\x7e\x00\x7e", 1002),  # a control frame over 125 bytes
        (b"\x88\x7f", 1002),
        (server_frame(0, b"x"), 1002),
        (server_frame(0, b"x", fin=False), 1002),
        (server_frame(1, b"x", fin=False) + server_frame(1, b"y"), 1002),
        (server_frame(1, b"x", fin=False) + server_frame(2, b"y", fin=False), 1002),
        (server_frame(8, b"\x03"), 1002),
        (b"\x81\x7e\x00\x7d", 1002),  # 125 in two bytes
        (b"\x81\x7f" + (65535).to_bytes(8, "big"), 1002),
        (b"\x81\x7f" + (1 << 63).to_bytes(8, "big"), 1002),
        (b"\x81\x7f" + ((1 << 64) - 1).to_bytes(8, "big"), 1002),
        (server_frame(1, b"\xff"), 1007),
        (server_frame(1, b"\xed\xa0\x80"), 1007),  # a surrogate
        (server_frame(1, b"\xe2\x82"), 1007),  # half a character
        (server_frame(1, b"\xe2", fin=False) + server_frame(0, b"\x28"), 1007),
        (server_frame(8, b"\x03\xe8\xff"), 1007),
    ],
)
def test_bytes_that_break_rfc_6455_end_the_stream_with_the_right_code(stream: bytes, code: int) -> None:
    whole, bytes_of_it = [stream], [stream[i : i + 1] for i in range(len(stream))]
    for pieces in (whole, bytes_of_it, *([stream[:cut], stream[cut:]] for cut in cuts(stream))):
        with pytest.raises(FrameError) as caught:
            decode(*pieces)
        assert caught.value.code == code


def test_what_came_before_a_broken_frame_is_not_lost() -> None:
    decoder = FrameDecoder(LIMIT)
    events: list[Event] = []
    with pytest.raises(FrameError):
        decoder.feed(server_frame(1, b"first") + server_frame(9, b"second") + server_frame(3), events)
    assert events == ["first", Ping(b"second")]


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 10, 125, 126, 1000, 65536])
def test_a_message_of_the_limit_is_read_and_one_byte_more_is_refused(limit: int) -> None:
    assert decode(server_frame(1, b"x" * limit), limit=limit) == ["x" * limit]
    with pytest.raises(FrameError, match=f"max_message_size={limit}") as caught:
        decode(server_frame(1, b"x" * (limit + 1)), limit=limit)
    assert caught.value.code == 1009


def test_the_limit_is_of_the_message_not_of_its_fragments() -> None:
    two = server_frame(1, b"x" * 5, fin=False) + server_frame(0, b"y" * 5)
    assert decode(two, limit=10) == ["xxxxxyyyyy"]
    with pytest.raises(FrameError) as caught:
        decode(two, limit=9)
    assert caught.value.code == 1009


def test_control_frames_do_not_count() -> None:
    stream = server_frame(1, b"x" * 5, fin=False) + server_frame(9, b"p" * 100) + server_frame(0, b"y" * 5)
    assert decode(stream, limit=10) == [Ping(b"p" * 100), "xxxxxyyyyy"]


@pytest.mark.parametrize("size", [11, 1 << 20, 1 << 40, (1 << 63) - 1])
def test_a_frame_that_announces_too_much_is_refused_at_its_header(size: int) -> None:
    head = server_frame(1, b"x" * 11)[:2] if size == 11 else b"\x81\x7f" + size.to_bytes(8, "big")
    with pytest.raises(FrameError) as caught:
        decode(head, limit=10)
    assert caught.value.code == 1009


def test_the_next_message_has_the_whole_limit_again() -> None:
    stream = server_frame(1, b"x" * 6, fin=False) + server_frame(0, b"y" * 4)
    assert decode(stream * 3, limit=10) == ["xxxxxxyyyy"] * 3


def test_memory_stays_near_the_limit_however_small_the_fragments() -> None:
    limit = 16 * 1024
    stream = server_frame(1, b"ab", fin=False) + server_frame(0, b"cd", fin=False) * (limit // 2 - 1)
    decoder = FrameDecoder(limit)
    events: list[Event] = []
    tracemalloc.start()
    try:
        decoder.feed(stream, events)
        for _ in range(5):
            decoder.feed(b"\x00\x00" * 5_000, events)  # empty fragments
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert events == []
    assert size < 2 * limit


# --- against wsproto ------------------------------------------------------------------------------


def _cut(stream: bytes, data: st.DataObject) -> list[bytes]:
    """The stream in pieces, cut at arbitrary places."""
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    bounds = [0, *cuts, len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(bounds)]


_CONTROL = st.binary(max_size=125).map(lambda payload: theirs.Ping(payload=payload)) | st.binary(max_size=125).map(
    lambda payload: theirs.Pong(payload=payload)
)
_PAYLOAD = st.text(max_size=100) | st.binary(max_size=100) | st.integers(0, 70_000).map(lambda size: "x" * size)


@st.composite
def _server_stream(draw: Any) -> tuple[bytes, list[Event]]:
    """What a wsproto server sends: messages in fragments with control frames between; and what it means."""
    protocol = FrameProtocol(client=False, extensions=[])
    stream = b""
    expected: list[Event] = []
    for payload in draw(st.lists(_PAYLOAD, max_size=5)):
        fragments = draw(st.integers(1, 4))
        step = max(1, -(-len(payload) // fragments))
        parts = [payload[i : i + step] for i in range(0, len(payload), step)] or [payload]
        for index, part in enumerate(parts):
            for control in draw(st.lists(_CONTROL, max_size=2)):
                is_ping = isinstance(control, theirs.Ping)
                stream += protocol.ping(control.payload) if is_ping else protocol.pong(control.payload)
                expected.append(Ping(bytes(control.payload)) if is_ping else Pong(bytes(control.payload)))
            stream += protocol.send_data(part, fin=index == len(parts) - 1)
        expected.append(payload)
    if draw(st.booleans()):
        reason = draw(st.text(max_size=30))
        stream += protocol.close(1001, reason)
        expected.append(Close(1001, reason))
    return stream, expected


@given(_server_stream(), st.data())
def test_we_read_what_a_wsproto_server_sends_however_it_is_cut(
    sent: tuple[bytes, list[Event]], data: st.DataObject
) -> None:
    stream, expected = sent
    assert decode(*_cut(stream, data)) == expected


def _their_reading(stream: bytes) -> list[Event]:
    """What a wsproto client makes of the stream, up to its first error."""
    client = TheirEnd(ConnectionType.CLIENT)
    read: list[Event] = []
    text, binary = "", b""
    try:
        client.receive_data(stream)
        for event in client.events():
            if isinstance(event, theirs.TextMessage):
                text += event.data
                if event.message_finished:
                    read.append(text)
                    text = ""
            elif isinstance(event, theirs.BytesMessage):
                binary += event.data
                if event.message_finished:
                    read.append(binary)
                    binary = b""
            elif isinstance(event, theirs.Ping):
                read.append(Ping(bytes(event.payload)))
            elif isinstance(event, theirs.Pong):
                read.append(Pong(bytes(event.payload)))
            elif isinstance(event, theirs.CloseConnection):
                if client.state is ConnectionState.OPEN:
                    break  # no close frame came: this is how it tells of a broken one
                read.append(Close(event.code, event.reason or ""))
    except Exception:  # noqa: BLE001 - wsproto raises several kinds for broken input
        pass
    return read


_FRAME = st.builds(
    server_frame,
    st.sampled_from([0, 1, 2, 8, 9, 10, 3, 11]),
    st.binary(max_size=130) | st.text(max_size=40).map(str.encode),
    fin=st.booleans(),
    reserved=st.sampled_from([0, 0, 0, 0, 0x40, 0x10]),
)


@settings(max_examples=300)
@given(st.lists(_FRAME, max_size=6).map(b"".join) | st.binary(max_size=300), st.data())
@example(b"\x88\x02\x03\xe8\x83\x00", None)
@example(b"\x01\x01\x80\x88\x00", None)
def test_any_bytes_are_events_or_a_frame_error_and_the_same_however_cut(stream: bytes, data: Any) -> None:
    def read(*pieces: bytes) -> tuple[list[Event], int | None]:
        decoder = FrameDecoder(LIMIT)
        events: list[Event] = []
        try:
            for piece in pieces:
                decoder.feed(piece, events)
        except FrameError as exc:
            return events, exc.code
        return events, None

    whole = read(stream)
    if data is not None:
        assert read(*_cut(stream, data)) == whole
    events, code = whole
    assert code in (None, 1002, 1007, 1009)
    # After a close frame nothing counts; up to it, or to the first broken frame, both read the same.
    ours = events
    for index, event in enumerate(events):
        if isinstance(event, Close):
            ours = events[: index + 1]
            break
    their = _their_reading(stream)
    for mine, other in zip(ours, their):
        assert mine == other


def test_their_opcodes_are_ours() -> None:
    assert [frames.TEXT, frames.BINARY, frames.CLOSE, frames.PING, frames.PONG] == [
        Opcode.TEXT,
        Opcode.BINARY,
        Opcode.CLOSE,
        Opcode.PING,
        Opcode.PONG,
    ]
