"""A login to a local backend that still starts: the first log needs no answer of it, and the first call waits."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync import local, run_context
from tellurio_sync.errors import BackendError, HttpUnreachable, NotConnected, UsageError
from tellurio_sync.notebook import status
from tellurio_sync.session import default
from tellurio_sync.studio import run_log

from ..backend.conftest import RunningBackend, a_backend
from ..conftest import FAILSAFE
from .conftest import KEY


class Starting:
    """Stands for a ``LocalBackend`` of this test's backend; serves when it is told to, or fails."""

    http_base_url, ws_base_url, api_key = "http://127.0.0.1", "ws://127.0.0.1", KEY
    username, email, namespace, is_running = "local", "local@localhost", "local", True
    last_lines: tuple[str, ...] = ()

    def __init__(self, backend: RunningBackend, data_dir: Path) -> None:
        self.http_port = self.ws_port = backend.port
        self.page_url = f"{backend.http_url}/?token=1234"
        self.data_dir = str(data_dir)
        self.waited: list[int] = []
        self._serves = threading.Event()
        self._failure: str | None = None

    @property
    def is_serving(self) -> bool:
        return self._serves.is_set() and self._failure is None

    def serve(self) -> None:
        self._serves.set()

    def fail(self, text: str) -> None:
        self._failure = text
        self._serves.set()

    def wait_until_serving(self) -> None:
        self.waited.append(threading.get_ident())
        assert self._serves.wait(FAILSAFE)
        if self._failure is not None:
            raise BackendError(self._failure)

    def check_is_running(self) -> None:
        if not self.is_running:
            raise BackendError("The local backend has ended.")


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[RunningBackend]:
    """With the namespaces that a login gives to its backend."""
    yield from a_backend(api_key=KEY, data_dir=tmp_path / "data", namespaces=("local", "*"))


