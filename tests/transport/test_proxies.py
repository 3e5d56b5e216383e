"""The way of the WebSocket: this machine is never reached through a proxy, and a proxy that fails is named."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.errors import ConnectFailed
from tellurio_sync.transport import tcp
from tellurio_sync.transport.base import DialFailed
from tellurio_sync.transport.handshake import Dialer, proxy_for

from ..conftest import FAILSAFE
from ..faults.scripted import ScriptedServer
from ..ports import closed_port
from .conftest import Tls
from .ends import receive

KEY = "key-of-many-letters"
VARIABLES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


class Proxy:
    """An HTTP proxy that passes on to one port of this machine, whatever it is asked for.

    Args:
        answer: to CONNECT; one without ``200`` ends the connection.
        target: the port.
    """

    def __init__(self, answer: str = "HTTP/1.1 200 Connection established\r\n\r\n", target: int = 0) -> None:
        self._answer = answer.encode()
        self._target = target
        self.heads: list[str] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Proxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(FAILSAFE)
            assert not thread.is_alive()

    def _start(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(FAILSAFE)
            self.heads.append(sock.recv(65536).decode())
            sock.sendall(self._answer)
            if b" 200 " not in self._answer:
                return
            with socket.create_connection(("127.0.0.1", self._target)) as target:
                self._start(self._pass_on, target, sock)
                self._pass_on(sock, target)

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as made:
        yield made


def dial(url: str, **options: Any) -> Any:
    return Dialer(url, [f"Authorization: Api-Key {KEY}"], timeout=FAILSAFE, **options).dial()


def failure(url: str, **options: Any) -> DialFailed:
    with pytest.raises(DialFailed) as caught:
        dial(url, **options)
    return caught.value


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("no_proxy", [None, "", "internal.corp"])
def test_this_machine_is_not_reached_through_a_proxy(
    host: str, variable: str, no_proxy: str | None, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not reach this machine's loopback, and the key would cross the network in clear text."""
    monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
    if no_proxy is not None:
        monkeypatch.setenv("no_proxy", no_proxy)
    with ScriptedServer() as server:
        client = TellurioWebSocketClient(f"ws://{host}", server.port)
        assert "session_id" in client.connect(KEY, retries=1)
        client.close()
    assert proxy.heads == []


def test_another_machine_is_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer() as server, Proxy(target=server.port) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        transport = dial("ws://far.example:81/ws")
        assert len(receive(transport, 1)) == 1
        transport.dispose()
    (head,) = proxy.heads
    assert head.startswith("CONNECT far.example:81 HTTP/1.1\r\nHost: far.example:81\r\n")
    assert "Proxy-Authorization: Basic bWU6cEBzcw==\r\n" in head  # me:p@ss
    assert KEY not in head


def test_through_the_proxy_tls_is_the_servers(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy sees neither key nor messages, and cannot pass for the server."""
    with ScriptedServer(tls=tls.server) as server, Proxy(target=server.port) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        transport = dial(f"wss://localhost:{server.port}/ws", ssl_context=tls.client)
        assert len(receive(transport, 1)) == 1
        transport.dispose()
        error = failure("wss://far.example/ws", ssl_context=tls.client)
        assert error.stage == "TLS"
        assert f"through the proxy http://127.0.0.1:{proxy.port} (of the environment's https_proxy)" in str(error)


@pytest.mark.parametrize("no_proxy", ["127.0.0.0/8", "*", "x.example,127.0.0.1"])
def test_no_proxy_is_obeyed(no_proxy: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", no_proxy)
    with ScriptedServer() as server:
        dial(f"ws://127.0.0.1:{server.port}/ws").dispose()
    assert proxy.heads == []


def test_the_variable_of_the_scheme_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """At port 80, unless it names another one."""
    monkeypatch.setenv("http_proxy", "http://plain.example")
    monkeypatch.setenv("https_proxy", "http://secure.example:3128")
    plain, secure = proxy_for("far.example", False), proxy_for("far.example", True)
    assert plain is not None
    assert secure is not None
    assert (plain.name, plain.host, plain.port) == ("http://plain.example:80", "plain.example", 80)
    assert (secure.name, secure.host, secure.port) == ("http://secure.example:3128", "secure.example", 3128)


def test_for_this_machine_no_name_server_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_look_up", lambda host, port: pytest.fail(f"{host} was looked up"))
    with ScriptedServer() as server:
        dial(f"ws://localhost:{server.port}/ws", is_loopback=True).dispose()


def test_a_proxy_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()
    monkeypatch.setenv("https_proxy", f"http://me:hunter2@127.0.0.1:{port}")
    error = failure("wss://far.example/ws")
    assert error.stage == "proxy"
    assert f"the proxy http://127.0.0.1:{port} (of the environment's https_proxy)" in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "HTTP 407 Proxy Authentication Required"),
        ("HTTP/1.0 403 Forbidden\n\n", "HTTP 403 Forbidden"),
        ("", "without an answer to CONNECT"),
        ("SSH-2.0-x\r\n\r\n", "not HTTP"),
        ("HTTP/1.1 200 " + "x" * 70_000, "over 65536 bytes"),
    ],
)
def test_a_proxy_that_says_no_is_named_with_what_it_said(
    answer: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(answer) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        error = failure("ws://far.example/ws")
    assert (error.stage, error.status) == ("proxy", None)
    assert said in str(error)
    assert f"http://127.0.0.1:{proxy.port}" in str(error)


def test_what_is_no_address_of_a_proxy_says_so_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:hunter2@host:port")
    error = failure("ws://far.example/ws")
    assert error.stage == "proxy"
    assert "http_proxy" in str(error)
    assert "hunter2" not in str(error)


def test_the_users_error_names_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(ConnectFailed, match=r"the proxy http://127\.0\.0\.1:[0-9]+") as caught:
        TellurioWebSocketClient("wss://far.example").connect(KEY, retries=1)
    assert caught.value.stage == "proxy"
    assert caught.value.status is None
