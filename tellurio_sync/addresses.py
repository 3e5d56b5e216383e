"""The addresses of the backend, and whether a key may be sent there (protocol §A.1).

Pure functions over texts and the environment; thread-safe, nothing blocks.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from .errors import ConnectFailed

_DEFAULT_PORT = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_ENCRYPTED = {"http": "https", "ws": "wss"}


@dataclass(frozen=True)
class Address:
    """One end of the backend: scheme, host and port, nothing else.

    Attributes:
        scheme: ``http``, ``https``, ``ws`` or ``wss``.
        host: name or IP address, IPv6 without brackets.
        port: 1 to 65535.
    """

    scheme: str
    host: str
    port: int

    @property
    def base_url(self) -> str:
        """Scheme and host, without port and trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}"

    @property
    def url(self) -> str:
        """Scheme, host and port; endpoints are appended to it."""
        return f"{self.base_url}:{self.port}"

    @property
    def short_url(self) -> str:
        """As :attr:`url`, without the port if it is the default of the scheme: for people and browsers."""
        return self.base_url if self.port == _DEFAULT_PORT[self.scheme] else self.url

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
        base_url: scheme and host; empty or None: ``TELLURIO_BACKEND_HTTP_BASE_URL``, else the platform.
        port: 1 to 65535; empty, 0 or None: the port inside ``base_url`` if it has one, else
            ``TELLURIO_BACKEND_HTTP_PORT``, else 443.

    Raises:
        ValueError: not an address of this form, or ``base_url`` and ``port`` name different ports.
    """
    return _address("HTTP", ("http", "https"), base_url, port)


def ws_address(base_url: str | None = None, port: int | str | None = None) -> Address:
    """The address of the WebSocket; as :func:`http_address`, with the ``TELLURIO_BACKEND_WS_...`` variables."""
    return _address("WS", ("ws", "wss"), base_url, port)


def _address(channel: str, schemes: tuple[str, str], base_url: str | None, port: int | str | None) -> Address:
    env = f"TELLURIO_BACKEND_{channel}_"
    # Protocol §A.1: an argument wins if it is truthy. An empty variable counts as unset, too.
    base = base_url or os.environ.get(f"{env}BASE_URL") or f"{schemes[1]}://platform.tellurio.ai"
    parts = _split(base, schemes)
    own_port = _port_of(parts, base)
    if own_port is None:
        wanted: int | str = port or os.environ.get(f"{env}PORT") or 443
    else:
        # A port inside the base is the port (§A.1).
        wanted = port or own_port
        if _to_port(wanted) != own_port:
            raise ValueError(f"The address {base!r} and the port {port!r} name different ports; leave one of them out.")
    assert parts.hostname is not None  # _split has seen to it
    return Address(parts.scheme, parts.hostname, _to_port(wanted))


def _split(base: str, schemes: tuple[str, str]) -> SplitResult:
    if "@" in base:
        # The text does not quote the address, because it holds the credentials.
        raise ValueError("The backend's address must not hold credentials; pass the API key separately.")
    try:
        parts = urlsplit(base.strip())
    except ValueError as exc:
        raise ValueError(f"The backend's address {base!r} cannot be read: {exc}") from exc
    if parts.scheme not in schemes:
        problem = f"must begin with {schemes[1]}:// or {schemes[0]}://"
    elif not parts.hostname:
        problem = "names no host"
    elif parts.path.strip("/") or parts.query or parts.fragment:
        problem = "must consist of scheme and host only, without a path"
    else:
        return parts
    raise ValueError(f"The backend's address {base!r} {problem}; an example: {schemes[0]}://127.0.0.1")


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
