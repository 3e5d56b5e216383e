"""The two cheap servers: that the one in C answers what the one in Python answers, to the byte."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..conftest import FAILSAFE
from .compiled import SOURCE, NoCompiler, compiled_server
from .processes import HERE, Failed, running
from .server import CLOSE, FINAL_TEXT, PING, PONG, SMALL_BYTES, VERIFIED, frame, unmask

UPGRADE = b"GET / HTTP/1.1\r\nHost: here\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of that key, as RFC 6455 §1.3 says
MIB = 1024 * 1024

Ports = tuple[int, int]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server in C."""
    try:
        return compiled_server(tmp_path_factory.mktemp("compiled"))
    except NoCompiler as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="module")
def ports(program: Path) -> Iterator[Ports]:
    """Of the server in Python and of the one in C."""
    with running("server.py", -1) as slow, running(program, -1) as fast:
        yield slow["port"], fast["port"]


# --- what clients say and hear --------------------------------------------------------------------------


def masked(payload: bytes, first: int = FINAL_TEXT, mask: bytes = b"\x9a\x00\x17\xf3") -> bytes:
    """A frame as clients send it."""
    header = bytearray(frame(payload, first)[: 2 if len(payload) < 126 else 4 if len(payload) < 1 << 16 else 10])
    header[1] |= 0x80
    return bytes(header) + mask + unmask(payload, mask)


def request(method: str = "update_variable", id_: object = "7", size: int = 0) -> bytes:
    """As clients write it: the id comes last."""
    params = {"text": random.Random(size).randbytes(size // 2).hex()}
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, "id": id_}).encode()


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), FAILSAFE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def upgraded(port: int) -> socket.socket:
    """A connection whose greeting has been read."""
    sock = connect(port)
    sock.sendall(UPGRADE)
    heard = b""
    while b'"id":null}' not in heard:
        heard += sock.recv(1 << 16)
    return sock


def read_to_end(sock: socket.socket) -> bytes:
    heard = bytearray()
    while more := sock.recv(1 << 20):
        heard += more
    return bytes(heard)


def said(port: int, *pieces: bytes) -> bytes:
    """What a client hears that says this and then ends its output, until the server ends its own."""

    def say() -> None:
        for piece in pieces:
            sock.sendall(piece)
        with contextlib.suppress(OSError):  # a server that has ended the connection, on macOS
            sock.shutdown(socket.SHUT_WR)

    # Both at once: a server may wait for the client to read.
    with connect(port) as sock, ThreadPoolExecutor(1) as pool:
        saying = pool.submit(say)
        heard = read_to_end(sock)
        saying.result(FAILSAFE)
    return heard


def both(ports: Ports, conversation: Callable[[int], bytes]) -> bytes:
    """What both servers answer."""
    slow, fast = (conversation(port) for port in ports)
    assert slow == fast
    return fast


def payloads(heard: bytes) -> list[bytes]:
    """Of the frames that the server has sent."""
    found = []
    while heard:
        size, start = heard[1], 2
        if size == 126:
            size, start = struct.unpack_from("!H", heard, 2)[0], 4
        elif size == 127:
            size, start = struct.unpack_from("!Q", heard, 2)[0], 10
        assert len(heard) >= start + size
        found.append(heard[start : start + size])
        heard = heard[start + size :]
    return found


def replies(ports: Ports, *frames: bytes) -> list[bytes]:
    """What both servers answer to these frames, behind the greeting."""
    heard = both(ports, lambda port: said(port, UPGRADE, *frames))
    return payloads(heard.partition(b"\r\n\r\n")[2])[1:]


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
    with connect(ports[1]) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n".ljust(1 << 16, b"x"))
        assert read_to_end(sock) == b""


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
    )
    parsed = [json.loads(reply) for reply in heard]
    assert [reply["id"] for reply in parsed] == ["1", "2", "4", "5", "6"]
    assert [reply["result"]["variable_id"] for reply in parsed if "created" in str(reply)] == ["1", "2"]
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
    def ask(port: int) -> bytes:
        with upgraded(port) as sock:
            sock.sendall(masked(request()))
            heard = sock.recv(1 << 16)
            sock.sendall(masked(text))
            return heard + read_to_end(sock)

    assert payloads(both(ports, ask)) == replies(ports, masked(request()))


def test_which_word_counts(ports: Ports) -> None:
    """Of several in a request."""
    words = ["bench_hold", "bench_big", '"create_variable"']
    mixed = [f"{one} {other}" for one in words for other in words]
    heard = replies(ports, *(masked(f'{{"x":{text},"id":"1"}}'.encode()) for text in [*mixed, words[2]]))
    assert len(heard) == 5  # all but those with "bench_hold"
    assert b'"variable_id":"2"' in heard[-1]


def test_words_in_the_middle_count_in_small_requests(ports: Ports) -> None:
    padding = "x" * 1000
    for size, is_seen in ((4095, True), (4096, True), (4097, False)):
        text = f'{{"x":"{padding}","create_variable":"{padding}","id":"1"}}'.ljust(size)
        (reply,) = replies(ports, masked(text.encode()))
        assert (b"created" in reply) is is_seen


