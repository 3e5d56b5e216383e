"""One HTTP request to an endpoint, and its response: bounded in time and in size.

``aiohttp`` carries it, which serves the backend's own port too.  This module does what the client library of a provider
does not: it reads a body, also that of an error, only up to a limit, which holds for the decompressed body too; the
time-out is that of the whole exchange, however slowly the bytes come; and an error names its cause.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from ...surroundings import certificate_hint, default_context
from ..questions import QuestionFailed
from .settings import Settings

# The most bytes of an answer, decompressed: ten times what a model can say at once.
MAX_ANSWER_BYTES = 8 * 2**20
# The most bytes of an error: its first words count.
MAX_ERROR_BYTES = 64 * 2**10

_CONNECT_TIMEOUT = 20.0
_CHUNK_BYTES = 64 * 2**10

# Environment variables, as other programs name them: certificates to trust in addition to those of the system.
_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True)
class Response:
    """What came."""

    status: int
    content_type: str
    body: bytes
    retry_after: float | None
    cost: float | None


class Unreachable(Exception):
    """There was no response. ``may_pass``: another try may help; ``was_reused``: the connection had been idle."""

    def __init__(self, failure: QuestionFailed, *, may_pass: bool, was_reused: bool = False) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.may_pass = may_pass
        self.was_reused = was_reused


class Exchanges:
    """Sends requests; one pool of connections for all models."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}

    async def post(
        self, settings: Settings, headers: Mapping[str, str], query: Mapping[str, str], body: bytes, timeout: float
    ) -> Response:
        """The response to a request.

        Args:
            settings: where to, with which headers and query.
            headers, query: more of them.
            body: JSON.
            timeout: seconds for the whole exchange.

        Raises:
            Unreachable: there is no response.
            QuestionFailed: the response is too big (``too_big``), or took too long (``timeout``).
        """
        trace: dict[str, Any] = {}
        try:
            context = await self._context(settings) if settings.url.startswith("https:") else None
            limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(timeout, _CONNECT_TIMEOUT))
            async with self._opened().post(
                settings.url,
                params={**settings.query, **query},
                data=body,
                headers={**settings.headers, "Accept-Encoding": "gzip, deflate", **headers},
                allow_redirects=False,
                proxy=proxy_for(settings),
                ssl=True if context is None else context,
                timeout=limits,
                trace_request_ctx=trace,
            ) as response:
                return await self._read(response)
        except (asyncio.TimeoutError, TimeoutError) as exc:
            if isinstance(exc, aiohttp.ServerTimeoutError):
                raise Unreachable(_unreachable("it did not take the connection in time"), may_pass=True) from None
            text = f"it gave no whole answer within {timeout:g} s, the `timeout` of the model."
            raise QuestionFailed("timeout", text) from None
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as exc:
            raise _no_response(exc, bool(trace.get("reused"))) from None

    async def _read(self, response: aiohttp.ClientResponse) -> Response:
        limit = MAX_ANSWER_BYTES if response.status < 300 else MAX_ERROR_BYTES
        decoder = Decoder(response.headers.get("Content-Encoding", ""), limit)
        is_whole = False
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            is_whole = decoder.feed(chunk)
            if not is_whole:
                break
        if not is_whole and decoder.is_over:
            # The rest is not read, so the connection cannot be used again.
            response.close()
            if response.status < 300:
                text = f"its answer is over the {limit // 2**20} MiB that are read."
                raise QuestionFailed("too_big", text)
        return Response(
            response.status,
            response.headers.get("Content-Type", "").lower(),
            decoder.body(),
            retry_after(response.headers.get("Retry-After"), response.headers.get("retry-after-ms")),
            _cost(response.headers.get("x-litellm-response-cost")),
        )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            tracing = aiohttp.TraceConfig()

            async def reused(session: Any, context: Any, params: Any) -> None:
                if isinstance(context.trace_request_ctx, dict):
                    context.trace_request_ctx["reused"] = True

            tracing.on_connection_reuseconn.append(reused)
            # ``pace`` limits the questions to each model. Cookies of an endpoint are not kept.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trace_configs=[tracing],
            )
        return self._session

    async def _context(self, settings: Settings) -> ssl.SSLContext:
        files = (settings.ca_bundle, *(os.environ.get(name) for name in _CA_VARIABLES))
        if files not in self._contexts:
            # It reads files, so it does not run on the event loop's thread.
            self._contexts[files] = await asyncio.to_thread(_context, [name for name in files if name])
        return self._contexts[files]

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()


