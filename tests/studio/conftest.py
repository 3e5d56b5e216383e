from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import ModuleType

import pytest

from tellurio_sync.studio import StudioRest

from ..conftest import FAILSAFE

KEY = "te-0123456789-secret"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home directory, and an environment that says nothing about Tellurio, keyrings and proxies."""
    for name in list(os.environ):
        if name.startswith(("TELLURIO_", "KEYRING_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("ALLOW_API_KEY_SHARING", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "journals"))
    monkeypatch.setenv("TELLURIO_FINISH_TIMEOUT", "20")
    monkeypatch.setenv("TELLURIO_TIMEOUT", str(FAILSAFE))
    return tmp_path


class FakeKeyring(ModuleType):
    """Stands in for the package ``keyring``; ``secrets`` maps (service, username) to the key."""

    def __init__(self) -> None:
        super().__init__("keyring")
        self.secrets: dict[tuple[str, str], str] = {}
        self.backend: object = type("Keyring", (), {"__module__": "keyring.backends.SecretService"})()

    def get_keyring(self) -> object:
        return self.backend

    def get_password(self, service: str, username: str) -> str | None:
        return self.secrets.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.secrets[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.secrets[service, username]


@pytest.fixture
def keyring(monkeypatch) -> FakeKeyring:
    fake = FakeKeyring()
    monkeypatch.setitem(sys.modules, "keyring", fake)
    return fake


@pytest.fixture
def no_keyring(monkeypatch) -> None:
    """The package ``keyring`` is not installed."""
    monkeypatch.setitem(sys.modules, "keyring", None)


@pytest.fixture
def rest() -> Iterator[StudioRest]:
    """A client for use with ``responses``: nothing listens at its address."""
    client = StudioRest("http://127.0.0.1", 8000, KEY)
    yield client
    client.close()


class Server:
    """A real HTTP server on the loopback that answers as it is told and notes what it was sent."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body = b"{}"
        self.before_answer: Callable[[], object] = lambda: None
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.requests.append((self.command, self.path, dict(self.headers), body))
                server.before_answer()
                self.send_response(server.status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(server.body)))
                self.end_headers()
                self.wfile.write(server.body)

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, *args: object) -> None:
                pass

        class Quiet(HTTPServer):
            def handle_error(self, *args: object) -> None:
                """A client that did not wait for its answer is no error here."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._http.server_port
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()
