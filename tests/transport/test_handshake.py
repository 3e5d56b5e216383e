"""Opening a connection: every way it fails names its stage, in bounded time, and leaves nothing open."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.transport import handshake, tcp
from tellurio_sync.transport.base import DialFailed
from tellurio_sync.transport.handshake import Dialer
from tellurio_sync.transport.tls import check_context

from ..conftest import FAILSAFE
from ..faults import scripted
from ..faults.scripted import GREETING, ScriptedServer
from ..ports import closed_port
from .conftest import Tls
from .ends import receive

SHORT = 0.2
"""Seconds: a time-out that the test waits for."""


@pytest.fixture(autouse=True)
def no_socket_left() -> Iterator[None]:
    yield
    gc.collect()  # a forgotten socket is a ResourceWarning here, and warnings are errors


def dialer(
    port: int, *, scheme: str = "ws", host: str = "127.0.0.1", timeout: float = FAILSAFE, **options: Any
) -> Dialer:
    return Dialer(f"{scheme}://{host}:{port}/ws/v0/rpc/", ["Authorization: Api-Key k"], timeout=timeout, **options)


def failure(attempt: Dialer) -> DialFailed:
    with pytest.raises(DialFailed) as caught:
        attempt.dial()
    return caught.value


def wait_for_the_client_to_leave(sock: socket.socket) -> None:
    while sock.recv(65536):
        pass


def test_a_good_handshake_carries_the_headers_and_gives_a_transport() -> None:
    with ScriptedServer() as server:
        transport = dialer(server.port).dial()
        (greeting,) = receive(transport, 1)
        assert str(GREETING["result"]["session_id"]) in str(greeting)  # type: ignore[index]
        assert server.connections[0].headers["authorization"] == "Api-Key k"
        transport.dispose()


def test_a_good_handshake_over_tls(tls: Tls) -> None:
    with ScriptedServer(tls=tls.server) as server:
        transport = dialer(server.port, scheme="wss", host="localhost", ssl_context=tls.client).dial()
        assert len(receive(transport, 1)) == 1
        transport.dispose()


def test_a_closed_port_is_the_tcp_stage() -> None:
    error = failure(dialer(closed_port()))
    assert (error.stage, error.status) == ("TCP", None)


def test_an_unknown_host_is_the_dns_stage() -> None:
    assert failure(dialer(1, host="no-such-host.invalid")).stage == "DNS"


@pytest.mark.parametrize("url", ["http://127.0.0.1", "ws://", "127.0.0.1:1", "ws://127.0.0.1:port/"])
def test_an_address_that_is_none_is_the_url_stage(url: str) -> None:
    assert failure(Dialer(url, [], timeout=FAILSAFE)).stage == "url"


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """A port whose queue of connections is full: the system drops further ones, and a connect hangs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    waiting = []
    try:
        for _ in range(8):
            sock = socket.socket()
            sock.settimeout(0.05)
            waiting.append(sock)
            try:
                sock.connect(listener.getsockname())
            except TimeoutError:
                break
        yield listener.getsockname()[1]
    finally:
        for sock in [listener, *waiting]:
            sock.close()


def test_a_host_that_does_not_answer_is_the_tcp_stage() -> None:
    with full_listener() as port:
        error = failure(dialer(port, timeout=SHORT))
    assert error.stage == "TCP"
    assert "0.2 s" in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426, 500, 503])
