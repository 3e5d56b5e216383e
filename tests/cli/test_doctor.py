"""The doctor: each stage, broken, is the first that fails, and its text says what to do."""

from __future__ import annotations

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

import tellurio_sync
from tellurio_sync.cli.stages import VARIABLES
from tellurio_sync.local import default_local_backend

from ..backend.conftest import RunningBackend
from ..backend.lm_endpoint import LmEndpoint, Reply, completion
from ..faults.scripted import ScriptedServer, ServerConnection
from ..ports import closed_port
from .conftest import KEY, Run

STAGES = ["configuration", "DNS", "proxy", "TCP", "TLS", "REST", "key", "handshake", "greeting", "round trip"]

Set = Callable[..., None]


@pytest.fixture
def set_variables(monkeypatch: pytest.MonkeyPatch) -> Set:
    def set_them(**variables: str | int) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return set_them


class Far(ThreadingHTTPServer):
    """A server that answers each path as the test says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = self.server_address[1]
        account = json.dumps({"username": "me", "email": "me@example.org"}).encode()
        self.answers: dict[str, tuple[int, bytes]] = {"/api/v0/verify-api-key/": (200, account)}

    def handle_error(self, *args: Any) -> None:
        """A client that leaves is no error here."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Far)
        key = self.command if self.command == "CONNECT" else self.path
        status, body = self.server.answers.get(key, (404, b"nothing here"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_CONNECT = do_GET

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def far() -> Iterator[Far]:
    server = Far()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join(30)
    server.server_close()


def failure(run: Run, stage: str, code: int) -> tuple[str, str]:
    """Text and hint of this stage, after checking that it is the one that failed, and that those before are well."""
    found, out, err = run("doctor", "--json")
    stages = json.loads(out)
    assert err == ""
    assert [one["name"] for one in stages] == STAGES
    place = STAGES.index(stage)
    outcomes = [one["outcome"] for one in stages]
    assert outcomes == ["ok"] * place + ["failed"] + ["skipped"] * (len(STAGES) - place - 1), stages
    assert found == code
    assert stages[place]["hint"]
    return stages[place]["text"], stages[place]["hint"]


@pytest.mark.usefixtures("settings")
def test_all_is_well(run: Run, backend: RunningBackend) -> None:
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line[8:23].strip() for line in lines] == STAGES
    assert all(line.startswith("ok ") for line in lines)
    assert f"http://127.0.0.1:{backend.port}" in lines[0]
    assert "from the environment; it belongs to 'local'" in out
    stages = json.loads(run("doctor", "--json")[1])
    assert all(stage["seconds"] >= 0 and stage["hint"] == "" for stage in stages)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"TELLURIO_BACKEND_HTTP_BASE_URL": "platform.tellurio.ai"}, "must begin with https://"),
        ({"TELLURIO_BACKEND_WS_PORT": "0x1"}, "must be a number from 1 to 65535"),
        ({"TELLURIO_TIMEOUT": "soon"}, "TELLURIO_TIMEOUT must be a number"),
        ({"REQUESTS_CA_BUNDLE": "/no/such/file"}, "cannot be read: '/no/such/file'"),
        ({"TELLURIO_BACKEND_URL": "http://127.0.0.1"}, "TELLURIO_BACKEND_URL: no such setting"),
        ({"TELLURIO_BACKEND_WS_BASE_URL": "wss://elsewhere.example"}, "two machines"),
        (
            {
                "TELLURIO_BACKEND_HTTP_BASE_URL": "http://far.example",
                "TELLURIO_BACKEND_WS_BASE_URL": "ws://far.example",
            },
            "The API key is not sent to http://far.example",
        ),
        ({"TELLURIO_JOURNAL_DIR": "/dev/null/journals"}, "cannot be written"),
    ],
)
@pytest.mark.usefixtures("settings")
def test_the_configuration(variables: dict[str, str], says: str, run: Run, set_variables: Set) -> None:
    set_variables(**variables)
    assert says in failure(run, "configuration", 1)[0]


