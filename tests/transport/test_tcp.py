"""Connecting to a host with several addresses: the dead ones cost a moment, not the connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync.transport import tcp

from ..conftest import FAILSAFE, in_thread
from ..ports import closed_port
from .test_handshake import full_listener

UNREACHABLE = (socket.AF_INET6, ("fe80::1", 9, 0, 0))
"""Without the number of an interface: the system refuses it at once."""


@contextlib.contextmanager
def listener(host: str = "127.0.0.1") -> Iterator[int]:
    with socket.create_server((host, 0)) as sock:
        yield sock.getsockname()[1]


def at(port: int) -> tcp.Address:
    return socket.AF_INET, ("127.0.0.1", port)


def connect(
    *addresses: tcp.Address, seconds: float = FAILSAFE, is_aborted: Callable[[], bool] = lambda: False
) -> socket.socket:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tcp, "_look_up", lambda host, port: list(addresses))
        return tcp.connect("many.example", 80, deadline=time.monotonic() + seconds, is_aborted=is_aborted)


def peer_port(sock: socket.socket) -> int:
    with sock:
        return int(sock.getpeername()[1])


def test_one_address() -> None:
    with listener() as port:
        assert peer_port(connect(at(port))) == port


def test_silent_addresses_in_front_do_not_keep_it_from_the_one_that_answers() -> None:
    with full_listener() as silent, listener() as port:
        assert peer_port(connect(at(silent), at(silent), at(port))) == port


@pytest.mark.parametrize("dead", ["refusing", "unreachable"])
def test_an_address_that_fails_gives_way_at_once(dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "ATTEMPT_DELAY", 2 * FAILSAFE)
    first = at(closed_port()) if dead == "refusing" else UNREACHABLE
    with listener() as port:
        assert peer_port(connect(first, at(port))) == port


def test_a_late_answer_of_the_first_address_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt goes on while others are made: there may be nothing but slow addresses."""
    begun: list[Any] = []
    real = tcp._begin

    def begin(family: int, address: Any) -> socket.socket:
        begun.append(address)
        if len(begun) == 2:  # only now does the first one answer
            room.accept()[0].close()
            room.accept()[0].close()
        return real(family, address)

    room = socket.create_server(("127.0.0.1", 0), backlog=0)
    filling = socket.create_connection(room.getsockname())
    monkeypatch.setattr(tcp, "_begin", begin)
    with full_listener() as silent, room, filling:
        assert peer_port(connect(at(room.getsockname()[1]), at(silent))) == room.getsockname()[1]
        assert len(begun) == 2 or len(begun) == 1


def test_families_take_turns() -> None:
    four, six = [(socket.AF_INET, n) for n in range(3)], [(socket.AF_INET6, n) for n in range(2)]
    assert list(tcp._interleaved([*six, *four])) == [six[0], four[0], six[1], four[1], four[2]]


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_failures_the_telling_one_is_raised(order: int) -> None:
    """That there is no IPv6 here says nothing of a server that refuses over IPv4."""
    with pytest.raises(ConnectionRefusedError):
        connect(*[at(closed_port()), UNREACHABLE][::order])


def test_only_dead_ways_raise_what_they_have() -> None:
    with pytest.raises(OSError) as caught:
        connect(UNREACHABLE)
    assert caught.value.errno in tcp._NO_WAY


def test_all_silent_ends_at_the_deadline() -> None:
    with full_listener() as silent, pytest.raises(TimeoutError):
        connect(at(silent), at(silent), seconds=0.1)


def test_abort_ends_it_while_nothing_answers() -> None:
    aborted = threading.Event()
    looks: list[None] = []

    def is_aborted() -> bool:
        looks.append(None)
        if len(looks) == 3:
            aborted.set()
        return aborted.is_set()

    with full_listener() as silent, pytest.raises(ConnectionAbortedError):
        in_thread(lambda: connect(at(silent), is_aborted=is_aborted))


def test_an_abort_during_the_look_up_connects_nowhere() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        with pytest.raises(ConnectionAbortedError):
            connect(at(server.getsockname()[1]), is_aborted=lambda: True)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "127.0.0.1"])
def test_a_name_of_this_machine_is_asked_of_nobody(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = socket.getaddrinfo

    def look_up(host: Any, *args: Any) -> Any:
        asked.append(host)
        return real(host, *args)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with listener() as port:
        deadline = time.monotonic() + FAILSAFE
        sock = tcp.connect(name, port, deadline=deadline, is_aborted=lambda: False, is_loopback=True)
        assert peer_port(sock) == port
    assert asked == ([] if "ocal" in name.lower() else ["127.0.0.1"])
