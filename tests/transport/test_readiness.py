"""Waiting for descriptors, with what the system has and with the fallback."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

import pytest

from tellurio_sync.transport import readiness
from tellurio_sync.transport.readiness import READABLE, WRITABLE, Poll, SelectorPoll, make_poll

from .ends import SocketFarEnd, receive, tcp_pair


@pytest.fixture(params=[make_poll, SelectorPoll])
def poll(request: pytest.FixtureRequest) -> Poll:
    make: Callable[[], Poll] = request.param
    return make()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_nothing_is_ready_at_the_timeout(poll: Poll, pair: tuple[socket.socket, socket.socket]) -> None:
    poll.register(pair[0].fileno(), READABLE)
    assert poll.poll(0) == []
    assert poll.poll(0.5) == []


def test_what_is_ready_is_told_with_its_descriptor(poll: Poll, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poll.register(near.fileno(), READABLE)
    poll.register(far.fileno(), READABLE)
    far.send(b"x")
    assert poll.poll(None) == [(near.fileno(), READABLE)]
    poll.modify(near.fileno(), READABLE | WRITABLE)
    assert poll.poll(30_000) == [(near.fileno(), READABLE | WRITABLE)]
    near.recv(1)
    assert poll.poll(30_000) == [(near.fileno(), WRITABLE)]


def test_the_end_of_the_stream_is_more_than_writable(poll: Poll, pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    poll.register(near.fileno(), READABLE | WRITABLE)
    far.close()
    ((fd, events),) = poll.poll(30_000)
    assert fd == near.fileno()
    assert events != WRITABLE


def test_without_poll_the_transport_works_with_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll", raising=False)
    assert isinstance(readiness.make_poll(), SelectorPoll)
    far = SocketFarEnd(*tcp_pair(send_buffer=1))
    far.send('"a"')
    assert receive(far.transport, 1) == ['"a"']
    far.transport.send(['"' + "x" * 1_000_000 + '"', '"end"'])
    far.send('"b"')
    assert receive(far.transport, 1) == ['"b"']
    far.dispose()