@pytest.fixture
def starting(backend: RunningBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starting:
    found = Starting(backend, tmp_path / "data")
    monkeypatch.setattr(local, "backend_of_this_user", lambda **options: found)
    monkeypatch.setattr(local, "default_local_backend", lambda **options: found)
    return found


@pytest.fixture
def session(starting: Starting) -> Iterator[te.Session]:
    """Logged in to the backend that starts, and current."""
    session = te.Session()
    with session.use():
        yield session
        starting.serve()
        session.close()
    run_context.set_active_run(None)


def in_thread(do: Callable[[], Any], outcome: list[Any] | None = None) -> Callable[[], Any]:
    """Begins this in another thread; the result is what waits for it, and returns or raises as it did.

    Args:
        outcome: is empty until it has ended.
    """
    outcome = [] if outcome is None else outcome

    def run() -> None:
        try:
            outcome.append((do(), None))
        except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
            outcome.append((None, exc))

    thread = threading.Thread(target=run)
    thread.start()

    def result() -> Any:
        thread.join(FAILSAFE)
        assert outcome, "it did not end"
        ((value, error),) = outcome
        if error is not None:
            raise error
        return value

    return result


def waits_for(starting: Starting, do: Callable[[], Any]) -> Any:
    """What this returns, which needs the backend: it must not be there before that serves."""
    outcome: list[Any] = []
    result = in_thread(do, outcome)
    threading.Event().wait(0.03)  # for one that does not wait
    assert not outcome
    starting.serve()
    return result()


# --- what needs no answer -----------------------------------------------------------------------------


def test_login_init_and_log_need_no_answer(session: te.Session, starting: Starting) -> None:
    answer = session.login(mode="local")
    assert (answer["username"], answer["email"]) == ("local", "local@localhost")
    assert session.is_logged_in
    assert session.is_connection_pending
    assert session.is_local
    assert session.whoami()["username"] == "local"
    run = session.init("me", "Project", config={"lr": 0.1})
    for step in range(3):
        session.log("loss", 1.0 / (step + 1), step)
    begun = (run.uuid, run.name, run.url, run.link, run.status, run.config, run.project.slug)
    assert not starting.is_serving  # and nothing above has waited

    starting.serve()
    assert session.client.greeting is not None
    assert session.client.greeting.session_id == answer["session_id"]
    assert not session.is_connection_pending
    assert (run.uuid, run.name, run.url, run.link, run.status, run.config, run.project.slug) == begun
    assert run.user is not None
    assert run.project.uuid
    assert [row["value"] for row in run.metrics("loss")] == [1.0, 0.5, 1 / 3]
    (listed,) = session.runs("me", "Project")
    assert (listed.uuid, listed.name, listed.config) == (run.uuid, run.name, {"lr": 0.1})
    run.finish()
    assert session.runs("me", "Project")[0].status == "COMPLETED"


def test_the_name_that_is_given(session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    run = session.init("me", "Project", "first", "a description")
    assert not starting.waited or not starting.is_serving
    starting.serve()
    (listed,) = session.runs("me", "Project")
    assert (listed.name, listed.description, listed.uuid) == ("first", "a description", run.uuid)


def test_what_it_says_of_itself(session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    assert "first call" in repr(session)
    session.init("me", "Project")
    text = status()
    assert "no call was made to yet" in text
    assert "0 calls" in text
    assert not starting.is_serving


def test_the_second_run_ends_the_first_one(session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    first = session.init("me", "Project")
    session.log("x", 1.0)
    second = waits_for(starting, lambda: session.init("me", "Project"))
    assert (first.status, second.status) == ("FAILED", "RUNNING")
    assert [run.uuid for run in session.runs("me", "Project")] == [first.uuid, second.uuid]
    assert [row["value"] for row in first.metrics()] == [1.0]


# --- what waits ---------------------------------------------------------------------------------------

NEEDS_IT: dict[str, Callable[[te.Session], Any]] = {
    "a Variable": lambda session: te.Variable("text", role="role"),
    "a call that is not waited for": lambda session: session.submit("get_variable", {"variable_id": "none"}),
    "client": lambda session: session.client.state,
    "extensions": lambda session: session.extensions,
    "rest": lambda session: session.rest.get_project("me", "project"),
    "runs": lambda session: session.runs("me", "Project"),
    "sync": lambda session: session.sync(dry_run=True) or True,
    "login": lambda session: session.login(mode="local"),
}


@pytest.mark.parametrize("what", NEEDS_IT)
def test_what_needs_the_backend_waits_and_finds_the_run(what: str, session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    run = session.init("me", "Project")
    session.log("x", 1.0)

    def do() -> Any:
        with session.use():
            return NEEDS_IT[what](session)

    assert waits_for(starting, do)
    assert run.uuid in [one.uuid for one in session.runs("me", "Project")]


@pytest.mark.parametrize("what", ["metrics", "questions", "flush", "finish"])
def test_what_asks_for_the_run_waits(what: str, session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    run = session.init("me", "Project")
    session.log("x", 1.0)
    answer = waits_for(starting, getattr(run, what))
    assert {"metrics": lambda: len(answer) == 1, "flush": lambda: answer is True}.get(what, lambda: True)()
    assert run.uuid in [one.uuid for one in session.runs("me", "Project")]
    assert [row["value"] for row in run.metrics()] == [1.0]


def test_an_end_that_waits_for_a_slow_start_has_patience(
    session: te.Session, starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that starts is slow, and not away: the end of a run must not give it up."""
    monkeypatch.setattr("tellurio_sync.studio.shipping._slow_patience", lambda: 0.01)
    monkeypatch.setattr(run_log, "PATIENCE", 0.01)
    session.login(mode="local")
    run = session.init("me", "Project")
    session.log("x", 1.0)
    ended = in_thread(lambda: run.end("COMPLETED", None, patience=0.01))
    threading.Event().wait(0.1)  # ten times its patience
    assert not run.is_finished
    starting.serve()
    ended()
    assert run.journal is None or not run.journal.exists()
    assert [(one.uuid, one.status) for one in session.runs("me", "Project")] == [(run.uuid, "COMPLETED")]


def test_first_calls_of_many_threads_make_one_connection(session: te.Session, starting: Starting) -> None:
    answer = session.login(mode="local")
    session.init("me", "Project")

    def make() -> te.Variable:
        with session.use():
            return te.Variable("text", role="role")

    made = [in_thread(make) for _ in range(8)]
    starting.serve()
    assert len({result().variable_id for result in made}) == 8
    assert session.client.greeting is not None
    assert session.client.greeting.session_id == answer["session_id"]
    assert session.client.stats().calls >= 8


# --- what the backend has to be asked about --------------------------------------------------------------


@pytest.fixture
def one_run_before(session: te.Session, starting: Starting, backend: RunningBackend) -> str:
    """The id of a run "taken" of the project "Project", whose name the next one may want."""
    before = te.Session(
        http_base_url="http://127.0.0.1", http_port=backend.port, ws_base_url="ws://127.0.0.1", ws_port=backend.port
    )
    before.login(KEY)
    run = before.init("local", "Project", "taken")
    run.finish()
    before.close()
    return run.uuid


ASKED: dict[str, tuple[dict[str, Any], Callable[[te.Session, Any, str], bool]]] = {
    "a taken name": ({"name": "taken"}, lambda session, run, before: run.name == "taken_1" and run.uuid != before),
    "resume": ({"resume": "must"}, lambda session, run, before: run.uuid == before),
    "another status": ({"status": "COMPLETED"}, lambda session, run, before: run.status == "COMPLETED"),
    "a configuration that is no text": (
        {"config": {"a": "\udc80"}},
        lambda session, run, before: session.runs("local", "Project")[-1].uuid == run.uuid,
    ),
    "a long description": ({"description": "d" * 300}, lambda session, run, before: len(run.description) == 300),
}


def test_keys_are_kept_out_of_the_configuration(session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    run = session.init("me", "Project", config={"lr": 0.1, "api_key": "sk-a-secret"})
    assert not starting.is_serving
    assert run.journal is not None
    for file in run.journal.iterdir():
        assert b"sk-a-secret" not in file.read_bytes()
    starting.serve()
    (listed,) = session.runs("me", "Project")
    assert listed.config == run.config
    assert listed.config["lr"] == 0.1


def test_what_cannot_be_a_configuration_is_told_at_once(session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    with pytest.raises(TypeError, match="config must be"):
        session.init("me", "Project", config=3)
    assert not starting.is_serving


@pytest.mark.parametrize("what", ASKED)
def test_what_is_not_usual_is_asked(what: str, session: te.Session, starting: Starting, one_run_before: str) -> None:
    session.login(mode="local")
    options, is_right = ASKED[what]
    run = waits_for(starting, lambda: session.init("local", "Project", **options))
    assert is_right(session, run, one_run_before)


def test_another_project_with_the_same_address(session: te.Session, starting: Starting, one_run_before: str) -> None:
    session.login(mode="local")
    with pytest.raises(UsageError, match="Project"):
        waits_for(starting, lambda: session.init("local", "Project++"))


def test_a_run_in_a_project_that_is_there(session: te.Session, starting: Starting, one_run_before: str) -> None:
    session.login(mode="local")
    run = session.init("local", "Project", "new")
    assert not starting.is_serving
    starting.serve()
    assert [one.uuid for one in session.runs("local", "Project")] == [one_run_before, run.uuid]


# --- when it comes to nothing ---------------------------------------------------------------------------


def test_a_start_that_fails_is_told_by_what_waits_first(
    session: te.Session, starting: Starting, caplog: pytest.LogCaptureFixture
) -> None:
    session.login(mode="local")
    run = session.init("me", "Project")
    session.log("x", 1.0)
    starting.fail("The local backend ended while it started (exit code 1).\n  no module named this")
    for _ in range(2):  # each of them
        with pytest.raises(BackendError, match="no module named this"):
            te.Variable("text", role="role")
        with pytest.raises(HttpUnreachable, match="no module named this"):
            run.metrics()
    session.log("x", 2.0)
    run.end("COMPLETED", None, patience=0.01)
    assert "no module named this" in caplog.text
    assert str(run.journal) in caplog.text
    assert "tellurio-sync sync" in caplog.text
    assert run.journal is not None
    assert run.journal.exists()


def test_the_first_call_does_not_dial_a_backend_that_has_ended_or_ends_with_the_program(
    session: te.Session, starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.login(mode="local")
    starting.serve()
    starting.is_running = False
    monkeypatch.setattr(te.TellurioWebSocketClient, "connect", lambda *_: pytest.fail("it was dialled"))
    for _ in range(2):  # each call is told
        with pytest.raises(BackendError, match="has ended"):
            te.Variable("text", role="role")
    assert session.is_connection_pending


def test_a_login_after_a_start_that_failed(session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    starting.fail("it ended")
    with pytest.raises(BackendError):
        session.login(mode="local")
    starting._failure = None
    session.login(mode="local")
    assert session.client.state == "open"


def test_a_login_after_a_start_that_failed_with_a_run(
    session: te.Session, starting: Starting, backend: RunningBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.login(mode="local")
    run = session.init("me", "Project")
    session.log("x", 1.0)
    starting.fail("it ended")
    with pytest.raises(BackendError, match="it ended"):
        te.Variable("text", role="role")
    another = Starting(backend, tmp_path / "data")
    another.serve()
    monkeypatch.setattr(local, "backend_of_this_user", lambda **options: another)
    session.login(mode="local")
    again = session.init("me", "Project")
    assert (run.status, again.status) == ("FAILED", "RUNNING")
    assert te.Variable("text", role="role").variable_id


def test_a_second_login_takes_the_run_along(session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    run = session.init("me", "Project")  # and nothing is logged
    waits_for(starting, lambda: session.login(mode="local"))
    assert not run.is_to_come
    assert [one.uuid for one in session.runs("me", "Project")] == [run.uuid]


@pytest.mark.parametrize("what", ["a call", "rest", "init"])
def test_a_login_that_is_made_by_the_first_use(
    what: str, session: te.Session, starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLURIO_MODE", "local")
    if what == "init":
        run = session.init("me", "Project")
        session.log("x", 1.0)
        assert session.is_connection_pending
        starting.serve()
        assert len(run.metrics()) == 1
        return
    use: Callable[[], Any] = {
        "a call": lambda: session.submit("get_variable", {"run_uuid": "", "variable_id": "none"}),
        "rest": lambda: session.rest.verify_api_key(),
    }[what]
    assert waits_for(starting, use)
    assert session.client.state == "open"


def test_closing_before_the_first_call(session: te.Session, starting: Starting) -> None:
    session.login(mode="local")
    session.close()
    assert session.is_logged_in  # as after any close
    assert not session.is_connection_pending
    with pytest.raises(NotConnected):
        session.request("get_variable", {})
    starting.serve()
    session.login(mode="local")
    assert session.client.state == "open"


def test_an_online_login_takes_the_place_of_one_that_is_pending(
    session: te.Session, starting: Starting, backend: RunningBackend
) -> None:
    session.login(mode="local")
    session.login(KEY, mode="online", base_url=backend.http_url)
    assert not session.is_connection_pending
    assert session.page_url is None
    assert session.client.state == "open"
    assert starting.waited == []


def test_a_backend_that_serves_is_connected_to_at_once(session: te.Session, starting: Starting) -> None:
    starting.serve()
    session.login(mode="local")
    assert not session.is_connection_pending
    assert session.client.state == "open"


def test_the_default_session_of_a_thread_finds_it_logged_in(
    starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a block open elsewhere, a thread takes the default session only if that is in use: a pending one is."""
    monkeypatch.setattr(default, "_default", None)
    te.login(mode="local")
    with te.Session():
        assert in_thread(te.current_session)() is te.default_session()
    starting.serve()
    te.default_session().close()


def test_the_way_to_the_first_log_loads_no_web_framework() -> None:
    """The backend's modules that this side uses are light ones: else the first log waits for what the backend loads."""
    script = "import sys, tellurio_sync.session.run_to_come; print('aiohttp' in sys.modules, 'jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=FAILSAFE)
    assert done.stdout.split() == ["False", "False"]
