"""A peer among others of its process: ids, exit and fork; and the time-outs of its calls. Clock moved by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tellurio_sync.errors import CallTimeout, NotConnected
from tellurio_sync.peer import at_exit
from tellurio_sync.peer.lifecycle import CLOSED

from ..conftest import FAILSAFE
from .rig import LOST, TIMEOUT, Rig

# --- calls ------------------------------------------------------------------------------------------


def test_a_submitted_call_expires_between_messages_that_came_together() -> None:
    """A storm of pushes must not hold up time-outs until all of it is dealt with."""
    seen: list[bool] = []

    def work(params: dict[str, Any]) -> None:
        seen.append(future.done())
        rig.clock.advance(5)

    with Rig(methods={"work": work}) as rig:
        rig.open()
        future = rig.peer.submit("m", {}, 5.0)
        push = {"jsonrpc": "2.0", "method": "work", "params": {}}
        rig.server_send(push, push)
        assert isinstance(future.exception(FAILSAFE), CallTimeout)
        rig.server_receive()
        rig.sync()
        assert seen == [False, True]


def test_ids_are_unique_over_peers() -> None:
    ids = set()
    for _ in range(3):
        with Rig() as rig:
            rig.open()
            for _ in range(10):
                rig.peer.submit("m", {}, TIMEOUT)
                ids.add(rig.server_receive()["id"])
    assert len(ids) == 30


# --- the process ------------------------------------------------------------------------------------


def test_an_open_peer_is_closed_at_exit_and_a_closed_one_forgotten() -> None:
    with Rig() as rig:
        rig.open()
        assert rig.peer.lifecycle in at_exit._open
        at_exit._close_all()
        assert rig.peer.lifecycle.state == CLOSED
        thread = rig.peer.lifecycle._thread
        assert thread is not None
        thread.join(FAILSAFE)
        assert rig.peer.lifecycle not in at_exit._open


def test_a_forked_child_is_closed_without_a_word() -> None:
    """Run here as in the child, where the receive thread does not exist."""
    with Rig() as rig:
        rig.open()
        transport, thread = rig.transport, rig.peer.lifecycle._thread
        assert thread is not None
        rig.peer.lifecycle._lock.acquire()  # another thread of the parent may hold it for ever
        rig.peer.lifecycle.renew_after_fork()
        assert transport.is_disposed
        assert not transport.server_has_message()
        assert rig.peer.lifecycle.is_forked
        with pytest.raises(NotConnected):
            rig.peer.request("m", {}, TIMEOUT)
        rig.peer.lifecycle.close()
        transport.server_end(LOST)  # so that this process's thread ends
        thread.join(FAILSAFE)
