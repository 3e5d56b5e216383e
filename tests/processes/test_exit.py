"""The end of a process: at once, with its own exit code and nothing on stderr, whatever is open."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator

import pytest

from tellurio_sync.leash import is_running
from tests.conftest import FAILSAFE
from tests.faults.scripted import ScriptedServer, ServerConnection

from .child import END_LIMIT, Child

pytestmark = pytest.mark.slow

CONNECT = """
import sys, threading
import tellurio_sync as te
class Run:
    uuid = "run-1"
te.set_active_run(Run())
client = te.TellurioWebSocketClient("ws://127.0.0.1", {port}, default_timeout=60)
client.connect("key-1")
"""


class Script:
    """Echoes ``echo``, keeps ``never`` waiting, and asks the client to run a callable on ``run``."""

    def __init__(self) -> None:
        self._arrived: queue.Queue[str] = queue.Queue()

    def has(self, method: str) -> None:
        """Wait until a request of this method has arrived: then the client waits for its reply."""
        while self._arrived.get(timeout=FAILSAFE) != method:
            pass

    def __call__(self, connection: ServerConnection) -> None:
        for message in connection.requests():
            self._arrived.put(message.get("method", "a reply"))
            if message.get("method") == "echo":
                connection.reply(message, message["params"])
            elif message.get("method") == "run":
                params = {"callable_id": message["params"]["callable_id"]}
                connection.send({"jsonrpc": "2.0", "id": 1, "method": "run_callable", "params": params})
                connection.reply(message, "asked")


class Deaf(Script):
    """After the first message it reads nothing more: a dead server."""

    def __init__(self) -> None:
        super().__init__()
        self.stop = threading.Event()

    def __call__(self, connection: ServerConnection) -> None:
        connection.reply(connection.receive(), "last words")
        assert self.stop.wait(FAILSAFE)


@contextlib.contextmanager
def serving(script: Script) -> Iterator[int]:
    with ScriptedServer(script) as server:
        try:
            yield server.port
        finally:
            if isinstance(script, Deaf):
                script.stop.set()


SITUATIONS = {
    "an open connection": (Script, "client.call('echo')"),
    "a call that waits in a daemon thread": (
        Script,
        """
client.call('echo')
threading.Thread(target=client.call, args=('never',), daemon=True).start()
""",
    ),
    "a submitted call": (Script, "future = client.submit('never')"),
    "a callable that runs": (
        Script,
        """
started = threading.Event()
def forever():
    started.set()
    threading.Event().wait()
kept = client.registries.register_callable(forever)
client.call('run', {'callable_id': kept.callable_id})
assert started.wait(30)
""",
    ),
    "a callable that is just calling the server": (
        Script,
        """
started = threading.Event()
def calling():
    started.set()
    client.call('never')
kept = client.registries.register_callable(calling)
client.call('run', {'callable_id': kept.callable_id})
assert started.wait(30)
""",
    ),
    "a dead server": (Deaf, "client.call('echo')"),
    "a dead server and data that it does not take": (
        Deaf,
        """
client.call('echo')
client.submit('echo', {'data': 'x' * 30_000_000})
""",
    ),
    "a lost connection that is not coming back": (
        Script,
        """
client.call('echo')
from tellurio_sync.transport.base import Ending
client.connection.transport.abort(Ending('test', 'network'))
""",
    ),
}


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("sys.exit(3)", 3)])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_process_ends_at_once_and_quietly(situation: str, ending: str, code: int) -> None:
    make_script, program = SITUATIONS[situation]
    script = make_script()
    with (
        serving(script) as port,
        Child(f"{CONNECT.format(port=port)}\n{program}\nprint('ready')\ninput()\n{ending}") as child,
    ):
        assert child.line() == "ready"
        if "'never'" in program:
            script.has("never")
        child.say("go on")
        assert child.end(END_LIMIT) == code
        assert child.stderr == ""


# --- threads that Python waits for ---------------------------------------------------------------------

PLAIN_THREAD = "threading.Thread(target=work).start()"
POOL = """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
pool.submit(work)
"""
each_thread_that_python_waits_for = pytest.mark.parametrize("start", [PLAIN_THREAD, POOL], ids=["plain", "pool"])


WAIT_FOR_THE_END = {
    PLAIN_THREAD: "threading.main_thread().join()",
    # A pool takes nothing new once the interpreter is shutting down.
    POOL: """
    with contextlib.suppress(RuntimeError):
        while True:
            client.call('echo')
            pool.submit(int)
