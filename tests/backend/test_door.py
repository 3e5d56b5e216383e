"""Connections that only hold a file descriptor: they end, they make room for others, and the log stays short."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

import tellurio_sync as te
from tellurio_sync.backend import door

from ..conftest import wait_until
from .conftest import KEY, RunningBackend
from .rpc_client import RpcClient

FAILSAFE = 30

Start = Callable[..., RunningBackend]


@pytest.fixture
def dial() -> Iterator[Callable[..., socket.socket]]:
    """Opens a connection and sends what is given."""
    opened: list[socket.socket] = []

    def dial_one(backend: RunningBackend, sends: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", backend.port), FAILSAFE)
        opened.append(sock)
        sock.sendall(sends)
        return sock

    yield dial_one
    for sock in opened:
        sock.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "FIRST_REQUEST_TIMEOUT", 0.3)


def limit(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(door, "connection_limit", lambda: most)


def has_ended(sock: socket.socket) -> bool:
    """Waits for what comes next: True for the end, False for data."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return True


def request(path: str, key: str | None = KEY, method: str = "GET", **headers: str) -> bytes:
    given = {"Host": "127.0.0.1", **({"Authorization": f"Api-Key {key}"} if key else {}), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in given.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


VERIFY = "/api/v0/verify-api-key/"


def answer(sock: socket.socket) -> int:
    """Reads one answer; its status."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(1)
        assert piece, head
        head += piece
    length = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if line.startswith(b"content-length"))
    while length:
        length -= len(sock.recv(length))
    return int(head.split()[1])


@pytest.mark.parametrize(
    "sends",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Endless: ",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 100\r\n\r\nkey=",
    ],
    ids=["nothing", "half a line", "half of the headers", "half a form"],
)
@pytest.mark.usefixtures("impatient")
def test_what_sends_no_whole_request_is_ended(sends: bytes, start_backend: Start, dial: Any) -> None:
    assert has_ended(dial(start_backend(), sends))


@pytest.mark.parametrize("then", [b"", b"GET / HT"])
def test_so_is_what_was_served_and_sends_no_other(
    then: bytes, start_backend: Start, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "IDLE_TIMEOUT", 0.2)
    sock = dial(start_backend(), request(VERIFY))
    assert answer(sock) == 200
    with contextlib.suppress(ConnectionError):
        sock.sendall(then)
    assert has_ended(sock)


def test_a_connection_that_is_at_work_may_take_its_time(
    start_backend: Start, connect: Callable[..., RpcClient], dial: Any
) -> None:
    backend = start_backend()
    guests = backend._backend._door._guests
    rpc = connect(backend)
    rpc.variable("a")
    leash = dial(backend, request("/leash/", method="POST", **{"Transfer-Encoding": "chunked"}))
    leash.recv(1)
    assert [(guest.timer, guest.is_known) for guest in guests.values()] == [(None, True)] * 2
    dial(backend)
    wait_until(lambda: len(guests) == 3, "it is accepted")
    assert [guest.timer is not None for guest in guests.values()] == [False, False, True]


def test_the_one_that_has_waited_longest_makes_room(
    start_backend: Start, dial: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit(monkeypatch, 4)
    backend = start_backend()
    served = dial(backend, request("/", key=None))
    assert answer(served) == 401
    first, second = dial(backend), dial(backend, b"GET")
    served.sendall(request("/", key=None))
    assert answer(served) == 401  # so it has waited for less long than those two
    third = dial(backend, request(VERIFY))
    assert answer(third) == 200
    newcomers = [dial(backend, request(VERIFY)) for _ in range(2)]
    assert [answer(sock) for sock in newcomers] == [200, 200]
    assert has_ended(first)
    assert has_ended(second)
    served.sendall(request(VERIFY))
    assert answer(served) == 200
    assert caplog.text.count("as many as there may be") == 1


def test_who_has_sent_the_key_stays_longer_than_strangers(
    start_backend: Start, dial: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 3)
    backend = start_backend()
    known = dial(backend, request(VERIFY))
    assert answer(known) == 200
    stranger = dial(backend, request(VERIFY, key="wrong"))
    assert answer(stranger) == 401
    last = dial(backend)
    newcomer = dial(backend, request(VERIFY))
    assert answer(newcomer) == 200
    assert has_ended(stranger)
    known.sendall(request(VERIFY))
    assert answer(known) == 200
    last.sendall(request(VERIFY))
    assert answer(last) == 200


def test_where_all_are_at_work_a_new_one_is_told_so(
    start_backend: Start, dial: Any, connect: Callable[..., RpcClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 2)
    backend = start_backend()
    one, two = connect(backend), connect(backend)
    for rpc in (one, two):
        rpc.variable("a")
    assert answer(dial(backend)) == 503
    two.close()
    wait_until(lambda: is_served(backend), "there is room again")


def is_served(backend: RunningBackend) -> bool:
    headers = {"Authorization": f"Api-Key {KEY}"}
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(backend.http_url + VERIFY, headers=headers, timeout=FAILSAFE).status_code == 200
    return False


def test_connections_that_have_ended_do_not_count(
    start_backend: Start, dial: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit(monkeypatch, 4)
    backend = start_backend()
    for _ in range(20):
        with dial(backend, request(VERIFY, Connection="close")) as sock:
            assert answer(sock) == 200
            assert has_ended(sock)
    assert "as many as there may be" not in caplog.text


def test_without_a_descriptor_it_waits_and_says_so_once(
    start_backend: Start, dial: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Other files of the process may take them all."""
    monkeypatch.setattr(door, "FIRST_REQUEST_TIMEOUT", 1000.0)
    backend = start_backend()
    real, left = socket.socket.accept, [3]

    def accept(self: socket.socket) -> Any:
        if threading.current_thread().name == "backend under test" and left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(self)

    waiting = dial(backend)
    wait_until(lambda: len(backend._backend._door._guests) == 1, "it is accepted")
    monkeypatch.setattr(socket.socket, "accept", accept)
    assert answer(dial(backend, request(VERIFY))) == 200
    assert left == [0]
    assert has_ended(waiting), "it makes room"
    said = [record.getMessage() for record in caplog.records if "no connection can be accepted" in record.getMessage()]
    assert said == ["! no connection can be accepted: Too many open files (said once a minute at most)"]


@pytest.mark.parametrize("sends", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00"])
def test_tls_that_does_not_come_about(
    sends: bytes, start_backend: Start, dial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    pem = tmp_path / "cert.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    backend = start_backend(tls_cert=pem)
    with monkeypatch.context() as impatient:
        impatient.setattr(door, "FIRST_REQUEST_TIMEOUT", 0.3)
        sock = dial(backend, sends)
        while not has_ended(sock):
            pass
    monkeypatch.setattr(door, "FIRST_REQUEST_TIMEOUT", 1000.0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with context.wrap_socket(dial(backend), server_hostname="127.0.0.1") as encrypted:
        encrypted.sendall(request(VERIFY))
        assert answer(encrypted) == 200
    dial(backend, sends)
    backend.stop()  # in the middle of it


@pytest.mark.parametrize(
    ("files", "most"), [(256, 128), (1024, 896), (100_000, 4096), (resource.RLIM_INFINITY, 4096), (4, 2), (1, 1)]
)
def test_the_limit_is_below_that_of_descriptors(files: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (files, resource.RLIM_INFINITY))
    assert door.connection_limit() == most


def test_a_name_with_several_addresses_has_one_port(start_backend: Start) -> None:
    backend = start_backend(host="localhost")
    for info in socket.getaddrinfo("localhost", backend.port, type=socket.SOCK_STREAM):
        with socket.create_connection(info[4][:2], FAILSAFE) as sock:
            sock.sendall(request(VERIFY))
            assert answer(sock) == 200


@pytest.mark.slow
def test_300_half_open_connections_stop_nobody(tmp_path: Path) -> None:
    """With 256 file descriptors; they took it down, and wrote 46 MB of tracebacks."""
    ready = tmp_path / "ready.json"
    program = (
        "import resource, runpy, sys; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)); sys.argv[0] = 'tellurio-sync';"
        "runpy.run_module('tellurio_sync', run_name='__main__', alter_sys=True)"
    )
    arguments = ["backend", "--exit-with-stdin", f"--ready-file={ready}", f"--api-key={KEY}"]
    with (
        open(tmp_path / "stderr", "wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr
        ) as process,
        contextlib.ExitStack() as held,
    ):
        assert process.stdin is not None
        wait_until(lambda: ready.exists() or process.poll() is not None, "the backend did not start")
        address = json.loads(ready.read_text())
        where = ("127.0.0.1", address["http_port"])
        for _ in range(300):
            sock = held.enter_context(socket.create_connection(where, FAILSAFE))
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"GET / HT")
        ports = {name: address[name] for name in ("http_base_url", "http_port", "ws_base_url", "ws_port")}
        with te.Session(**ports) as session:
            session.login(KEY)
            with session.init(None, "P") as run:
                for step in range(10):
                    held.enter_context(socket.create_connection(where, FAILSAFE))
                    run.log("loss", 1.0, step)
            assert len(run.metrics("loss")) == 10
        process.stdin.close()
        assert process.wait(FAILSAFE) == 0
    said = (tmp_path / "stderr").read_text()
    assert "as many as there may be" in said
    assert len(said.splitlines()) < 5, said
