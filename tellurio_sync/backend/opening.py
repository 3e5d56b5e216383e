"""The data and the port of a backend, which it opens before anything else.

No web framework is loaded for that, which takes longer than all the rest.  So the program that starts a backend soon
knows whether it can start, and where it will serve: what is sent there meanwhile waits in the port's queue.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..errors import BackendError
from ..leash import FILE_NAME, machine
from .options import BackendOptions
from .store import Store

logger: logging.Logger = logging.getLogger(__name__)

TOKEN_PARAMETER = "token"

_BACKLOG = 128  # connections that wait to be accepted


def new_key(options: BackendOptions) -> str:
    """The key that clients must send: the one of the options, else a new random one."""
    return options.api_key or secrets.token_urlsafe(24)


def page_token(api_key: str) -> str:
    """What opens the pages of the backend with this key, and nothing else.

    Not the key itself, because links and cookies are kept in more places than a key should be. 128 bits fit a line.
    """
    return hmac.new(api_key.encode(), b"page", hashlib.sha256).hexdigest()[:32]


def entry_path(token: str) -> str:
    """The path and query that open the pages without the key being typed."""
    return f"/?{TOKEN_PARAMETER}={token}"


class Opening:
    """The data and the port of one backend. Of the thread that made it, which may use the data, too.

    Attributes:
        options, api_key: of the backend.
        directory: where its data are.
        store: the data.
        listeners: the sockets that listen, all on the same port.
        port: that port.

    Raises:
        BackendError: the data directory or the port is in use, or cannot be used.
    """

    def __init__(self, options: BackendOptions, api_key: str) -> None:
        self.options = options
        self.api_key: str = api_key
        self._is_announced = False
        with contextlib.ExitStack() as cleanup:
            directory = options.data_dir
            if directory is None:
                directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tellurio-")))
            self.directory: Path = directory
            self.store: Store = Store(directory)
            cleanup.callback(self.store.close)
            with contextlib.suppress(OSError):  # another user's: nobody joins by it
                (directory / FILE_NAME).unlink(missing_ok=True)  # of a backend that was killed
            try:
                self.listeners: list[socket.socket] = listen_on(options.host, options.port)
            except OSError as exc:
                where = f"{options.host}:{options.port}"
                raise BackendError(f"Cannot listen on {where}: {exc.strerror or exc}. Choose another --port.") from exc
            for listener in self.listeners:
                cleanup.callback(listener.close)
            self.port: int = self.listeners[0].getsockname()[1]
            cleanup.callback(self.withdraw)
            self._cleanup = cleanup.pop_all()

    def close(self) -> None:
        """Close all of it, and remove temporary data. Idempotent."""
        self._cleanup.close()

    @property
    def entry_path(self) -> str:
        """As the function of this name."""
        return entry_path(page_token(self.api_key))

    def address(self) -> dict[str, Any]:
        """What a client needs to know, also the key: the content of the ready file."""
        host = self.options.host
        # A client cannot connect to "all addresses".
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        host = f"[{host}]" if ":" in host else host
        secure = "" if self.options.tls_cert is None else "s"
        return {
            "http_base_url": f"http{secure}://{host}",
            "http_port": self.port,
            "ws_base_url": f"ws{secure}://{host}",
            "ws_port": self.port,
            "api_key": self.api_key,
            "username": self.options.username,
            "email": self.options.email,
            "namespace": self.options.namespaces[0],
            "page_url": f"http{secure}://{host}:{self.port}{self.entry_path}",
            "pid": os.getpid(),
            "data_dir": str(self.directory.absolute()),
        }

    def announce(self) -> None:
        """Let other programs join (``tellurio_sync.leash``). Idempotent."""
        if self._is_announced:
            return
        self._is_announced = True
        try:
            write_privately(self.directory / FILE_NAME, {**self.address(), "machine": machine()})
        except BackendError as exc:
            logger.warning("! other programs cannot join this backend: %s", exc)  # a full disk, say

    def withdraw(self) -> None:
        """Let nobody join any more: before anything is closed. Idempotent."""
        if self._is_announced:
            self._is_announced = False
            with contextlib.suppress(OSError):
                (self.directory / FILE_NAME).unlink(missing_ok=True)


def listen_on(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of the host, on the same port.

    Raises:
        OSError: that is not possible.
    """
    listeners: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            # Without --port, all addresses get the port that the first one got.
            listeners.append(_listen(family, (address[0], port, *address[2:])))
            port = listeners[0].getsockname()[1]
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there, it would take the port from the program that uses it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def write_privately(path: Path, address: dict[str, Any]) -> None:
    """Write the address so that no reader sees half of it, and no other user can read the key.

    Raises:
        BackendError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # of a process that had this id, and was killed
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(address, file)
        os.replace(temporary, path)
    except OSError as exc:
        raise BackendError(f"The file {path} cannot be written: {exc}") from exc
