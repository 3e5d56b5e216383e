"""The pytest plugin: what a user's own tests of a training loop can rely on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import pytest_tellurio_sync
import tellurio_sync as te
from tellurio_sync import testing
from tellurio_sync.errors import ConnectionLost, RemoteError
from tellurio_sync.session import Session
from tellurio_sync.studio import keystore
from tellurio_sync.testing import Failure, ScriptedBackend, ScriptedModel, fault_proxy
from tellurio_sync.testing.fault_proxy import FaultProxy

pytest_plugins = ["pytester"]

FAILSAFE = 30.0

# --- in a user's own suite ------------------------------------------------------------------------------

USER_TEST = """
    import tellurio_sync as te

    def train():
        '''What a user has written: it knows nothing of tests.'''
        te.login()
        with te.init(project_display_name="Mine") as run:
            lm = te.OpenAI()
            te.set_backward_model_client("openai/gpt-4o")
            prompt = te.Parameter("Greet.", role="system prompt")
            chat = [{"role": "system", "content": [prompt]}, {"role": "user", "content": [te.Variable("{name}")]}]
            optimizer = te.TGD([prompt], model_client=lm, model="gpt-4o")
            answer = te.functional.chat_completion(lm, chat, inputs={"name": "Ann"}, model="gpt-4o")
            score, explanation = te.functional.exact_match_evaluator(answer, "Hello Ann")
            explanation.backward()
            optimizer.step()
            run.log("score", score.data)
            return prompt.data

    def test_train(tellurio_backend, tellurio_session):
        tellurio_backend.lm.answers(
            "Hi Ann", "Too short.", '{"variable_1": "Say hello."}', "<IMPROVED>Greet with hello.</IMPROVED>"
        )
        assert train() == "Greet with hello."
        assert tellurio_backend.lm.unused == 0
        assert tellurio_backend.lm.prompts[0][1] == {"role": "user", "content": "Ann"}
        (run,) = tellurio_session.rest.list_runs(tellurio_backend.namespace, "mine")
        assert run["status"] == "COMPLETED"

    def test_each_test_has_a_backend_of_its_own(tellurio_session, tellurio_backend):
        assert tellurio_session.rest.get_project(tellurio_backend.namespace, "mine") is None
        assert tellurio_backend.lm.requests == []

    def test_a_script_that_is_too_short(tellurio_backend, tellurio_session):
        train()
"""


@pytest.mark.slow
def test_a_user_s_suite(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USER_TEST)
    result = pytester.runpytest_subprocess("-W", "error")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        ["*RemoteInternalError*The script holds no answer to question 1, which ends with: Ann*"]
    )


def run_python(code: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=FAILSAFE, env={**os.environ, **environment}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_run_of_pytest_that_uses_no_fixture_imports_nothing_of_the_package(tmp_path: Path) -> None:
    """The plugin is loaded in every run of the environment, that of unrelated projects included."""
    (tmp_path / "test_unrelated.py").write_text(
        "import sys\n"
        "def test_unrelated(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('tellurio_sync.testing')\n"
        "    print([name for name in sys.modules if name.split('.')[0] == 'tellurio_sync'])\n"
    )
    code = (
        "import os, sys, pytest; os.chdir(sys.argv[1]); sys.exit(pytest.main(['-q', '-s', '-p', 'no:cacheprovider']))"
    )
    assert run_python(code, tmp_path).startswith("[]\n")


def test_importing_the_plugin_imports_no_other_module() -> None:
    code = """
import collections.abc, typing, sys, threading
import pytest
before = set(sys.modules)
import pytest_tellurio_sync
print(sorted(set(sys.modules) - before), threading.active_count())
"""
    assert run_python(code) == "['pytest_tellurio_sync'] 1\n"


def test_the_backend_for_tests_can_be_used_without_pytest() -> None:
    code = """
import sys
sys.modules["pytest"] = None
from tellurio_sync.testing import Failure, ScriptedBackend, ScriptedModel, fault_proxy
from tellurio_sync.testing.fault_proxy import FaultProxy
heavy = {"asyncio", "aiohttp", "openai", "keyring", "requests", "sqlite3"}
print(sorted(heavy & set(sys.modules)))
"""
    assert run_python(code) == "[]\n"


def test_the_fixtures_can_be_imported_from_where_they_have_been_before() -> None:
    for name in testing.__all__:
        assert getattr(testing, name) is not None
    assert testing.tellurio_run is pytest_tellurio_sync.tellurio_run
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        testing.nothing  # noqa: B018


# --- keys -------------------------------------------------------------------------------------------------

IN_MEMORY = """
import keyring.backend

