"""How the process of the local backend is started, watched and ended.

Most tests run a stand-in for it, which takes the same arguments and, as long as it lives, keeps a
connection to the test open: so its end is an event that a test can wait for.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync import exit_order, local
from tellurio_sync.errors import BackendError, HttpStatusError, InvalidAPIKeyError, UsageError, WouldDeadlock
from tellurio_sync.leash import SERVES, DataDirectoryInUse, find_backend
from tellurio_sync.local import backend_of_this_user, default_local_backend, start_local_backend
from tellurio_sync.studio import StudioRest, start_run, verify

FAILSAFE = 30

STAND_IN = """
import argparse, json, os, signal, socket, sys
parser = argparse.ArgumentParser(fromfile_prefix_chars="@")
for name in ("ready-file", "data-dir", "api-key", "namespace", "lm-base-url"):
    parser.add_argument("--" + name)
parser.add_argument("--exit-with-stdin", action="store_true")
args = parser.parse_args()
life = socket.create_connection(("127.0.0.1", int(os.environ["LIFELINE"])))
told = dict(vars(args), argv=sys.argv, pid=os.getpid(), environment=dict(os.environ))
life.sendall(json.dumps(told).encode() + b"\\n")
manner = os.environ.get("MANNER", "")
print("a warning", file=sys.stderr, flush=True)
if manner == "dies":
    sys.exit("the port is taken")
if manner == "garbage":
    ready = "[]"
elif manner == "incomplete":
    ready = '{"http_port": 1}'
else:
    ready = json.dumps({"http_base_url": "http://127.0.0.1", "http_port": 8001, "ws_base_url": "ws://127.0.0.1",
        "ws_port": 8002, "api_key": "te-made-up-key", "username": "me", "namespace": "mine", "pid": os.getpid()})
if manner != "never ready":
    with open(args.ready_file + ".new", "w") as file:
        file.write(ready)
    os.rename(args.ready_file + ".new", args.ready_file)
sys.stdin.read()
if manner == "deaf":
    signal.pause()
print("bye", file=sys.stderr)
"""


class Lifelines:
    """The connections that stand-ins keep open while they live."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(FAILSAFE)
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def accept(self) -> tuple[dict[str, object], socket.socket]:
        """What the next stand-in was told, and its connection."""
        life, _ = self._listener.accept()
        life.settimeout(FAILSAFE)
        self._open.append(life)
        with life.makefile() as file:
            return json.loads(file.readline()), life

    def close(self) -> None:
        for sock in [self._listener, *self._open]:
            sock.close()


def wait_for_end(life: socket.socket) -> None:
    """Return when the process at the other end has ended; fail after 30 s."""
    try:
        assert life.recv(1) == b""
    except ConnectionResetError:
        pass  # it was killed


@pytest.fixture
def lifelines(monkeypatch) -> Iterator[Lifelines]:
    lines = Lifelines()
    monkeypatch.setenv("LIFELINE", str(lines.port))
    yield lines
    lines.close()


@pytest.fixture
def command(tmp_path) -> list[str]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return [sys.executable, str(script)]


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch):
    monkeypatch.setattr(local, "_default", None)
    # On a busy machine a stand-in may need longer to begin and to end than a backend is given.
    monkeypatch.setattr(local, "_STOP_TIMEOUT", FAILSAFE)
    yield
    left = list(local._children)
    local._end_all()
    assert left == []
    assert [thread for thread in threading.enumerate() if thread.name == "tellurio-sync-backend-stderr"] == []


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary directories are made."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


# --- starting -----------------------------------------------------------------------------------


def test_a_backend_starts_and_stops(command, lifelines, temporary, tmp_path):
    backend = start_local_backend(tmp_path / "data", command=command, namespaces=["a", "b"], lm_base_url=None)
    told, life = lifelines.accept()
    assert (backend.http_base_url, backend.http_port) == ("http://127.0.0.1", 8001)
    assert (backend.ws_base_url, backend.ws_port) == ("ws://127.0.0.1", 8002)
    assert (backend.api_key, backend.username, backend.namespace) == ("te-made-up-key", "me", "mine")
    assert (backend.pid, backend.is_running) == (told["pid"], True)
    assert (told["data_dir"], told["namespace"], told["lm_base_url"]) == (str(tmp_path / "data"), "b", None)
    assert told["exit_with_stdin"]
    assert list(temporary.iterdir()) == []
    backend.stop()
    backend.stop()
    wait_for_end(life)
    assert not backend.is_running
    assert backend.last_lines == ["a warning", "bye"]


