"""A company whose proxy opens TLS, with one setting for everything that connects; as a command, with a real proxy.

``StudioBehindProxy`` is a backend with ``--tls-cert`` and an endpoint of language models, under names that no name
server knows: only the proxy leads there.  ``OpeningProxy`` is a small proxy for the suite.  ``make company-proxy`` does
the same with mitmproxy, installed once under ``.cache``; bounded: one proxy, one backend, one endpoint, four programs
of a minute each at most.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import trustme

from .backend_process import KEY, BackendProcess
from .conftest import FAILSAFE
from .ports import free_port

STUDIO, MODEL = "studio.example", "model.example"
USER, PASSWORD = "employee", "p@ss word of %C3"
MODEL_KEY = "key-of-the-model-0123456789"

# All three channels: REST and WebSocket to the server, and a question that a local backend of this machine asks.
PROGRAM = """
import json, os
import tellurio_sync as te
account = te.login(base_url="https://studio.example")
run = te.init(None, "Proxied", name="first")
for step in range(1000):
    run.log("loss", 1 / (step + 1), step=step)
run.finish()
values = len(run.metrics("loss"))
with te.Session() as own:
    own.login(mode="local", ephemeral=True)
    with own.init(None, "Own"):
        lm = te.OpenAI(base_url="https://model.example/v1", api_key=os.environ["MODEL_KEY"])
        chat = [{"role": "user", "content": [te.Variable("Hello?", role="question")]}]
        answer = te.functional.chat_completion(lm, chat, model="m").data
print(json.dumps({"email": account["email"], "values": values, "answer": answer}))
"""
ANSWER = {"email": "local@localhost", "values": 1000, "answer": "Hello."}

# Where the names lead, as a company's own name server says it to the proxy alone.
_ADDON = """
WAYS = {ways!r}
def server_connect(data):
    data.server.address = ("127.0.0.1", WAYS[data.server.address[0]])
"""


class StudioBehindProxy:
    """The server and the endpoint of language models, both with certificates of an authority that the proxy trusts.

    Attributes:
        ways: the port of this machine behind each name.
        authority: issues their certificates.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.authority = trustme.CA()

    def __enter__(self) -> StudioBehindProxy:
        folder, studio = self._folder, self.authority.issue_cert(STUDIO)
        studio.private_key_pem.write_to_path(str(folder / "key.pem"))
        studio.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        options = {"tls-cert": folder / "cert.pem", "tls-key": folder / "key.pem", "allow-host": STUDIO}
        backend = self._stack.enter_context(BackendProcess(folder, **options))
        model = self._stack.enter_context(_endpoint(self.authority.issue_cert(MODEL)))
        self.ways = {STUDIO: backend.port, MODEL: model}
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def run(self, **env: str) -> subprocess.CompletedProcess[str]:
        """The program in an environment that has these variables for its connections, and no others."""
        others = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
        given = {name: value for name, value in os.environ.items() if name.lower() not in others}
        home = {"HOME": str(self._folder), "TELLURIO_QUIET": "1", "TELLURIO_API_KEY": KEY, "MODEL_KEY": MODEL_KEY}
        return subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**given, **home, **env},
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self._folder,
        )


