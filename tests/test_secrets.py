"""No key shows: in no log line, no error, no repr, no variable of our frames, no pickle."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.secret import Secret

from .backend_process import KEY, BackendProcess, free_port
from .faults.scripted import ScriptedServer, ServerConnection

WRONG_KEY = "wrong-key-5f3a"
LM_KEY = "sk-language-model-9c1e"
SECRETS = (KEY, WRONG_KEY, LM_KEY)


def has_secret(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def everything_about(exc: BaseException) -> str:
    """What a log, an error reporter that shows variables, and a pickle say of an error."""
    shown = traceback.TracebackException.from_exception(exc, capture_locals=True)
    # The test's own frame is not ours to keep clean.
    shown.stack[:] = [frame for frame in shown.stack if frame.filename != __file__]
    parts = ["".join(shown.format()), repr(exc), str(exc), repr(vars(exc))]
    parts.append(repr(pickle.dumps(exc)) if isinstance(exc, te.TellurioError) else "")
    return "\n".join(parts)


def refuse(connection: ServerConnection) -> None:
    connection.send({"jsonrpc": "2.0", "error": {"code": 1, "message": "no"}, "id": None})
    connection.wait_for_end()


def connect(port: int, **options: Any) -> None:
    te.TellurioWebSocketClient("ws://127.0.0.1", port, connect_timeout=5).connect(WRONG_KEY, **options)


def failing(script: Callable[..., None] | None = None, **options: Any) -> None:
    with ScriptedServer(script, **options) as server:
        connect(server.port, retries=1)


FAILURES: dict[str, Callable[[], object]] = {
    "refused key": lambda: failing(status=403),
    "unavailable": lambda: failing(status=503),
    "wrong greeting": lambda: failing(refuse, greet=False),
    "no handshake": lambda: failing(on_accept=lambda sock: sock.close()),
    "closed port": lambda: connect(free_port(), retries=1),
    "unencrypted": lambda: te.TellurioWebSocketClient("ws://192.0.2.1", 80).connect(WRONG_KEY),
    "not printable": lambda: te.TellurioWebSocketClient("ws://127.0.0.1", 80).connect(WRONG_KEY + "\n"),
    "blanks in it": lambda: te.Session().login(WRONG_KEY + " x"),
    "bad option beside a key": lambda: te.TellurioWebSocketClient(default_timeout=-1, api_key=WRONG_KEY),
    "bad retries": lambda: connect(80, retries=0),
    "bad mode": lambda: te.Session().login(WRONG_KEY, mode="offline"),
    "no backend": lambda: te.Session(http_base_url="http://127.0.0.1", http_port=free_port()).login(WRONG_KEY),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_connect_shows_no_key(failure: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises((te.TellurioError, ValueError)) as caught:
        FAILURES[failure]()
    assert has_secret(everything_about(caught.value)) == []
    assert has_secret(caplog.text) == []


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendProcess]:
    with BackendProcess(tmp_path) as process:
        yield process


@pytest.mark.slow
def test_a_whole_session_shows_no_key(
    backend: BackendProcess,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the login to the end of a run, with failures on the way, and a reconnect that sends all again."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def fails(function: Callable[[], object]) -> None:
        with pytest.raises((te.TellurioError, ValueError, TypeError)) as caught:
            function()
        shown.append(everything_about(caught.value))

    address: dict[str, Any] = {
        "http_base_url": "http://127.0.0.1",
        "http_port": backend.port,
        "ws_base_url": "ws://127.0.0.1",
        "ws_port": backend.port,
    }
    fails(lambda: te.Session(**address).login(WRONG_KEY))
    restored: list[Any] = []
    with te.Session(**address, on_restored=restored.append) as session:
        session.login(KEY)
        with session.init(None, "Secrets") as run:
            lm = te.OpenAI(api_key=LM_KEY, base_url=f"http://127.0.0.1:{free_port()}/v1", max_retries=0)
            te.set_backward_model_client("openai/gpt-4o", client_args={"api_key": LM_KEY, "max_retries": 0})
            prompt = te.Parameter("p", "prompt")
            optimizer = te.TGD([prompt], lm)
            chat = [{"role": "user", "content": [prompt]}]
            fails(lambda: te.functional.chat_completion(lm, chat))
            fails(lambda: te.OpenAI(api_key=LM_KEY, timeout=-1))
            fails(lambda: te.OpenAI(api_key=LM_KEY, default_headers={"Authorization": object()}))
            fails(lambda: te.set_backward_model_client("openai/gpt-4o", client_args={"api_key": LM_KEY, "x": 1}))
            run.log("accuracy", 0.5)
            backend.restart()
            prompt.role = "prompt, restored"
            assert lm in restored[-1].renewed
            fails(lambda: te.functional.chat_completion(lm, chat))
            values = [session, session.client, session.rest, run, lm, optimizer, te.get_backward_model_client()]
            shown += [f"{value!r} {value}" for value in values]
            shown += [repr(restored), repr(pickle.dumps(lm)), repr(pickle.dumps(session)), repr(lm.describe())]
            shown.append(repr(optimizer.state_dict()))
            backend.kill()
            fails(lambda: run.log("accuracy", 1))
            fails(session.client.connect)
            monkeypatch.setattr(run, "finish", lambda *_: None)
            run.status = "COMPLETED"  # type: ignore[assignment]  # there is nobody to tell
    captured = capfd.readouterr()
    assert has_secret("\n".join(shown)) == []
    assert has_secret(caplog.text) == []
    assert has_secret(captured.out + captured.err) == []
    assert "= open" in caplog.text


def test_a_secret_is_a_text_that_does_not_show_itself() -> None:
    secret = Secret("key")
    assert f"Api-Key {secret}" == "Api-Key key"
    assert "key" not in repr([secret])
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
