"""The addresses of the backend, and whether a key may be sent there (protocol §A.1).

Pure functions over texts and the environment; thread-safe, nothing blocks.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import SplitResult, quote, unquote, urlsplit

from .errors import ConnectFailed

_DEFAULT_PORT = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ENCRYPTED = {"http": "https", "ws": "wss"}
_HUB_PREFIX = "JUPYTERHUB_SERVICE_PREFIX"

# What a segment of a path may hold: RFC 3986 §3.3, and what is quoted then. The at sign only as %40, because it could
# be that of credentials.
_SEGMENT = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2}|[^\x00-\x7f\ud800-\udfff])+")
# Of a path that a server matches, which it and all proxies before it must spell in the same way: RFC 3986 §2.3.
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")
# Where the backend's own paths begin: what is pasted from a browser or a log goes on there.
_OWN_PATHS = re.compile(r"/(?:api|ws)/v0(?:/|$)|/[^/]+/projects/[^/]+/runs/")


@dataclass(frozen=True)
class Address:
    """One end of the backend: scheme, host and port, and the path under which a proxy serves it.

    Attributes:
        scheme: ``http``, ``https``, ``ws`` or ``wss``.
        host: name or IP address, IPv6 without brackets.
        port: 1 to 65535.
        path: empty, or such as ``/user/me/proxy/7862``, without a trailing slash.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def url(self) -> str:
        """Scheme, host, port and path; endpoints are appended to it."""
        return f"{self._host_url}:{self.port}{self.path}"

    @property
    def short_url(self) -> str:
        """As :attr:`url`, without the port if it is the default of the scheme: for people and browsers."""
        return f"{self._host_url}{self.path}" if self.port == _DEFAULT_PORT[self.scheme] else self.url

    @property
    def _host_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}"

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS protects what is sent there."""
        return self.scheme not in _ENCRYPTED

    @property
    def is_loopback(self) -> bool:
        """Whether it is this machine, so that nothing that is sent there crosses a network."""
        return is_loopback(self.host)


def http_address(base_url: str | None = None, port: int | str | None = None) -> Address:
    """The address of the REST API.

    Args:
        base_url: scheme and host, and the path under which a proxy serves the backend, if it does; empty or None:
            ``TELLURIO_BACKEND_HTTP_BASE_URL``, else the platform.
        port: 1 to 65535; empty, 0 or None: the port inside ``base_url`` if it has one, else
            ``TELLURIO_BACKEND_HTTP_PORT``, else 443; with a path, which the protocol does not know, else that of the
            scheme, as in a browser.

    Raises:
        ValueError: not an address of this form, or ``base_url`` and ``port`` name different ports.
    """
    return _address("HTTP", ("http", "https"), base_url, port)


def ws_address(base_url: str | None = None, port: int | str | None = None) -> Address:
    """The address of the WebSocket; as :func:`http_address`, with the ``TELLURIO_BACKEND_WS_...`` variables."""
    return _address("WS", ("ws", "wss"), base_url, port)


def of_one_server(base_url: str) -> tuple[Address, Address]:
    """Where the REST API and the WebSocket of a server are that serves both at one address.

    Args:
        base_url: as for :func:`http_address`; without a port it is that of the scheme, as in a browser, and the
            environment is not looked at.

    Raises:
        ValueError: not an address of this form.
    """
    parts = _split(base_url, ("http", "https"))
    own_port = _port_of(parts, base_url)
    port = _DEFAULT_PORT[parts.scheme] if own_port is None else _to_port(own_port)
    assert parts.hostname is not None  # _split has seen to it
    path = _path(base_url, parts.path)
    schemes = parts.scheme, parts.scheme.replace("http", "ws")
    http, ws = (Address(scheme, parts.hostname, port, path) for scheme in schemes)
    return http, ws


def _address(channel: str, schemes: tuple[str, str], base_url: str | None, port: int | str | None) -> Address:
    env = f"TELLURIO_BACKEND_{channel}_"
    # Protocol §A.1: an argument wins if it is truthy. An empty variable counts as unset, too.
    base = base_url or os.environ.get(f"{env}BASE_URL") or f"{schemes[1]}://platform.tellurio.ai"
    parts = _split(base, schemes)
    own_port = _port_of(parts, base)
    path = _path(base, parts.path)
    if own_port is None:
        usual = _DEFAULT_PORT[parts.scheme] if path else 443
        wanted: int | str = port or os.environ.get(f"{env}PORT") or usual
    else:
        # A port inside the base is the port (§A.1).
        wanted = port or own_port
        if _to_port(wanted) != own_port:
            raise ValueError(f"The address {base!r} and the port {port!r} name different ports; leave one of them out.")
    assert parts.hostname is not None  # _split has seen to it
    return Address(parts.scheme, parts.hostname, _to_port(wanted), path)


def _split(base: str, schemes: tuple[str, str]) -> SplitResult:
    if "@" in base:
        # The text does not quote the address, because it holds the credentials.
        raise ValueError(
            "The backend's address must not hold credentials; pass the API key separately. (In a path, @ is %40.)"
        )
    try:
        parts = urlsplit(base.strip())
    except ValueError as exc:
        raise ValueError(f"The backend's address {base!r} cannot be read: {exc}") from exc
    if parts.scheme not in schemes:
        problem = f"must begin with {schemes[1]}:// or {schemes[0]}://"
    elif not parts.hostname:
        problem = "names no host"
    elif "?" in base or "#" in base:
        # What follows is not quoted either: the links of pages hold a token there.
        base = re.split("[?#]", base, maxsplit=1)[0]
        problem = "must end where its ? or # stands"
    else:
        return parts
    raise ValueError(f"The backend's address {base!r} {problem}; an example: {schemes[0]}://127.0.0.1")


def clean_path(path: str) -> str:
    """A path as it goes into requests: empty, or with a slash before each segment, and with %XX where that has to be.

    Raises:
        ValueError: a browser or a proxy could take it for another one; the text names the segment.
    """
    path = path.rstrip("/")
    for segment in path.split("/")[1:] if path.startswith("/") else path.split("/") if path else ():
        if not _SEGMENT.fullmatch(segment) or unquote(segment) in (".", ".."):
            raise ValueError(f"cannot be used, because of {segment!r} in it")
    return quote(path if path.startswith("/") or not path else f"/{path}", safe="/%!$&'()*+,;=:~")


def path_prefix(text: str) -> str:
    """The path under which a proxy serves a backend: empty, or with a slash before each segment.

    Raises:
        ValueError: as :func:`clean_path`; or it holds more than letters, digits, hyphens, dots, ``_`` and ``~``.
    """
    path = clean_path(text)
    if not _PLAIN_PATH.fullmatch(path):
        raise ValueError("may hold letters of ASCII, digits, and - . _ ~ only; let the proxy take it away")
    return path


def _path(base: str, path: str) -> str:
    path = path.rstrip("/")
    own = _OWN_PATHS.search(path)
    if own is not None:
        raise ValueError(
            f"The backend's address {base!r} goes too far: give what stands before {path[own.start() :]!r} in it."
        )
    try:
        return clean_path(path)
    except ValueError as exc:
        raise ValueError(
            f"The path of the backend's address {base!r} {exc}; an example: https://hub.example/user/me/proxy/7862"
        ) from None


def _port_of(parts: SplitResult, base: str) -> int | None:
    try:
        return parts.port
    except ValueError as exc:
        raise ValueError(f"The port in the backend's address {base!r} is not a number from 1 to 65535.") from exc


def _to_port(value: int | str) -> int:
    try:
        port = int(value)
    except ValueError:
        port = 0
    if not 1 <= port <= 65535:
        raise ValueError(f"The backend's port must be a number from 1 to 65535, not {value!r}.")
    return port


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address means this machine; DNS is not asked.

    The only such name is ``localhost``: RFC 6761 §6.3 reserves all names under ``.localhost``, but many systems ask
    their name server for those, which may answer with any address.
    """
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_on_hub() -> bool:
    """Whether this process runs on a JupyterHub: then the user's browser is on another machine."""
    return bool(os.environ.get(_HUB_PREFIX))


def hub_url(port: int) -> str | None:
    """Where the user's browser reaches a port of this machine through JupyterHub, without a slash at the end.

    Only a path, such as ``/user/me/proxy/7862``, where the hub does not tell its address. None: there is no hub, or no
    jupyter-server-proxy, which passes requests on.
    """
    prefix = os.environ.get(_HUB_PREFIX)
    if not prefix or find_spec("jupyter_server_proxy") is None:
        return None
    return f"{(os.environ.get('JUPYTERHUB_PUBLIC_URL') or prefix).rstrip('/')}/proxy/{port}"


def check_may_send_key(address: Address, *, allow_insecure: bool = False) -> None:
    """Return if an API key may be sent to this address: encrypted, or within this machine.

    Raises:
        ConnectFailed: it would cross a network in clear text (stage ``"url"``).
    """
    if address.is_encrypted or address.is_loopback or allow_insecure:
        return
    raise ConnectFailed(
        f"The API key is not sent to {address.url}: without encryption, everybody on the way could read it. "
        f"Use {_ENCRYPTED[address.scheme]}://, or, if you trust this network, use "
        "Session(allow_insecure=True) or TellurioWebSocketClient(allow_insecure=True).",
        stage="url",
        url=address.url,
    )