def test_keys_are_neither_in_the_list_of_processes_nor_in_the_repr(command, lifelines):
    with start_local_backend(command=command, api_key="te-my-key") as backend:
        told, _ = lifelines.accept()
        assert told["api_key"] == "te-my-key"
        assert "te-my-key" not in repr(told["argv"]) + repr(told["environment"])
        assert "te-made-up-key" not in repr(backend) + repr(vars(backend).keys())
        assert "running" in repr(backend)
    assert "stopped" in repr(backend)


def test_the_environment_goes_through_except_for_what_is_about_this_process(command, lifelines, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("TELLURIO_API_KEY", "te-platform")
    monkeypatch.setenv("TELLURIO_BACKEND_HTTP_PORT", "1")
    with start_local_backend(command=command):
        told, _ = lifelines.accept()
    assert told["environment"]["OPENAI_API_KEY"] == "sk-1"
    assert [name for name in told["environment"] if name.startswith("TELLURIO_")] == []


def test_one_that_sessions_share_has_no_language_model_of_the_first_program(command, lifelines, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    for options in ({}, {"data_dir": tmp_path}):
        backend = default_local_backend(command=command, **options)
        told, life = lifelines.accept()
        backend.stop()
        wait_for_end(life)
        assert [name for name in told["environment"] if name.startswith("OPENAI_")] == []


@pytest.mark.parametrize(
    ("manner", "options", "text"),
    [
        ("dies", {}, r"ended while it started \(exit code 1\)\.\n  a warning\n  the port is taken"),
        ("never ready", {"timeout": 0.5}, r"did not become ready within 0\.5 s"),
        ("garbage", {}, r"did not say where it serves \(TypeError"),
        ("incomplete", {}, r"did not say where it serves \(KeyError: 'http_base_url'\)\.\n  a warning\n  bye"),
        ("", {"no_such_option": "x"}, r"(?s)exit code 2.*unrecognized arguments: --no-such-option=x"),
    ],
)
def test_a_backend_that_does_not_start(manner, options, text, command, lifelines, monkeypatch, temporary):
    monkeypatch.setenv("MANNER", manner)
    with pytest.raises(BackendError, match=text):
        start_local_backend(command=command, **options)
    if "no_such_option" not in options:
        wait_for_end(lifelines.accept()[1])
    assert list(temporary.iterdir()) == []


def test_a_program_that_does_not_exist(temporary):
    with pytest.raises(BackendError, match="could not be started"):
        start_local_backend(command=["/no/such/program"])
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("missing", [("aiohttp",), ("aiohttp", "jinja2")])
def test_without_the_extra(missing, monkeypatch):
    monkeypatch.setattr(local, "find_spec", lambda name: None if name in missing else object())
    with pytest.raises(BackendError, match=" and ".join(missing)) as caught:
        start_local_backend()
    assert 'pip install "tellurio_sync[local]"' in str(caught.value)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": float("nan")}, {"api_key": "a\n--host=0.0.0.0"}])
def test_bad_arguments_start_nothing(options, command):
    with pytest.raises(ValueError):
        start_local_backend(command=command, **options)


def test_an_interrupted_start_leaves_nothing(command, lifelines, monkeypatch, temporary):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local._Child, "wait_for_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start_local_backend(command=command)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ImportError])
def test_what_is_done_meanwhile_may_fail(kind, command, temporary, monkeypatch):
    """While the process starts, a login loads modules: a broken one, or Ctrl-C, leaves neither process nor files."""
    started = []
    child = local._Child

    def note(*args: Any) -> Any:
        started.append(child(*args))
        return started[0]

    def fail() -> None:
        raise kind("meanwhile")

    monkeypatch.setattr(local, "_Child", note)
    with pytest.raises(kind, match="meanwhile"):
        default_local_backend(command=command, meanwhile=fail)
    assert not started[0].is_alive
    assert list(temporary.iterdir()) == []
    assert local._default is None


def test_what_is_done_meanwhile_is_no_option(command, lifelines):
    done: list[int] = []
    with default_local_backend(command=command, meanwhile=lambda: done.append(1)) as backend:
        assert default_local_backend(meanwhile=lambda: done.append(2)) is backend
    assert done == [1]


def test_the_process_loads_nothing_of_the_client():
    """It would take a third longer until a login has its backend."""
    program = [sys.executable, "-I", "-X", "importtime", "-c", local._PROGRAM, json.dumps(local._import_path())]
    # It ends as soon as it has loaded everything: this key needs a certificate.
    ended = subprocess.run([*program, "--tls-key=none"], stderr=subprocess.PIPE, text=True, timeout=FAILSAFE)
    assert ended.returncode == 1
    assert "needs --tls-cert" in ended.stderr
    loaded = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}
    ours = {name.split(".")[1] for name in loaded if name.startswith("tellurio_sync.")}
    assert "backend" in ours
    assert not ours & {"client", "model", "session", "autodiff", "peer", "transport", "trainer", "studio", "local"}


# --- one that is not waited for -------------------------------------------------------------------


STARTS = {
    "that serves": (f"sys.stderr.write('{SERVES}\\n'); sys.stderr.flush(); sys.stdin.read()", None),
    "whose line follows another one's": (
        f"print('half {SERVES}', file=sys.stderr, flush=True); sys.stdin.read()",
        None,
    ),
    "that ends": ("print('no such module', file=sys.stderr); sys.exit(3)", r"\(exit code 3\)\.\n  no such module"),
    "that takes too long": ("sys.stdin.read()", r"did not become ready within 0\.2 s"),
}


@pytest.mark.parametrize("which", STARTS)
def test_waiting_for_a_process_that_starts(which):
    program, failure = STARTS[which]
    child = local._Child([sys.executable, "-c", f"import sys; {program}"], dict(os.environ))
    deadline = local.Deadline(FAILSAFE if "too long" not in which else 0.2, local.MONOTONIC.now())
    try:
        if failure is None:
            child.wait_until_serving(deadline)
            assert child.is_serving
            assert child.is_alive
        else:
            for _ in range(2):  # whoever waits is told
                with pytest.raises(BackendError, match=failure):
                    child.wait_until_serving(deadline)
            assert not child.is_alive
    finally:
        child.end()


@pytest.mark.slow
def test_one_that_is_not_waited_for_is_known_before_it_serves(temporary, tmp_path):
    with start_local_backend(tmp_path / "data", waits=False, api_key="te-my-key") as backend:
        assert list(temporary.iterdir()) == []
        assert find_backend(tmp_path / "data")["pid"] == backend.pid
        assert (backend.api_key, backend.email) == ("te-my-key", "local@localhost")
        # What comes before it serves waits for that.
        with socket.create_connection(("127.0.0.1", backend.http_port), FAILSAFE) as early:
            early.sendall(
                b"GET /api/v0/verify-api-key/ HTTP/1.1\r\nHost: x\r\nAuthorization: Api-Key te-my-key\r\n\r\n"
            )
            assert early.recv(100).startswith(b"HTTP/1.1 200")
        backend.wait_until_serving()
        assert backend.is_serving
    assert not (tmp_path / "data" / "backend.json").exists()


# --- ending -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pause"), reason="the stand-in needs it")
def test_one_that_does_not_listen_is_killed(command, lifelines, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "tellurio_sync")
    monkeypatch.setenv("MANNER", "deaf")
    monkeypatch.setattr(local, "_STOP_TIMEOUT", 0.5)
    backend = start_local_backend(command=command)
    _, life = lifelines.accept()
    backend.stop()
    wait_for_end(life)
    assert "is killed" in caplog.text


def test_at_the_end_of_the_program_it_counts_as_stopped_before_it_is(command, lifelines, monkeypatch):
    """A signal handler that calls the server then must neither wait for it nor connect."""
    monkeypatch.setattr(exit_order, "_in_use", set())
    backend = start_local_backend(command=command)
    assert exit_order._in_use == {exit_order.BACKENDS}
    _, life = lifelines.accept()
    backend.check_is_running()
    local._hold_all_back()
    assert backend._child._process.poll() is None
    assert not backend.is_running
    with pytest.raises(BackendError, match="has ended"):
        backend.check_is_running()
    local._end_all()
    wait_for_end(life)


def test_nobody_waits_for_one_that_starts_while_the_program_ends():
    child = local._Child([sys.executable, "-c", "import sys; sys.stdin.read()"], dict(os.environ))
    try:
        local._hold_all_back()
        with pytest.raises(BackendError, match="ends with the program"):
            child.wait_until_serving(local.Deadline(FAILSAFE, local.MONOTONIC.now()))
    finally:
        child.end()


def test_it_is_stopped_although_nobody_refers_to_it(command, lifelines):
    start_local_backend(command=command)
    gc.collect()
    _, life = lifelines.accept()
    local._end_all()
    wait_for_end(life)


def test_that_it_ended_by_itself_is_seen(command, lifelines):
    backend = start_local_backend(command=command)
    _, life = lifelines.accept()
    os.kill(backend.pid, signal.SIGTERM)
    wait_for_end(life)
    backend._child._process.wait(FAILSAFE)
    assert not backend.is_running
    backend.stop()


# --- the shared one -----------------------------------------------------------------------------


def test_sessions_share_one_backend(command, lifelines):
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(default_local_backend(command=command))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAILSAFE)
    assert len(results) == 3
    assert len(set(results)) == 1
    _, life = lifelines.accept()
    results[0].stop()
    wait_for_end(life)
    another = default_local_backend(command=command)
    assert another is not results[0]
    another.stop()


