"""One setting for everything that connects: certificates and time-outs."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
import truststore
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import tellurio_sync as te
from tellurio_sync import local, surroundings
from tellurio_sync.backend.lm import exchange
from tellurio_sync.backend.lm.settings import Own, settings_of
from tellurio_sync.backend.questions import QuestionFailed
from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.errors import ConnectFailed, HttpUnreachable
from tellurio_sync.studio import StudioRest
from tellurio_sync.surroundings import certificate_hint, timeout_or, tls_context
from tellurio_sync.transport.tls import TlsStream, check_context

from .faults.scripted import ScriptedServer
from .transport.test_proxies import Proxy


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "TELLURIO_SYSTEM_TRUST"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "company.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def port(authority: trustme.CA) -> Iterator[int]:
    """A server whose certificate is the company's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"email": "e", "username": "u"}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    class Quiet(HTTPServer):
        def handle_error(self, *args: object) -> None:
            """A client that trusts it not is no error here."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "backend.example").configure_cert(context)
    server = Quiet(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join(10)
    server.server_close()


def ask(port: int, context: ssl.SSLContext | None = None) -> object:
    rest = StudioRest("https://localhost", port, "key", ssl_context=context)
    try:
        return rest.verify_api_key()
    finally:
        rest.close()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_each_variable_is_enough_for_rest(
    variable: str, port: int, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HttpUnreachable, match=r"(?i)certificate verify failed"):
        ask(port)
    monkeypatch.setenv(variable, bundle)
    assert ask(port) == {"email": "e", "username": "u"}


def test_a_given_context_is_enough_and_is_used_as_it_is(
    port: int, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = ssl.create_default_context(cafile=bundle)
    before = len(trusting.get_ca_certs())
    assert ask(port, trusting) == {"email": "e", "username": "u"}
    assert len(trusting.get_ca_certs()) == before, "nothing was added to it"
    # One that trusts nobody is not made to trust somebody by the environment.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with pytest.raises(HttpUnreachable, match=r"(?i)certificate verify failed"):
        ask(port, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_context_that_checks_nothing_is_the_users_own_choice(port: int) -> None:
    careless = ssl.create_default_context()
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    assert ask(port, careless) == {"email": "e", "username": "u"}


def test_the_name_of_the_host_is_checked(port: int, bundle: str) -> None:
    rest = StudioRest("https://127.0.0.1", port, "key", ssl_context=ssl.create_default_context(cafile=bundle))
    with pytest.raises(HttpUnreachable):
        rest.verify_api_key()
    rest.close()


def check_trust(rest: StudioRest, *, is_trusted: bool) -> None:
    """That the server answers, or that its certificate is refused."""
    if is_trusted:
        assert rest.verify_api_key()
    else:
        with pytest.raises(HttpUnreachable, match=r"(?i)certificate verify failed"):
            rest.verify_api_key()
    rest.close()


def test_a_context_that_checks_no_names_is_the_users_own_choice(port: int, bundle: str) -> None:
    """Certificates are checked all the same."""
    for trusted in (bundle, None):
        context = ssl.create_default_context(cafile=trusted)
        context.check_hostname = False
        check_trust(StudioRest("https://127.0.0.1", port, "key", ssl_context=context), is_trusted=bool(trusted))


@pytest.mark.parametrize("is_given", [True, False])
def test_through_a_proxy_the_same_certificates_count(
    is_given: bool, port: int, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Proxy(target=port) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        context = ssl.create_default_context(cafile=bundle if is_given else None)
        check_trust(StudioRest("https://backend.example", 443, "key", ssl_context=context), is_trusted=is_given)
        if not is_given:
            monkeypatch.setenv("https_proxy", f"http://me:hunter2@127.0.0.1:{proxy.port}")
            rest = StudioRest("https://backend.example", 443, "key", ssl_context=context)
            says = rf"through the proxy http://127\.0\.0\.1:{proxy.port}: .*SSL_CERT_FILE=/path/to/ca\.pem"
            with pytest.raises(HttpUnreachable, match=says) as caught:
                rest.verify_api_key()
            rest.close()
            assert "hunter2" not in str(caught.value)
    assert proxy.heads[0].startswith("CONNECT backend.example:443 ")


def test_a_folder_of_certificates_is_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "trusted"
    folder.mkdir()
    loaded: list[str] = []

    class Context(ssl.SSLContext):
        def load_verify_locations(self, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
            loaded.append(f"{cafile} {capath}")

    monkeypatch.setattr(surroundings, "default_context", lambda: Context(ssl.PROTOCOL_TLS_CLIENT))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder))
    tls_context()
    assert loaded == [f"None {folder}"]


def test_of_two_bundles_the_one_of_requests_counts(
    port: int, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "missing.pem"))
    assert ask(port)


def test_without_certificates_of_the_system_those_of_certifi_count(
    bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a small container. What the system or the user names is not added to."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))
    assert len(tls_context().get_ca_certs()) > 50
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    assert len(tls_context().get_ca_certs()) == 1
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert tls_context().get_ca_certs() == []
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    assert len(tls_context().get_ca_certs()) == 1


def test_certificates_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(ValueError, match=r"REQUESTS_CA_BUNDLE .* cannot be read: .*missing\.pem"):
        tls_context()


def test_a_context_checks_certificates_and_names() -> None:
    context = tls_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_one_timeout_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELLURIO_TIMEOUT")
    assert (StudioRest("http://127.0.0.1", 1).timeout, te.Session()._default_timeout) == (5.0, 30.0)
    monkeypatch.setenv("TELLURIO_TIMEOUT", "12.5")
    assert (StudioRest("http://127.0.0.1", 1).timeout, te.Session()._default_timeout) == (12.5, 12.5)
    assert te.Session(default_timeout=3)._login.rest_if_any.timeout == 3
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv("TELLURIO_TIMEOUT", wrong)
        with pytest.raises(ValueError, match="TELLURIO_TIMEOUT"):
            timeout_or(1.0)


# --- the system's trust store -----------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_the_systems_trust_store_is_asked_if_that_is_wanted(
    text: str, port: int, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLURIO_SYSTEM_TRUST", text)
    assert isinstance(tls_context(), truststore.SSLContext)
    with pytest.raises(HttpUnreachable, match="certificate"):
        ask(port)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    assert ask(port)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv("SSL_CERT_FILE", bundle)  # on Linux, where OpenSSL looks is the system's store
    assert ask(port)


@pytest.mark.parametrize("text", ["", "0", "false", "no", "Off"])
def test_else_it_is_not(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLURIO_SYSTEM_TRUST", text)
    assert type(tls_context()) is ssl.SSLContext


@pytest.mark.parametrize("is_there", [True, False])
def test_a_wrong_setting_and_a_missing_package_are_said(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLURIO_SYSTEM_TRUST", "system" if is_there else "1")
    if not is_there:
        monkeypatch.setitem(sys.modules, "truststore", None)
    says = "must be 1 or 0, not 'system'" if is_there else r"pip install 'tellurio_sync\[truststore\]'"
    with pytest.raises(ValueError, match=says):
        tls_context()
    with pytest.raises(QuestionFailed, match=says):
        exchange._context([])


def test_language_models_and_the_websocket_ask_it_too(port: int, bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLURIO_SYSTEM_TRUST", "1")
    assert isinstance(exchange._context([bundle]), truststore.SSLContext)
    check_context(tls_context())
    with socket.create_connection(("localhost", port), 10) as sock, pytest.raises(ssl.SSLCertVerificationError):
        TlsStream(sock, tls_context(), "localhost").do_handshake()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with socket.create_connection(("localhost", port), 10) as sock:
        TlsStream(sock, tls_context(), "localhost").do_handshake()


@pytest.mark.parametrize("by", ["ca_bundle", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", None])
def test_each_way_is_enough_for_language_models(
    by: str | None, port: int, bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"base_url": "https://localhost/v1", "api_key": "none"}
    if by == "ca_bundle":
        config[by] = bundle
    elif by is not None:
        monkeypatch.setenv(by, bundle)
    context = asyncio.run(exchange.Exchanges()._context(settings_of(config, Own())))
    with socket.create_connection(("localhost", port), 10) as sock:
        if by is None:
            with pytest.raises(ssl.SSLCertVerificationError):
                TlsStream(sock, context, "localhost").do_handshake()
        else:
            TlsStream(sock, context, "localhost").do_handshake()


def test_language_models_trust_certifi_and_a_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As other programs for language models do; also where the system has no certificates."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "missing"))
    assert len(exchange._context([str(tmp_path)]).get_ca_certs()) > 50


def test_a_local_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLURIO_SYSTEM_TRUST", "1")
    monkeypatch.setenv("TELLURIO_TIMEOUT", "1")
    given = local._environment(True)
    assert given["TELLURIO_SYSTEM_TRUST"] == "1"
    assert "TELLURIO_TIMEOUT" not in given


# --- certificates that are refused ------------------------------------------------------------------


def refusal(**details: Any) -> ssl.SSLCertVerificationError:
    exc = ssl.SSLCertVerificationError(1, "certificate verify failed")
    exc.verify_code, exc.verify_message = details["code"], details["message"]
    return exc


@pytest.mark.parametrize(
    ("code", "message", "says"),
    [
        (10, "certificate has expired", "the clock"),
        (9, "certificate is not yet valid", "the clock"),
        (62, "Hostname mismatch, certificate is not valid for 'x'.", "the name that the certificate is for"),
        (20, "unable to get local issuer certificate", "SSL_CERT_FILE=/path/to/ca.pem"),
        (19, "self-signed certificate in certificate chain", "SSL_CERT_FILE=/path/to/ca.pem"),
        (85, "Missing Authority Key Identifier", "TELLURIO_SYSTEM_TRUST=1 (extra `truststore`)"),
        (92, "CA cert does not include key usage extension", "TELLURIO_SYSTEM_TRUST=1 (extra `truststore`)"),
    ],
)
def test_each_refusal_says_what_to_do(code: int, message: str, says: str) -> None:
    assert says in certificate_hint(refusal(code=code, message=message))


def test_the_errors_of_all_channels_say_it(port: int) -> None:
    """And none says that no backend runs there."""
    with pytest.raises(HttpUnreachable) as rest:
        ask(port)
    with pytest.raises(ConnectFailed) as websocket:
        TellurioWebSocketClient("wss://localhost", port).connect("key", retries=1)
    model = settings_of({"base_url": f"https://localhost:{port}/v1", "api_key": "none"}, Own())

    async def question() -> None:
        exchanges = exchange.Exchanges()
        try:
            await exchanges.post(model, {}, {}, b"{}", 10)
        finally:
            await exchanges.close()

    with pytest.raises(exchange.Unreachable) as asked:
        asyncio.run(question())
    for error in (rest, websocket, asked):
        assert "SSL_CERT_FILE=/path/to/ca.pem" in str(error.value)
        assert "backend seems to run" not in str(error.value)
    assert isinstance(rest.value.__cause__, ssl.SSLCertVerificationError)


def issued(folder: Path) -> tuple[str, str]:
    """A certificate for localhost and its authority's, as files, both without what RFC 5280 asks for beyond names."""
    day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.timezone.utc)
    key = ec.generate_private_key(ec.SECP256R1())
    files = []
    for subject, extension in (
        ("An old company", x509.BasicConstraints(True, None)),
        ("localhost", x509.SubjectAlternativeName([x509.DNSName("localhost")])),
    ):
        name, issuer = (
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in (subject, "An old company")
        )
        made = (
            x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
            .add_extension(extension, critical=False)
            .sign(key, hashes.SHA256())
        )
        files.append(folder / f"{subject}.pem")
        files[-1].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with open(files[1], "ab") as file:
        file.write(key.private_bytes(*form))
    return str(files[1]), str(files[0])


def test_an_authority_that_only_browsers_take_works_by_the_setting_that_the_error_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the proxies of some companies have them: Python 3.13 and later refuse them, unless the system is asked."""
    certificate, authority = issued(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    with ScriptedServer(tls=context) as server:
        if sys.version_info >= (3, 13):
            with pytest.raises(ConnectFailed, match=r"Missing Authority Key Identifier.*TELLURIO_SYSTEM_TRUST=1"):
                TellurioWebSocketClient("wss://localhost", server.port).connect("key", retries=1)
        monkeypatch.setenv("TELLURIO_SYSTEM_TRUST", "1")
        client = TellurioWebSocketClient("wss://localhost", server.port)
        assert "session_id" in client.connect("key", retries=1)
        client.close()