class _Endpoint(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        is_known = self.headers["Authorization"] == f"Bearer {MODEL_KEY}"
        message = {"role": "assistant", "content": "Hello." if is_known else "Who are you?"}
        body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@contextmanager
def _endpoint(certificate: trustme.LeafCert) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join(FAILSAFE)
        server.server_close()


class OpeningProxy:
    """An HTTP proxy that wants a user and a password, and shows certificates of its own: it reads everything.

    Args:
        studio: what it leads to.

    Attributes:
        bundle: the certificate of its authority, as PEM.
        address: with user and password.
        opened: the names, in the order in which TLS was opened.
        refused: how many requests came without the password.
    """

    def __init__(self, studio: StudioBehindProxy) -> None:
        authority = trustme.CA()
        self.bundle = authority.cert_pem
        self._ways = studio.ways
        self._contexts: dict[str, ssl.SSLContext] = {}
        for name in studio.ways:
            self._contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(name).configure_cert(self._contexts[name])
        self._upstream = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        studio.authority.configure_trust(self._upstream)
        self._wanted = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        self._threads: list[threading.Thread] = []
        self.opened: list[str] = []
        self.refused = 0

    def __enter__(self) -> OpeningProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"http://{quote(USER)}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}"
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(FAILSAFE)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, self._listener.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.settimeout(FAILSAFE)
            head = b""
            while b"\r\n\r\n" not in head:
                data = sock.recv(65536)
                if not data:
                    return
                head += data
            lines = head.decode().split("\r\n")
            if f"proxy-authorization: {self._wanted}".lower() not in map(str.lower, lines):
                self.refused += 1
                sock.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            name = lines[0].split(" ")[1].rsplit(":", 1)[0]
            sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self._contexts[name].wrap_socket(sock, server_side=True) as near:
                self.opened.append(name)
                far_end = socket.create_connection(("127.0.0.1", self._ways[name]), FAILSAFE)
                with self._upstream.wrap_socket(far_end, server_hostname=name) as far:
                    _pass_on(near, far)


def _pass_on(near: ssl.SSLSocket, far: ssl.SSLSocket) -> None:
    """What comes, both ways, until one side ends. On one thread: a TLS connection is not read and written on two."""
    ways = {near: far, far: near}
    while True:
        for sock in [sock for sock in ways if sock.pending()] or select.select(list(ways), [], [])[0]:
            sock.setblocking(False)
            try:
                data = sock.recv(65536)
            except ssl.SSLWantReadError:  # half a record, or one without data
                continue
            finally:
                sock.settimeout(FAILSAFE)
            if not data:
                return
            ways[sock].sendall(data)


@contextmanager
def mitmproxy(mitmdump: Path, folder: Path, studio: StudioBehindProxy) -> Iterator[tuple[str, str]]:
    """Its address, with user and password, and the file with the certificate of its own authority."""
    addon, port = folder / "ways.py", free_port()
    addon.write_text(_ADDON.format(ways=studio.ways), encoding="utf-8")
    studio.authority.cert_pem.write_to_path(str(folder / "upstream.pem"))
    settings = {
        "confdir": folder / "conf",
        "listen_host": "127.0.0.1",
        "listen_port": port,
        "proxyauth": f"{USER}:{PASSWORD}",
        "ssl_verify_upstream_trusted_ca": folder / "upstream.pem",
        "connection_strategy": "lazy",
    }
    options = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([mitmdump, "-s", addon, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait_for(port, process, folder / "log")
            yield (
                f"http://{quote(USER)}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}",
                str(folder / "conf" / "mitmproxy-ca-cert.pem"),
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(FAILSAFE)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    waited = threading.Event()
    for _ in range(600):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        waited.wait(0.1)
    raise AssertionError(f"the proxy did not start: {log.read_text()}")


def _installed(cache: Path) -> Path:
    """The command of mitmproxy, in an environment that is made at the first use."""
    if not (cache / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache)], check=True)
        subprocess.run([str(cache / "bin" / "python"), "-m", "pip", "install", "--quiet", "mitmproxy"], check=True)
        (cache / "ready").touch()
    return cache / "bin" / "mitmdump"


def main() -> int:
    """Print what the program said in each surrounding; the exit code is 1 where that was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mitmdump", type=Path, help="the command of mitmproxy; else it is installed")
    args = parser.parse_args()
    mitmdump = args.mitmdump or _installed(Path(".cache/mitmproxy").absolute())
    failed = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="company-proxy-")))
        studio = stack.enter_context(StudioBehindProxy(folder))
        proxy, bundle = stack.enter_context(mitmproxy(mitmdump, folder, studio))
        wrong = proxy.replace(quote(PASSWORD, safe=""), "hunter2")
        for title, env, wanted in (
            ("HTTPS_PROXY and SSL_CERT_FILE", {"HTTPS_PROXY": proxy, "SSL_CERT_FILE": bundle}, None),
            ("https_proxy and REQUESTS_CA_BUNDLE", {"https_proxy": proxy, "REQUESTS_CA_BUNDLE": bundle}, None),
            ("its certificate is not trusted", {"HTTPS_PROXY": proxy}, "certificate verify failed"),
            ("a wrong password", {"HTTPS_PROXY": wrong, "SSL_CERT_FILE": bundle}, "407"),
        ):
            done = studio.run(**env)
            said = done.stdout.strip() or (done.stderr.strip().splitlines() or [""])[-1]
            is_right = json.loads(done.stdout) == ANSWER if done.stdout else bool(wanted) and wanted in said
            secrets = [text for text in (KEY, PASSWORD, quote(PASSWORD, safe=""), "hunter2") if text in done.stderr]
            print(f"{'ok' if is_right and not secrets else 'WRONG':<6} {title}: {said} {secrets or ''}", flush=True)
            failed += not is_right or bool(secrets)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