def test_a_running_one_does_not_pretend_to_have_other_options(command, lifelines, tmp_path):
    backend = default_local_backend(command=command, data_dir=tmp_path / "a")
    try:
        assert default_local_backend() is backend
        assert default_local_backend(data_dir=str(tmp_path / "a"), api_key=None) is backend
        with pytest.raises(UsageError, match="another data_dir and api_key") as caught:
            default_local_backend(data_dir=tmp_path / "b", api_key="te-secret")
        assert "te-secret" not in str(caught.value)
    finally:
        backend.stop()


# --- where runs are kept --------------------------------------------------------------------------


@pytest.fixture
def told(command, lifelines, monkeypatch) -> Iterator[list[Any]]:
    """The data directories of the backends that are started; they are those of the test, and end with it."""
    directories: list[Any] = []
    start = local.start_local_backend

    def note(**options: Any) -> Any:
        given = options.get("data_dir")
        directories.append(None if given is None else Path(given))
        return start(**{**options, "command": command})

    monkeypatch.setattr(local, "start_local_backend", note)
    yield directories
    if local._default is not None:
        local._default.stop()


def test_runs_are_kept_in_the_users_folder_unless_something_else_is_said(told, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    backend_of_this_user()
    (directory,) = told
    assert os.environ["HOME"] in str(directory)
    assert directory.stat().st_mode & 0o077 == 0
    # A second login takes the one that runs, wherever that keeps its data.
    assert backend_of_this_user() is default_local_backend()
    assert len(told) == 1


def test_the_environment_names_another_folder(told, monkeypatch, tmp_path):
    monkeypatch.setenv("TELLURIO_DATA_DIR", str(tmp_path / "elsewhere"))
    backend_of_this_user()
    assert told == [tmp_path / "elsewhere"]


def test_ephemeral_keeps_nothing(told):
    backend_of_this_user(ephemeral=True)
    assert told == [None]
    assert backend_of_this_user() is backend_of_this_user(ephemeral=True)


def test_ephemeral_is_refused_where_runs_are_kept_already(told):
    backend = backend_of_this_user()
    with pytest.raises(UsageError, match=r"keeps runs in .*For runs that are not kept, end it first"):
        backend_of_this_user(ephemeral=True)
    backend.stop()
    assert backend_of_this_user(ephemeral=True) is not backend


@pytest.mark.parametrize("problem", ["a file in its place", "in use, and not to be joined"])
def test_where_nothing_can_be_kept_a_warning_says_so_and_all_else_works(problem, told, monkeypatch, tmp_path, caplog):
    directory = tmp_path / "data"
    monkeypatch.setenv("TELLURIO_DATA_DIR", str(directory))
    if problem == "a file in its place":
        directory.write_text("", encoding="utf-8")
    else:

        def refuse(directory: Path, timeout: float) -> Any:
            raise DataDirectoryInUse(f"{directory} is in use on another machine.")

        monkeypatch.setattr(local, "_join", refuse)
    assert backend_of_this_user().is_running
    assert told[-1] is None
    assert "Runs are not kept: " in caplog.text
    assert str(directory) in caplog.text
    assert "TELLURIO_DATA_DIR" in caplog.text


def test_a_backend_that_does_not_start_is_an_error_and_not_a_warning(monkeypatch, told, caplog):
    monkeypatch.setattr(local, "check_installed", lambda: None)

    def fail(**options: Any) -> Any:
        raise BackendError("no")

    with monkeypatch.context() as patch:
        patch.setattr(local, "start_local_backend", fail)
        with pytest.raises(BackendError, match=r"^no$"):
            backend_of_this_user()
    assert caplog.text == ""


# --- whole processes ----------------------------------------------------------------------------

PARENT = """
import os, signal, sys
from tellurio_sync.leash import DataDirectoryInUse
from tellurio_sync import local
from tellurio_sync.local import backend_of_this_user, default_local_backend, start_local_backend
local._STOP_TIMEOUT = 30
backend = default_local_backend(command={command!r})
"""


def run_parent(code: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    script = PARENT.format(command=command) + code
    return subprocess.run(
        [sys.executable, "-c", script], timeout=60, capture_output=True, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "exit_code"), [("", 0), ("sys.exit(3)", 3), ("raise ValueError", 1), ("backend.stop()", 0)]
)
def test_it_ends_with_the_interpreter(code, exit_code, command, lifelines):
    done = run_parent(code, command)
    assert done.returncode == exit_code
    assert done.stderr == "" or exit_code == 1
    wait_for_end(lifelines.accept()[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.mark.slow
@needs_fork
def test_a_forked_child_uses_the_backend_but_does_not_end_it(command, lifelines):
    code = """
pid = os.fork()
if pid == 0:
    same = default_local_backend() is backend and backend.is_running
    backend.stop()
    sys.exit(0 if same else 1)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(status, backend.is_running)
"""
    done = run_parent(code, command)
    assert done.stdout.strip() == "0 True"
    wait_for_end(lifelines.accept()[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 there")
@pytest.mark.parametrize("forks", [False, pytest.param(True, marks=needs_fork)])
def test_it_ends_when_its_parent_is_killed(forks, command, lifelines):
    """Also when a forked child of the parent lives on."""
    # os.write: one system call for the whole line, so that two processes cannot mix theirs.
    code = ("os.fork()\n" if forks else "") + "os.write(1, b'waiting\\n')\nsys.stdin.read()"
    script = PARENT.format(command=command) + code
    parent = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with parent:  # its end closes the pipes
        try:
            _, life = lifelines.accept()
            for _ in range(2 if forks else 1):
                assert parent.stdout.readline() == b"waiting\n"
            parent.kill()
            wait_for_end(life)
        finally:
            parent.kill()
            parent.stdin.close()  # ends the forked child
            assert parent.stdout.read() == b""  # and this waits for it


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no process groups there")
def test_ctrl_c_in_the_terminal_does_not_reach_it(command, lifelines):
    """The terminal signals a whole process group; so does this test."""
    code = """
try:
    os.killpg(0, signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    backend.stop()
    print(backend._child._process.returncode)
"""
    assert run_parent(code, command).stdout.strip() == "0"
    wait_for_end(lifelines.accept()[1])


# --- the real one -------------------------------------------------------------------------------


@pytest.fixture
def installed() -> None:
    for name in ("aiohttp", "jinja2"):
        pytest.importorskip(name)


@pytest.mark.slow
def test_the_real_backend_serves_and_ends_with_its_parent(installed, tmp_path, monkeypatch):
    """Everything at once: its options, the REST client, a run with a metric, and the end."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    with start_local_backend(tmp_path / "data", username="me", api_key="te-my-key", timeout=60) as backend:
        assert (backend.api_key, backend.username) == ("te-my-key", "me")
        assert os.getpid() != backend.pid
        rest = StudioRest(backend.http_base_url, backend.http_port, backend.api_key)
        assert verify(rest).username == "me"
        with start_run(rest, backend.namespace, "My Project", name="first try") as run:
            run.log("loss", 0.5)
            run.log("loss", 0.25)
        assert [(entry["uuid"], entry["status"]) for entry in rest.list_runs(backend.namespace, "my-project")] == [
            (run.uuid, "COMPLETED")
        ]
        metrics = rest.list_metrics(backend.namespace, "my-project", run.uuid)
        assert [(entry["name"], entry["value"], entry["step"]) for entry in metrics] == [
            ("loss", 0.5, 0),
            ("loss", 0.25, 1),
        ]
        with pytest.raises(HttpStatusError, match="The namespace 'nobody' does not exist"):
            start_run(rest, "nobody", "My Project", username="me")
        rest.set_api_key("wrong")
        with pytest.raises(InvalidAPIKeyError):
            verify(rest)
        rest.close()
    assert not backend.is_running


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no kill -9 there")
def test_the_real_backend_ends_when_its_parent_is_killed(installed):
    script = """
import sys
from tellurio_sync.local import default_local_backend
print(default_local_backend(timeout=60).http_port, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        try:
            life = socket.create_connection(("127.0.0.1", int(parent.stdout.readline())), FAILSAFE)
        finally:
            parent.kill()
    with life:
        wait_for_end(life)


def test_the_backend_looks_into_the_folders_of_the_user_last(tmp_path, monkeypatch):
    from tellurio_sync.local import _import_path

    script = tmp_path / "scripts" / "train.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(script.parent), "", "/lib/one", "/lib/two", "/lib/one"])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    assert _import_path() == ["/lib/one", "/lib/two", str(script.parent), str(tmp_path)]


@pytest.mark.slow
def test_files_of_the_user_do_not_stand_in_the_place_of_modules(tmp_path):
    for name in ("email.py", "token.py", "secrets.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the user')\n")
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "train.py"
    script.write_text(
        "import tellurio_sync as te\n"
        "te.login(mode='local')\n"
        "te.init(project_display_name='Names').finish()\n"
        "print('fine')\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "fine\n", done.stderr[-500:]


def test_where_no_thread_can_be_started_it_is_an_error_of_ours_and_nothing_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a subinterpreter that allows no daemon threads."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("daemon threads are disabled in this (sub)interpreter")

    before = set(local._children)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BackendError, match="daemon threads are disabled"):
            start_local_backend(data_dir=tmp_path)
    assert set(local._children) == before


def test_a_login_within_the_start_of_the_backend_by_the_same_thread_says_so_at_once(told, monkeypatch):
    """As a signal handler's, or a finaliser's: it would wait for the start, which waits for it."""
    start = local.start_local_backend
    refusals: list[WouldDeadlock] = []

    def interrupted(**options: Any) -> Any:
        for use in (backend_of_this_user, default_local_backend):
            with pytest.raises(WouldDeadlock, match="in the middle of a login of this same thread") as caught:
                use()
            refusals.append(caught.value)
        return start(**options)

    monkeypatch.setattr(local, "start_local_backend", interrupted)
    assert backend_of_this_user().is_running
    assert len(refusals) == 2
    assert backend_of_this_user() is default_local_backend()


@pytest.mark.parametrize("problem", ["no folder for temporary files", "it is full"])
def test_a_backend_for_whose_start_no_file_can_be_made_says_so(problem, command, monkeypatch, tmp_path):
    if problem == "it is full":

        def full(path: Path, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(
        BackendError, match=r"could not be started, .*(No space left|No such file).*TMPDIR names another"
    ):
        start_local_backend(command=command)


def test_it_is_started_from_a_folder_that_was_deleted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "lib", "/lib/one"])
    tmp_path.rmdir()
    assert local._import_path() == ["/lib/one"]
