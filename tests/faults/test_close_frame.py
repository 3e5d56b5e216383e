"""A connection that is ended for what the server sent says so to the server, whatever other threads are at."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tellurio_sync.transport.base import Ending

from ..conftest import FAILSAFE
from ..peer.rig import Background
from ..transport.ends import GatedSocket, SocketFarEnd, receive_ending, tcp_pair
from .soak import wait_until


@pytest.mark.parametrize(
    ("misbehave", "code"),
    [
        (lambda far: far.connection.send_raw(b"\xff\xff"), 1002),
        (lambda far: far.connection.send_raw(b"\x81\x01\xff"), 1007),
        (lambda far: far.connection.send_raw(b"\x88\x02\x03\xf3"), 1011),
    ],
    ids=["violation", "no UTF-8", "the server closes"],
)
def test_the_close_frame_leaves_although_another_thread_is_writing(
    misbehave: Callable[[SocketFarEnd], None], code: int
) -> None:
    """The close frame is queued behind what that thread writes; disposing at once would drop it."""
    ours, theirs = tcp_pair()
    sock = GatedSocket(ours)
    far = SocketFarEnd(sock, theirs)
    sock.hold()
    writer = Background(far.transport.send, ['"a"'])
    assert sock.entered.wait(FAILSAFE)

    def receive_to_the_end() -> Ending:
        _, ending = receive_ending(far.transport)
        far.transport.dispose()
        return ending

    receiver = Background(receive_to_the_end)
    misbehave(far)
    assert wait_until(lambda: far.transport._is_closing)
    sock.gate.set()
    writer.result()
    assert receiver.result().code == code
    far.connection.wait_for_end()
    assert far.connection.close_code == code
    far.dispose()
