"""An open session: its runs, whose objects are whose, and its calls."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.errors import (
    ConnectionLost,
    HttpStatusError,
    NotConnected,
    RemoteError,
    UnknownVariable,
    UsageError,
    WouldDeadlock,
)
from tellurio_sync.studio import run_guard

from ..backend.conftest import RunningBackend
from ..backend_process import Cable
from ..conftest import FAILSAFE, in_thread
from .conftest import KEY, MakeSession

# --- runs ---------------------------------------------------------------------------------------------


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


# --- two sessions -------------------------------------------------------------------------------------


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


# --- calls --------------------------------------------------------------------------------------------


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

        def call_many_on(
            client: Any, connection: Any, calls: list[Any], timeout: float, on_reply: Any, on_late: Any
        ) -> list[Any]:
            given.append(timeout)
            return [{"result": {"variable_id": f"v{n}"}} for n in range(len(calls))]

        with monkeypatch.context() as patch:
            patch.setattr(TellurioWebSocketClient, "call_many_on", call_many_on)
            te.variables(["a"] * count)
        assert session.client.default_timeout == 30
        assert given == [pytest.approx(expected)]


def test_a_variable_of_no_server_is_told_from_a_lost_one(session: te.Session) -> None:
    with te.suppress_variable_notifications():
        unshared = te.Variable("a")
    with pytest.raises(UsageError, match="does not know it"):
        te.functional.add(unshared, te.Variable("b"))
    with pytest.raises((RemoteError, UnknownVariable)):
        session.request("get_variable", {"variable_id": None})


def test_two_runs_that_begin_at_once_have_one_guard(make_session: MakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a guard each, neither would end the other's run."""
    session = make_session()
    session.login(KEY)
    watched: list[tuple[object, str]] = []
    made: list[object] = []

    class Guard(run_guard.RunGuard):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)
            if len(made) == 1:  # another thread begins a run while this one makes the guard
                other = threading.Thread(target=lambda: session.init(None, "Second"))
                other.start()
                other.join(FAILSAFE)
                assert not other.is_alive()

        def watch(self, run: Any) -> None:
            watched.append((self, run.project.display_name))
            super().watch(run)

    monkeypatch.setattr("tellurio_sync.studio.runs.RunGuard", Guard)
    with session.use(), session.init(None, "First"):
        assert [name for _, name in watched] == ["Second", "First"]
        assert len({guard for guard, _ in watched}) == 1
    session.close()