def test_all_settings_of_the_package_are_known() -> None:
    """Each that its code names, and no other."""
    package = Path(tellurio_sync.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.name != "stages.py"]
    named = {name for text in texts for name in re.findall(r"\bTELLURIO_[A-Z_]*[A-Z]\b", text)}
    # Put together of parts: see `addresses`.
    built = {f"TELLURIO_BACKEND_WS_{part}" for part in ("BASE_URL", "PORT")}
    assert named | built == VARIABLES


def test_a_name_without_an_address(run: Run, set_variables: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    set_variables(
        TELLURIO_BACKEND_HTTP_BASE_URL="https://platfrom.example", TELLURIO_BACKEND_WS_BASE_URL="wss://platfrom.example"
    )
    text, hint = failure(run, "DNS", 5)
    assert text == "the name 'platfrom.example' has no address: Name or service not known"
    assert "Check the spelling" in hint


def test_a_proxy_that_is_not_there(run: Run, set_variables: Set) -> None:
    port = closed_port()
    set_variables(
        TELLURIO_BACKEND_HTTP_BASE_URL="https://far.example",
        TELLURIO_BACKEND_WS_BASE_URL="wss://far.example",
        HTTPS_PROXY=f"http://me:password-of-mine@127.0.0.1:{port}",
        https_proxy=f"http://me:password-of-mine@127.0.0.1:{port}",
    )
    text, hint = failure(run, "proxy", 5)
    assert text.startswith(f"127.0.0.1:{port} cannot be reached")
    assert "https_proxy" in hint
    assert "NO_PROXY=far.example" in hint
    assert "password-of-mine" not in text + hint


def test_a_proxy_that_does_not_connect(run: Run, set_variables: Set, far: Far) -> None:
    far.answers["CONNECT"] = (407, b"")
    proxy = f"http://127.0.0.1:{far.port}"
    set_variables(
        TELLURIO_BACKEND_HTTP_BASE_URL="https://far.example",
        TELLURIO_BACKEND_WS_BASE_URL="wss://far.example",
        https_proxy=proxy,
    )
    text, hint = failure(run, "proxy", 5)
    assert f"the proxy {proxy} does not connect to far.example:443" in text
    assert "407" in text
    assert "name and password in https_proxy" in hint


@pytest.mark.usefixtures("settings")
def test_a_port_where_nobody_listens(run: Run, set_variables: Set) -> None:
    port = closed_port()
    set_variables(TELLURIO_BACKEND_WS_PORT=port)
    text, hint = failure(run, "TCP", 5)
    assert text.startswith(f"127.0.0.1:{port} cannot be reached: ")
    assert "tellurio-sync backend" in hint


@pytest.mark.usefixtures("settings")
def test_a_port_without_tls(run: Run, set_variables: Set) -> None:
    set_variables(TELLURIO_BACKEND_HTTP_BASE_URL="https://127.0.0.1", TELLURIO_BACKEND_WS_BASE_URL="wss://127.0.0.1")
    hint = failure(run, "TLS", 5)[1]
    assert "There is no TLS at this port" in hint


@pytest.mark.parametrize("name", ["localhost", "elsewhere.example"])
def test_a_certificate_that_does_not_do(name: str, run: Run, set_variables: Set, tmp_path: Path, far: Far) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    far.socket = context.wrap_socket(far.socket, server_side=True)
    if name != "localhost":
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        set_variables(REQUESTS_CA_BUNDLE=tmp_path / "ca.pem")
    set_variables(
        TELLURIO_BACKEND_HTTP_BASE_URL="https://localhost",
        TELLURIO_BACKEND_WS_BASE_URL="wss://localhost",
        TELLURIO_BACKEND_HTTP_PORT=far.port,
        TELLURIO_BACKEND_WS_PORT=far.port,
    )
    hint = failure(run, "TLS", 5)[1]
    assert ("SSL_CERT_FILE=" in hint) if name == "localhost" else ("Use the name that the certificate is for" in hint)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((503, b""), "The server has a fault"),
        ((404, b"<html>"), "address of a Tellurio backend"),
        ((200, b"<html>hello"), "TELLURIO_BACKEND_HTTP_BASE_URL"),
    ],
)
@pytest.mark.usefixtures("settings")
def test_a_server_that_is_no_backend(
    answer: tuple[int, bytes], says: str, run: Run, set_variables: Set, far: Far
) -> None:
    far.answers["/api/v0/verify-api-key/"] = answer
    set_variables(TELLURIO_BACKEND_HTTP_PORT=far.port)
    assert says in failure(run, "REST", 5)[1]


