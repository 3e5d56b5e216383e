"""Logging in, when the backend is not there, too, and the consent that a key for elsewhere needs."""

from __future__ import annotations

import contextlib
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync import run_context
from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.errors import ConnectFailed, HttpUnreachable, InvalidAPIKeyError, NotConnected, UsageError
from tellurio_sync.session import default

from ..backend.conftest import RunningBackend
from ..conftest import FAILSAFE
from ..ports import closed_port
from .conftest import KEY, MakeSession


@pytest.fixture
def own_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A default session of this test, with the backend's address in the environment."""
    monkeypatch.setattr(default, "_default", None)
    yield
    te.default_session().close()
    run_context.set_active_run(None)


@pytest.fixture
def environment(backend: RunningBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    for channel, scheme in (("HTTP", "http"), ("WS", "ws")):
        monkeypatch.setenv(f"TELLURIO_BACKEND_{channel}_BASE_URL", f"{scheme}://127.0.0.1")
        monkeypatch.setenv(f"TELLURIO_BACKEND_{channel}_PORT", str(backend.port))


# --- login --------------------------------------------------------------------------------------------


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
        with pytest.raises(ValueError, match="not 'nowhere'"):
            make_session().login(mode="nowhere")
        with pytest.raises(ValueError, match="data_dir is for mode='local'"):
            make_session().login(KEY, data_dir="x")
        with pytest.raises(ValueError, match="ephemeral is for mode='local'"):
            make_session().login(KEY, ephemeral=True)
        with pytest.raises(ValueError, match="give one of them"):
            make_session().login(mode="local", data_dir="x", ephemeral=True)

    def test_a_backend_that_is_not_running_is_named_with_how_to_start_one(
        self, make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = closed_port()
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
            session.login(KEY, base_url=other.http_url)
            there = session.request("get_variable", {"variable_id": parameter.variable_id})
            assert (there["data"], there["role"], len(there["grad"])) == ("a", "prompt", 1)
            session.login(KEY)
            assert session.whoami()["server"] == other.http_url, "it has moved there"
        finally:
            session.close()
            other.stop()

    def test_the_address_of_a_login_is_kept(self, backend: RunningBackend, make_session: MakeSession) -> None:
        """Over that with which the session was made, and that of the environment."""
        session = make_session(http_port=1, ws_port=1)
        session.login(KEY, base_url=f"{backend.http_url}/")
        session.login(KEY)
        with pickle.loads(pickle.dumps(session)) as copy:
            copy.login(KEY)
            for one in (session, copy):
                assert one.whoami()["server"] == backend.http_url
                assert one.client.ws_url == backend.ws_url

    @pytest.mark.parametrize("mode", ["online", "auto", "offline"])
    def test_the_address_of_a_server_that_is_away_is_kept_where_there_is_none_yet(
        self, make_session: MakeSession, mode: Any
    ) -> None:
        session, port = make_session(), closed_port()
        with contextlib.nullcontext() if mode == "offline" else pytest.raises(HttpUnreachable):
            session.login(KEY, mode=mode, base_url=f"http://127.0.0.1:{port}/tellurio")
        with pytest.raises(HttpUnreachable, match=f":{port}/tellurio "):
            session.login(KEY, mode="online")

    def test_an_address_that_cannot_be_reached_leaves_the_former_login(
        self, backend: RunningBackend, session: te.Session
    ) -> None:
        with pytest.raises(HttpUnreachable):
            session.login(KEY, base_url=f"http://127.0.0.1:{closed_port()}")
        assert te.Variable("a").data == "a"
        session.login(KEY)
        assert session.whoami()["server"] == backend.http_url

    def test_an_address_means_online(
        self, backend: RunningBackend, make_session: MakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TELLURIO_MODE", "local")
        session = make_session(http_port=1, ws_port=1)
        session.login(KEY, base_url=backend.http_url)
        session.login(KEY)
        assert session.page_url is None
        with pytest.raises(ValueError, match="base_url is the address of a server that runs"):
            session.login(mode="local", base_url=backend.http_url)
        with pytest.raises(ValueError, match="give what stands before '/ws/v0/rpc'"):
            session.login(KEY, base_url=f"{backend.http_url}/ws/v0/rpc/")

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


# --- consent ------------------------------------------------------------------------------------------


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
