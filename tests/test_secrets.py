"""No key shows: in no log line, no error, no repr, no variable of our frames, no pickle."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync import events
from tellurio_sync.model.model_config import ModelConfig
from tellurio_sync.secret import Secret
from tellurio_sync.transport.base import Ending, NoRoom, TransportEnded

from .backend_process import KEY, BackendProcess
from .conftest import FAILSAFE, wait_until
from .faults.scripted import ScriptedServer, ServerConnection
from .ports import closed_port

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


def answer(text: str) -> Callable[[socket.socket], None]:
    def on_accept(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(text.encode())

    return on_accept


def greet_with(message: Any) -> Callable[..., None]:
    """A server whose first message shows the key: at the end of what is shown, too."""

    def script(connection: ServerConnection) -> None:
        connection.send_text(message if isinstance(message, str) else json.dumps(message))
        connection.wait_for_end()

    return script


def lose(script: Callable[[ServerConnection], None]) -> None:
    """Raise how a call ended whose server does this instead of answering it."""

    def serve(connection: ServerConnection) -> None:
        connection.receive()
        script(connection)
        connection.close(1011, f"I do not like {WRONG_KEY}")

    with ScriptedServer(serve) as server:
        client = te.TellurioWebSocketClient("ws://127.0.0.1", server.port, reconnect=False)
        client.connect(WRONG_KEY, retries=1)
        try:
            reply = client.call("m", {"run_uuid": "r"})
            raise te.RemoteError.from_reply(reply["error"], method="m", request_id="1")
        finally:
            client.close()


def reply_with(**members: Any) -> Callable[[ServerConnection], None]:
    def script(connection: ServerConnection) -> None:
        connection.send({"jsonrpc": "2.0", "id": connection.last_id, **members})

    return script


PADDING = "x" * 190
"""So that the key stands where what is shown is cut off."""

FAILURES: dict[str, Callable[[], object]] = {
    "refused key": lambda: failing(status=403),
    "unavailable": lambda: failing(status=503),
    "wrong greeting": lambda: failing(refuse, greet=False),
    "no handshake": lambda: failing(on_accept=lambda sock: sock.close()),
    "echo in the status line": lambda: failing(on_accept=answer(f"HTTP/1.1 500 bad {WRONG_KEY}\r\n\r\n")),
    "echo instead of HTTP": lambda: failing(on_accept=answer(f"Api-Key {WRONG_KEY}\r\n\r\n")),
    "echo in the greeting's error": lambda: failing(
        greet_with({"jsonrpc": "2.0", "error": {"code": 1, "message": PADDING[:150] + WRONG_KEY}, "id": None}),
        greet=False,
    ),
    "echo in a greeting": lambda: failing(
        greet_with({"jsonrpc": "2.0", "result": {WRONG_KEY: PADDING[:130] + WRONG_KEY}, "id": None}), greet=False
    ),
    "echo in a text": lambda: failing(greet_with(PADDING + WRONG_KEY), greet=False),
    "echo in an array": lambda: failing(greet_with([PADDING + WRONG_KEY]), greet=False),
    "echo in a close frame": lambda: lose(lambda connection: None),
    "echo in what is no message": lambda: lose(lambda c: c.send_text(f"{PADDING}{WRONG_KEY}")),
    "echo in an invalid message": lambda: lose(lambda c: c.send([{"x": PADDING + WRONG_KEY}, WRONG_KEY])),
    "echo in an unknown reply": lambda: lose(
        lambda c: c.send({"jsonrpc": "2.0", "id": PADDING + WRONG_KEY, "result": 1})
    ),
    "echo in a notification": lambda: lose(
        lambda c: c.send({"jsonrpc": "2.0", "method": WRONG_KEY, "params": {"x": WRONG_KEY}})
    ),
    "echo in an error": lambda: lose(reply_with(error={"code": 1, "message": WRONG_KEY, "data": {"x": [WRONG_KEY]}})),
    "echo in a reply of no form": lambda: lose(reply_with(x=PADDING + WRONG_KEY)),
    "closed port": lambda: connect(closed_port(), retries=1),
    "unencrypted": lambda: te.TellurioWebSocketClient("ws://192.0.2.1", 80).connect(WRONG_KEY),
    "not printable": lambda: te.TellurioWebSocketClient("ws://127.0.0.1", 80).connect(WRONG_KEY + "\n"),
    "blanks in it": lambda: te.Session().login(WRONG_KEY + " x"),
    "bad option beside a key": lambda: te.TellurioWebSocketClient(default_timeout=-1, api_key=WRONG_KEY),
    "bad retries": lambda: connect(80, retries=0),
    "bad mode": lambda: te.Session().login(WRONG_KEY, mode="elsewhere"),
    "no backend": lambda: te.Session(http_base_url="http://127.0.0.1", http_port=closed_port()).login(WRONG_KEY),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_connect_shows_no_key(failure: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises((te.TellurioError, ValueError)) as caught:
        FAILURES[failure]()
    assert has_secret(everything_about(caught.value)) == []
    assert has_secret(caplog.text) == []


MODEL = {"run_uuid": "r", "class_type": "OpenAI", "config": ModelConfig(api_key=LM_KEY)}

WAYS: dict[str, Callable[[te.TellurioWebSocketClient], object]] = {
    "call": lambda client: client.call("create_model", MODEL),
    "call_many": lambda client: client.call_many([("create_model", MODEL)] * 3),
    "call_many of several parts": lambda client: client.call_many([("create_model", MODEL)] * 300),
    "call_on": lambda client: client.call_on(client.wait_for_connection(FAILSAFE), "create_model", MODEL),
    "submit": lambda client: client.submit("create_model", MODEL).result(),
    "notify": lambda client: [client.notify("create_model", MODEL) for _ in range(3)],
}


def drop(connection: ServerConnection) -> None:
    connection.receive()
    connection.reset()


def say_nothing(connection: ServerConnection) -> None:
    connection.wait_for_end()


def cannot_send(error: BaseException) -> Callable[..., None]:
    """Writing raises this, as when the connection is over, or there is no room, or at Ctrl-C."""

    def prepare(client: te.TellurioWebSocketClient, monkeypatch: pytest.MonkeyPatch) -> None:
        def send(*_: Any, **__: Any) -> None:
            raise error

        assert client.connection is not None
        monkeypatch.setattr(client.connection.transport, "send", send)

    return prepare


def takes_little(client: te.TellurioWebSocketClient, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = client.connection
    assert connection is not None
    monkeypatch.setattr(connection, "_max_outgoing", 100)
    monkeypatch.setattr(connection, "_certainly_small", 25)


def is_closed(client: te.TellurioWebSocketClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.close()


def is_as_it_was(client: te.TellurioWebSocketClient, monkeypatch: pytest.MonkeyPatch) -> None:
    pass


TROUBLES: dict[str, tuple[Callable[[ServerConnection], None], Callable[..., None]]] = {
    "the server drops it": (drop, is_as_it_was),
    "the server says nothing": (say_nothing, is_as_it_was),
    "it is over": (say_nothing, cannot_send(TransportEnded(Ending("gone", "network")))),
    "there is no room": (say_nothing, cannot_send(NoRoom())),
    "Ctrl-C": (say_nothing, cannot_send(KeyboardInterrupt())),
    "it is too big": (say_nothing, takes_little),
    "it is closed": (say_nothing, is_closed),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("way", WAYS)
def test_a_request_with_the_key_of_a_model_that_fails_shows_it_in_no_frame(
    way: str, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text that was to be sent holds it, and passes through many frames."""
    script, prepare = TROUBLES[trouble]
    with ScriptedServer(script) as server:
        client = te.TellurioWebSocketClient("ws://127.0.0.1", server.port, reconnect=False, default_timeout=0.05)
        client.connect(KEY, retries=1)
        prepare(client, monkeypatch)
        raised: list[BaseException] = []
        try:
            outcome = WAYS[way](client)
            raised += [each for each in outcome if isinstance(each, Exception)] if isinstance(outcome, list) else []
        except (te.TellurioError, KeyboardInterrupt) as exc:
            raised.append(exc)
        finally:
            monkeypatch.undo()
            client.close()
    is_told = not (way == "notify" and script in (drop, say_nothing) and prepare is is_as_it_was)
    assert raised or not is_told
    for exc in raised:
        assert has_secret(everything_about(exc)) == []