@pytest.mark.parametrize("key", ["te-another-key", "with a blank", None])
@pytest.mark.usefixtures("settings")
def test_a_key_that_does_not_do(key: str | None, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    if key is None:
        monkeypatch.delenv("TELLURIO_API_KEY")
    else:
        monkeypatch.setenv("TELLURIO_API_KEY", key)
    text, _ = failure(run, "key", 4)
    assert key is None or key not in text


@pytest.mark.usefixtures("settings")
def test_a_server_without_a_websocket(run: Run, set_variables: Set, far: Far) -> None:
    set_variables(TELLURIO_BACKEND_WS_PORT=far.port)
    text, hint = failure(run, "handshake", 5)
    assert "HTTP 404" in text
    assert "reverse proxy does not pass on upgrades" in hint


@pytest.mark.parametrize(
    ("stage", "script"),
    [
        ("greeting", lambda connection: connection.send({"jsonrpc": "2.0", "id": None, "error": {"message": KEY}})),
        ("round trip", lambda connection: (connection.receive(), connection.close(1011))),
    ],
)
@pytest.mark.usefixtures("settings")
def test_a_websocket_that_does_not_work(
    stage: str, script: Callable[[ServerConnection], Any], run: Run, set_variables: Set
) -> None:
    with ScriptedServer(script, greet=stage != "greeting") as server:
        set_variables(TELLURIO_BACKEND_WS_PORT=server.port)
        failure(run, stage, 5)


@pytest.mark.slow
def test_a_local_backend(run: Run, tmp_path: Path) -> None:
    try:
        code, out, _ = run("doctor", "--data-dir", str(tmp_path / "local"))
        assert code == 0, out
        assert out.splitlines()[0].startswith("ok      local backend")
    finally:
        default_local_backend().stop()


# --- language models ----------------------------------------------------------------------------


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("answer", "outcome", "says"),
    [
        (
            completion("yes", usage={"prompt_tokens": 1_000_000, "completion_tokens": 0, "total_tokens": 1_000_000}),
            "ok",
            "1000000 tokens, 0.150000 USD",
        ),
        (Reply(401, {"error": f"bad {KEY}"}), "failed", "refuses the key (HTTP 401)"),
        (Reply(404, {"error": "no such model"}), "failed", "knows no such model or path (HTTP 404)"),
        (Reply(429, {"error": f"too fast, {KEY}"}), "failed", "HTTP 429"),
        (Reply(200, {"hello": 1}), "failed", "did not answer as an OpenAI-compatible endpoint does"),
        (Reply(200, b"<html>"), "failed", "did not answer"),
    ],
)
def test_one_question_to_a_language_model(answer: Any, outcome: str, says: str, run: Run, set_variables: Set) -> None:
    with LmEndpoint(lambda request: answer) as endpoint:
        # This machine is never asked through a proxy.
        set_variables(OPENAI_API_KEY=KEY, OPENAI_BASE_URL=endpoint.url, http_proxy="http://127.0.0.1:1")
        code, out, _ = run("doctor", "--lm-model", "gpt-4o-mini", "--json")
    (*_, stage) = json.loads(out)
    assert stage["name"] == "language model"
    assert stage["outcome"] == outcome
    assert says in stage["text"]
    assert code == (0 if outcome == "ok" else 1)
    assert len(endpoint.requests) == 1
    assert endpoint.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.usefixtures("settings")
def test_a_language_model_that_is_not_there(run: Run) -> None:
    code, out, _ = run("doctor", "--lm-model", "m", "--lm-base-url", f"http://127.0.0.1:{closed_port()}/v1")
    assert code == 1
    assert out.splitlines()[-2].startswith("FAILED  language model")
    assert "could not be asked (ConnectionError)" in out
