"""The REST API (protocol §J): one method per endpoint, plain JSON objects in and out.

State and threads:

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_key`` | ``set_api_key`` | any thread | one attribute store | – |
| ``_of_thread`` (an HTTP session each) | that thread | that thread | ``threading.local`` | its type |
| ``_sessions`` (all of these) | any thread | ``close`` | one C call on a dict each | – |
| ``_extensions`` | a thread that gets an answer | any thread | one attribute store | – |
| ``_is_starting`` | a thread that has waited for the server | any thread | one attribute store | – |
| ``_outboxes`` | runs | readers, ``close`` | one C call on a dict each | – |

This is the border to the HTTP library: none of its errors leaves this module, not even as a cause, because it holds the
request with the key in it.
"""

from __future__ import annotations

import logging
import math
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from .. import forked
from .._version import __version__
from ..addresses import Address, check_may_send_key, http_address
from ..deadlines import check_timeout
from ..errors import (
    BackendError,
    HttpError,
    HttpStatusError,
    HttpTooLarge,
    HttpUnreachable,
    LocalProtocolError,
    shorten,
)
from ..jsonrpc import MalformedText, decode, encode
from ..ownership import alive
from ..surroundings import certificate_hint, timeout_or
from .keys import KeyHeader, clean_key

if TYPE_CHECKING:
    import ssl

    import requests

_log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 5.0
DEFAULT_MAX_ANSWER_SIZE = 64 * 2**20
_CONFIGURATION = ("address", "timeout", "allow_insecure", "max_answer_size")
_PIECE = 64 * 1024

# The extensions that the server knows, and the key by which it recognises a repeated request.
_EXTENSIONS_HEADER = "Tellurio-Extensions"
_IDEMPOTENCY_HEADER = "Idempotency-Key"

# As http.client says it of a proxy that wants a password.
_PROXY_REFUSED = "Tunnel connection failed: 407"
_START_LOCAL = (
    "No backend seems to run there; `tellurio-sync backend` starts one, login(mode='local') does it by itself."
)


class Outbox(Protocol):
    """What was logged for a run and is on its way to the server."""

    @property
    def run_uuid(self) -> str: ...

    def flush(self, timeout: float) -> bool:
        """Wait until the server has it; False: not within these seconds."""
        ...

    def pause(self) -> None:
        """Use the server no more until something else is logged."""
        ...


