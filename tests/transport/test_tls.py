"""The WebSocket transport over TLS: records are not frames, and OpenSSL has things of its own to say."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from tellurio_sync.transport import frames
from tellurio_sync.transport.base import Ending, TransportEnded
from tellurio_sync.transport.tls import TlsStream
from tellurio_sync.transport.websocket import WebSocketTransport

from ..conftest import FAILSAFE, in_thread
from .conftest import Tls
from .ends import Disconnected, Receiving, Slip, SocketFarEnd, receive, receive_ending, receive_until, tls_pair

MIB = 1 << 20


@pytest.fixture
def far(tls: Tls) -> Iterator[SocketFarEnd]:
    end = SocketFarEnd(*tls_pair(tls.server, tls.client))
    yield end
    end.dispose()


@pytest.fixture
def narrow(tls: Tls) -> Iterator[SocketFarEnd]:
    end = SocketFarEnd(*tls_pair(tls.server, tls.client, send_buffer=1))
    yield end
    end.dispose()


def echo(far: SocketFarEnd) -> None:
    with contextlib.suppress(Disconnected, OSError):
        while True:
            far.send(json.dumps(far.connection.receive()))


def test_many_records_that_openssl_has_already_decrypted_are_all_read(far: SocketFarEnd) -> None:
    texts = [json.dumps("x" * size) for size in (1, 100, 16_384, 16_385, 100_000, 1)]
    far.send(*texts)
    assert receive(far.transport, len(texts)) == texts


def test_what_the_opening_handshake_left_of_a_record_is_read_although_the_socket_is_silent(tls: Tls) -> None:
    ours, theirs = tls_pair(tls.server, tls.client)
    theirs.sendall(b"head" + b"\x81\x03abc")  # in one record
    assert b"".join(ours.recv(1) for _ in range(4)) == b"head"  # as the handshake reads
    far = SocketFarEnd(ours, theirs)
    assert receive(far.transport, 1) == ["abc"]
    assert far.transport.receive(0.001) == []
    far.dispose()


@pytest.mark.slow
def test_many_senders_and_a_busy_reader_lose_nothing_and_see_no_false_end(far: SocketFarEnd) -> None:
    threads, calls = 16, 60
    server = threading.Thread(target=echo, args=(far,))
    server.start()
    with Receiving(far.transport) as receiving:

        def send(name: int) -> None:
            for i in range(calls):
                far.transport.send([json.dumps([name, i, "x" * (20_000 if i % 10 == 0 else 10)])], timeout=FAILSAFE)
                if i % 7 == 0:
                    far.transport.wake()
                    far.transport.ping()

        senders = [threading.Thread(target=send, args=(name,)) for name in range(threads)]
        for sender in senders:
            sender.start()
        echoed = [json.loads(message) for message in receiving.wait_for(threads * calls)]
        for sender in senders:
            sender.join(FAILSAFE)
        assert receiving.ending is None
        for name in range(threads):
            assert [i for who, i, _ in echoed if who == name] == list(range(calls))
    far.transport.dispose()
    server.join(FAILSAFE)


@pytest.mark.slow
def test_both_ends_push_large_messages_at_once(far: SocketFarEnd) -> None:
    text = json.dumps("x" * (4 * MIB))
    with Receiving(far.transport) as receiving:
        pushing = threading.Thread(target=lambda: [far.send(text) for _ in range(2)])
        # One thread at a time may use the far end's SSL socket: it pushes first, then reads.
        pushing.start()
        for _ in range(2):
            far.transport.ping()
            far.transport.send([text])
        pushing.join(FAILSAFE)
        assert [len(far.connection.receive()) for _ in range(2)] == [4 * MIB] * 2
        assert [len(message) for message in receiving.wait_for(2)] == [4 * MIB + 2] * 2


def test_a_slow_reader_of_one_large_message_is_seen_to_make_progress(narrow: SocketFarEnd) -> None:
    """Else a message that takes longer than ping_timeout on a slow line would end the connection."""
    narrow.transport.send([json.dumps("x" * (4 * MIB))])
    stalls: set[float | None] = set()
    total = 0
    with Receiving(narrow.transport):
        while len(stalls) < 5:
            stalls.add(narrow.transport.stalled_since)
            total += len(narrow.connection.sock.recv(16 * 1024))
            assert total < 4 * MIB, f"no progress was seen in {total} bytes: {stalls}"


def test_what_was_sent_before_a_large_message_counts_as_sent_although_that_one_is_stuck(tls: Tls) -> None:
    narrow = SocketFarEnd(*tls_pair(tls.server, tls.client, send_buffer=64 * 1024))  # room for the first records
    small, large = Slip(), Slip()
    narrow.transport.send(['"small"', json.dumps("x" * (8 * MIB))], [small, large])
    assert narrow.transport.was_sent(small)
    assert not narrow.transport.was_sent(large)
    narrow.transport.abort(Ending("aborted", "local"))
    narrow.transport.dispose()
    assert narrow.connection.receive() == "small"
    assert narrow.transport.was_sent(small)
    assert not narrow.transport.was_sent(large)
    narrow.dispose()


def test_the_end_of_the_tls_stream_is_an_ending(far: SocketFarEnd) -> None:
    far.send('"last"')
    far.connection.sock.settimeout(0)  # say the end, and do not wait for an answer
    with contextlib.suppress(OSError):
        far.connection.sock.unwrap()  # type: ignore[attr-defined]
    messages, ending = receive_ending(far.transport)
    assert messages == ['"last"']
    assert ending.who == "server"


# --- records ------------------------------------------------------------------------------------------------


class Wire:
    """The bytes of a far end's records, between its TLS and the socket."""

    def __init__(self, tls: Tls) -> None:
        ours, theirs = socket.socketpair()
        self._socket = theirs
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.server.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.stream = TlsStream(ours, tls.client, "localhost")
        ours.settimeout(FAILSAFE)
        theirs.settimeout(FAILSAFE)
        thread = threading.Thread(target=self.stream.do_handshake)
        thread.start()
        self._until_done(self._tls.do_handshake)
        thread.join(FAILSAFE)
        self.transport = WebSocketTransport(self.stream)
        assert self.transport.receive(FAILSAFE) == []  # tickets for other sessions

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.dispose()
        self._socket.close()

    def records(self, text: str) -> bytes:
        """A text message, ready to be put."""
        frame = bytes((frames.TEXT | 0x80, len(text))) + text.encode()
        self._tls.write(frame)
        return self._outgoing.read()

    def has_come(self) -> bool:
        """Whether anything of the transport's is there to be read."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def put(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> bytes:
        """What comes of one record."""
        data: bytes = self._until_done(lambda: self._tls.read(1 << 16))
        return data

    def _until_done(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self._socket.sendall(self._outgoing.read())
                self._incoming.write(self._socket.recv(1 << 16))
            else:
                self._socket.sendall(self._outgoing.read())
                return done


@pytest.fixture
def wire(tls: Tls) -> Iterator[Wire]:
    with Wire(tls) as made:
        yield made


def test_a_record_may_come_byte_by_byte_and_each_is_a_sign_of_life(wire: Wire) -> None:
    records = wire.records("abc") + wire.records("def")
    lives = set()
    messages: list[str | bytes] = []
    for byte in records:
        wire.put(bytes((byte,)))
        messages += wire.transport.receive(FAILSAFE)
        lives.add(wire.transport.bytes_received)
    assert messages == ["abc", "def"]
    assert len(lives) == len(records)


def test_records_that_came_together_are_read_in_one_go_and_a_message_is_written_in_one(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.put(wire.records("a") + wire.records("b") + wire.records("c"))
    assert wire.transport.receive(FAILSAFE) == ["a", "b", "c"]
    real, writes = wire.stream._send_some, []

    def send_some(data: bytes, *flags: int) -> int:
        writes.append(real(data, *flags))
        return writes[-1]

    monkeypatch.setattr(wire.stream, "_send_some", send_some)
    wire.transport.send(['"message"'])
    wire.transport.send(['"and"', '"two more"'])
    assert len(writes) == 2


def test_what_came_before_a_broken_record_is_given_and_the_server_is_told(wire: Wire) -> None:
    good, bad = wire.records("abc"), bytearray(wire.records("def"))
    bad[-1] ^= 1
    wire.put(good + bad)
    messages, ending = receive_ending(wire.transport)
    assert messages == ["abc"]
    assert ending.who == "network"
    assert "DECRYPTION_FAILED_OR_BAD_RECORD_MAC" in ending.reason
    with pytest.raises(ssl.SSLError, match=r"(?i)alert bad record mac"):
        wire.receive()


def test_what_is_no_tls_at_all_ends_the_connection(wire: Wire) -> None:
    wire.put(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    _, ending = receive_ending(wire.transport)
    assert ending.who == "network"


def test_a_record_that_is_cut_off_is_the_end_of_the_stream(wire: Wire) -> None:
    wire.put(wire.records("abc")[:-1])
    assert wire.transport.receive(FAILSAFE) == []
    wire._socket.close()
    _, ending = receive_ending(wire.transport)
    assert "ended the stream" in ending.reason


def test_a_record_that_the_socket_takes_bit_by_bit_is_written_when_all_of_it_is(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = wire.stream._send_some, 10

    def send_some(data: bytes | memoryview, *flags: int) -> int:
        nonlocal room
        if not room:
            raise BlockingIOError(errno.EAGAIN, "no room")
        taken = real(data[:room], *flags)
        room -= taken
        return taken

    monkeypatch.setattr(wire.stream, "_send_some", send_some)
    slip = Slip()
    wire.transport.send(['"' + "x" * 100 + '"'], [slip])
    assert not wire.transport.was_sent(slip), "no part of a record can be read"
    assert wire.transport.stalled_since is not None
    room = 60
    assert wire.transport.receive(FAILSAFE) == []
    assert not wire.transport.was_sent(slip)
    room = 1000
    assert wire.transport.receive(FAILSAFE) == []
    assert wire.transport.was_sent(slip)
    assert len(wire.receive()) == 102 + 6


def test_what_cannot_be_written_before_something_is_read_waits_for_that(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:

    def write(_: object) -> int:
        raise ssl.SSLWantReadError

    monkeypatch.setattr(wire.stream, "_tls", Patched(wire.stream._tls, write=write))
    slip = Slip()
    wire.transport.send(['"a"'], [slip])
    assert wire.transport.receive(FAILSAFE) == []  # for it was woken
    start = time.monotonic()
    assert wire.transport.receive(0.05) == []
    assert time.monotonic() - start >= 0.05, "the socket is writable, but that is not what it waits for"
    assert not wire.transport.was_sent(slip)
    monkeypatch.undo()
    wire.put(wire.records("abc"))
    assert wire.transport.receive(FAILSAFE) == ["abc"]
    assert wire.transport.was_sent(slip)
    assert len(wire.receive()) == 3 + 6


class Patched:
    """An ``ssl.SSLObject``, of which some methods are others."""

    def __init__(self, real: ssl.SSLObject, **methods: Any) -> None:
        self._real = real
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_a_finalizer_that_sends_where_the_collector_runs_it_does_not_hang(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector may run at any time in the receive thread, also while that decrypts."""
    real = wire.stream._tls

    def read(size: int) -> bytes:
        data = real.read(size)
        wire.transport.send(['"sent by a finalizer"'])
        return data

    wire.put(wire.records("abc"))
    monkeypatch.setattr(wire.stream, "_tls", Patched(real, read=read))
    assert in_thread(wire.transport.receive, FAILSAFE) == ["abc"]
    assert len(wire.receive()) == len('"sent by a finalizer"') + 6