def test_a_refused_handshake_tells_the_status(status: int) -> None:
    with ScriptedServer(status=status) as server:
        error = failure(dialer(server.port))
    assert (error.stage, error.status) == ("handshake", status)
    assert f"HTTP {status}" in str(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    """It would carry the key to another host."""
    with ScriptedServer() as elsewhere:

        def redirect(sock: socket.socket) -> None:
            sock.recv(65536)
            location = f"ws://127.0.0.1:{elsewhere.port}/"
            sock.sendall(f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
            wait_for_the_client_to_leave(sock)

        with ScriptedServer(on_accept=redirect) as server:
            error = failure(dialer(server.port))
        assert (error.stage, error.status) == ("handshake", status)
        assert elsewhere.accepted == 0


def _reply(text: str) -> Callable[[socket.socket], None]:
    def answer(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(text.encode("latin-1"))

    return answer


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "garbage\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Accept: wrong\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 abc\r\n\r\n",
        "\x00\xff" * 100 + "\r\n\r\n",
    ],
)
def test_an_answer_that_is_no_upgrade_is_the_handshake_stage(reply: str) -> None:
    with ScriptedServer(on_accept=_reply(reply)) as server:
        assert failure(dialer(server.port)).stage == "handshake"


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover", "extension 'permessage-deflate"),
        ("sec-websocket-protocol: chat", "subprotocol 'chat'"),
    ],
)
def test_an_answer_with_what_was_not_offered_is_refused(
    header: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 6455 §4.1: its frames would not be what they seem."""
    real = scripted._upgrade
    monkeypatch.setattr(scripted, "_upgrade", lambda headers: real(headers)[:-2] + f"{header}\r\n\r\n".encode())
    with ScriptedServer() as server:
        error = failure(dialer(server.port))
    assert error.stage == "handshake"
    assert named in str(error)


def test_a_look_up_that_outlives_the_attempt_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name server answers when nobody waits any more: the key must not go out then."""
    asked, answered = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def look_up(*args: Any, **options: Any) -> Any:
        asked.set()
        assert answered.wait(FAILSAFE)
        return real("127.0.0.1", *args[1:], **options)

    with ScriptedServer(on_accept=wait_for_the_client_to_leave) as server:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        attempt = dialer(server.port, host="slow.example")
        outcome: list[DialFailed] = []
        thread = threading.Thread(target=lambda: outcome.append(failure(attempt)))
        thread.start()
        assert asked.wait(FAILSAFE)
        attempt.abort()
        answered.set()
        thread.join(FAILSAFE)
        assert "given up" in str(outcome[0])
        assert server.accepted == 0


@pytest.mark.parametrize("moment", ["connected", "before the key"])
def test_an_abort_between_connecting_and_the_handshake_sends_nothing(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[bytes] = []
    left = threading.Event()

    def take_down(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            received.append(sock.recv(65536))
        left.set()

    with ScriptedServer(on_accept=take_down) as server:
        attempt = dialer(server.port)
        if moment == "connected":
            real = tcp.connect

            def connect(*args: Any, **options: Any) -> socket.socket:
                sock = real(*args, **options)
                attempt.abort()
                return sock

            monkeypatch.setattr(tcp, "connect", connect)
        else:
            send = handshake._PlainStream.send

            def aborted_before(stream: Any, data: bytes) -> int:
                attempt.abort()
                return send(stream, data)

            monkeypatch.setattr(handshake._PlainStream, "send", aborted_before)
        assert "given up" in str(failure(attempt))
        assert left.wait(FAILSAFE)
    assert received in ([], [b""])


def test_a_handshake_that_is_never_answered_ends_at_its_timeout() -> None:
    with ScriptedServer(on_accept=wait_for_the_client_to_leave) as server:
        error = failure(dialer(server.port, timeout=SHORT))
    assert error.stage == "handshake"
    assert "0.2 s" in str(error)


def test_a_handshake_answered_byte_by_byte_ends_at_its_timeout_as_a_whole() -> None:
    def drip(sock: socket.socket) -> None:
        sock.recv(65536)
        pause = threading.Event()
        with contextlib.suppress(OSError):
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
            while True:
                sock.sendall(b"x")
                pause.wait(0.01)

    with ScriptedServer(on_accept=drip) as server:
        error = failure(dialer(server.port, timeout=SHORT))
    assert error.stage == "handshake"
    assert "0.2 s" in str(error)


def test_a_certificate_of_another_name_is_the_tls_stage(tls: Tls) -> None:
    with ScriptedServer(tls=tls.other_server) as server:
        error = failure(dialer(server.port, scheme="wss", host="localhost", ssl_context=tls.client))
        assert error.stage == "TLS"
        assert "elsewhere" in str(error) or "mismatch" in str(error)


def test_a_certificate_of_an_unknown_authority_is_the_tls_stage(tls: Tls) -> None:
    with ScriptedServer(tls=tls.server) as server:
        assert failure(dialer(server.port, scheme="wss", host="localhost")).stage == "TLS"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_wants_a_certificate_of_the_client_says_so(version: ssl.TLSVersion, tls: Tls) -> None:
    """With TLS 1.3 it does when the client believes the handshake to be over, and goes: its last words count."""
    tls.demanding_server.minimum_version = tls.demanding_server.maximum_version = version
    with ScriptedServer(tls=tls.demanding_server) as server:
        for _ in range(10):
            error = failure(dialer(server.port, scheme="wss", host="localhost", ssl_context=tls.client))
            assert error.stage == "TLS"
            assert re.search("(?i)certificate required|handshake failure", str(error))


@pytest.mark.parametrize("what", ["wrap_socket", "sslsocket_class"])
def test_a_context_whose_own_way_to_make_sockets_would_be_passed_by_is_refused(what: str) -> None:
    """What it checks there would not be checked, and nobody would know."""

    class Own(ssl.SSLContext):
        pass

    context = Own(ssl.PROTOCOL_TLS_CLIENT)
    check_context(context)
    own = type("OwnSocket", (ssl.SSLSocket,), {}) if what == "sslsocket_class" else lambda *_: None
    setattr(Own, what, own)
    with pytest.raises(ValueError, match="wrap_bio or sslobject_class"):
        TellurioWebSocketClient("wss://localhost", ssl_context=context)
    Own.sslobject_class = type("OwnObject", (ssl.SSLObject,), {})
    check_context(context)


def test_a_server_without_tls_is_the_tls_stage(tls: Tls) -> None:
    with ScriptedServer(on_accept=_reply("HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        assert failure(dialer(server.port, scheme="wss", host="localhost", ssl_context=tls.client)).stage == "TLS"


def test_a_tls_handshake_that_is_never_answered_is_the_tls_stage_and_ends_at_its_timeout(tls: Tls) -> None:
    with ScriptedServer(on_accept=wait_for_the_client_to_leave) as server:
        error = failure(dialer(server.port, scheme="wss", host="localhost", timeout=SHORT, ssl_context=tls.client))
    assert error.stage == "TLS"
    assert "0.2 s" in str(error)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_abort_ends_a_handshake_that_is_never_answered_at_once(scheme: str, tls: Tls) -> None:
    waiting = threading.Event()

    def answer_nothing(sock: socket.socket) -> None:
        sock.recv(1)
        waiting.set()
        wait_for_the_client_to_leave(sock)

    with ScriptedServer(on_accept=answer_nothing) as server:
        attempt = dialer(server.port, scheme=scheme, host="localhost", ssl_context=tls.client)
        outcome: list[DialFailed] = []
        thread = threading.Thread(target=lambda: outcome.append(failure(attempt)))
        thread.start()
        assert waiting.wait(FAILSAFE)
        attempt.abort()
        thread.join(FAILSAFE / 2)  # its own timeout is longer
        assert not thread.is_alive()
    assert "given up" in str(outcome[0])


def test_abort_before_dial_lets_nothing_open() -> None:
    with ScriptedServer() as server:
        attempt = dialer(server.port)
        attempt.abort()
        assert "given up" in str(failure(attempt))


def test_the_text_of_a_failure_never_holds_the_key() -> None:
    with ScriptedServer(status=401) as server:
        attempt = Dialer(f"ws://127.0.0.1:{server.port}/", ["Authorization: Api-Key s3cret"], timeout=FAILSAFE)
        error = failure(attempt)
    assert "s3cret" not in str(error)


def test_a_system_out_of_descriptors_is_a_failure_that_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor() -> None:
        raise OSError(24, "Too many open files")

    with ScriptedServer() as server:
        monkeypatch.setattr("tellurio_sync.transport.websocket.socket.socketpair", no_descriptor)
        error = failure(dialer(server.port))
    assert "Too many open files" in str(error)


def test_a_dial_works_when_no_thread_can_be_started_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """At interpreter shutdown threads of the user may go on, while no new thread can be started."""
    with ScriptedServer() as server:

        def no_thread(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread at interpreter shutdown")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Timer, "start", no_thread)
            transport = dialer(server.port).dial()
        assert len(receive(transport, 1)) == 1
        transport.dispose()
