"""The C receiver wakes callers when it has given up the interpreter's lock: none wakes only to wait for that lock."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ..conftest import FAILSAFE
from ..native import compiled

ROUNDS = 1_000


@pytest.fixture
def one_processor() -> Iterator[None]:
    """This thread and those that it starts share one, so that a woken thread runs while its waker still might."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("threads cannot be bound to a processor on this system")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_a_caller_is_switched_to_once_for_each_reply(one_processor: None) -> None:
    with ExitStack() as stack:
        near, far, wake_in, wake_out = (
            stack.enter_context(sock) for pair in (socket.socketpair(), socket.socketpair()) for sock in pair
        )
        for sock in (near, far, wake_in, wake_out):
            sock.settimeout(0)
        receiver = compiled().Receiver(near.fileno(), wake_in.fileno(), 65536)
        replied, waits = compiled().Semaphore(), compiled().Semaphore()
        switches: list[int] = []

        def wait_for_replies() -> None:
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            for _ in range(ROUNDS):
                waits.release()
                replied.acquire(True, FAILSAFE)
                wake_out.send(b"x")  # lets the receiver go on
            switches.append(resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before)

        caller = threading.Thread(target=wait_for_replies)
        caller.start()
        for _ in range(ROUNDS):
            waits.acquire(True, FAILSAFE)
            receiver.receive(0.0005, [], False)  # meanwhile the caller begins its wait
            receiver.receive(FAILSAFE, [replied], False)
            wake_in.recv(1)
        caller.join(FAILSAFE)
    # Woken too early, it waits twice for about every second reply.
    assert switches
    assert switches[0] <= 1.05 * ROUNDS