""",
}


@each_thread_that_python_waits_for
def test_a_thread_that_python_waits_for_does_its_work_to_the_end(start: str) -> None:
    """Python keeps such a program alive for that work, so its calls go on, also those that begin later."""
    program = f"""
import contextlib
def work():
    {WAIT_FOR_THE_END[start]}
    print(client.call('echo', {{{{'n': 1}}}})['result']['n'])
{start}
"""
    with serving(Script()) as port, Child((CONNECT + program).format(port=port)) as child:
        assert child.line() == "1"
        assert child.end() == 0
        assert child.stderr == ""


@each_thread_that_python_waits_for
@pytest.mark.parametrize(
    ("timeout", "ending", "outcome"),
    [(0.5, "", "CallTimeout"), (60, "client.close()", "ClosedByUser")],
    ids=["its deadline", "close()"],
)
def test_a_call_that_waits_in_such_a_thread_holds_the_exit_until_its_deadline_or_close(
    start: str, timeout: float, ending: str, outcome: str
) -> None:
    program = f"""
def work():
    try:
        client.call('never', timeout={timeout})
    except te.TellurioError as exc:
        print(type(exc).__name__)
{start}
input()
{ending}
"""
    script = Script()
    with serving(script) as port, Child((CONNECT + program).format(port=port)) as child:
        script.has("never")
        child.say("go on")
        assert child.line() == outcome
        assert child.end(END_LIMIT) == 0
        assert child.stderr == ""


def test_an_unhandled_exception_is_the_only_thing_on_stderr() -> None:
    with serving(Script()) as port, Child(f"{CONNECT.format(port=port)}\nprint('ready')\n1/0") as child:
        assert child.line() == "ready"
        assert child.end(END_LIMIT) == 1
        assert child.stderr.count("Traceback") == 1
        assert child.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


def test_a_local_backend_and_an_unfinished_run() -> None:
    """Started, used, and left as it is."""
    program = """
    import tellurio_sync as te
    te.login(mode="local")
    te.init(None, "Exit")
    lm = te.CallableModel(lambda messages: "ok")
    parameter = te.Parameter("p", "role")
    te.functional.chat_completion(lm, [{"role": "user", "content": [parameter]}])
    print("ready")
    """
    with Child(program) as child:
        assert child.line() == "ready"
        assert child.end(END_LIMIT) == 0
        assert child.stderr == ""


# A call at each moment of the end, as a signal handler may make it, or an exit function of the program.
CALLS_AT_THE_END = """
import atexit, threading
moments = {moments}
def call():
    for session in sessions:
        session.request("create_variable", {{"data": "x", "role": "r", "requires_grad": False}})
def call_at(moment):
    if moment in moments:
        moments.remove(moment)  # the steps may be made more than once
        try:
            call()
            print(moment, "answered")
        except (errors.BackendError, errors.NotConnected, errors.ClosedByUser):
            print(moment, "refused")
atexit.register(call_at, "after all")  # the last one that is called, because it is the first one here
import tellurio_sync as te
from tellurio_sync import errors, exit_order
from tellurio_sync.local import LocalBackend
class Run:
    uuid = "run-1"
te.set_active_run(Run())
LocalBackend.is_serving = False  # at the login, also where that takes longer than the start of the backend
sessions = [te.Session()]
sessions[0].login(mode="local", ephemeral=True)
assert sessions[0].is_connection_pending
{use}
def at(step, end):
    call_at(f"step {{step}}")
    end()
for step, end in list(exit_order._steps.items()):
    exit_order._steps[step] = lambda step=step, end=end: at(step, end)
