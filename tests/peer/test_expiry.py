"""The receive thread ends submitted calls at their deadlines, and does nothing for that before or afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.errors import CallTimeout

from ..conftest import FAILSAFE
from .rig import Rig


def test_after_a_deadline_the_receive_thread_waits_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deadline that was met is forgotten: else the thread would turn for ever without waiting."""
    expired = rig.peer.submit("m", {}, 10)
    rig.server_receive()
    rig.clock.advance(10)
    assert isinstance(expired.exception(FAILSAFE), CallTimeout)
    rig.sync()
    waits: list[float | None] = []
    receive = rig.transport.receive

    def noted(timeout: float | None) -> list[str | bytes]:
        waits.append(timeout)
        return receive(timeout)

    monkeypatch.setattr(rig.transport, "receive", noted)
    for _ in range(3):
        rig.sync()
    assert waits
    assert all(timeout is None or timeout > 0 for timeout in waits), waits


def test_a_call_submitted_while_others_expire_has_its_own_deadline(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is noted while the thread goes through the calls, and must not be wiped out behind that."""
    first = rig.peer.submit("m", {}, 10)
    rig.server_receive()
    connection = rig.peer.lifecycle.connection
    assert connection is not None
    copy = connection.pending.copy
    meanwhile: list[Any] = []

    def copied() -> Any:
        calls = copy()
        if not meanwhile:
            meanwhile.append(rig.peer.submit("m", {}, 5))
        return calls

    monkeypatch.setattr(connection.pending, "copy", copied)
    rig.clock.advance(10)
    assert isinstance(first.exception(FAILSAFE), CallTimeout)
    rig.server_receive()
    rig.sync()
    rig.clock.advance(5)
    assert isinstance(meanwhile[0].exception(FAILSAFE), CallTimeout)
