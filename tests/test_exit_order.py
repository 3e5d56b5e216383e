"""What ends first at exit: a fixed order, whatever a program imports and does first."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap

import pytest

from tellurio_sync import exit_order

# Stand-ins for what ends, used in an order that a test gives. Each is imported when it is used first.
PROGRAM = """
import atexit, os, sys

def say(text):
    print(text, flush=True)

class Peer:
    def close_at_exit(self, timeout):
        from tellurio_sync.peer import at_exit
        at_exit.unregister(self)
        say("connection closed")

class Backend:
    def hold_back(self):
        say("backend held back")
    def let_go(self):
        say("backend let go")
    def end(self):
        from tellurio_sync import local
        local._children.discard(self)
        say("backend ended")
    def on_fork_in_child(self):
        pass

class Guard:
    is_watching = True
    def finish_at_exit(self, patience):
        if self.is_watching:
            say("run ended")
        self.is_watching = False

peer, guard = Peer(), Guard()

def use(what):
    if what == "run":
        from tellurio_sync.studio import run_guard
        run_guard._hooks.add(guard)
    elif what == "connection":
        from tellurio_sync.peer import at_exit
        at_exit.register(peer)
    else:
        from tellurio_sync import exit_order, local
        local._children.add(Backend())
        exit_order.use(exit_order.BACKENDS)  # as each start and each joining does

def use_all(*order):
    for what in order:
        use(what)
"""

ENDS = ["connection closed", "backend let go", "backend ended"]
ALL = ["backend held back", *ENDS]

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

SITUATIONS = {
    # A login that waits, a run, calls.
    "all in the usual order": ("use_all('backend', 'connection', 'run')", ["run ended", *ALL]),
    # A login that does not wait: the first call comes after the run.
    "the run before the first call": ("use_all('backend', 'run', 'connection')", ["run ended", *ALL]),
    # Another session was connected before.
    "the backend last": ("use_all('connection', 'run', 'backend')", ["run ended", *ALL]),
    # A signal handler, or an exit function of the program, makes the first call.
    "the first call at exit": (
        "import tellurio_sync; use('backend'); atexit.register(use, 'connection'); use('run')",
        ["run ended", *ALL],
    ),
    "all at exit": ("import tellurio_sync; atexit.register(use_all, 'backend', 'connection')", ALL),
    # weakref's own exit function deletes temporary folders.
    "a folder for the data": (
        "import tellurio_sync; use('connection')\n"
        "import weakref; weakref.finalize(guard, say, 'folder deleted'); use('backend')",
        [*ALL, "folder deleted"],
    ),
    "no call": ("use('backend')", ["backend held back", *ENDS[1:]]),
    # multiprocessing takes all exit functions from its children, and begins anew.
    "a child without its parent's exit functions": (
        "use_all('backend', 'connection')\n"
        "if os.fork() == 0:\n"
        "    atexit._clear()\n"
        "    use_all('connection')\n"
        "else:\n"
        "    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))",
        ["connection closed"],
    ),
    "a child that begins at its exit": (
        "use_all('backend', 'connection')\n"
        "if os.fork() == 0:\n"
        "    atexit.register(use_all, 'connection', 'backend')\n"
        "else:\n"
        "    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))",
        ALL,
    ),
}


@pytest.mark.parametrize(
    "situation", [pytest.param(one, marks=needs_fork if "child" in one else []) for one in SITUATIONS]
)
def test_the_order_does_not_depend_on_the_program(situation: str) -> None:
    code, expected = SITUATIONS[situation]
    arguments = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM) + code]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == expected


def test_all_steps_are_made_although_a_signal_handler_raises_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def step(number: int) -> None:
        made.append(number)
        if number != exit_order.BACKENDS:
            raise KeyboardInterrupt

    order = [exit_order.RUNS, exit_order.NO_NEW_CONNECTIONS, exit_order.CONNECTIONS, exit_order.BACKENDS]
    monkeypatch.setattr(exit_order, "_steps", {number: functools.partial(step, number) for number in reversed(order)})
    with pytest.raises(KeyboardInterrupt):
        exit_order._end_all()
    assert made == order
