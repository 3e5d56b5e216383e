"""A server that does everything slowly, or sends too much, holds no request longer or in more memory than was said."""

from __future__ import annotations

import contextlib
import gzip
import pickle
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
import trustme

from tellurio_sync.errors import HttpError, HttpTooLarge, HttpUnreachable
from tellurio_sync.studio import StudioRest
from tellurio_sync.studio.http_session import new_session

from .conftest import KEY

FAILSAFE = 60
TIMEOUT = 0.3
PAUSE = 0.02  # much shorter than the time-out: no single read ever runs into it
PIECES = 1_000  # they take much longer than the time-out


class Peer:
    """Serves connections, one after the other, by a function; what that raises fails the test."""

    def __init__(self, serve: Callable[[socket.socket, threading.Event], None]) -> None:
        self._serve = serve
        self._is_over = threading.Event()
        self._failures: list[BaseException] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(FAILSAFE)
        self._listener.close()
        assert not self._thread.is_alive()
        assert self._failures == []

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                sock.settimeout(FAILSAFE)
                try:
                    self._serve(sock, self._is_over)
                except (ConnectionError, ssl.SSLError):
                    pass  # the client went away, as it should
                except BaseException as exc:  # noqa: BLE001 - seen in __exit__
                    self._failures.append(exc)


def drip(beginning: bytes, piece: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Send the beginning at once, and then piece after piece, each long before a read of the client gives up."""

    def serve(sock: socket.socket, is_over: threading.Event) -> None:
        sock.recv(65536)
        sock.sendall(beginning)
        for _ in range(PIECES):
            if is_over.wait(PAUSE):
                return
            sock.sendall(piece)

    return serve


SLOW_ANSWERS = {
    "status line": (b"HTTP/1.1 ", b"0"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "name of a header": (b"HTTP/1.1 200 OK\r\n", b"x"),
    "value of a header": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" "),
    "body up to the end of the connection": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" "),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "size of a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"x"),
    "body of an error": (b"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\n", b" "),
}


@pytest.mark.parametrize(("beginning", "piece"), SLOW_ANSWERS.values(), ids=SLOW_ANSWERS)
def test_an_answer_that_drips_in_ends_at_the_timeout_of_the_whole_request(beginning, piece):
    with Peer(drip(beginning, piece)) as peer:
        client = StudioRest("http://127.0.0.1", peer.port, KEY, timeout=TIMEOUT)
        with pytest.raises(HttpUnreachable, match=rf"no whole answer within {TIMEOUT} s") as caught:
            client.verify_api_key()
        client.close()
    assert isinstance(caught.value, ConnectionError)
    assert KEY not in str(caught.value)


def test_a_kept_connection_has_the_same_bound():
    """The first answer is whole; what the second request waits for is its own time."""

    def serve(sock: socket.socket, is_over: threading.Event) -> None:
        sock.recv(65536)
        sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"email": "me"}')
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" ")(sock, is_over)

    with Peer(serve) as peer:
        client = StudioRest("http://127.0.0.1", peer.port, KEY, timeout=FAILSAFE)
        assert client.verify_api_key() == {"email": "me"}
        client.timeout = TIMEOUT
        with pytest.raises(HttpUnreachable, match="no whole answer"):
            client.verify_api_key()
        client.close()


@pytest.fixture
def certificate(tmp_path, monkeypatch) -> trustme.LeafCert:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "authority.pem"))
    return authority.issue_cert("127.0.0.1")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_reads_slowly_holds_no_request(scheme, certificate):
    """It takes a piece now and then, so that no single write runs into the time-out."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    def serve(sock: socket.socket, is_over: threading.Event) -> None:
        reader = context.wrap_socket(sock, server_side=True) if scheme == "https" else sock
        with reader:
            for _ in range(PIECES):
                if is_over.wait(PAUSE) or not reader.recv(16_384):
                    return

    with Peer(serve) as peer:
        client = StudioRest(f"{scheme}://127.0.0.1", peer.port, KEY, timeout=1.0)
        with pytest.raises(HttpUnreachable, match="no whole answer"):
            client.log_metric("acme", "p", "r", "text", "x" * 16_000_000)
        client.close()


def test_over_tls_an_answer_that_drips_in_ends_at_the_timeout_too(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    def serve(sock: socket.socket, is_over: threading.Event) -> None:
        with context.wrap_socket(sock, server_side=True) as secured:
            drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b" ")(secured, is_over)

    with Peer(serve) as peer:
        client = StudioRest("https://127.0.0.1", peer.port, KEY, timeout=1.0)
        with pytest.raises(HttpUnreachable, match="no whole answer within 1 s"):
            client.verify_api_key()
        client.close()


def test_a_tls_handshake_that_drips_in_ends_at_the_timeout():
    """One record of a handshake, byte by byte."""
    with Peer(drip(b"\x16\x03\x03\x40\x00", b"\x02")) as peer:
        client = StudioRest("https://127.0.0.1", peer.port, KEY, timeout=TIMEOUT)
        with pytest.raises(HttpUnreachable, match="no whole answer"):
            client.verify_api_key()
        client.close()


def test_a_proxy_that_drips_holds_no_request(monkeypatch):
    with Peer(drip(b"HTTP/1.1 200 ", b"x")) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        client = StudioRest("https://backend.invalid", 443, KEY, timeout=TIMEOUT)
        with pytest.raises(HttpUnreachable, match="no whole answer"):
            client.verify_api_key()
        client.close()


def test_certificates_are_read_only_where_they_are_needed(monkeypatch):
    """That takes a tenth of a second, also for a backend on this machine."""
    read: list[bool] = []
    monkeypatch.setattr("tellurio_sync.studio.http_session.tls_context", lambda: read.append(True))
    with contextlib.closing(new_session("x", "http")) as session:
        session.get_adapter("http://backend.invalid").proxy_manager_for("http://proxy.invalid")
        assert read == []
        session.get_adapter("http://backend.invalid").proxy_manager_for("https://proxy.invalid")
        assert read == [True]


@pytest.mark.parametrize("of", ["http", "https"])
def test_every_kind_of_connection_is_bounded(of):
    """Also those made for a proxy, when it is used for the second time."""
    with contextlib.closing(new_session("x", of)) as session:
        adapter = session.get_adapter(f"{of}://backend.invalid")
        managers = [adapter.poolmanager, *(adapter.proxy_manager_for("http://proxy.invalid") for _ in range(2))]
        for manager in managers:
            for scheme in ("http", "https"):
                connection = manager.pool_classes_by_scheme[scheme].ConnectionCls
                assert [base.__name__ for base in connection.__mro__].count("BoundedConnection") == 1
                assert connection.response_class.__name__ == "_BoundedResponse"


# --- size ---------------------------------------------------------------------------------------


def answer_of(body: bytes, *headers: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def serve(sock: socket.socket, _: threading.Event) -> None:
        sock.recv(65536)
        sock.sendall(b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers, b"", body]))

    return serve


