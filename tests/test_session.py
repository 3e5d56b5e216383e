"""Sessions: logging in, whose objects are whose, and what happens when the backend is not there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync import gate as gate_module
from tellurio_sync import run_context
from tellurio_sync import session as session_module
from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.errors import (
    CallTimeout,
    ClosedByUser,
    ConnectFailed,
    ConnectionLost,
    HttpStatusError,
    HttpUnreachable,
    InvalidAPIKeyError,
    NotConnected,
    RemoteError,
    UnknownVariable,
    UsageError,
    WouldDeadlock,
)
from tellurio_sync.restore import Restored

from .backend.conftest import RunningBackend
from .backend_process import Cable, free_port
from .conftest import FAILSAFE, in_thread

KEY = "key-of-this-test"

MakeSession = Callable[..., te.Session]


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[RunningBackend]:
    running = RunningBackend(BackendOptions(api_key=KEY, data_dir=tmp_path / "data", namespaces=("local", "my-org")))
    yield running
    running.stop()


@pytest.fixture
def make_session(backend: RunningBackend) -> Iterator[MakeSession]:
    """Makes sessions with this backend, and closes them after the test."""
    sessions = []

    def make(**options: Any) -> te.Session:
        addresses = {"http_base_url": "http://127.0.0.1", "ws_base_url": "ws://127.0.0.1"}
        ports = {"http_port": backend.port, "ws_port": backend.port}
        session = te.Session(**{**addresses, **ports, **options})
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        session.close()
    run_context.set_active_run(None)


@pytest.fixture
def session(make_session: MakeSession) -> Iterator[te.Session]:
    """Logged in, with a run, and current."""
    session = make_session()
    session.login(KEY)
    with session.use(), session.init(None, "Test"):
        yield session


@pytest.fixture
def own_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A default session of this test, with the backend's address in the environment."""
    monkeypatch.setattr(session_module, "_default", None)
    yield
    te.default_session().close()
    run_context.set_active_run(None)