def test_a_record_on_its_way_is_not_taken_for_an_answer_of_openssl(wire: Wire) -> None:
    wire.stream._outgoing.write(b"a record of a writer at work")
    wire.put(wire.records("abc"))
    assert wire.transport.receive(FAILSAFE) == ["abc"]
    assert not wire.has_come(), "a pong was sent that nobody wanted"


def test_a_server_that_asks_for_answers_and_does_not_read_them_is_given_up(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:

    def read(_: int) -> bytes:
        wire.stream._outgoing.write(bytes(100_000))
        raise ssl.SSLWantReadError

    def take_nothing(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "no room")

    monkeypatch.setattr(wire.stream, "_send_some", take_nothing)
    monkeypatch.setattr(wire.stream, "_tls", Patched(wire.stream._tls, read=read))
    endings = []
    for _ in range(100):
        wire.put(b"x")
        try:
            wire.transport.receive(FAILSAFE)
        except TransportEnded as ended:
            endings.append(ended.ending)
            break
    assert endings[0].who == "server"
    assert "does not read" in endings[0].reason


def test_what_a_server_said_before_it_went_is_read_although_it_takes_nothing_more(wire: Wire) -> None:
    """In the opening handshake: why it refuses."""
    wire.put(wire.records("last words"))
    wire._socket.close()
    assert wire.stream.send(b"a request") == len(b"a request")
    assert wire.stream.recv(100)[2:] == b"last words"
    assert wire.stream.recv(100) == b""


def test_what_openssl_holds_goes_with_the_transport(tls: Tls) -> None:
    """Not some time later, by the garbage collector: it is some 40 KB a connection."""
    far = SocketFarEnd(*tls_pair(tls.server, tls.client))
    stream = weakref.ref(far.transport._tls)
    far.dispose()
    del far
    assert stream() is None


# --- what OpenSSL has to say for itself -----------------------------------------------------------------------


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl as a server")


class OpenSslServer:
    """``openssl s_server``, which can be told to ask for new keys. It shows what it receives."""

    def __init__(self, folder: Path, *options: str) -> None:
        authority = trustme.CA()
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)
        command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(folder / "server.pem"), *options]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._shown = b""
        self.wait_for(b"ACCEPT 127.0.0.1:")
        port = int(self.wait_for(b"\n"))
        sock = socket.create_connection(("127.0.0.1", port), FAILSAFE)
        stream = TlsStream(sock, self.context, "localhost")
        stream.do_handshake()
        self.transport = WebSocketTransport(stream)

    def __enter__(self) -> OpenSslServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.dispose()
        self._process.kill()
        self._process.communicate()

    def tell(self, line: bytes) -> None:
        """A command, or what is to be sent: line by line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def wait_for(self, text: bytes) -> bytes:
        """Wait until it has shown this text; returns what it showed before, after the last text."""
        assert self._process.stdout is not None
        timer = threading.Timer(FAILSAFE, self._process.kill)
        timer.start()
        try:
            while text not in self._shown:
                more = os.read(self._process.stdout.fileno(), 65536)
                assert more, f"it does not show {text!r}: {self._shown!r}"
                self._shown += more
            at = self._shown.index(text)
            before, self._shown = self._shown[:at], self._shown[at + len(text) :]
            return before
        finally:
            timer.cancel()
            timer.join()


@pytest.fixture
def no_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server shows can be read."""
    monkeypatch.setattr(frames, "os", SimpleNamespace(urandom=bytes))


