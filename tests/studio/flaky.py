"""A server between a client and a real backend that fails as it is told, for any number of requests."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FlakyServer:
    """Passes requests on to a backend at a port of this machine.

    Attributes:
        fail: called with method and path of each request; says what becomes of it: ``"ok"``; ``"500"``: answered so,
            and not passed on; ``"lose"``: passed on, and the answer is lost; ``"refuse"``: the connection is closed
            before anything; ``"hang"``: neither passed on nor answered before ``release``.
        is_plain: a server of the protocol alone: no extensions, no idempotency.
        release: lets go of what hangs.
        requests: (method, path) of what was passed on.
    """

    def __init__(self, backend_port: int) -> None:
        self.backend_port = backend_port
        self.fail: Callable[[str, str], str] = lambda method, path: "ok"
        self.is_plain = False
        self.release = threading.Event()
        self.requests: list[tuple[str, str]] = []
        flaky = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                what = flaky.fail(self.command, self.path)
                if what == "hang":
                    flaky.release.wait(60)
                    what = "refuse"
                if what == "refuse":
                    self.close_connection = True
                    return
                if what == "500":
                    self.reply(500, b"{}", {})
                    return
                status, content, headers = flaky.pass_on(self.command, self.path, body, dict(self.headers))
                if what == "lose":
                    self.close_connection = True
                    return
                self.reply(status, content, headers)

            def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = answer

            def log_message(self, *args: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *args: object) -> None:
                """A client that did not wait for its answer is no error here."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="flaky server")
        self._thread.start()

    def pass_on(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, bytes, dict[str, str]]:
        if self.is_plain:
            if "/journal/" in path:
                return 404, b"{}", {}
            headers.pop("Idempotency-Key", None)
        self.requests.append((method, path))
        connection = http.client.HTTPConnection("127.0.0.1", self.backend_port, timeout=30)
        try:
            sent = {name: value for name, value in headers.items() if name not in ("Host", "Connection")}
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            content = answer.read()
            names = ["Content-Type"] if self.is_plain else ["Content-Type", "Tellurio-Extensions"]
            return answer.status, content, {name: answer.headers[name] for name in names if answer.headers[name]}
        finally:
            connection.close()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def first(count: int, what: str, only: str = "") -> Callable[[str, str], str]:
    """Let so many of the requests whose path holds this text fail in this way; then all is well."""
    left = [count]

    def fail(method: str, path: str) -> str:
        if only in path and left[0] > 0:
            left[0] -= 1
            return what
        return "ok"

    return fail
