"""The package with its C extension and without: calls, and threads that wait at the end of a process and in a fork."""

from __future__ import annotations

import os

import pytest

from tests.benchmarks.processes import running
from tests.conftest import FAILSAFE
from tests.native import compiled

from .child import Child

pytestmark = pytest.mark.slow


@pytest.fixture(params=["in Python", "in C"])
def own_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the programs that a test starts use."""
    if request.param == "in Python":
        monkeypatch.setenv("TELLURIO_SYNC_PURE_PYTHON", "1")
    else:
        compiled()
    return str(request.param)


def check(child: Child) -> str:
    """What it prints; it must end well and have nothing to complain about."""
    with child:
        line = child.line()
        assert (child.end(), child.stderr) == (0, "")
    return line


KIND = """
import sys
from tellurio_sync import speedups
from tellurio_sync.speedups import make_semaphore
from tellurio_sync.transport import readiness
kind = "in Python" if speedups.compiled is None else "in C"
assert (kind == "in C") == ("tellurio_sync._speedups" in sys.modules)
"""

CALLS = """
import tellurio_sync as te
class Run:
    uuid = "run-1"
te.set_active_run(Run())
receivers = []
real = readiness.make_receiver
def make_receiver(*args):
    receivers.append(real(*args))
    return receivers[-1]
from tellurio_sync.transport import websocket
websocket.make_receiver = make_receiver
client = te.TellurioWebSocketClient("ws://127.0.0.1", {port}, default_timeout={failsafe})
client.connect("key-1")
variable = {{"variable_id": "1", "field": "data", "value": "a few words \u20ac"}}
for _ in range(200):
    assert client.call("update_variable", variable)["result"]["field"] == "data"
for size in (126, 65536, 300_000):
    reply = client.call("bench_big", {{"text": "x" * size}})
    assert len(reply["result"]["data"]) > size
futures = [client.submit("update_variable", variable) for _ in range(500)]
assert all(future.result()["result"]["value"] for future in futures)
client.close()
(receiver,) = receivers
print(kind, type(receiver).__name__)
"""


def test_a_client_makes_its_calls_either_way(own_kind: str) -> None:
    with running("server.py", -1) as ports:
        program = KIND + CALLS.format(port=ports["port"], failsafe=FAILSAFE)
        receiver = "PollReceiver" if own_kind == "in Python" else "Receiver"
        assert check(Child(program)) == f"{own_kind} {receiver}"


WAITING = """
import os, socket, threading, warnings
ours, theirs = socket.socketpair()
wake_in, wake_out = socket.socketpair()
ours.settimeout(0)
semaphore, go_on = make_semaphore(), make_semaphore()
receiver = readiness.make_receiver(ours.fileno(), wake_in.fileno(), 100)
def wait():
    semaphore.acquire()
def receive():
    receiver.receive(None, [go_on], False)
for target in (wait, receive):
    threading.Thread(target=target, daemon=True).start()
assert go_on.acquire(True, {failsafe}), "it does not receive"
"""


def test_threads_that_wait_do_not_disturb_the_end_of_the_process(own_kind: str) -> None:
    assert check(Child(KIND + WAITING.format(failsafe=FAILSAFE) + "print(kind)")) == own_kind


FORKING = """
warnings.simplefilter("ignore", DeprecationWarning)  # that it may deadlock in the child: what does, is tested
pid = os.fork()
if not pid:
    del semaphore, receiver, go_on  # another thread waited for them, which is not here
    own = make_semaphore()
    own.release()
    assert own.acquire(True, {failsafe})
    assert not own.acquire(True, 0.001)
    here, there = socket.socketpair()
    here.settimeout(0)
    fresh = readiness.make_receiver(here.fileno(), wake_in.fileno(), 100)
    there.send(b"x")
    assert fresh.receive({failsafe}, [own], False)[0] == readiness.READABLE
    assert own.acquire(False)
    os._exit(7)
_, status = os.waitpid(pid, 0)
print(kind, os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_can_forget_what_threads_of_its_parent_wait_for(own_kind: str) -> None:
    program = KIND + (WAITING + FORKING).format(failsafe=FAILSAFE)
    assert check(Child(program)) == f"{own_kind} 7"
