"""A login to a Tellurio backend: the key, the connection and the REST API. ``session`` adds objects and runs."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ..client import TellurioWebSocketClient
from ..errors import NotConnected
from ..secret import Secret, hidden

if TYPE_CHECKING:
    from ..local import LocalBackend
    from ..studio.auth import Account
    from ..studio.rest import StudioRest

MODE_VARIABLE = "TELLURIO_MODE"
_MODES = ("online", "local")

Address = tuple["str | None", "int | str | None"]
"""Base URL and port; None: the environment's (protocol §A.1)."""


class Login:
    """The login part of a session. Thread-safe: login and close take ``_login_lock``.

    Args:
        http, ws: the addresses of the backend.
        allow_insecure: permit a key to cross a network unencrypted.
    """

    _login_lock: threading.RLock

    def __init__(self, http: Address, ws: Address, *, allow_insecure: bool) -> None:
        self._http = http
        self._ws = ws
        self._allow_insecure = allow_insecure
        self._mode: str | None = None  # of the last login
        self._client: TellurioWebSocketClient | None = None
        self._rest: StudioRest | None = None
        self._account: Account | None = None
        self._backend: LocalBackend | None = None

    # --- for the session ---------------------------------------------------------------------------------

    def _make_client(self, ws: Address) -> TellurioWebSocketClient:
        """A new client, not yet connected."""
        raise NotImplementedError

    def _connected(self, client: TellurioWebSocketClient, session_id: str) -> None:
        """The login has succeeded, and ``client`` is the one to use."""
        raise NotImplementedError

    def check_may_wait(self) -> None:
        """Return if this thread may wait for the server."""
        raise NotImplementedError

    # --- login ---------------------------------------------------------------------------------------

    def login(
        self,
        api_key: str | None = None,
        relogin: bool = False,
        *,
        mode: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> dict[str, str]:
        """Log in and connect (protocol §A.6, §J.2). Blocks. Objects made before stay valid.

        Args:
            api_key: None: ``TELLURIO_API_KEY``, else the key stored by an earlier login (extra ``keyring``).
            relogin: do not use a stored key.
            mode: ``"online"``; or ``"local"``: a backend of your own, started in its own process, which needs no
                account and no network, and ends with this process (extra ``local``). None: as in the last login, else
                ``TELLURIO_MODE``, else ``"online"``.
            data_dir: for ``mode="local"``: where it keeps projects, runs and metrics; None: they are lost at its end.

        Returns:
            ``{"email", "username", "session_id"}``

        Raises:
            InvalidAPIKeyError: the backend refused the key.
            ValueError: there is no key, or an unknown mode.
            HttpUnreachable, ConnectFailed: the backend could not be reached.
            BackendError: the local backend could not be started.
        """
        api_key = hidden(api_key)  # from here on, no frame of ours shows it
        chosen = mode or self._mode or os.environ.get(MODE_VARIABLE) or "online"
        if chosen not in _MODES:
            raise ValueError(f"The mode must be 'online' or 'local', not {chosen!r}.")
        with self._login_lock:
            self._mode = mode or self._mode
            if chosen == "local":
                return self._login_local(data_dir)
            if data_dir is not None:
                raise ValueError("data_dir is for mode='local': the online backend keeps the data itself.")
            return self._login_online(api_key, relogin)

    def _login_online(self, api_key: str | None, relogin: bool) -> dict[str, str]:
        from ..studio.auth import find_api_key, remember

        found, source = find_api_key(api_key, relogin)
        key = Secret(found)
        del found
        answer = self._connect(key, self._http, self._ws, relogin)
        remember(key, answer["username"], source)
        return answer

    def _login_local(self, data_dir: str | os.PathLike[str] | None) -> dict[str, str]:
        from ..local import default_local_backend

        self._backend = backend = default_local_backend(data_dir=data_dir, namespaces=["local", "*"])
        http = (backend.http_base_url, backend.http_port)
        ws = (backend.ws_base_url, backend.ws_port)
        return self._connect(Secret(backend.api_key), http, ws, relogin=False)

    def _connect(self, key: Secret, http: Address, ws: Address, relogin: bool) -> dict[str, str]:
        from ..studio.auth import verify
        from ..studio.rest import StudioRest

        rest = StudioRest(*http, api_key=key, allow_insecure=self._allow_insecure)
        client = self._make_client(ws)
        if self._client is not None:
            client.go_on_with(self._client)
        try:
            account = verify(rest, relogin)
            greeting = client.connect(key)
        except BaseException:
            client.close()
            rest.close()
            raise
        previous, previous_rest = self._client, self._rest
        self._client, self._rest, self._account = client, rest, account
        if previous is not None:
            previous.close()
        if previous_rest is not None:
            previous_rest.close()
        self._connected(client, greeting["session_id"])
        return {"email": account.email, "username": account.username, **greeting}

    def _ensure_login(self) -> None:
        if self._client is None:
            self.check_may_wait()
            with self._login_lock:
                if self._client is None:
                    self.login()

    def close(self) -> None:
        """Disconnect. Idempotent; blocks at most about 1 s. ``login`` works again afterwards.

        An unfinished run stays as it is: finish it first. A local backend keeps running until the process ends, because
        other sessions may use it.
        """
        with self._login_lock:
            client, rest = self._client, self._rest
        if client is not None:
            client.close()
        if rest is not None:
            rest.close()

    @property
    def is_logged_in(self) -> bool:
        """Whether ``login`` has succeeded."""
        return self._client is not None

    @property
    def client(self) -> TellurioWebSocketClient:
        """The connection.

        Raises:
            NotConnected: before ``login``.
        """
        if self._client is None:
            raise NotConnected("WebSocket is not connected: call login() first.")
        return self._client

    @property
    def rest(self) -> StudioRest:
        """The REST API, with this session's key. Logs in first, if necessary.

        Raises:
            As ``login``.
        """
        self._ensure_login()
        assert self._rest is not None
        return self._rest

    @property
    def page_url(self) -> str | None:
        """The address of the local backend's page; None online. It holds a token: keep it secret."""
        return (self._backend.page_url or None) if self._backend is not None else None

    @property
    def namespace(self) -> str | None:
        """The namespace of the local backend; None online."""
        return None if self._backend is None else self._backend.namespace