SIZES = [125, 126, 127, 4095, 4096, 4097, 4098, 4099, 4100, 65535, 65536, 65537, 262_130, 262_144, 262_158, 700_001]


@pytest.mark.parametrize("method", ["bench_big", "bench_up", "create_variable"])
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
    words = [b'"id"', b":", b",", b'"', b"12", b" ", b"}", b"bench_big", b'"create_variable"', b"x" * 60]
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

    def segments(sock: socket.socket) -> int:
        """How many with data have come: ``tcpi_data_segs_in``."""
        return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160), 152)[0])

    for port in ports:
        with upgraded(port) as sock, sock.makefile("rb") as stream:
            assert segments(sock) == 1
            sock.sendall(b"".join(frames))
            assert stream.read(len(heard)) == heard
            assert segments(sock) == 2


def test_frames_behind_the_head_in_its_segment(ports: Ports) -> None:
    assert len(replies(ports, masked(request()) + masked(request())[:20], masked(request())[20:])) == 2
    heard = both(ports, lambda port: said(port, UPGRADE + masked(request()) + masked(request())[:20]))
    assert len(payloads(heard.partition(b"\r\n\r\n")[2])) == 2  # with the greeting


def cut_everywhere(port: int, whole: bytes, cuts: Sequence[int], reply_size: int) -> bytes:
    """What is heard when ``whole`` comes in two pieces; the pong tells that the first one has arrived."""
    ping = masked(b"cut", PING)
    heard = b""
    with upgraded(port) as sock, sock.makefile("rb") as stream:
        for cut in cuts:
            sock.sendall(ping + whole[:cut])
            assert stream.read(5) == frame(b"cut", PONG)
            sock.sendall(whole[cut:])
            heard += stream.read(reply_size)
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
    def leave(port: int) -> bytes:
        with upgraded(port) as sock:
            sock.sendall(masked(request()) + masked(payload, CLOSE))
            return read_to_end(sock)

    assert payloads(both(ports, leave))[1:] == [payload[:2]]


def test_a_client_that_ends_its_output_in_a_frame(ports: Ports) -> None:
    large = masked(request(size=MIB))
    for rest in (b"\x81", masked(request())[:-1], large[:13], large[:14], large[:-1]):
        assert len(replies(ports, masked(request()) + rest)) == 1


def test_clients_that_vanish_harm_nobody(ports: Ports) -> None:
    """In the middle of a frame, small or large, and of a reply: their connections are reset."""
    whole = masked(request("bench_big", size=8 * MIB))
    reset = struct.pack("ii", 1, 0)

    def vanish(port: int, begun: bytes, is_output_ended: bool) -> None:
        with upgraded(port) as sock, sock.makefile("rb") as stream:
            sock.sendall(masked(b"", PING) + begun)
            if is_output_ended:
                sock.shutdown(socket.SHUT_WR)  # a server that writes is then sent a signal, too
            # It has read the beginning. Of all of it, it is writing the reply.
            heard = frame(b"", PONG) + (bytes((FINAL_TEXT,)) if begun is whole else b"")
            assert stream.read(len(heard)) == heard
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)

    for begun in (masked(request())[:20], whole[:14], whole[:-1], whole):
        for port in ports:
            vanish(port, begun, False)
            vanish(port, begun, True)
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


# --- the programs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["py", "c"])
def test_a_server_says_its_port_and_ends_with_its_input(program: Path, kind: str) -> None:
    command = [str(program)] if kind == "c" else [sys.executable, str(HERE / "server.py")]
    done = subprocess.run([*command, "-1"], input=b"", capture_output=True, timeout=FAILSAFE, check=True)
    assert re.fullmatch(rb'\{"port": \d+\}\n', done.stdout)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be pinned here")
def test_a_server_runs_on_the_core_that_it_is_given(program: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with subprocess.Popen([program, str(core)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert os.sched_getaffinity(process.pid) == {core}


# --- building it ----------------------------------------------------------------------------------------


def test_it_is_built_once_for_each_source(program: Path, tmp_path: Path) -> None:
    source = tmp_path / "server.c"
    source.write_bytes(SOURCE.read_bytes())
    first = compiled_server(tmp_path / "new" / "folder", source)
    built = first.stat()
    assert compiled_server(first.parent, source) == first
    assert first.stat() == built
    source.write_text(source.read_text() + "/* changed */\n")
    assert compiled_server(first.parent, source) != first


def test_it_may_be_built_by_several_at_once(program: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        built = set(pool.map(compiled_server, [tmp_path] * 3))
    assert built == set(tmp_path.iterdir())
    (path,) = built
    with running(path, -1) as ports:
        assert ports["port"]


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -v")
    with pytest.raises(NoCompiler, match="no C compiler: no-such-compiler"):
        compiled_server(tmp_path)


def test_with_a_source_that_cannot_be_compiled(program: Path, tmp_path: Path) -> None:
    source = tmp_path / "server.c"
    source.write_text("int main(void) { return nothing; }\n")
    with pytest.raises(Failed, match=r"server\.c cannot be compiled: ") as caught:
        compiled_server(tmp_path / "folder", source)
    assert not isinstance(caught.value, NoCompiler)
    assert list((tmp_path / "folder").iterdir()) == []