print(sessions[0]._backend.pid)
"""
MOMENTS = ["step 0", "step 1", "step 2", "step 3", "after all"]
CONNECTED = ["answered", "answered", "answered", "refused", "refused"]
ENDS_WITH_CALLS = {
    "a run, then a call": ("run = sessions[0].init(None, 'Exit')\ncall()", CONNECTED),
    "a call in another thread": ("t = threading.Thread(target=call)\nt.start()\nt.join()", CONNECTED),
    "two sessions": (
        "sessions.append(te.Session())\nsessions[1].login(mode='local', ephemeral=True)\ncall()",
        CONNECTED,
    ),
    "the first call before anything has ended": ("", CONNECTED),
    "the first call when no connection is made any more": ("", ["refused"] * 3),
    "the first call when the connections are closed": ("run = sessions[0].init(None, 'Exit')", ["refused"] * 2),
    "no call while the backend starts": ("", []),
}


@pytest.mark.parametrize("situation", ENDS_WITH_CALLS)
def test_calls_while_the_program_ends_wait_for_nothing_and_no_backend_is_left(situation: str) -> None:
    use, outcomes = ENDS_WITH_CALLS[situation]
    moments = MOMENTS[len(MOMENTS) - len(outcomes) :]
    with Child(CALLS_AT_THE_END.format(moments=moments, use=use)) as child:
        pid = int(child.line())
        assert child.end(END_LIMIT) == 0
        assert child.stderr == ""
        expected = [f"{moment} {outcome}" for moment, outcome in zip(moments, outcomes, strict=True)]
        assert [child.line() for _ in expected] == expected
    assert not is_running(pid)


# --- Ctrl-C --------------------------------------------------------------------------------------------

WAITING = """
def wait():
    print("waiting")
    try:
        client.call("never")
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_ctrl_c_ends_the_wait_and_the_client_goes_on() -> None:
    program = f"""{CONNECT}{WAITING}
for _ in range(2):
    wait()
    assert client.call("echo", {{"n": 1}})["result"]["n"] == 1
print(client.pending, [t.name for t in threading.enumerate()])
"""
    script = Script()
    with serving(script) as port, Child(program.replace("{port}", str(port))) as child:
        for _ in range(2):
            assert child.line() == "waiting"
            script.has("never")
            child.interrupt()
            assert child.line() == "interrupted"
        assert child.line() == "{} ['MainThread', 'tellurio-sync receive']"
        assert child.end(END_LIMIT) == 0
        assert child.stderr == ""


def test_ctrl_c_while_connecting_leaves_nothing_open() -> None:
    program = """
import threading
import tellurio_sync as te
client = te.TellurioWebSocketClient("ws://127.0.0.1", {port})
print("connecting")
try:
    client.connect("key-1")
except KeyboardInterrupt:
    [thread.join(30) for thread in threading.enumerate() if thread is not threading.main_thread()]
    print("interrupted", client.state)
"""
    accepted = threading.Event()
    left = threading.Event()

    def hold(sock: object) -> None:
        accepted.set()
        while sock.recv(65536):  # type: ignore[attr-defined]
            pass
        left.set()

    with ScriptedServer(on_accept=hold) as server, Child(program.replace("{port}", str(server.port))) as child:
        assert child.line() == "connecting"
        assert accepted.wait(FAILSAFE)
        child.interrupt()
        assert child.line() == "interrupted closed"
        assert left.wait(FAILSAFE)
        assert child.end(END_LIMIT) == 0
        assert child.stderr == ""


def test_ctrl_c_in_a_training_step_leaves_a_session_that_goes_on() -> None:
    program = """
    import threading
    import tellurio_sync as te
    te.login(mode="local")
    with te.init(None, "Ctrl-C"):
        hold = threading.Event()
        def slow(messages):
            print("asked")
            hold.wait(60)
            return "late"
        prompt = te.Parameter("p", "prompt")
        chat = [{"role": "user", "content": [prompt]}]
        try:
            te.functional.chat_completion(te.CallableModel(slow), chat)
        except KeyboardInterrupt:
            print("interrupted")
        hold.set()
        print(te.functional.chat_completion(te.CallableModel(lambda messages: "fine"), chat).data)
    """
    with Child(program) as child:
        assert child.line() == "asked"
        child.interrupt()
        assert child.line() == "interrupted"
        assert child.line() == "fine"
        assert child.end(END_LIMIT) == 0
        assert child.stderr == ""