@needs_openssl
@pytest.mark.usefixtures("no_masks")
@pytest.mark.parametrize(
    ("version", "command", "answer"),
    [("-tls1_3", b"K\n", b""), ("-tls1_2", b"r\n", b"\x8a\x80\0\0\0\0")],
    ids=["keys, answered with what is sent next", "a handshake, answered at once with a pong"],
)
def test_the_server_may_ask_for_more(tmp_path: Path, version: str, command: bytes, answer: bytes) -> None:
    """RFC 8446 §4.6.3; a new handshake before TLS 1.3, which would wait for ever where nothing is sent."""
    with OpenSslServer(tmp_path, version) as server, Receiving(server.transport) as receiving:
        for number in range(3):
            server.tell(command)
            server.wait_for(answer)
            server.transport.send([f"<message {number}>"])
            server.wait_for(b"<message %d>" % number)
            server.tell(b"\x81\x03%d-\n" % number)
            assert receiving.wait_for(number + 1)[number] == f"{number}-\n"
            server.transport.send([f"<another {number}>"])
            server.wait_for(b"<another %d>" % number)


@needs_openssl
@pytest.mark.usefixtures("no_masks")
def test_what_is_sent_while_the_server_wants_another_handshake_waits_for_it(tmp_path: Path) -> None:
    with OpenSslServer(tmp_path, "-tls1_2") as server:
        before = server.transport.bytes_received
        server.tell(b"r\n")
        assert receive_until(server.transport, lambda _: server.transport.bytes_received > before) == []
        slip = Slip()
        server.transport.send(["<message>"], [slip])
        assert not server.transport.was_sent(slip)
        assert receive_until(server.transport, lambda _: server.transport.was_sent(slip)) == []
        server.wait_for(b"<message>")
