"""The stages between a program and its server, each tried by itself: what is wrong there, and what to do about it."""

from __future__ import annotations

import os
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..addresses import Address, check_may_send_key, http_address, ws_address
from ..client import TellurioWebSocketClient
from ..errors import (
    CallError,
    ConnectFailed,
    ConnectionLost,
    HttpError,
    HttpStatusError,
    HttpTooLarge,
    HttpUnreachable,
    InvalidAPIKeyError,
    RemoteError,
    TellurioError,
    shorten,
)
from ..journal.folder import usable_base
from ..secret import Secret, redact
from ..surroundings import certificate_hint, timeout_or, tls_context
from ..transport import tcp
from ..transport.base import DialFailed
from ..transport.handshake import Proxy, proxy_for

OK, FAILED, SKIPPED = "ok", "failed", "skipped"

# The variables that this package reads. Another one that begins in the same way is a slip of the pen.
VARIABLES = {
    "TELLURIO_API_KEY",
    "TELLURIO_BACKEND_HTTP_BASE_URL",
    "TELLURIO_BACKEND_HTTP_PORT",
    "TELLURIO_BACKEND_WS_BASE_URL",
    "TELLURIO_BACKEND_WS_PORT",
    "TELLURIO_DATA_DIR",
    "TELLURIO_FINISH_TIMEOUT",
    "TELLURIO_JOURNAL_DIR",
    "TELLURIO_MODE",
    "TELLURIO_QUIET",
    "TELLURIO_RECORD_ENVELOPES",
    "TELLURIO_SYNC_PURE_PYTHON",
    "TELLURIO_SYSTEM_TRUST",
    "TELLURIO_TIMEOUT",
}

_ROUND_TRIPS = 5
_DEFAULT_TIMEOUT = 10.0


