"""The two cheap servers over TLS, beyond the conversations of ``test_server.py``, which are all had over TLS, too."""

from __future__ import annotations

import contextlib
import json
import ssl
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from .conftest import Certificate
from .conversation import (
    UPGRADE,
    Line,
    Port,
    Ports,
    TlsLine,
    both,
    connect,
    masked,
    payloads,
    replies,
    request,
    segments,
    upgraded,
    vanish,
)
from .server import frame


def upgraded_tls(port: Port) -> TlsLine:
    line = upgraded(port)
    assert isinstance(line, TlsLine)
    return line


# --- the handshake --------------------------------------------------------------------------------------


def only(version: ssl.TLSVersion) -> ssl.SSLContext:
    """The context of a client that speaks one version, and trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the old versions
        context.minimum_version = context.maximum_version = version
    return context


def test_both_choose_the_same_protocol_and_cipher(tls_ports: Ports, certificate: Certificate) -> None:
    for context, version in ((certificate.client, "TLSv1.3"), (only(ssl.TLSVersion.TLSv1_2), "TLSv1.2")):
        chosen = []
        for port in tls_ports:
            with upgraded_tls(port._replace(context=context)) as line:
                chosen.append((line.tls.version(), line.tls.cipher(), line.tls.getpeercert(binary_form=True)))
        assert chosen[0] == chosen[1]
        assert chosen[0][0] == version


def test_conversations_of_the_older_protocol(tls_ports: Ports) -> None:
    slow, fast = (port._replace(context=only(ssl.TLSVersion.TLSv1_2)) for port in tls_ports)
    frames = [masked(request("bench_big", str(size), size)) for size in (0, 100_000, 1_000_000)]
    assert replies((slow, fast), *frames) == replies(tls_ports, *frames)


def test_protocols_that_are_too_old_are_refused(tls_ports: Ports) -> None:
    context = only(ssl.TLSVersion.TLSv1_1)
    context.set_ciphers("ALL:@SECLEVEL=0")  # or it would not even ask
    for port in tls_ports:
        with pytest.raises(OSError):
            connect(port._replace(context=context))


# --- records --------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="segments are counted by Linux")
def test_records_that_come_together_are_answered_together(tls_ports: Ports) -> None:
    """By the server in C; the one in Python answers each by itself."""
    frames = [masked(request(id_=str(number))) for number in range(20)]
    heard = b"".join(map(frame, replies(tls_ports, *frames)))
    with upgraded_tls(tls_ports[1]) as line:
        before = segments(line)
        line.sock.sendall(b"".join(map(line.encrypted, frames)))
        assert line.read(len(heard)) == heard
        assert segments(line) == before + 1


def test_records_cut_at_every_byte(tls_ports: Ports) -> None:
    """Behind a whole one: the first piece is that and the beginning of the next."""
    whole = masked(request())
    (reply,) = replies(tls_ports, whole)
    size = len(frame(reply))

    def cut_everywhere(port: Port) -> bytes:
        heard, cut = b"", 0
        with upgraded_tls(port) as line:
            while True:
                first, second = line.encrypted(whole), line.encrypted(whole)
                line.sock.sendall(first + second[:cut])
                line.sock.sendall(second[cut:])
                heard += line.read(2 * size)
                if cut == len(second):
                    return heard
                cut += 1

    heard = payloads(both(tls_ports, cut_everywhere))
    assert len(heard) > 2 * len(whole)
    assert set(heard) == {reply}


def test_a_batch_of_a_thousand_requests(tls_ports: Ports) -> None:
    """In one piece, each by itself, and in pieces that end anywhere."""
    frames = [masked(request(id_=str(number), size=number % 300)) for number in range(1000)]
    batch = b"".join(frames)
    pieces = [batch[at : at + 777] for at in range(0, len(batch), 777)]
    for way in ([batch], frames, pieces):
        heard = replies(tls_ports, *way)
        assert [json.loads(reply)["id"] for reply in heard] == [str(number) for number in range(1000)]


def test_sixty_four_connections_at_once(tls_ports: Ports) -> None:
    """Each counts for itself, and gets what it has asked for."""
    talk = b"".join(
        masked(request(method, size=size)) for method, size in (("create_variable", 0), ("bench_big", 99_999))
    )
    expected = b"".join(map(frame, replies(tls_ports, talk)))

    def converse(line: Line) -> bytes:
        line.send(talk)
        return line.read(len(expected))

    for port in tls_ports:
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(64) as pool:
            lines = [stack.enter_context(line) for line in pool.map(upgraded, [port] * 64)]
            assert set(pool.map(converse, lines)) == {expected}


# --- the end of a connection ----------------------------------------------------------------------------


def test_requests_before_a_farewell_are_answered(tls_ports: Ports) -> None:
    """Even if they come with it."""
    whole = masked(request())

    def leave(port: Port) -> bytes:
        with upgraded_tls(port) as line:
            line.sock.sendall(line.encrypted(whole * 3) + line.encrypted(whole) + line.farewell())
            return line.read_to_end()

    assert payloads(both(tls_ports, leave)) == replies(tls_ports, whole * 4)


def client_hello(context: ssl.SSLContext) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("is_reset", [False, True])
def test_clients_that_go_in_the_middle_harm_nobody(tls_ports: Ports, certificate: Certificate, is_reset: bool) -> None:
    """Of the handshake, or of a record. A client that does not speak TLS is one of them."""

    def go(line: Line) -> None:
        if is_reset:
            vanish(line)
            return
        line.end_output()
        with contextlib.suppress(ConnectionError):  # of a server that has not read all
            line.read_to_end()

    hello = client_hello(certificate.client)
    record = masked(request(size=10_000))
    for port in tls_ports:
        for begun in (b"", hello[:1], hello[: len(hello) // 2], hello, UPGRADE, bytes(100)):
            with Line(port) as line:
                line.send(begun)
                go(line)
        for cut in (1, 5, 6, 5000, -1):
            with upgraded_tls(port) as line:
                line.sock.sendall(line.encrypted(record)[:cut])
                go(line)
    assert len(replies(tls_ports, masked(request()))) == 1