class Keyring(keyring.backend.KeyringBackend):
    priority = 10
    kept = {}

    def get_password(self, service, username):
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        del self.kept[service, username]
"""


@pytest.mark.parametrize("first", ["import keyring; keyring.get_keyring()", "import keyring", ""])
def test_inside_of_a_test_no_key_reaches_the_keyring_and_afterwards_it_is_the_users_again(
    tmp_path: Path, first: str
) -> None:
    """Whether the package ``keyring`` was used, imported, or neither before."""
    (tmp_path / "in_memory.py").write_text(IN_MEMORY)
    code = f"""
import os, subprocess, sys
{first}
from tellurio_sync.studio import keystore
from tellurio_sync.testing.no_keyring import no_keyring
with no_keyring():
    print(keystore.store("key", "user"))
    print(keystore.lookup())
    other = "from tellurio_sync.studio import keystore; print(keystore.store('key', 'user').is_stored)"
    print(subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=True).stdout.strip())
import in_memory, keyring
print(in_memory.Keyring.kept, os.environ["PYTHON_KEYRING_BACKEND"], type(keyring.get_keyring()).__name__)
print(keystore.store("key", "user").is_stored, in_memory.Keyring.kept)
"""
    output = run_python(code, PYTHONPATH=str(tmp_path), PYTHON_KEYRING_BACKEND="in_memory.Keyring", HOME=str(tmp_path))
    assert output.splitlines() == [
        "Stored(is_stored=False, reason='this machine has no keyring')",
        "Lookup(key=None, reason='no user has logged in on this machine yet')",
        "False",
        "{} in_memory.Keyring Keyring",
        "True {('Tellurio', 'user'): 'key'}",
    ]


def test_without_the_package_keyring_there_is_nothing_to_switch_off() -> None:
    code = """
import os, sys
sys.modules["keyring"] = None
from tellurio_sync.testing.no_keyring import no_keyring
with no_keyring():
    print(os.environ["PYTHON_KEYRING_BACKEND"])
print("PYTHON_KEYRING_BACKEND" in os.environ)
"""
    assert run_python(code) == "keyring.backends.null.Keyring\nFalse\n"


# --- the session ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_session_is_current_and_logged_in(tellurio_session: Session, tellurio_run: Any) -> None:
    assert te.current_session() is tellurio_session
    assert te.Variable("made for the run").variable_id


@pytest.mark.slow
def test_no_key_of_a_test_is_kept(tellurio_backend: ScriptedBackend) -> None:
    with tellurio_backend.session() as session:
        session.login()
        assert not keystore.store("key", "user").is_stored
        assert keystore.lookup().key is None


# --- faults -----------------------------------------------------------------------------------------------


def asked(session: Session, variable: te.Variable) -> Future[dict[str, Any]]:
    return session.client.submit("get_variable", {"variable_id": variable.variable_id})


@pytest.mark.slow
def test_lost_connections(tellurio_session: Session, tellurio_run: Any, tellurio_backend: ScriptedBackend) -> None:
    variable = te.Variable("kept")
    with tellurio_backend.delay(3600):
        waiting = asked(tellurio_session, variable)
        assert tellurio_backend.drop_connections() >= 1
        assert isinstance(waiting.exception(FAILSAFE), ConnectionLost)
    # The client has come back by itself.
    assert asked(tellurio_session, variable).result(FAILSAFE)["result"]["data"] == "kept"


@pytest.mark.slow
def test_a_delay_holds_everything_back_until_its_end(
    tellurio_session: Session, tellurio_run: Any, tellurio_backend: ScriptedBackend
) -> None:
    variable = te.Variable("late")
    with tellurio_backend.delay(3600):
        waiting = asked(tellurio_session, variable)
        with pytest.raises(FutureTimeout):
            waiting.result(0.1)
    assert waiting.result(FAILSAFE)["result"]["data"] == "late"


class _SteppingClock:
    """In the place of ``time`` in the proxy: time passes with each reading, as on a busy machine."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        self._now += 0.01
        return self._now