class Problem(Exception):
    """What is wrong at a stage, and what to do about it."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


@dataclass
class Stage:
    """The result of one stage.

    Attributes:
        name: of the stage.
        outcome: ``"ok"``, ``"failed"``, or ``"skipped"``: it needs a stage that failed.
        text: what was found.
        hint: what to do; empty: nothing.
        seconds: how long it took.
    """

    name: str
    outcome: str
    text: str
    hint: str = ""
    seconds: float = 0.0


@dataclass
class Examination:
    """The stages, one after the other. For one thread.

    Args:
        http, ws: base URL and port; None: the environment's.
        api_key: None: it is looked for as at a login.
    """

    http: tuple[str | None, int | None] = (None, None)
    ws: tuple[str | None, int | None] = (None, None)
    api_key: Secret | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.timeout: float = _DEFAULT_TIMEOUT
        self._ends: list[Address] = []
        self._proxies: dict[Address, Proxy] = {}
        self._client: TellurioWebSocketClient | None = None

    def stages(self) -> Iterator[Stage]:
        """Try each stage when its turn comes. Blocks."""
        steps: list[tuple[str, Callable[[], str], tuple[str, ...]]] = [
            ("configuration", self._configuration, ()),
            ("DNS", self._names, ("configuration",)),
            ("proxy", self._proxy, ("DNS",)),
            ("TCP", self._connections, ("proxy",)),
            ("TLS", self._encryption, ("TCP",)),
            ("REST", self._rest, ("TLS",)),
            ("key", self._key, ("REST",)),
            ("handshake", self._handshake, ("key",)),
            ("greeting", self._greeting, ("handshake",)),
            ("round trip", self._round_trip, ("greeting",)),
        ]
        failed: set[str] = set()
        try:
            for name, step, needed in steps:
                missing = [other for other in needed if other in failed]
                stage = (
                    Stage(name, SKIPPED, f"it needs: {missing[0]}") if missing else run_stage(name, step, self.api_key)
                )
                if stage.outcome != OK:
                    failed.add(name)
                yield stage
        finally:
            if self._client is not None:
                self._client.close()

    # --- without the network ----------------------------------------------------------------------

    def _configuration(self) -> str:
        try:
            http, ws = http_address(*self.http), ws_address(*self.ws)
            self.timeout = timeout_or(_DEFAULT_TIMEOUT)
            tls_context()
        except (ValueError, OSError) as exc:
            raise Problem(str(exc), "Correct that setting, or unset it.") from None
        unknown = [name for name in os.environ if name.startswith("TELLURIO_") and name not in VARIABLES]
        if unknown:
            raise Problem(
                f"{', '.join(sorted(unknown))}: no such setting",
                f"Correct or unset it. There are: {', '.join(sorted(VARIABLES))}.",
            )
        if http.host != ws.host:
            raise Problem(
                f"the REST API is at {http.url}, the WebSocket at {ws.url}: two machines",
                "Set TELLURIO_BACKEND_HTTP_BASE_URL and TELLURIO_BACKEND_WS_BASE_URL (and ..._PORT) both.",
            )
        for end in (http, ws):
            try:
                check_may_send_key(end)
            except ConnectFailed as exc:
                raise Problem(str(exc), "Use https:// and wss:// in the addresses.") from None
        try:
            journals = usable_base()
        except OSError as exc:
            raise Problem(
                f"the folder for what is logged cannot be written: {exc}", "Set TELLURIO_JOURNAL_DIR to one that can."
            ) from None
        self._ends = [http, ws]
        try:
            self._proxies = {
                end: proxy
                for end in self._ends
                if not end.is_loopback
                if (proxy := proxy_for(end.host, end.is_encrypted))
            }
        except DialFailed as exc:
            raise Problem(str(exc), "It must be an address such as http://proxy.example:8080.") from None
        return f"{http.url} and {ws.url}; journals in {journals}"

    # --- on the way -------------------------------------------------------------------------------

    def _names(self) -> str:
        found = {}
        for end in self._ends:
            proxy = self._proxies.get(end)
            host = proxy.host if proxy else end.host
            if host in found:
                continue
            try:
                addresses = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
            except OSError as exc:
                raise Problem(
                    f"the name {host!r} has no address: {exc.strerror or exc}",
                    "Check the spelling in the address, the network, and whether a proxy or a VPN is needed "
                    "(HTTPS_PROXY).",
                ) from None
            found[host] = ", ".join(sorted(map(str, addresses)))
        told = "; ".join(f"{host} is {addresses}" for host, addresses in found.items())
        return f"{told} (the proxy looks up the server)" if self._proxies else told

    def _proxy(self) -> str:
        if not self._proxies:
            return "none is used" + (": it is this machine" if self._ends[0].is_loopback else "")
        for end in self._proxies:
            with self._connected(end):
                pass
        return "; ".join(f"{proxy.name} (of {proxy.variable}), to {end.url}" for end, proxy in self._proxies.items())

    def _connections(self) -> str:
        for end in self._ends:
            with self._connected(end):
                pass
        return f"connected to {' and '.join(dict.fromkeys(f'{end.host}:{end.port}' for end in self._ends))}"

    @contextmanager
    def _connected(self, end: Address) -> Iterator[socket.socket]:
        """A connection to this end, through its proxy; raises Problem."""
        proxy = self._proxies.get(end)
        host, port = (proxy.host, proxy.port) if proxy else (end.host, end.port)
        try:
            sock = tcp.connect(
                host,
                port,
                deadline=time.monotonic() + self.timeout,
                is_aborted=lambda: False,
                is_loopback=end.is_loopback,
            )
        except OSError as exc:
            if proxy is not None:
                hint = f"Check {proxy.variable}; NO_PROXY={end.host} goes without a proxy."
            elif end.is_loopback:
                hint = "No backend runs there: start one with `tellurio-sync backend`, or use te.login(mode='local')."
            else:
                hint = "Check the port, and whether a firewall is in the way; a company may have a proxy (HTTPS_PROXY)."
            raise Problem(f"{host}:{port} cannot be reached: {_words(exc)}", hint) from None
        with sock:
            sock.settimeout(self.timeout)
            if proxy is not None:
                try:
                    tcp.tunnel(sock, end.host, end.port, proxy.authorization)
                except OSError as exc:
                    raise Problem(
                        f"the proxy {proxy.name} does not connect to {end.host}:{end.port}: {_words(exc)}",
                        f"Check the name and password in {proxy.variable}, or ask who runs it; NO_PROXY={end.host} "
                        "goes without it.",
                    ) from None
            yield sock

    def _encryption(self) -> str:
        encrypted = [end for end in self._ends if end.is_encrypted]
        if not encrypted:
            return "none is used: it is this machine"
        versions = []
        for end in encrypted:
            with self._connected(end) as sock:
                try:
                    with tls_context().wrap_socket(sock, server_hostname=end.host) as secured:
                        versions.append(secured.version() or "")
                except (ssl.SSLError, OSError) as exc:
                    raise Problem(f"{end.host}:{end.port}: {_words(exc)}", _tls_hint(exc)) from None
        return f"{' and '.join(dict.fromkeys(versions))}; the certificate is valid"

    # --- the server -------------------------------------------------------------------------------

    def _rest(self) -> str:
        from ..studio import StudioRest

        rest = StudioRest(*self.http, timeout=self.timeout)
        try:
            began = time.monotonic()
            rest.verify_api_key()  # without a key: that it is refused is an answer
            return f"answers in {_milliseconds(time.monotonic() - began)}"
        except HttpStatusError as exc:
            hint = (
                "The server has a fault: try again later, or tell who runs it."
                if exc.status >= 500
                else "Is this the address of a Tellurio backend, and is nothing in between that answers for it?"
            )
            raise Problem(str(exc), hint) from None
        except (HttpUnreachable, HttpTooLarge) as exc:
            raise Problem(
                str(exc), "Something answers there, but not in time or in full: a proxy, another program?"
            ) from None
        except HttpError as exc:
            raise Problem(str(exc), "Correct TELLURIO_BACKEND_HTTP_BASE_URL.") from None
        finally:
            rest.close()

    def _key(self) -> str:
        from ..studio import StudioRest, find_api_key, verify
        from ..studio.auth import MissingAPIKey

        source = "given"
        try:
            if self.api_key is None:
                key, found = find_api_key(server=http_address(*self.http).url)
                self.api_key, source = Secret(key), f"from the {found}"
                del key
        except MissingAPIKey as exc:
            raise Problem(str(exc), "Run `tellurio-sync login`, or set TELLURIO_API_KEY.") from None
        except InvalidAPIKeyError as exc:
            raise Problem(str(exc), "Copy the key again, as a whole.") from None
        rest = StudioRest(*self.http, api_key=self.api_key, timeout=self.timeout)
        try:
            account = verify(rest)
        except InvalidAPIKeyError as exc:
            raise Problem(
                f"{exc} (The key {source}.)", "Run `tellurio-sync login --relogin`, or correct TELLURIO_API_KEY."
            ) from None
        finally:
            rest.close()
        return f"{source}; it belongs to {account.username!r}"

    def _handshake(self) -> str:
        self._client = TellurioWebSocketClient(*self.ws, api_key=self.api_key, default_timeout=self.timeout)
        self._opening_problem: Problem | None = None
        try:
            self._client.connect(retries=1, delay=0)
        except ConnectFailed as exc:
            problem = Problem(str(exc), _handshake_hint(exc))
            if exc.stage != "greeting":
                raise problem from None
            self._opening_problem = problem
        return "the server takes WebSocket connections"

    def _greeting(self) -> str:
        if self._opening_problem is not None:
            raise self._opening_problem
        assert self._client is not None
        extensions = ", ".join(sorted(self._client.extensions)) or "none"
        return f"the session is open; extensions: {extensions}"

    def _round_trip(self) -> str:
        assert self._client is not None
        times = []
        for _ in range(_ROUND_TRIPS):
            began = time.monotonic()
            try:
                # No server has this method, so nothing happens there, and it must answer.
                self._client.call("doctor", {"run_uuid": ""}, timeout=self.timeout)
            except RemoteError:
                pass
            except (CallError, ConnectionLost) as exc:
                raise Problem(
                    str(exc), "The server, or something in between, does not pass on what is sent over a WebSocket."
                ) from None
            times.append(time.monotonic() - began)
        return f"{_milliseconds(statistics.median(times))} (median of {_ROUND_TRIPS})"


def run_stage(name: str, step: Callable[[], str], *secrets: str | None) -> Stage:
    """Try one stage. None of these keys is in the result."""
    began = time.monotonic()
    hint = ""
    try:
        outcome, text = OK, step()
    except Problem as exc:
        outcome, text, hint = FAILED, str(exc), exc.hint
    except (TellurioError, OSError, ValueError) as exc:
        outcome, text = FAILED, str(exc)
    return Stage(name, outcome, redact(text, *secrets), redact(hint, *secrets), time.monotonic() - began)


def _words(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc) or type(exc).__name__


def _tls_hint(exc: BaseException) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return certificate_hint(exc)
    if isinstance(exc, ssl.SSLError) and "WRONG_VERSION" in str(exc):
        return "There is no TLS at this port: correct the port, or use http:// and ws:// on this machine."
    return "Something ends the connection during the TLS handshake: a firewall, a proxy, or another program."


def _handshake_hint(exc: ConnectFailed) -> str:
    if isinstance(exc, InvalidAPIKeyError):
        return "The REST API takes the key, the WebSocket does not: are both addresses of the same server?"
    if exc.status is not None and 300 <= exc.status < 400:
        return "Name the address to which it redirects in TELLURIO_BACKEND_WS_BASE_URL."
    if exc.status is not None:
        return "What answers there is no Tellurio WebSocket, or a reverse proxy does not pass on upgrades."
    return "Check TELLURIO_BACKEND_WS_BASE_URL and TELLURIO_BACKEND_WS_PORT, and proxies that cut long connections."


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"


# --- language models ------------------------------------------------------------------------------


@dataclass
class LanguageModel:
    """An endpoint for language models, and one question to it.

    Args:
        model: its name.
        base_url: of the endpoint; None: ``OPENAI_BASE_URL``, else OpenAI's.
        timeout: seconds.
    """

    model: str
    base_url: str | None
    timeout: float

    def stage(self) -> Stage:
        """Ask the question. Blocks."""
        self._key = Secret((os.environ.get("OPENAI_API_KEY") or "").strip())
        return run_stage("language model", self._ask, self._key)

    def _ask(self) -> str:
        from ..backend.prices import price
        from ..jsonrpc import MalformedText, decode
        from ..studio.http_session import post_json

        base = self.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        address = f"{base.rstrip('/')}/chat/completions"
        body = {"model": self.model, "messages": [{"role": "user", "content": "Answer with the word: yes"}]}
        headers = {"Authorization": Secret(f"Bearer {self._key}")} if self._key else {}
        began = time.monotonic()
        try:
            status, content = post_json(address, body, headers, self.timeout)
        except ConnectionError as exc:
            raise Problem(
                f"{address} could not be asked ({exc})",
                "Check OPENAI_BASE_URL (or --lm-base-url), the network, a proxy, and the certificates (SSL_CERT_FILE).",
            ) from None
        seconds = time.monotonic() - began
        text = shorten(redact(content.decode(errors="replace"), self._key))
        if status in (401, 403):
            raise Problem(f"{address} refuses the key (HTTP {status})", "Correct OPENAI_API_KEY.")
        if status == 404:
            raise Problem(f"{address} knows no such model or path (HTTP 404): {text}", "Check the model's name.")
        if status != 200:
            hint = "Wait, or look at your quota." if status == 429 else "See the endpoint's own words."
            raise Problem(f"{address} answered HTTP {status}: {text}", hint)
        try:
            answer = decode(content)
        except MalformedText:
            answer = None
        if not isinstance(answer, dict) or not answer.get("choices"):
            raise Problem(f"{address} did not answer as an OpenAI-compatible endpoint does", "Check OPENAI_BASE_URL.")
        return f"{self.model} at {base} answers in {seconds:.2f} s; {_cost(answer.get('usage'), self.model, price)}"


def _cost(usage: Any, model: str, price: Callable[[Any, str], float | None]) -> str:
    if not isinstance(usage, dict):
        return "it does not say how many tokens that were"
    dollars = price(usage, model)
    tokens = usage.get("total_tokens")
    known = f"{dollars:.6f} USD" if dollars is not None else 'its price is not known (the extra "prices" knows more)'
    return f"{tokens} tokens, {known}"
