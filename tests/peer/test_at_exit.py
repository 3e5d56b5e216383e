"""The closing at exit, in a forked child: it knows nothing of the parent's peers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from tellurio_sync.peer import at_exit

class Peer:
    def close_at_exit(self, timeout):
        at_exit.unregister(self)
        print("closed", self.name, flush=True)

def peer(name):
    made = Peer()
    made.name = name
    at_exit.register(made)
    return made

parents = peer("the parent's")
pid = os.fork()
if pid == 0:
    signal.alarm(20)  # instead of waiting for ever
    childs = peer("the child's")
    sys.stdout.flush()
    sys.exit(0)
print("child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_registers_and_closes_its_own_peers_only() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["closed the child's", "child ended with 0", "closed the parent's"]