@pytest.fixture
def environment(backend: RunningBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    for channel, scheme in (("HTTP", "http"), ("WS", "ws")):
        monkeypatch.setenv(f"TELLURIO_BACKEND_{channel}_BASE_URL", f"{scheme}://127.0.0.1")
        monkeypatch.setenv(f"TELLURIO_BACKEND_{channel}_PORT", str(backend.port))


# --- login ----------------------------------------------------------------------------------------------


class TestLogin:
    def test_it_tells_who_is_logged_in(self, make_session: MakeSession) -> None:
        session = make_session()
        assert not session.is_logged_in
        answer = session.login(KEY)
        assert set(answer) == {"email", "username", "session_id"}
        assert answer["username"] == "local"
        assert session.is_logged_in
        assert "open" in repr(session)

    def test_a_wrong_key(self, make_session: MakeSession) -> None:
        session = make_session()
        with pytest.raises(InvalidAPIKeyError, match=r"^Login failed due to invalid API key\."):
            session.login("wrong")
        with pytest.raises(InvalidAPIKeyError, match=r"^Re-login failed due to invalid API key\."):
            session.login("wrong", relogin=True)
        assert not session.is_logged_in

    def test_no_key(self, make_session: MakeSession) -> None:
        with pytest.raises(ValueError, match=r"^API key is required for the first login\..*mode='local'"):
            make_session().login()
        with pytest.raises(ValueError, match=r"^API key is required for re-login\."):
            make_session().login(relogin=True)

    def test_an_unknown_mode(self, make_session: MakeSession) -> None:
        with pytest.raises(ValueError, match="'online' or 'local', not 'offline'"):
            make_session().login(mode="offline")
        with pytest.raises(ValueError, match="data_dir is for mode='local'"):
            make_session().login(KEY, data_dir="x")

    def test_a_backend_that_is_not_running_is_named_with_how_to_start_one(
        self, make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = free_port()
        connect = te.TellurioWebSocketClient.connect
        monkeypatch.setattr(te.TellurioWebSocketClient, "connect", lambda self, key: connect(self, key, 2, 0))
        with pytest.raises(HttpUnreachable, match=rf"http://127\.0\.0\.1:{port}.*tellurio-sync backend") as caught:
            make_session(http_port=port).login(KEY)
        assert isinstance(caught.value, ConnectionError)
        with pytest.raises(ConnectFailed, match=rf"ws://127\.0\.0\.1:{port}.*tellurio-sync backend") as refused:
            make_session(ws_port=port).login(KEY)
        assert refused.value.stage == "TCP"

    def test_a_failed_login_keeps_the_former_one(self, session: te.Session) -> None:
        with pytest.raises(InvalidAPIKeyError):
            session.login("wrong")
        assert te.Variable("a").data == "a"

    def test_a_second_login_keeps_objects_valid_and_one_connection(self, session: te.Session) -> None:
        variable = te.Variable("a")
        variable_id, former = variable.variable_id, session.client
        session.login(KEY)
        variable.role = "kept"
        assert variable.variable_id == variable_id
        assert former.state == "closed"
        assert session.client.state == "open"

    def test_a_login_to_another_backend_takes_the_objects_along(self, session: te.Session, tmp_path: Path) -> None:
        parameter = te.Parameter("a", "prompt")
        parameter.append_grad(te.Variable("g"))
        other = RunningBackend(BackendOptions(api_key=KEY, data_dir=tmp_path / "other"))
        try:
            session._http, session._ws = ("http://127.0.0.1", other.port), ("ws://127.0.0.1", other.port)
            session.login(KEY)
            there = session.request("get_variable", {"variable_id": parameter.variable_id})
            assert (there["data"], there["role"], len(there["grad"])) == ("a", "prompt", 1)
        finally:
            session.close()
            other.stop()

    def test_closing_and_logging_in_again(self, session: te.Session) -> None:
        variable = te.Variable("a")
        session.close()
        session.close()
        with pytest.raises(NotConnected):
            variable.role = "x"
        session.login(KEY)
        variable.role = "x"

    @pytest.mark.usefixtures("environment", "own_default")
    def test_the_first_use_logs_in_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TELLURIO_API_KEY", KEY)
        assert not te.default_session().is_logged_in
        with te.init(None, "Automatic") as run:
            assert te.Variable("a").data == "a"
            assert te.get_active_run() is run
        assert te.default_session().is_logged_in

    @pytest.mark.usefixtures("environment", "own_default")
    def test_the_first_use_without_a_key_says_what_to_do(self) -> None:
        with pytest.raises(ValueError, match="API key is required for the first login"):
            te.Variable("a")

    @pytest.mark.usefixtures("environment", "own_default")
    def test_many_threads_log_in_once(self, monkeypatch: pytest.MonkeyPatch, active_run: Any) -> None:
        monkeypatch.setenv("TELLURIO_API_KEY", KEY)
        variables: list[te.Variable] = []
        threads = [threading.Thread(target=lambda: variables.append(te.Variable("a"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(FAILSAFE)
        assert len({variable.variable_id for variable in variables}) == 8
        te.default_session().close()

    @pytest.mark.slow
    def test_local_mode_needs_no_key_and_no_address(self, tmp_path: Path) -> None:
        with te.Session() as session:
            assert session.login(mode="local", data_dir=tmp_path)["username"] == session.namespace
            # A script that names its organisation runs unchanged.
            with session.init("my-org", "Moved") as run:
                assert run.project.namespace_slug == "my-org"
            assert session.is_local
            with session.init(project_display_name="Local") as run:
                assert te.Variable("a").data == "a"
                run.log("accuracy", 1)
            session.close()
            session.login()  # as before: local
            assert session.is_local
        from tellurio_sync.local import default_local_backend

        default_local_backend().stop()


# --- runs -----------------------------------------------------------------------------------------------


class TestRuns:
    def test_an_unknown_namespace_is_named(self, make_session: MakeSession) -> None:
        session = make_session()
        session.login(KEY)
        with pytest.raises(HttpStatusError, match="nowhere") as caught:
            session.init("nowhere", "Test")
        assert caught.value.status == 404

    @pytest.mark.parametrize(("given", "used"), [(None, "local"), ("my-org", "my-org")])
    def test_the_namespace(self, make_session: MakeSession, given: str | None, used: str) -> None:
        session = make_session()
        session.login(KEY)
        with session.init(given, "Test") as run:
            assert run.project.namespace_slug == used

    def test_a_metric_belongs_to_the_active_run(self, session: te.Session) -> None:
        te.log("accuracy", 0.5)
        te.log("accuracy", 0.75)
        run = session._active_run()
        metrics = session.rest.list_metrics("local", "test", run.uuid)
        assert [(m["name"], float(m["value"]), m["step"]) for m in metrics] == [
            ("accuracy", 0.5, 0),
            ("accuracy", 0.75, 1),
        ]

    def test_without_a_run(self, make_session: MakeSession) -> None:
        session = make_session()
        session.login(KEY)
        with session.use():
            for use in (lambda: te.Variable("a"), lambda: te.log("a", 1), te.finish):
                with pytest.raises(ValueError, match=r"No active run is set\."):
                    use()

    def test_a_run_that_cannot_log(self, make_session: MakeSession, active_run: Any) -> None:
        session = make_session()
        with pytest.raises(UsageError, match="init"):
            session.log("a", 1)
        with pytest.raises(UsageError, match="init"):
            session.finish()

    def test_finish_ends_the_active_run(self, session: te.Session) -> None:
        run = session._active_run()
        te.finish("FAILED")
        assert run.status == "FAILED"  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="No active run"):
            te.Variable("a")


# --- two sessions ---------------------------------------------------------------------------------------


class TestTwoSessions:
    def test_do_not_see_each_other(self, make_session: MakeSession) -> None:
        one, other = make_session(), make_session()
        made = []
        for session in (one, other):
            session.login(KEY)
            with session.use():
                session.init(None, "Two")
                te.set_backward_model_client(te.CallableModel(lambda messages: ""))
                made.append(te.Variable("a"))
        assert made[0].variable_id in one.registries.variables
        assert made[0].variable_id not in other.registries.variables
        assert one.registries.backward_model is not other.registries.backward_model
        assert one._active_run() is not other._active_run()
        one.close()
        made[1].role = "still there"
        with pytest.raises(NotConnected):
            made[0].role = "gone"
        other.finish()

    def test_an_object_keeps_its_session_wherever_it_is_used(
        self, session: te.Session, make_session: MakeSession
    ) -> None:
        variable = te.Variable("a")
        with make_session().use():
            variable.role = "mine"
        assert session.request("get_variable", {"variable_id": variable.variable_id})["role"] == "mine"

    def test_a_session_is_current_in_the_threads_block_only(self, session: te.Session) -> None:
        assert te.current_session() is session
        assert in_thread(te.current_session) is te.default_session()

    def test_one_session_in_two_threads(self, make_session: MakeSession) -> None:
        session = make_session()
        session.login(KEY)
        with session:
            assert in_thread(lambda: _in_block(session)) is session
            assert te.current_session() is session


def _in_block(session: te.Session) -> te.Session:
    with session.use():
        return te.current_session()


# --- calls ----------------------------------------------------------------------------------------------


class TestCalls:
    def test_an_error_reply_is_raised(self, session: te.Session) -> None:
        with pytest.raises(RemoteError, match="not found"):
            session.request("get_variable", {"variable_id": "x"})

    def test_submit(self, session: te.Session) -> None:
        variable = te.Variable("a")
        future = session.submit("get_variable", {"variable_id": variable.variable_id})
        assert future.result(FAILSAFE)["result"]["data"] == "a"

    def test_the_receive_thread_does_not_wait_for_itself(
        self, make_session: MakeSession, backend: RunningBackend
    ) -> None:
        caught: list[BaseException] = []
        done = threading.Event()

        def on_lost(error: ConnectionLost) -> None:
            try:
                session.request("get_variable", {"variable_id": "x"})
            except WouldDeadlock as exc:
                caught.append(exc)
            done.set()

        with Cable(backend.port) as cable:
            session = make_session(ws_port=cable.port, on_lost=on_lost)
            session.login(KEY)
            cable.cut()
            assert done.wait(FAILSAFE)
            assert len(caught) == 1
            session.close()

    @pytest.mark.parametrize(("count", "expected"), [(1, 30.01), (2, 30.02), (4096, 70.96)])
    def test_a_burst_has_more_time_the_larger_it_is(
        self, session: te.Session, monkeypatch: pytest.MonkeyPatch, count: int, expected: float
    ) -> None:
        given: list[float] = []

        def call_many_on(client: Any, connection: Any, calls: list[Any], timeout: float, on_reply: Any) -> list[Any]:
            given.append(timeout)
            return [{"result": {"variable_id": f"v{n}"}} for n in range(len(calls))]

        with monkeypatch.context() as patch:
            patch.setattr(TellurioWebSocketClient, "call_many_on", call_many_on)
            te.variables(["a"] * count)
        assert session.client.default_timeout == 30
        assert given == [pytest.approx(expected)]


# --- a lost connection ----------------------------------------------------------------------------------


class TestALostConnection:
    def test_the_hooks_and_one_line_in_the_log(
        self, make_session: MakeSession, backend: RunningBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "tellurio_sync.session")
        lost: list[ConnectionLost] = []
        restored: list[Restored] = []
        done = threading.Event()

        def on_restored(report: Restored) -> None:
            restored.append(report)
            done.set()
            raise ValueError("a hook of the user's")

        with Cable(backend.port) as cable:
            session = make_session(ws_port=cable.port, on_lost=lost.append, on_restored=on_restored)
            session.login(KEY)
            with session.use(), session.init(None, "Lost"):
                variable = te.Variable("a")
                cable.cut()
                assert done.wait(FAILSAFE)
                variable.role = "b"
            session.close()
        assert len(lost) >= 1
        assert restored == [Restored(restored[0].session_id, 1, (), ())]
        assert restored[0].session_id
        lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
        assert lines == ["restored: 1 Variables known, 0 made anew, 0 lost"]

    def test_new_calls_wait_for_the_restore_and_then_go_through(
        self, make_session: MakeSession, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Held up in the middle of it: what comes meanwhile waits, and is sent with the new ids."""
        begun, go_on = threading.Event(), threading.Event()
        real = gate_module.restore

        def held_up(*arguments: Any) -> Restored:
            begun.set()
            assert go_on.wait(FAILSAFE)
            return real(*arguments)

        with Cable(backend.port) as cable:
            session = make_session(ws_port=cable.port)
            session.login(KEY)
            with session.use(), session.init(None, "Wait"):
                variable = te.Variable("a")
                former = variable.variable_id
                session.registries.unsure.add(variable)
                monkeypatch.setattr(gate_module, "restore", held_up)
                cable.cut()
                assert begun.wait(FAILSAFE)
                ended: list[Any] = []

                def change() -> None:
                    variable.data = "b"
                    ended.append(variable.data)

                thread = threading.Thread(target=change)
                thread.start()
                thread.join(0.05)
                assert not ended
                go_on.set()
                thread.join(FAILSAFE)
                assert ended == ["b"]
                assert variable.variable_id != former
                there = session.request("get_variable", {"variable_id": variable.variable_id})
                assert there["data"] == "b"
            session.close()

    def test_waiting_ends_with_the_calls_own_deadline(
        self, make_session: MakeSession, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, go_on = threading.Event(), threading.Event()
        real = gate_module.restore

        def held_up(*arguments: Any) -> Restored:
            begun.set()
            assert go_on.wait(FAILSAFE)
            return real(*arguments)

        with Cable(backend.port) as cable:
            session = make_session(ws_port=cable.port, default_timeout=0.2, pending_timeout=FAILSAFE)
            session.login(KEY)
            with session.use(), session.init(None, "Deadline"):
                variable = te.Variable("a")
                monkeypatch.setattr(gate_module, "restore", held_up)
                cable.cut()
                assert begun.wait(FAILSAFE)
                with pytest.raises(CallTimeout) as caught:
                    variable.data = "b"
                assert not caught.value.was_sent
                assert variable._data == "a"
                go_on.set()
            session.close()

    def test_close_ends_the_wait(self, make_session: MakeSession, backend: RunningBackend) -> None:
        with Cable(backend.port) as cable:
            session = make_session(ws_port=cable.port)
            session.login(KEY)
            with session.use(), session.init(None, "Close"):
                variable = te.Variable("a")
                lost = threading.Event()
                session.client._on_lost = lambda error: lost.set()
                backend.stop()
                assert lost.wait(FAILSAFE)
                outcome: list[BaseException] = []

                def change() -> None:
                    try:
                        variable.data = "b"
                    except (NotConnected, ClosedByUser) as exc:
                        outcome.append(exc)

                thread = threading.Thread(target=change)
                thread.start()
                session.close()
                thread.join(FAILSAFE)
                assert len(outcome) == 1
                run = session._active_run()
                run.status = "COMPLETED"  # type: ignore[misc]  # there is nobody to tell

    def test_without_reconnect_the_next_call_says_so(self, make_session: MakeSession, backend: RunningBackend) -> None:
        with Cable(backend.port) as cable:
            session = make_session(ws_port=cable.port, reconnect=False)
            session.login(KEY)
            with session.use(), session.init(None, "No reconnect"):
                variable = te.Variable("a")
                cable.cut()
                with pytest.raises((ConnectionLost, NotConnected)):
                    variable.data = "b"
                with pytest.raises(NotConnected):
                    variable.data = "b"
            session.close()


# --- consent --------------------------------------------------------------------------------------------


class TestConsent:
    def test_a_key_for_a_backend_on_this_machine_needs_none(self, session: te.Session) -> None:
        assert session.is_local
        te.OpenAI(api_key="sk-test")

    @pytest.mark.parametrize(
        ("address", "is_local"),
        [
            ("ws://127.0.0.1", True),
            ("ws://localhost", True),
            ("ws://[::1]", True),
            ("wss://platform.tellurio.ai", False),
        ],
    )
    def test_what_counts_as_this_machine(self, address: str, is_local: bool) -> None:
        assert te.Session(ws_base_url=address, ws_port=443).is_local is is_local

    def test_local_mode_counts_before_the_login(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TELLURIO_MODE", "local")
        assert te.Session().is_local

    def test_elsewhere_it_is_needed(self) -> None:
        with te.Session(ws_base_url="wss://platform.tellurio.ai").use(), pytest.raises(UsageError, match="Consent"):
            te.OpenAI(api_key="sk-test")


def test_a_variable_of_no_server_is_told_from_a_lost_one(session: te.Session) -> None:
    with te.suppress_variable_notifications():
        unshared = te.Variable("a")
    with pytest.raises(UsageError, match="does not know it"):
        te.functional.add(unshared, te.Variable("b"))
    with pytest.raises((RemoteError, UnknownVariable)):
        session.request("get_variable", {"variable_id": None})