class Decoder:
    """Decompresses a body as it comes, up to a limit."""

    def __init__(self, encoding: str, limit: int) -> None:
        self._encoding = encoding.strip().lower()
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self._unpacker = zlib.decompressobj(47) if self._encoding in ("gzip", "x-gzip", "deflate") else None
        self.is_over: bool = False
        if self._unpacker is None and self._encoding not in ("", "identity"):
            raise QuestionFailed(
                "not_a_completion", f"its answer is compressed as {self._encoding[:20]!r}, which was not asked for."
            )

    def feed(self, chunk: bytes) -> bool:
        """Take a piece. Returns False if the limit is passed."""
        while chunk:
            if self._unpacker is None:
                piece, chunk = chunk, b""
            else:
                try:
                    piece = self._unpacker.decompress(chunk, self._limit - self._size + 1)
                except zlib.error:
                    raise QuestionFailed(
                        "not_a_completion", "its answer claims to be compressed, but is not."
                    ) from None
                chunk = self._unpacker.unconsumed_tail
            self._parts.append(piece)
            self._size += len(piece)
            if self._size > self._limit:
                self.is_over = True
                return False
        return True

    def body(self) -> bytes:
        """What came, up to the limit."""
        return b"".join(self._parts)[: self._limit]


def proxy_for(settings: Settings) -> str | None:
    """The proxy of the environment for this address; never one for an address of this machine."""
    if settings.is_local:
        return None
    parts = settings.url.split("/", 3)
    scheme, host = parts[0].rstrip(":"), parts[2]
    if urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy is None:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def retry_after(seconds: str | None, milliseconds: str | None = None) -> float | None:
    """Seconds that an endpoint asks to wait; None: it does not ask, or in a form that is not understood."""
    for value, unit in ((milliseconds, 1000), (seconds, 1)):
        if value is not None:
            try:
                wait = float(value) / unit
            except ValueError:
                wait = _until(value)
            if 0 <= wait < 10**7:
                return wait
    return None


def _until(date: str) -> float:
    import email.utils
    import time

    try:
        return max(0.0, email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return -1.0


def _cost(header: str | None) -> float | None:
    try:
        cost = float(header) if header else -1.0
    except ValueError:
        return None
    return cost if 0 <= cost < float("inf") else None


def _context(files: list[str]) -> ssl.SSLContext:
    try:
        context = default_context()
    except ValueError as exc:
        raise QuestionFailed("settings", f"{exc}") from None
    try:
        import certifi

        context.load_verify_locations(certifi.where())
    except (ImportError, OSError):
        pass  # The system's certificates are trusted in any case.
    for name in files:
        try:
            context.load_verify_locations(capath=name) if os.path.isdir(name) else context.load_verify_locations(name)
        except (OSError, ssl.SSLError) as exc:
            raise QuestionFailed("settings", f"The certificates in {name!r} cannot be read: {exc}.") from None
    return context


def _no_response(exc: Exception, was_reused: bool) -> Unreachable:
    if isinstance(exc, (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)):
        cause = getattr(exc, "certificate_error", exc)
        reason = getattr(cause, "verify_message", "") or str(cause)
        hint = certificate_hint(cause) if isinstance(cause, ssl.SSLCertVerificationError) else ""
        text = (
            f"certificate verify failed: {reason}. {hint} The variables count when the backend starts; `ca_bundle` of "
            "the model names such a file, too"
        )
        return Unreachable(_unreachable(text), may_pass=False)
    if isinstance(exc, aiohttp.ClientConnectorError):
        cause = exc.os_error
        if isinstance(cause, socket.gaierror):
            text = f"the name {exc.host!r} cannot be resolved ({cause.strerror or cause})"
        elif isinstance(cause, ConnectionRefusedError):
            text = f"connection refused: nothing listens at {exc.host}:{exc.port}"
        else:
            text = f"no connection to {exc.host}:{exc.port} ({cause.strerror or cause})"
        return Unreachable(_unreachable(text), may_pass=True)
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return Unreachable(
            _unreachable("it closed the connection before it answered"), may_pass=True, was_reused=was_reused
        )
    if isinstance(exc, (aiohttp.ClientPayloadError, aiohttp.ClientOSError, OSError)) and not isinstance(
        exc, ValueError
    ):
        return Unreachable(_unreachable(f"the connection broke ({exc})"), may_pass=True, was_reused=was_reused)
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return Unreachable(_unreachable(f"the proxy refused it (status {exc.status} {exc.message})"), may_pass=False)
    if isinstance(exc, aiohttp.ClientResponseError):
        failure = QuestionFailed("not_a_completion", f"what it answers is not HTTP ({exc.message[:200]}).")
        return Unreachable(failure, may_pass=False)
    return Unreachable(_unreachable(f"the request could not be made ({type(exc).__name__}: {exc})"), may_pass=False)


def _unreachable(text: str) -> QuestionFailed:
    return QuestionFailed("unreachable", f"{text}.")
