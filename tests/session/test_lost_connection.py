"""A session whose connection is cut: its hooks, and the calls that wait for the restore."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.errors import CallTimeout, ClosedByUser, ConnectionLost, NotConnected
from tellurio_sync.local import LocalBackend
from tellurio_sync.session import restore_gate
from tellurio_sync.session.restore import Restored
from tellurio_sync.session.restore_gate import Admission

from ..backend.conftest import RunningBackend
from ..backend_process import Cable
from ..conftest import FAILSAFE
from .conftest import KEY, MakeSession


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
        assert lines == ["restored: 1 Variables known, 0 made again, 0 lost"]

    def test_new_calls_wait_for_the_restore_and_then_go_through(
        self, make_session: MakeSession, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Held up in the middle of it: what comes meanwhile waits, and is sent with the new ids."""
        begun, go_on = threading.Event(), threading.Event()
        real = restore_gate.restore

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
                session.registries.mark_unsure([variable])
                monkeypatch.setattr(restore_gate, "restore", held_up)
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
        real = restore_gate.restore

        def held_up(*arguments: Any) -> Restored:
            begun.set()
            assert go_on.wait(FAILSAFE)
            return real(*arguments)

        with Cable(backend.port) as cable:
            session = make_session(ws_port=cable.port)
            session.login(KEY)
            with session.use(), session.init(None, "Deadline"):
                variable = te.Variable("a")
                monkeypatch.setattr(restore_gate, "restore", held_up)
                cable.cut()
                assert begun.wait(FAILSAFE)
                session.client.default_timeout = 0.1  # of this call only: another may need longer on a busy machine
                with pytest.raises(CallTimeout) as caught:
                    variable.data = "b"
                session.client.default_timeout = FAILSAFE
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


class LeavesLate:
    """Lets a thread that ends a cut-off call go on only when the restore is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cable: Cable) -> None:
        self.restored = threading.Event()
        self._cable = cable
        self._patch = monkeypatch
        self._thread = threading.get_ident()

    def cut_off(self, method: str, number: int = 1) -> None:
        """Of the next requests of this method, the one with this number finds the connection lost, and was not sent."""
        request, leave = Admission.request, Admission.leave
        requests: list[str] = []
        cut: list[Admission] = []

        def lose(admission: Admission, name: str, *arguments: Any) -> Any:
            if name == method:
                requests.append(name)
            if name != method or len(requests) != number:
                return request(admission, name, *arguments)
            cut.append(admission)
            self.restored.clear()
            self._cable.cut()
            raise ConnectionLost("over", was_sent=False)

        def leave_late(admission: Admission) -> None:
            leave(admission)
            if admission in cut:
                assert self.restored.wait(FAILSAFE)

        self._patch.setattr(Admission, "request", lose)
        self._patch.setattr(Admission, "leave", leave_late)


def gradients_there(session: te.Session, variable: te.Variable) -> int:
    return len(session.request("get_variable", {"variable_id": variable.variable_id})["grad"])


class TestARestoreThatIsOverBeforeTheCutOffCallGoesOn:
    def test_clear_grad_has_cleared_the_gradients_on_the_server_too(
        self, make_session: MakeSession, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Cable(backend.port) as cable:
            late = LeavesLate(monkeypatch, cable)
            session = make_session(ws_port=cable.port, on_restored=lambda report: late.restored.set())
            session.login(KEY)
            with session.use(), session.init(None, "Clear"):
                parameter = te.Parameter("p")
                optimizer = te.TGD([parameter], te.CallableModel(lambda messages, **_: "new"))
                parameter.append_grad(te.Variable("g"))
                late.cut_off("clear_grad")
                optimizer.clear_grad()
                assert (len(parameter.grad), gradients_there(session, parameter)) == (0, 0)
            session.close()

    def test_a_step_of_two_groups_has_not_happened_on_the_server_either(
        self, make_session: MakeSession, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Cable(backend.port) as cable:
            late = LeavesLate(monkeypatch, cable)
            session = make_session(ws_port=cable.port, on_restored=lambda report: late.restored.set())
            session.login(KEY)
            with session.use(), session.init(None, "Step"):
                first, second = te.Parameter("first"), te.Parameter("second")
                model = te.CallableModel(lambda messages, **_: "<IMPROVED>new</IMPROVED>")
                optimizer = te.TGD([{"params": [first]}, {"params": [second]}], model)
                optimizer.load_state_dict(optimizer.state_dict(), model)
                for parameter in (first, second):
                    parameter.append_grad(te.Variable("g"))
                late.cut_off("run_optimizer_tgd", 2)
                with pytest.raises(ConnectionLost):
                    optimizer.step()
                assert (first.data, second.data) == ("first", "second")
                te.Variable("the next call")  # which gives the parameters new ids
                there = [
                    session.request("get_variable", {"variable_id": parameter.variable_id})["data"]
                    for parameter in (first, second)
                ]
                assert there == ["first", "second"]
            session.close()


@pytest.mark.parametrize("lines", [[], ["one", "Killed: out of memory"]])
def test_a_local_backend_that_has_ended_is_said_at_once(
    make_session: Any, backend: Any, monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    """Not after the time-out of the call, and with the way back."""
    from types import SimpleNamespace

    lost = threading.Event()
    session = make_session(on_lost=lambda error: lost.set(), default_timeout=FAILSAFE * 10)
    session.login(KEY)
    with session.use(), session.init(None, "Ended") as run:
        dead = SimpleNamespace(is_running=False, last_lines=lines, page_url="", namespace="local")
        dead.check_is_running = lambda: LocalBackend.check_is_running(dead)  # type: ignore[arg-type]
        te.Variable("it is not asked as long as the connection lives")
        monkeypatch.setattr(type(session), "_backend", dead)
        te.Variable("nor here")
        backend.stop()
        assert lost.wait(FAILSAFE)
        with pytest.raises(te.BackendError, match=r"has ended\. te\.login") as raised:
            te.Variable("b")
        assert ("out of memory" in str(raised.value)) is bool(lines)
        assert raised.value.was_sent is False
        run.on_finish(run)