def test_bytes_in_the_place_of_a_key_are_not_shown() -> None:
    with pytest.raises((TypeError, ValueError, te.TellurioError)) as caught:
        te.OpenAI(api_key=LM_KEY.encode())  # type: ignore[arg-type]
    assert has_secret(everything_about(caught.value)) == []


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
            lm = te.OpenAI(api_key=LM_KEY, base_url=f"http://127.0.0.1:{closed_port()}/v1", max_retries=0)
            te.set_backward_model_client("openai/gpt-4o", client_args={"api_key": LM_KEY, "max_retries": 0})
            prompt = te.Parameter("p", "prompt")
            optimizer = te.TGD([prompt], lm, model="m")
            chat = [{"role": "user", "content": [prompt]}]
            fails(lambda: te.functional.chat_completion(lm, chat))
            fails(lambda: te.OpenAI(api_key=LM_KEY, timeout=-1))
            fails(lambda: te.OpenAI(api_key=LM_KEY, default_headers={"Authorization": object()}))
            fails(lambda: te.set_backward_model_client("openai/gpt-4o", client_args={"api_key": LM_KEY, "x": 1}))
            run.log("accuracy", 0.5)
            backend.restart()
            prompt.role = "prompt, restored"
            # Calls go on when the objects are restored; the thread that did it reports then.
            wait_until(lambda: restored, "no report of the restore came")
            assert lm in restored[-1].renewed
            fails(lambda: te.functional.chat_completion(lm, chat))
            values = [session, session.client, session.rest, run, lm, optimizer, te.get_backward_model_client()]
            shown += [f"{value!r} {value}" for value in values]
            shown += [repr(restored), repr(pickle.dumps(lm)), repr(pickle.dumps(session)), repr(lm.describe())]
            shown.append(repr(optimizer.state_dict()))
            backend.kill()
            run.log("accuracy", 1)  # kept here: it does not fail because of a server
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


