"""The two cheap servers: that the one in C answers what the one in Python answers, to the byte, also over TLS."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence

import pytest

from .conversation import (
    MIB,
    UPGRADE,
    Port,
    Ports,
    both,
    connect,
    masked,
    payloads,
    replies,
    request,
    said,
    segments,
    upgraded,
    vanish,
)
from .server import CLOSE, FINAL_TEXT, PING, PONG, SMALL_BYTES, VERIFIED, frame

ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of the key in UPGRADE, as RFC 6455 §1.3 says


# --- the handshake --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(UPGRADE, id="the example of the RFC"),
        pytest.param(UPGRADE.replace(b"Key: ", b"Key:"), id="no space before the key"),
        pytest.param(UPGRADE.replace(b"Sec-WebSocket-Key:", b"SEC-websocket-KEY: \t "), id="another case, more space"),
        pytest.param(UPGRADE.replace(b"\r\nHost", b"\r\nX: " + b"x" * 20_000 + b"\r\nHost"), id="a long head"),
    ],
)
def test_the_handshake_and_the_greeting_behind_it(ports: Ports, head: bytes) -> None:
    heard = both(ports, lambda port: said(port, head))
    assert b"\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n" in heard
    assert heard.endswith(b'"id":null}')


@pytest.mark.parametrize("size", [1, 18, 19, 20, 24, 82, 83])
def test_keys_of_other_sizes(ports: Ports, size: int) -> None:
    """SHA-1 works on blocks of 64 bytes: with the GUID the key fills one, or does not quite, or begins the next."""
    head = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: %s\r\n\r\n" % (b"k" * size)
    assert both(ports, lambda port: said(port, head)).startswith(b"HTTP/1.1 101 ")


def test_a_head_that_comes_byte_by_byte(ports: Ports) -> None:
    assert both(ports, lambda port: said(port, *(bytes((byte,)) for byte in UPGRADE))).endswith(b'"id":null}')


@pytest.mark.parametrize("head", [b"GET /me HTTP/1.1\r\n\r\n", b"GET /me HTTP/1.1\r\nSec-WebSocket-Key: \r\n\r\n"])
def test_a_get_without_a_key_is_the_verification_of_one(ports: Ports, head: bytes) -> None:
    assert both(ports, lambda port: said(port, head)) == VERIFIED


def test_a_head_without_an_end_gets_nothing(ports: Ports) -> None:
    assert both(ports, lambda port: said(port, UPGRADE[:-1])) == b""


def test_heads_have_a_limit(ports: Ports) -> None:
    """The server in Python has none."""
    with connect(ports[1]) as line:
        line.send(b"GET / HTTP/1.1\r\n".ljust(1 << 16, b"x"))
        assert line.read_to_end() == b""


# --- requests -------------------------------------------------------------------------------------------


def test_each_kind_of_request(ports: Ports) -> None:
    heard = replies(
        ports,
        masked(request(id_="1")),
        masked(request("create_variable", "2")),
        masked(request("bench_hold", "3")),
        masked(request("bench_big", "4", 1000)),
        masked(request("create_variable", "5")),
        masked(request("bench_up", "6", 100_000)),
        masked(request("run_function", "7")),
    )
    parsed = [json.loads(reply) for reply in heard]
    assert [reply["id"] for reply in parsed] == ["1", "2", "4", "5", "6", "7"]
    assert [reply["result"]["variable_id"] for reply in parsed if "created" in str(reply)] == ["1", "2"]
    assert parsed[5]["result"]["data"]["variable_id"] == "3"
    assert len(parsed[2]["result"]["data"]) == len(request("bench_big", "4", 1000))


@pytest.mark.parametrize(
    ("text", "id_"),
    [
        ('{"method":"m","id":"1"}', "1"),
        ('{"method":"m","id":1}', 1),
        ('{"method":"m", "id" : "1" }', "1"),
        ('{"id":"1","method":"m"}', "1"),
        ('{"id":12,"method":"m"}', 12),
        ('{"method":"m","id":"","params":[]}', ""),
        ('{ "id"\t:\r\n 12 , "method" : "m" }', 12),
        ('{"method":"m","params":{"id":"inner"},"id":"outer"}', "outer"),
        ('{"params":{"id":"inner","x":1},"method":"m"}', "inner"),
        ('{"id":null,"params":{"id":3,"x":1}}', 3),
        ('{"id":-1,"params":{"x":{"id" "y"},"id":"z"},"n":1}', "z"),
        ('{"id":"create_variable","method":"m"}', "create_variable"),
    ],
)
@pytest.mark.parametrize("size", [0, 2 * SMALL_BYTES])
def test_where_the_id_stands(ports: Ports, text: str, id_: object, size: int) -> None:
    text = text.replace('"m"', '"m' + "x" * size + '"') if size else text
    (reply,) = replies(ports, masked(text.encode()))
    assert json.loads(reply)["id"] == id_


@pytest.mark.parametrize(
    "text", [b"", b"}", b'{"method":"m"}', b'"id"', b'"i', b'{"id":"1"', b'{"method":"bench_big"}']
)
def test_what_is_no_request_is_answered_alike(ports: Ports, text: bytes) -> None:
    assert len(replies(ports, masked(text))) == 1


@pytest.mark.parametrize("text", [b",", b'{"id":null,"x":1}', b'{"id":"x,', b'{"id",', b'{"id":-1,"x":"'])
def test_a_request_without_an_id_ends_the_connection(ports: Ports, text: bytes) -> None:
    def ask(port: Port) -> bytes:
        with upgraded(port) as line:
            line.send(masked(request()))
            heard = line.receive()
            line.send(masked(text))
            return heard + line.read_to_end()

    assert payloads(both(ports, ask)) == replies(ports, masked(request()))


def test_which_word_counts(ports: Ports) -> None:
    """Of several in a request."""
    words = ["bench_hold", "bench_big", '"create_variable"', '"run_function"']
    mixed = [f"{one} {other}" for one in words for other in words]
    heard = replies(ports, *(masked(f'{{"x":{text},"id":"1"}}'.encode()) for text in [*mixed, words[2]]))
    assert len(heard) == 10  # all but those with "bench_hold"
    assert b'"variable_id":"5"' in heard[-1]


def test_words_in_the_middle_count_in_small_requests(ports: Ports) -> None:
    padding = "x" * 1000
    for size, is_seen in ((4095, True), (4096, True), (4097, False)):
        text = f'{{"x":"{padding}","create_variable":"{padding}","id":"1"}}'.ljust(size)
        (reply,) = replies(ports, masked(text.encode()))
        assert (b"created" in reply) is is_seen


SIZES = [125, 126, 127, 4095, 4096, 4097, 4098, 4099, 4100, 65535, 65536, 65537, 262_130, 262_144, 262_158, 700_001]


@pytest.mark.parametrize("method", ["bench_big", "bench_up", "create_variable", "run_function"])
@pytest.mark.parametrize("mask", [bytes(4), b"\x01\x02\x03\x04"])
def test_requests_of_sizes_where_something_changes(ports: Ports, method: str, mask: bytes) -> None:
    def of_size(size: int) -> bytes:
        begin = b'{"method":"%s","x":"' % method.encode()
        return begin + b'","id":"9"}'.rjust(size - len(begin), b"x")

    assert [len(of_size(size)) for size in SIZES] == SIZES
    heard = replies(ports, *(masked(of_size(size), mask=mask) for size in SIZES))
    assert [json.loads(reply)["id"] for reply in heard] == ["9"] * len(SIZES)


@pytest.mark.parametrize("method", ["bench_up", "bench_big"])
def test_large_requests_one_behind_another(ports: Ports, method: str) -> None:
    """Also with small ones between them."""
    sizes = (16 * MIB + 1, 0, 3 * MIB, 16 * MIB, 100)
    heard = replies(ports, b"".join(masked(request(method, str(size), size)) for size in sizes))
    assert [reply.rpartition(b'"id":')[2] for reply in heard] == [b' "%d"}' % size for size in sizes]


def test_random_bytes_behind_the_handshake(ports: Ports) -> None:
    """Whatever they are taken for, both take them for the same."""
    source = random.Random(1)
    words = [b'"id"', b":", b",", b'"', b"12", b" ", b"}", b"x" * 60]
    words += [b"bench_big", b'"create_variable"', b'"run_function"']
    texts = [b"".join(source.choices(words, k=source.randrange(12))) for _ in range(500)]
    for text in texts:
        both(ports, lambda port, text=text: said(port, UPGRADE + masked(text)))  # type: ignore[misc]
    for _ in range(100):
        noise = source.randbytes(source.randrange(100))
        noise = bytes((byte & 0x81 if at == 0 else byte & 0x7E if at == 1 else byte) for at, byte in enumerate(noise))
        both(ports, lambda port, noise=noise: said(port, UPGRADE + noise))  # type: ignore[misc]


# --- frames and segments --------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="segments are counted by Linux")
def test_many_frames_of_a_segment_are_answered_in_one(ports: Ports) -> None:
    """As the greeting is in one with the handshake."""
    frames = [masked(request(id_=str(number))) for number in range(20)]
    heard = b"".join(map(frame, replies(ports, *frames)))
    for port in ports:
        with upgraded(port) as line:
            before = segments(line)
            assert before == 1 or port.context is not None  # the others are of the handshake of TLS
            line.send(b"".join(frames))
            assert line.read(len(heard)) == heard
            assert segments(line) == before + 1


def test_frames_behind_the_head_in_its_segment(ports: Ports) -> None:
    assert len(replies(ports, masked(request()) + masked(request())[:20], masked(request())[20:])) == 2
    heard = both(ports, lambda port: said(port, UPGRADE + masked(request()) + masked(request())[:20]))
    assert len(payloads(heard.partition(b"\r\n\r\n")[2])) == 2  # with the greeting


def cut_everywhere(port: Port, whole: bytes, cuts: Sequence[int], reply_size: int) -> bytes:
    """What is heard when ``whole`` comes in two pieces; the pong tells that the first one has arrived."""
    ping = masked(b"cut", PING)
    heard = b""
    with upgraded(port) as line:
        for cut in cuts:
            line.send(ping + whole[:cut])
            assert line.read(5) == frame(b"cut", PONG)
            line.send(whole[cut:])
            heard += line.read(reply_size)
    return heard


@pytest.mark.parametrize("size", [0, 40, 300])
def test_frames_cut_at_every_byte(ports: Ports, size: int) -> None:
    whole = masked(request(size=size), mask=b"\x01\x80\xff\x00")
    (reply,) = replies(ports, whole)
    cuts = range(len(whole))
    assert both(ports, lambda port: cut_everywhere(port, whole, cuts, len(frame(reply)))) == frame(reply) * len(cuts)


def test_large_frames_cut_around_their_header(ports: Ports) -> None:
    whole = masked(request("bench_big", size=200_000))
    (reply,) = replies(ports, whole)
    cuts = [*range(20), 1000, 65_535, len(whole) - 65_537, len(whole) - 65_536, len(whole) - 65_535, len(whole) - 1]
    assert both(ports, lambda port: cut_everywhere(port, whole, cuts, len(frame(reply)))) == frame(reply) * len(cuts)


@pytest.mark.parametrize(
    "payload", [b"", b"are you there", *(b"x" * size for size in (125, 126, 65_535, 65_536, 70_000))]
)
def test_a_ping_gets_its_pong(ports: Ports, payload: bytes) -> None:
    assert replies(ports, masked(payload, PING), masked(request()))[0] == payload


def test_frames_of_other_kinds_get_nothing(ports: Ports) -> None:
    assert replies(ports, *(masked(request(), first) for first in (0x00, 0x01, 0x02, 0x80, 0x82, PONG, 0xC1))) == []


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe8going", b"\x03"])
def test_a_close_is_echoed_and_ends_the_connection(ports: Ports, payload: bytes) -> None:
    def leave(port: Port) -> bytes:
        with upgraded(port) as line:
            line.send(masked(request()) + masked(payload, CLOSE))
            return line.read_to_end()

    assert payloads(both(ports, leave))[1:] == [payload[:2]]


def test_a_client_that_ends_its_output_in_a_frame(ports: Ports) -> None:
    large = masked(request(size=MIB))
    for rest in (b"\x81", masked(request())[:-1], large[:13], large[:14], large[:-1]):
        assert len(replies(ports, masked(request()) + rest)) == 1


def test_clients_that_vanish_harm_nobody(ports: Ports) -> None:
    """In the middle of a frame, small or large, and of a reply: their connections are reset."""
    whole = masked(request("bench_big", size=8 * MIB))

    def begin(port: Port, begun: bytes, is_output_ended: bool) -> None:
        with upgraded(port) as line:
            line.send(masked(b"", PING) + begun)
            if is_output_ended:
                line.end_output()  # a server that writes is then sent a signal, too
            # It has read the beginning. Of all of it, it is writing the reply.
            heard = frame(b"", PONG) + (bytes((FINAL_TEXT,)) if begun is whole else b"")
            assert line.read(len(heard)) == heard
            vanish(line)

    for begun in (masked(request())[:20], whole[:14], whole[:-1], whole):
        for port in ports:
            begin(port, begun, False)
            begin(port, begun, True)
        assert len(replies(ports, masked(request()))) == 1


def test_a_frame_too_large_for_any_machine_ends_only_its_connection(ports: Ports) -> None:
    for size in (1 << 62, (1 << 63) - 1, (1 << 64) - 1):
        heard = said(ports[1], UPGRADE, b"\x81\xff" + size.to_bytes(8, "big") + bytes(4))
        assert heard.endswith(b'"id":null}')
    assert len(replies(ports, masked(request()))) == 1


def test_connections_count_what_they_create_each_for_itself(ports: Ports) -> None:
    creation = masked(request("create_variable"))
    for _ in range(2):
        heard = [json.loads(reply)["result"]["variable_id"] for reply in replies(ports, creation * 11)]
        assert heard == [str(number) for number in range(1, 12)]
