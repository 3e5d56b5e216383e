"""A session whose connection is cut: its hooks, and the calls that wait for the restore."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.errors import CallTimeout, ClosedByUser, ConnectionLost, NotConnected
from tellurio_sync.session import restore_gate
from tellurio_sync.session.restore import Restored

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
        assert lines == ["restored: 1 Variables known, 0 made anew, 0 lost"]

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
                session.registries.unsure.add(variable)
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
            session = make_session(ws_port=cable.port, default_timeout=0.2, pending_timeout=FAILSAFE)
            session.login(KEY)
            with session.use(), session.init(None, "Deadline"):
                variable = te.Variable("a")
                monkeypatch.setattr(restore_gate, "restore", held_up)
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
