"""A process that was paused (Ctrl-Z, a container, a laptop): what came meanwhile counts before a call is given up."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tellurio_sync.errors import CallTimeout
from tellurio_sync.peer.dispatch import Method

from ..conftest import FAILSAFE
from ..faults.scripted import ScriptedServer, ServerConnection
from .rig import TIMEOUT, Rig, started


class Hold:
    """A method of the peer that keeps the receive thread, as a pause of the whole process does."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def __call__(self, params: dict[str, Any]) -> None:
        self.entered.set()
        assert self.go_on.wait(FAILSAFE)


@pytest.fixture
def hold() -> Iterator[Hold]:
    made = Hold()
    yield made
    made.go_on.set()


def paused(rig: Rig, hold: Hold) -> None:
    rig.server_send({"jsonrpc": "2.0", "method": "hold", "params": {}})
    assert hold.entered.wait(FAILSAFE)


@pytest.mark.parametrize("came", ["heartbeat", "reply"])
def test_what_came_during_a_pause_counts_before_a_call_is_given_up(hold: Hold, came: str) -> None:
    with Rig(methods={"hold": Method(hold)}) as rig:
        rig.open()
        waiting, asked = started(rig, is_extendable=True)
        paused(rig, hold)
        rig.heartbeat(asked["id"]) if came == "heartbeat" else rig.reply(asked)
        rig.clock.advance(TIMEOUT + 1)
        hold.go_on.set()
        if came == "heartbeat":
            rig.sync()
            assert waiting.is_running
            rig.reply(asked)
        assert waiting.result()["result"] == "ok"


def test_after_a_real_silence_it_ends_as_always(hold: Hold) -> None:
    with Rig(methods={"hold": Method(hold)}) as rig:
        rig.open()
        waiting, _ = started(rig, is_extendable=True)
        paused(rig, hold)
        rig.clock.advance(TIMEOUT + 1)
        hold.go_on.set()
        assert isinstance(waiting.error(), CallTimeout)


def test_a_receive_thread_that_does_not_come_round_keeps_nobody(hold: Hold) -> None:
    with Rig(methods={"hold": Method(hold)}) as rig:
        rig.open()
        waiting, asked = started(rig, is_extendable=True)
        paused(rig, hold)
        rig.heartbeat(asked["id"])
        rig.clock.advance(TIMEOUT + 1)
        assert isinstance(waiting.error(), CallTimeout)


@pytest.mark.parametrize("count", [1, 300])
def test_submitted_calls_too(hold: Hold, count: int) -> None:
    """Also where the heartbeat stands behind many other messages."""
    with Rig(methods={"hold": Method(hold), "other": Method(lambda params: None)}) as rig:
        rig.open()
        future = rig.peer.submit("m", {}, TIMEOUT, is_extendable=True)
        asked = rig.server_receive()
        paused(rig, hold)
        rig.server_send(*[{"jsonrpc": "2.0", "method": "other", "params": {}} for _ in range(count)])
        rig.heartbeat(asked["id"])
        rig.clock.advance(TIMEOUT + 1)
        hold.go_on.set()
        rig.sync()
        assert not future.done()
        rig.reply(asked)
        assert future.result(FAILSAFE)["result"] == "ok"


CHILD = """
import sys
import tellurio_sync as te
client = te.TellurioWebSocketClient("ws://127.0.0.1", int(sys.argv[1]), ping_interval=0.3, ping_timeout=1.0)
client.connect("k", retries=1)
future = client.submit("run_function", {"run_uuid": "r"}, timeout=1.0)
print(client.call("run_backward", {"run_uuid": "r"}, timeout=1.0)["result"], future.result(30)["result"], flush=True)
client.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP")
def test_a_process_that_is_stopped_for_longer_than_the_time_out_goes_on() -> None:
    is_stopped, may_answer = threading.Event(), threading.Event()

    def serve(far: ServerConnection) -> None:
        asked = [far.receive(), far.receive()]
        is_stopped.set()
        while not may_answer.wait(0.1):
            for request in asked:
                far.send({"jsonrpc": "2.0", "method": "heartbeat", "params": {"id": request["id"]}})
        for request in asked:
            far.reply(request, "done")
        far.wait_for_end()

    with ScriptedServer(serve) as server:
        command = [sys.executable, "-c", CHILD, str(server.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert is_stopped.wait(FAILSAFE)
            child.send_signal(signal.SIGSTOP)
            end = time.monotonic() + 4.0  # of the server's time, in which it goes on sending heartbeats
            while time.monotonic() < end:
                may_answer.wait(0.1)
            child.send_signal(signal.SIGCONT)
            threading.Timer(1.5, may_answer.set).start()
            out, _ = child.communicate(timeout=FAILSAFE)
    assert out == "done done\n"