def test_what_becomes_due_between_two_looks_at_the_clock_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_proxy, "time", _SteppingClock())
    with socket.create_server(("127.0.0.1", 0)) as listener, closing(FaultProxy(listener.getsockname()[1])) as proxy:
        proxy.set_delay(0.025)
        with socket.create_connection(("127.0.0.1", proxy.port), FAILSAFE) as client:
            server, _ = listener.accept()
            with server:
                for _ in range(5):
                    for source, sink in ((client, server), (server, client)):
                        sink.settimeout(FAILSAFE)
                        source.sendall(b"!")
                        assert sink.recv(1) == b"!"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_delays_that_cannot_be(seconds: float, tellurio_backend: ScriptedBackend) -> None:
    with pytest.raises(ValueError):
        tellurio_backend.delay(seconds)


@pytest.mark.slow
def test_a_killed_backend_comes_back_at_the_same_address_with_its_records(tmp_path: Path) -> None:
    with ScriptedBackend(tmp_path) as backend, backend.session() as session:
        session.login(backend.api_key)
        with session.init(project_display_name="Kept") as run:
            run.log("metric", 1)
            pid = backend.pid
            backend.restart()
            assert backend.pid != pid
            assert [one["value"] for one in run.rest.list_metrics(backend.namespace, "kept", run.uuid)] == [1]


@pytest.mark.slow
def test_a_stopped_backend_leaves_nothing() -> None:
    backend = ScriptedBackend()
    directory = backend.data_dir
    assert directory.exists()
    with backend:
        pass
    backend.stop()
    assert not directory.exists()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{backend.http_base_url}:{backend.port}/", timeout=FAILSAFE)


# --- the scripted language model ---------------------------------------------------------------------------


@pytest.fixture
def lm() -> Any:
    lm = ScriptedModel()
    yield lm
    lm.close()


def ask(lm: ScriptedModel, content: str = "question") -> dict[str, Any]:
    """Ask over HTTP; the body of the answer."""
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": content}], "seed": 1}).encode()
    request = urllib.request.Request(f"{lm.base_url}/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=FAILSAFE) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def text(body: dict[str, Any]) -> str:
    return str(body["choices"][0]["message"]["content"])


def test_answers_come_in_order(lm: ScriptedModel) -> None:
    lm.answers("one", lambda messages: messages[0]["content"].upper())
    lm.always("more")
    assert lm.unused == 2
    assert [text(ask(lm, f"question {i}")) for i in range(4)] == ["one", "QUESTION 1", "more", "more"]
    assert lm.unused == 0
    assert [prompt[0]["content"] for prompt in lm.prompts] == [f"question {i}" for i in range(4)]
    assert lm.requests[0]["seed"] == 1


def test_a_token_is_a_word(lm: ScriptedModel) -> None:
    lm.answers("one two")
    assert ask(lm, "a b c")["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def broken(messages: Any) -> str:
    raise KeyError("mine")


FAILURES = [
    ([], 400, "The script holds no answer to question 1, which ends with: question"),
    ([Failure(429)], 429, "The scripted language model was told to fail."),
    ([Failure(500, "in its own words")], 500, "in its own words"),
    ([lambda messages: Failure(503, "from a function")], 503, "from a function"),
    ([broken], 400, "The function that answers question 1 failed: KeyError: 'mine'"),
]


@pytest.mark.parametrize(("answers", "status", "reason"), FAILURES)
def test_failures(lm: ScriptedModel, answers: Any, status: int, reason: str) -> None:
    lm.answers(*answers)
    with pytest.raises(urllib.error.HTTPError) as error:
        ask(lm)
    with error.value:
        assert error.value.code == status
        assert json.load(error.value)["error"]["message"] == reason


def test_each_of_many_threads_gets_its_own_answer(lm: ScriptedModel) -> None:
    lm.answers(*(str(i) for i in range(40)))
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.extend(text(ask(lm)) for _ in range(5)), name=f"asker {i}")
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAILSAFE)
    assert sorted(answers, key=int) == [str(i) for i in range(40)]


@pytest.mark.slow
def test_as_a_model_without_http(tellurio_run: Any, tellurio_backend: ScriptedBackend) -> None:
    lm = tellurio_backend.lm
    lm.answers("hello")
    chat = [{"role": "user", "content": [te.Variable("Hi")]}]
    assert te.functional.chat_completion(lm.model(), chat, temperature=0).data == "hello"
    assert lm.requests == [{"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}]
    with pytest.raises(RemoteError, match="The script holds no answer to question 2"):
        te.functional.chat_completion(lm.model(), chat)
