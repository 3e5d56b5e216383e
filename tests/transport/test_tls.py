"""The WebSocket transport over TLS: OpenSSL allows one operation at a time, and tells of less."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tellurio_sync.transport.base import Ending

from ..conftest import FAILSAFE
from .conftest import Tls
from .ends import Disconnected, Receiving, Slip, SocketFarEnd, receive, receive_ending, tls_pair

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


@pytest.mark.parametrize("frees_the_role", [True, False])
def test_ctrl_c_inside_a_tls_write_ends_the_connection_rather_than_tear_it(
    far: SocketFarEnd, frees_the_role: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``SSLSocket.send`` is Python code: nobody knows whether OpenSSL took the bytes."""
    receipt = Slip()

    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(far.transport._sock, "send", interrupted)
    if not frees_the_role:
        monkeypatch.setattr(far.transport, "wake", interrupted)
    with pytest.raises(KeyboardInterrupt):
        far.transport.send(['"a"'], [receipt])
    monkeypatch.undo()
    assert far.transport.was_sent(receipt), "it may have been"
    _, ending = receive_ending(far.transport)
    assert "interrupted" in ending.reason
