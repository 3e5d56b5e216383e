"""``was_sent`` at any moment: bytes that the system has taken are never told as not sent."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tellurio_sync.transport.websocket import WebSocketTransport

from ..conftest import FAILSAFE, in_thread
from .ends import Slip, SocketFarEnd, tcp_pair


@pytest.mark.parametrize("size", [1, 20_000])
def test_what_was_sent_is_told_as_sent_at_every_line_of_a_write(size: int) -> None:
    """Another thread may ask between any two of its stores, as it does when the connection ends."""
    far = SocketFarEnd(*tcp_pair())
    receipt = Slip()
    told: list[bool] = []

    def trace(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code is not WebSocketTransport._write.__code__:
            return None
        told.append(far.transport.was_sent(receipt))
        return trace

    def send() -> None:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            far.transport.send(['"' + "x" * size + '"'], [receipt], timeout=FAILSAFE)
        finally:
            sys.settrace(before)

    try:
        in_thread(send)
        assert far.connection.receive() == "x" * size
    finally:
        far.dispose()
    assert len(told) > 5
    assert all(told), told