@contextlib.contextmanager
def client_of(peer: Peer, **options: object) -> Iterator[StudioRest]:
    client = StudioRest("http://127.0.0.1", peer.port, KEY, timeout=FAILSAFE, **options)
    yield client
    client.close()


@pytest.mark.parametrize(
    ("body", "headers"),
    [(b"[" + b" " * 99_999 + b"]", []), (gzip.compress(b"[" + b" " * 99_999 + b"]"), [b"Content-Encoding: gzip"])],
    ids=["plain", "gzip"],
)
def test_an_answer_is_read_up_to_its_limit_and_not_further(body, headers):
    """What counts is what it takes here, unpacked."""
    with Peer(answer_of(body, *headers)) as peer:
        with client_of(peer, max_answer_size=100_001) as client:
            assert client.list_runs("a", "p") == []
        refused = pytest.raises(HttpTooLarge, match=r"more than 100,000 bytes.*max_answer_size")
        with client_of(peer, max_answer_size=100_000) as client, refused as caught:
            client.list_runs("a", "p")
    assert isinstance(caught.value, HttpError)
    assert caught.value.limit == 100_000
    assert caught.value.url.endswith("/a/projects/p/runs/")


def test_an_answer_without_end_is_left():
    """Far beyond the memory of the machine, were it read to its end."""

    def serve(sock: socket.socket, is_over: threading.Event) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        while not is_over.is_set():
            sock.sendall(b" " * 65536)

    with Peer(serve) as peer, client_of(peer, max_answer_size=1_000_000) as client, pytest.raises(HttpTooLarge):
        client.list_runs("a", "p")


def test_after_an_answer_that_was_too_large_the_client_works():
    bodies = iter([b" " * 100, b'{"email": "me"}'])

    def serve(sock: socket.socket, is_over: threading.Event) -> None:
        answer_of(next(bodies))(sock, is_over)

    with Peer(serve) as peer, client_of(peer, max_answer_size=50) as client:
        with pytest.raises(HttpTooLarge):
            client.verify_api_key()
        assert client.verify_api_key() == {"email": "me"}


def test_a_kept_connection_that_the_server_closes_just_then_costs_nothing():
    """The second request is on its way when the connection ends, without an answer."""
    begun = threading.Event()

    def serve(sock: socket.socket, is_over: threading.Event) -> None:
        answer_of(b'{"email": "me"}')(sock, is_over)
        if not begun.is_set():
            begun.set()
            sock.recv(65536)  # the second one; what follows is a third connection's

    with Peer(serve) as peer, client_of(peer) as client:
        for _ in range(2):
            assert client.verify_api_key() == {"email": "me"}


def test_a_request_that_changes_something_is_sent_once():
    """Whether the server has done it is not known here."""
    requests: list[bytes] = []

    def serve(sock: socket.socket, _: threading.Event) -> None:
        requests.append(sock.recv(65536))

    with Peer(serve) as peer, client_of(peer) as client, pytest.raises(HttpUnreachable):
        client.create_run("a", "p")
    assert [request.split()[0] for request in requests] == [b"POST"]


def test_a_request_that_changes_nothing_is_sent_twice_at_most():
    requests: list[bytes] = []

    def serve(sock: socket.socket, _: threading.Event) -> None:
        requests.append(sock.recv(65536))

    with Peer(serve) as peer, client_of(peer) as client, pytest.raises(HttpUnreachable):
        client.verify_api_key()
    assert [request.split()[0] for request in requests] == [b"GET", b"GET"]


def test_after_the_time_out_nothing_is_sent_again():
    requests: list[bytes] = []

    def serve(sock: socket.socket, is_over: threading.Event) -> None:
        requests.append(sock.recv(65536))
        is_over.wait(TIMEOUT * 2)

    with Peer(serve) as peer:
        client = StudioRest("http://127.0.0.1", peer.port, KEY, timeout=TIMEOUT)
        with pytest.raises(HttpUnreachable, match="no whole answer"):
            client.verify_api_key()
        client.close()
    assert len(requests) == 1


def test_the_limit_travels_with_the_configuration():
    client = StudioRest("http://127.0.0.1", 1, max_answer_size=5)
    assert pickle.loads(pickle.dumps(client)).max_answer_size == 5


@pytest.mark.parametrize("size", [0, -1, 1.5, "1"])
def test_a_limit_is_a_positive_number_of_bytes(size):
    with pytest.raises(ValueError, match="max_answer_size must be a positive number of bytes"):
        StudioRest("http://127.0.0.1", 1, max_answer_size=size)