def test_diagnostics_show_no_key_of_params_headers_greeting_or_close_frame(active_run: object) -> None:
    def serve(connection: ServerConnection) -> None:
        greeting = {"session_id": WRONG_KEY, "server": {"name": f"echo {WRONG_KEY}", WRONG_KEY: 1}}
        connection.send({"jsonrpc": "2.0", "result": greeting, "id": None})
        request = connection.receive()
        connection.send({"jsonrpc": "2.0", "method": f"m {WRONG_KEY}", "params": {"id": LM_KEY, "key": WRONG_KEY}})
        connection.reply(request, {"config": request["params"]})
        request = connection.receive()
        while "method" not in request:
            request = connection.receive()
        error = {"code": -32603, "message": f"bad {WRONG_KEY}", "data": {"header": f"Api-Key {WRONG_KEY}"}}
        connection.send({"jsonrpc": "2.0", "id": request["id"], "error": error})
        connection.receive()
        connection.close(1011, f"I do not like {WRONG_KEY}")

    heard: list[te.Event] = []
    stop = te.on_event(heard.append)
    with ScriptedServer(serve, greet=False) as server:
        client = te.TellurioWebSocketClient(
            "ws://127.0.0.1", server.port, api_key=WRONG_KEY, reconnect=False, record_envelopes=True
        )
        client.connect(retries=1)
        client.call("create_model", {"config": {"api_key": LM_KEY, "default_headers": {"x": LM_KEY, LM_KEY: "x"}}})
        client.call("echo", {"text": LM_KEY})
        with pytest.raises(te.ConnectionLost):
            client.call("end", {"items": [LM_KEY, [LM_KEY]]})
        texts = [*client.recent(), str(client.stats()), repr(client.stats())]
        client.close()
    events.flush(FAILSAFE)
    stop()
    shown = "\n".join([*texts, *map(repr, heard)])
    assert "create_model" in shown
    assert "method: create_model, params: {config: {api_key: <text of 22>" in shown
    assert "I do not like ***" in shown
    assert {event.kind for event in heard} == {"opened", "call ended", "lost"}
    assert has_secret(shown) == []
