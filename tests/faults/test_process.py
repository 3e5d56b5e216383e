"""What only a whole process can show: Ctrl-C at any point, fork, and exit."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from .proxy import Proxy
from .scripted import ScriptedServer, ServerConnection

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LIMIT = 90.0
"""Seconds: how long a process may take before it counts as hanging."""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def script(body: str) -> subprocess.CompletedProcess[str]:
    """Run ``body`` with an open peer ``peer`` on an echo server ``server`` in the same process."""
    head = """
        import os, sys, threading
        from tests.faults.ctrl_c import echo
        from tests.faults.scripted import ScriptedServer
        from tests.faults.proxy import Proxy
        from tests.peer.rig import read_greeting
        from tellurio_sync.errors import *
        from tellurio_sync.peer.dispatch import Method
        from tellurio_sync.peer.lifecycle import Lifecycle
        from tellurio_sync.peer.peer import Peer
        from tellurio_sync.transport.handshake import Dialer

        def peer_on(port, methods={}, **options):
            url = f"ws://127.0.0.1:{port}/"
            peer = Peer(Lifecycle(lambda: Dialer(url, [], timeout=20), methods, opening=read_greeting, **options))
            peer.lifecycle.open(1, 0)
            return peer

        server = ScriptedServer(echo)
        server.__enter__()
    """
    return python("-c", textwrap.dedent(head) + textwrap.dedent(body))


@pytest.mark.parametrize(
    "arguments", [["--seed", "1"], ["--seed", "2", "--per-call", "2"], ["--seed", "3", "--tls"]], ids=["1", "2", "tls"]
)
def test_ctrl_c_at_any_point_leaves_the_client_usable_and_leaks_nothing(arguments: list[str]) -> None:
    outcome = python("-m", "tests.faults.ctrl_c", "--calls", "600", *arguments)
    assert outcome.returncode == 0, outcome.stderr
    report: dict[str, Any] = json.loads(outcome.stdout)
    assert report["problems"] == []
    assert report["interrupts"] > 50


def test_a_forked_child_never_touches_the_connection_of_its_parent() -> None:
    outcome = script(
        """
        peer = peer_on(server.port)
        assert peer.request("echo", {"n": 1}, 20)["result"] == {"n": 1}
        child = os.fork()
        if child == 0:
            try:
                peer.request("echo", {}, 20)
            except NotConnected:
                assert peer.lifecycle.is_forked
                peer.lifecycle.close()
                own = peer_on(server.port)  # accepted by the parent's server
                assert own.request("echo", {"child": 1}, 20)["result"] == {"child": 1}
                own.lifecycle.close()
                os._exit(7)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7, status
        assert peer.request("echo", {"n": 2}, 20)["result"] == {"n": 2}
        peer.lifecycle.close()
        server.stop()
        assert server.connections[0].close_code == 1000
        print("good")
        """
    )
    assert (outcome.returncode, outcome.stdout) == (0, "good\n"), outcome.stderr


def test_a_child_forked_while_other_threads_call_can_use_its_own_connection() -> None:
    outcome = script(
        """
        peer = peer_on(server.port)
        over = threading.Event()
        def call():
            while not over.is_set():
                assert peer.request("echo", {"x": "x" * 5000}, 20)["result"]
        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads: thread.start()
        for _ in range(10):
            child = os.fork()
            if child == 0:
                own = peer_on(server.port)
                good = own.request("echo", {"child": 1}, 20)["result"] == {"child": 1}
                own.lifecycle.close()
                os._exit(0 if good else 1)
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0, status
        over.set()
        for thread in threads: thread.join()
        assert peer.request("echo", {"n": 2}, 20)["result"] == {"n": 2}
        peer.lifecycle.close()
        server.stop()
        print("good")
        """
    )
    assert (outcome.returncode, outcome.stdout) == (0, "good\n"), outcome.stderr


OPEN_A_PEER = """
import sys, threading
from tests.peer.rig import read_greeting
from tellurio_sync.peer.dispatch import Method
from tellurio_sync.peer.lifecycle import Lifecycle
from tellurio_sync.peer.peer import Peer
from tellurio_sync.transport.handshake import Dialer

entered = threading.Event()

def run(params):
    entered.set()
    threading.Event().wait()

url = f"ws://127.0.0.1:{sys.argv[1]}/"
methods = {"run": Method(run, on_worker=True), "seen": Method(lambda params: entered.set())}
peer = Peer(Lifecycle(lambda: Dialer(url, [], timeout=20), methods, opening=read_greeting))
peer.lifecycle.open(1, 0)
"""

SITUATIONS = {
    "open connection": "",
    "waiting call": """
threading.Thread(target=lambda: peer.request("hang", {}, 600), daemon=True).start()
assert entered.wait(20)
""",
    "running callable": """
peer.notify("call me", {}, 20)
assert entered.wait(20)
""",
    "unclosed future": """
peer.submit("never answered", {}, 600)
""",
    "closed before": """
peer.lifecycle.close()
""",
}

EXIT = """
print("ready", flush=True)
sys.stdin.readline()
sys.exit(3)
"""


@pytest.mark.parametrize("situation", list(SITUATIONS))
@pytest.mark.parametrize("is_dead", [False, True], ids=["live server", "dead server"])
def test_the_process_ends_with_its_own_exit_code_and_says_nothing(situation: str, is_dead: bool) -> None:
    """The server lives here, so that only the client's process ends."""

    def serve(connection: ServerConnection) -> None:
        for message in connection.requests():
            if message.get("method") == "call me":
                connection.send({"jsonrpc": "2.0", "method": "run", "id": 1})
            elif message.get("method") == "hang":
                connection.send({"jsonrpc": "2.0", "method": "seen"})

    body = OPEN_A_PEER + SITUATIONS[situation] + EXIT
    with ScriptedServer(serve) as server, Proxy(server.port) as proxy:
        process = subprocess.Popen(
            [sys.executable, "-c", body, str(proxy.port)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if is_dead:
            proxy.stall()
        _, stderr = process.communicate("\n", timeout=LIMIT)
        proxy.go_on()
    assert (process.returncode, stderr) == (3, "")