class StudioRest:
    """A client of the REST API. Thread-safe, also after a fork; each call blocks until it is answered.

    Redirects are not followed: they would carry the key to another place.

    A pickle holds the configuration, never the key; give the copy its own with :meth:`set_api_key`.

    Args:
        base_url: scheme and host; None: from the environment, see :func:`addresses.http_address`.
        port: None: from the environment.
        api_key: sent in the ``Authorization`` header only; None or empty: none is sent.
        timeout: seconds, > 0: for one request, from connecting to the last byte of the answer. Not covered: name
            resolution. Each address of a host is tried for so long, and a TLS handshake may take so long once more.
            None: ``TELLURIO_TIMEOUT``, else 5.
        allow_insecure: send the key in clear text to a host that is not this machine.
        max_answer_size: bytes, > 0, of the body of an answer; a longer one is not read to its end.
        ssl_context: for ``https://``; None: see ``surroundings.tls_context``. Not pickled.
        until_serving: called before each request as long as the server may still start, and blocks until it serves;
            raises BackendError if that comes to nothing, which becomes HttpUnreachable. None: it serves. Not pickled.

    Raises:
        ValueError: not an address, not a timeout, or not a size.
        InvalidAPIKeyError: the key holds characters that no key has.
        ConnectFailed: the key would travel unencrypted.
    """

    def __init__(
        self,
        base_url: str | None = None,
        port: int | str | None = None,
        api_key: str | None = None,
        timeout: float | None = None,
        *,
        allow_insecure: bool = False,
        max_answer_size: int = DEFAULT_MAX_ANSWER_SIZE,
        ssl_context: ssl.SSLContext | None = None,
        until_serving: Callable[[], None] | None = None,
    ) -> None:
        self._until_serving = until_serving
        self._is_starting = until_serving is not None
        self.address: Address = http_address(base_url, port)
        self.timeout: float = timeout_or(DEFAULT_TIMEOUT) if timeout is None else check_timeout(timeout)
        self._ssl_context = ssl_context
        self.allow_insecure = allow_insecure
        if not isinstance(max_answer_size, int) or max_answer_size < 1:
            raise ValueError(f"max_answer_size must be a positive number of bytes, not {max_answer_size!r}")
        self.max_answer_size = max_answer_size
        self._key = KeyHeader(None)
        self._extensions: frozenset[str] | None = None
        self._start_afresh()
        self.set_api_key(api_key)

    def __repr__(self) -> str:
        return f"StudioRest({self.url!r}, {'with' if self.has_api_key else 'without'} an API key)"

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _CONFIGURATION}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._ssl_context = None
        self._until_serving = None
        self._is_starting = False
        self._key = KeyHeader(None)
        self._extensions = None
        self._start_afresh()

    @property
    def url(self) -> str:
        """Scheme, host and port."""
        return self.address.url

    @property
    def has_api_key(self) -> bool:
        """Whether a key is sent."""
        return self._key.is_set

    def set_api_key(self, api_key: str | None) -> None:
        """Use this key from the next request on; None or empty: none.

        Raises:
            InvalidAPIKeyError: it holds characters that no key has.
            ConnectFailed: it would travel unencrypted.
        """
        key = clean_key(api_key) if api_key else ""
        if key:
            check_may_send_key(self.address, allow_insecure=self.allow_insecure)
        self._key = KeyHeader(key or None)

    def knows(self, extension: str) -> bool:
        """Whether the server knows this extension, as far as its answers have told."""
        return self._extensions is not None and extension in self._extensions

    @property
    def knows_extensions(self) -> bool:
        """Whether the server has answered, and so has told which extensions it knows."""
        return self._extensions is not None

    @property
    def is_starting(self) -> bool:
        """Whether the server still starts, as far as is known: it is slow, and not away."""
        return self._is_starting

    def wait_until_serving(self) -> None:
        """Return once the server has started, if it may still start. Blocks as long as that takes.

        Raises:
            HttpUnreachable: it could not be started.
        """
        wait = self._until_serving
        if wait is None:
            return
        try:
            wait()
        except BackendError as exc:
            raise HttpUnreachable(str(exc), url=self.url) from exc
        finally:
            self._is_starting = False
        self._until_serving = None

    def attach(self, outbox: Outbox) -> None:
        """Let calls that read wait for this outbox, so that they see what was logged before. Held weakly."""
        self._outboxes[outbox] = None

    def _flush(self, run_uuid: str | None = None) -> None:
        self.wait_until_serving()
        for outbox in alive(self._outboxes):
            if run_uuid in (None, outbox.run_uuid):
                outbox.flush(self.timeout)

    def close(self) -> None:
        """Close the idle connections of all threads. A later call opens a new one. Idempotent.

        What was logged is sent before; not for longer than about 2 s without progress.
        """
        for outbox in alive(self._outboxes):
            outbox.pause()
        for session in alive(self._sessions):
            _close_session(session)

    def release(self) -> None:
        """Close this thread's idle connection; for a thread that ends. A later call opens a new one."""
        session: requests.Session | None = self._of_thread.__dict__.pop("session", None)
        if session is not None:
            _close_session(session)

    # --- endpoints ------------------------------------------------------------------------------
    # All of them raise, in addition to what their docstrings say:
    #   HttpUnreachable  no whole answer in time, or none at all
    #   HttpTooLarge     an answer of more bytes than max_answer_size
    #   HttpStatusError  a status other than the one of protocol §J, other 2xx included
    #   HttpError        an answer in another form than §J says

    def verify_api_key(self) -> dict[str, Any] | None:
        """The account (``email``, ``username``) that the key belongs to; None: the key was refused."""
        account: dict[str, Any] | None = self._request("GET", "/api/v0/verify-api-key/", 200, dict, absent=(401, 403))
        # Protocol §J: an empty object means an invalid key, too.
        return account or None

    def get_project(self, namespace_slug: str, project_slug: str) -> dict[str, Any] | None:
        """The project; None if it, or its namespace, does not exist."""
        path = _project_path(namespace_slug, project_slug)
        project: dict[str, Any] | None = self._request("GET", path, 200, dict, absent=(404,))
        return project

    def create_project(self, namespace_slug: str, display_name: str, visibility: str = "TEAM") -> dict[str, Any]:
        """Create a project.

        Args:
            namespace_slug: the account or organisation that will own it.
            display_name: the server makes the slug from it.
            visibility: ``RESTRICTED``, ``TEAM``, ``PUBLIC`` or ``OPEN``; the server refuses others.
        """
        body = {"display_name": display_name, "visibility": visibility}
        project: dict[str, Any] = self._request("POST", f"{_namespace_path(namespace_slug)}projects/", 201, dict, body)
        return project

    def delete_project(self, namespace_slug: str, project_slug: str) -> None:
        """Delete a project with all its runs."""
        self._request("DELETE", _project_path(namespace_slug, project_slug), 204, None)

    def create_run(
        self,
        namespace_slug: str,
        project_slug: str,
        name: str | None = None,
        description: str | None = None,
        status: str | None = None,
        *,
        config: dict[str, Any] | None = None,
        run_uuid: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, Any]:
        """Create a run. The server decides what is None: it makes up a name, and begins with the status ``RUNNING``.

        Args:
            config: kept with the run, by servers that know ``run-details``.
            run_uuid: the id that it is to have, at such a server.
            idempotency_key: a request that comes again with it makes no other run, at a server that knows it.
        """
        given: dict[str, Any] = {"name": name, "description": description, "status": status}
        if self.knows("run-details"):
            given.update(config=config, uuid=run_uuid)
        body = {key: value for key, value in given.items() if value is not None}
        path = f"{_project_path(namespace_slug, project_slug)}runs/"
        run: dict[str, Any] = self._request("POST", path, 201, dict, body, idempotency_key=idempotency_key)
        return run

    def update_run(
        self,
        namespace_slug: str,
        project_slug: str,
        run_uuid: str,
        status: str,
        *,
        reason: str | None = None,
        config: dict[str, Any] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Set the status of a run. Repeating it does no harm.

        Args:
            reason: why, for servers that know ``run-details``.
            config: added to the run's, at such a server.
            timeout: seconds, > 0, for this request; None: the client's.
        """
        path = _run_path(namespace_slug, project_slug, run_uuid)
        body: dict[str, Any] = {"status": status}
        if self.knows("run-details"):
            body.update({key: value for key, value in (("reason", reason), ("config", config)) if value is not None})
        run: dict[str, Any] = self._request("PATCH", path, 200, dict, body, timeout=timeout)
        return run

    def list_runs(self, namespace_slug: str, project_slug: str) -> list[Any]:
        """All runs of a project, as objects with at least ``uuid`` and ``status``.

        Waits first, at most ``timeout``, until the server has what was logged with this client.
        """
        self._flush()
        runs: list[Any] = self._request("GET", f"{_project_path(namespace_slug, project_slug)}runs/", 200, list)
        return runs

    def log_metric(
        self,
        namespace_slug: str,
        project_slug: str,
        run_uuid: str,
        name: str,
        value: Any,
        step: int | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> None:
        """Add one value to a metric of a run. (``Run.log`` is what does not wait for the server.)

        Args:
            value: any JSON value. NaN and infinities have no JSON form: null is sent, and ``not_finite`` says which.
            step: None: the server counts on from the metric's last one, beginning with 0.
            idempotency_key: a request that comes again with it adds nothing, at a server that knows it.

        Raises:
            LocalProtocolError: the value has no JSON form (also a ValueError).
        """
        body = {"name": name, "value": value}
        if isinstance(value, float) and not math.isfinite(value):
            body.update(value=None, not_finite=str(value))
        if step is not None:
            body["step"] = step
        path = f"{_run_path(namespace_slug, project_slug, run_uuid)}metrics/"
        self._request("POST", path, 201, None, body, idempotency_key=idempotency_key)

    def send_journal(
        self, namespace_slug: str, project_slug: str, run_uuid: str, writer: str, position: int, data: bytes
    ) -> dict[str, Any]:
        """Send a part of a journal, to a server that knows ``journal``. Repeating it does no harm.

        Args:
            position: where in the journal ``data`` begins.

        Returns:
            ``position``, up to where the server knows the journal; ``refused``, a list; ``malformed``, None or why it
            cannot be read further.
        """
        path = f"{_run_path(namespace_slug, project_slug, run_uuid)}journal/{_segment(writer, 'writer')}/"
        answer: dict[str, Any] = self._request("POST", f"{path}?position={position}", (200, 409), dict, content=data)
        if not isinstance(answer.get("position"), int):
            raise HttpError(f"The server did not say how much it knows of the journal {writer}.", url=self.url)
        return answer

    def list_metrics(self, namespace_slug: str, project_slug: str, run_uuid: str) -> list[Any]:
        """All values of all metrics of a run, as objects with ``name``, ``value`` and ``step``.

        Waits first, at most ``timeout``, until the server has what was logged with this client.
        """
        self._flush(run_uuid)
        return self.stored_metrics(namespace_slug, project_slug, run_uuid)

    def stored_metrics(self, namespace_slug: str, project_slug: str, run_uuid: str) -> list[Any]:
        """As :meth:`list_metrics`, without waiting for what was logged."""
        path = f"{_run_path(namespace_slug, project_slug, run_uuid)}metrics/"
        metrics: list[Any] = self._request("GET", path, 200, list)
        return metrics

    def list_questions(self, namespace_slug: str, project_slug: str, run_uuid: str) -> dict[str, Any] | None:
        """What a run has asked language models, by a server that knows ``questions``; None: this one does not.

        Returns:
            ``questions``, a list of objects with ``step``, ``kind``, ``model`` and counts; ``steps`` that have ended.
        """
        path = f"{_run_path(namespace_slug, project_slug, run_uuid)}questions/"
        found: dict[str, Any] | None = self._request("GET", path, 200, dict, absent=(404,))
        if found is None and self.knows("questions"):
            raise HttpStatusError(f"GET {path} failed with status 404: there is no such run.", status=404, url=self.url)
        return found

    # --- sending --------------------------------------------------------------------------------

    def _request(
        self,
        verb: str,
        path: str,
        success: int | tuple[int, ...],
        kind: type[Any] | None,
        body: dict[str, Any] | None = None,
        *,
        absent: tuple[int, ...] = (),
        timeout: float | None = None,
        content: bytes | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Send one request and return its JSON answer.

        Args:
            success: the statuses that count as success.
            kind: what the answer must be; None: it is not looked at, and the result is None.
            absent: statuses that mean "there is none": the result is None.
            content: sent as it is, where there is no ``body``.
        """
        url = self.url + path
        headers = {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        elif content is not None:
            headers["Content-Type"] = "application/octet-stream"
        if idempotency_key is not None:
            headers[_IDEMPOTENCY_HEADER] = idempotency_key
        try:
            data = content if body is None else encode(body).encode()
        except LocalProtocolError as exc:
            raise LocalProtocolError(f"The request {verb} {path} {exc}") from exc
        seconds = self.timeout if timeout is None else check_timeout(timeout)
        key = self._key
        self.wait_until_serving()
        status, text, reason = self._send(verb, url, data, headers, key, seconds)
        _log.debug("< %s %s: %s", verb, url, status)
        if status in absent:
            return None
        if status not in (success if isinstance(success, tuple) else (success,)):
            raise self._status_error(verb, url, status, _message_in(text, key) or key.redact(reason))
        if kind is None:
            return None
        try:
            answer = decode(text)
        except MalformedText:
            answer = None
        if not isinstance(answer, kind):
            wanted = "object" if kind is dict else "array"
            raise HttpError(
                f"The answer to {verb} {url} is not a JSON {wanted}. Is this the address of a Tellurio backend?",
                url=url,
            )
        return answer

    def _send(
        self, verb: str, url: str, data: bytes | None, headers: dict[str, str], key: KeyHeader, timeout: float
    ) -> tuple[int, bytes, str]:
        """Status, body and reason phrase of the answer."""
        import requests
        from urllib3.exceptions import HTTPError
        from urllib3.util import Timeout

        from .http_session import ended_unanswered, is_time_over, raised_by_handler, time_limit, way_of

        _log.debug("> %s %s", verb, url)
        # A proxy of the environment is for addresses outside; it could not reach this machine's loopback.
        proxies = {"no_proxy": self.address.host} if self.address.is_loopback else {}
        # Taken out while it is used. A signal handler that makes a request in the middle of this one has its own;
        # and where one raises, this one may have kept a lock of the library: nobody uses it again.
        session = self._session()
        self._of_thread.__dict__.pop("session", None)
        with time_limit(timeout):
            for may_repeat in (verb == "GET", False):
                try:
                    with session.request(
                        verb,
                        url,
                        data=data,
                        headers=headers,
                        auth=key,
                        timeout=Timeout(total=timeout),  # type: ignore[arg-type]  # accepted, but not in the stubs
                        allow_redirects=False,
                        proxies=proxies,
                        stream=True,
                    ) as response:
                        told = response.headers.get(_EXTENSIONS_HEADER, "")
                        # A proxy on the way may answer, too: that says nothing of the server.
                        if told or (self._extensions is None and response.ok):
                            self._extensions = frozenset(name.strip() for name in told.split(",") if name.strip())
                        answer = response.status_code, self._body_of(response, verb, url), response.reason or ""
                    self._of_thread.session = session
                    return answer
                except (requests.RequestException, HTTPError) as exc:
                    interruption = raised_by_handler(exc)
                    if interruption is not None:
                        self._sessions.pop(session, None)
                        break
                    if may_repeat and ended_unanswered(exc) and not is_time_over():
                        _log.debug("> %s %s once more: its connection ended without an answer", verb, url)
                        continue
                    self._of_thread.session = session
                    root = _root_of(exc)
                    why = f"no whole answer within {timeout:g} s" if is_time_over() else str(root)
                    cause = (
                        root if isinstance(root, OSError) and not isinstance(root, requests.RequestException) else None
                    )
                    break
                except HttpTooLarge:
                    self._of_thread.session = session
                    raise
                except BaseException:
                    self._sessions.pop(session, None)
                    raise
        # Raised outside of the handler. Otherwise the library's exception would be attached as __context__, with the
        # key in its request and in the local variables of its traceback.
        if interruption is not None:
            raise interruption.with_traceback(None)
        way = "" if self.address.is_loopback else way_of(url)
        raise HttpUnreachable(
            "Network error occurred. Please check your connection. "
            f"{self.url} could not be reached{way}: {key.redact(why).rstrip('.')}.{self._hint(cause, why)}",
            url=url,
        ) from cause

    def _hint(self, cause: OSError | None, why: str) -> str:
        import ssl

        if isinstance(cause, ssl.SSLCertVerificationError):
            return f" {certificate_hint(cause)}"
        if _PROXY_REFUSED in why:
            return " The proxy wants a user and a password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT."
        return f" {_START_LOCAL}" if self.address.is_loopback else ""

    def _body_of(self, response: requests.Response, verb: str, url: str) -> bytes:
        """The body, unpacked where it came packed."""
        body = bytearray()
        for piece in response.iter_content(_PIECE):
            body += piece
            if len(body) > self.max_answer_size:
                raise HttpTooLarge(
                    f"{verb} {url} was answered with more than {self.max_answer_size:,} bytes, which is the limit. "
                    "StudioRest(max_answer_size=...) raises it.",
                    url=url,
                    limit=self.max_answer_size,
                )
        return bytes(body)

    def _status_error(self, verb: str, url: str, status: int, message: str) -> HttpStatusError:
        text = f"{verb} {url} failed with status {status}"
        if message:
            text += f": {message}"
        if 300 <= status < 400:
            text += " (Redirects are not followed, as they would carry the API key elsewhere."
            if self.address.path:
                text += " A hub or proxy with a login of its own answers so: browsers get through it, programs do not."
            text += ")"
        elif status == 401:
            text += " (The API key is not valid.)" if self.has_api_key else " (No API key was sent; log in first.)"
        return HttpStatusError(text, status=status, url=url)

    def _session(self) -> requests.Session:
        """This thread's HTTP session, which keeps its connection open between requests."""
        session: requests.Session | None = getattr(self._of_thread, "session", None)
        if session is None:
            session = _new_session(self.address.scheme, self._ssl_context)
            self._sessions[session] = None
            self._of_thread.session = session
        return session

    def renew_after_fork(self) -> None:
        """In a forked child: the connections belong to the parent."""
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._of_thread = threading.local()
        # Weak, so that the session of a thread that has ended is freed together with the locals of the thread.
        self._sessions: weakref.WeakKeyDictionary[requests.Session, None] = weakref.WeakKeyDictionary()
        # Outboxes of the parent are the parent's.
        self._outboxes: weakref.WeakKeyDictionary[Outbox, None] = weakref.WeakKeyDictionary()
        forked.renew(self)


def _new_session(scheme: str, ssl_context: ssl.SSLContext | None) -> requests.Session:
    from .http_session import new_session  # late, see there

    return new_session(f"tellurio_sync/{__version__}", scheme, ssl_context)


def _close_session(session: requests.Session) -> None:
    from .http_session import close_session  # late, see there

    close_session(session)


def _root_of(exc: BaseException) -> BaseException:
    """The first cause, without its traceback: usually the error of the operating system."""
    while (cause := exc.__cause__ or exc.__context__ or _wrapped(exc)) is not None:
        exc = cause
    return exc.with_traceback(None)


def _wrapped(exc: BaseException) -> BaseException | None:
    # urllib3 wraps an error of TLS without raising it from there.
    return exc.args[0] if exc.args and isinstance(exc.args[0], BaseException) else None


def _message_in(content: bytes, key: KeyHeader) -> str:
    """The server's text in the body of an error, without the key, shortened; empty if it is not readable."""
    text = content.decode(errors="replace").strip()
    try:
        answer = decode(content)
    except MalformedText:
        # A page for browsers, usually of a proxy on the way: useless on one line.
        return "" if text.startswith("<") else _brief(text, key)
    if isinstance(answer, dict):
        for member in ("detail", "message", "error"):
            if isinstance(answer.get(member), str):
                return _brief(answer[member], key)
    return _brief(text, key) if answer else ""


def _brief(text: str, key: KeyHeader) -> str:
    # In this order: a key of which shortening has left the beginning would not be found any more.
    return shorten(key.redact(text))


# --- paths --------------------------------------------------------------------------------------


def _namespace_path(namespace_slug: str) -> str:
    return f"/api/v0/{_segment(namespace_slug, 'namespace_slug')}/"


def _project_path(namespace_slug: str, project_slug: str) -> str:
    return f"{_namespace_path(namespace_slug)}projects/{_segment(project_slug, 'project_slug')}/"


def _run_path(namespace_slug: str, project_slug: str, run_uuid: str) -> str:
    return f"{_project_path(namespace_slug, project_slug)}runs/{_segment(run_uuid, 'run_uuid')}/"


def _segment(value: str, name: str) -> str:
    """One segment of a path. Raises ValueError for a text that would change the path."""
    if not isinstance(value, str) or not value.strip() or value in (".", ".."):
        raise ValueError(f"{name} must be a non-empty text, not {value!r}")
    return quote(value, safe="")
