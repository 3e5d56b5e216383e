"""A login to a Tellurio backend: the key, the connection and the REST API. ``session`` has one.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_rest``, ``_account``, ``_backend``, ``client`` | a login | any thread | ``_lock``; the client last | an assert |
| ``_pending`` | a login, the first call after it | any thread | ``_lock`` to write | asserts |
| ``mode`` | a login | any thread | one store | – |
| ``http``, ``ws`` | a login that names another server | any thread; together: under ``_lock`` | ``_lock`` | an assert |

``_lock`` is held while logging in and connecting.

A login to a local backend that it has just started does not wait until that serves: who is logged in, and the id of the
session, are known.  Then the connection is pending: the first call makes it, on its own thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from uuid import uuid4

from ..client import TellurioWebSocketClient
from ..errors import InvalidAPIKeyError
from ..ownership import is_held
from ..secret import Secret, hidden

if TYPE_CHECKING:
    from ..local import LocalBackend
    from ..studio.auth import Account
    from ..studio.rest import StudioRest

T = TypeVar("T")

MODE_VARIABLE = "TELLURIO_MODE"
Mode = Literal["online", "local", "offline", "auto"]
"""Where runs go; see ``Session.login``."""

_MODES = ("online", "local", "offline", "auto")

Address = tuple["str | None", "int | str | None"]
"""Base URL and port; None: the environment's (protocol §A.1)."""

Places = tuple[Address, Address]
"""Where a server's REST API and its WebSocket are."""


class _Pending(NamedTuple):
    """A connection that the first call makes.

    Attributes:
        session_id: that the server's session is to have; None: any, as in a forked child, whose session is another one.
    """

    backend: LocalBackend
    ws: Address
    session_id: str | None


class Login:
    """The login of one session. Thread-safe.

    Args:
        http, ws: the addresses of the backend, until a login names others.
        rest_options: keyword arguments of ``StudioRest``.
        make_client: makes a client for this address, not yet connected.
        on_login: called at the end of each login with the client, which is connected, and the id of its session.
        mode_of_program: gives the mode where no login has named one; None: the environment does.

    Attributes:
        http, ws: as above.
        mode: of the last login; None: it named none.
        client: of the last login, None before.
    """

    def __init__(
        self,
        http: Address,
        ws: Address,
        *,
        rest_options: dict[str, Any],
        make_client: Callable[[Address], TellurioWebSocketClient],
        on_login: Callable[[TellurioWebSocketClient, str], None],
        mode_of_program: Callable[[], str | None],
    ) -> None:
        self.http = http
        self.ws = ws
        self.mode: str | None = None
        self.client: TellurioWebSocketClient | None = None
        self._rest_options = rest_options
        self._make_client = make_client
        self._on_login = on_login
        self._mode_of_program = mode_of_program
        self._rest: StudioRest | None = None
        self._account: Account | None = None
        self._backend: LocalBackend | None = None
        self._pending: _Pending | None = None
        self._lock = threading.RLock()

    def renew_after_fork(self) -> None:
        """In a forked child: a thread of the parent may have held the lock."""
        self._lock = threading.RLock()
        if self._pending is not None:
            self._pending = self._pending._replace(session_id=None)

    def log_in(
        self,
        api_key: str | None = None,
        relogin: bool = False,
        *,
        mode: Mode | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        ephemeral: bool = False,
        base_url: str | None = None,
    ) -> dict[str, str]:
        """See ``Session.login``. Blocks."""
        api_key = hidden(api_key)  # from here on, no frame of ours shows it
        chosen = self.chosen_mode(mode)
        places = None
        if base_url is not None:
            if mode is None and chosen == "local":
                chosen = mode = "online"  # said by the argument, which wins over the environment and an earlier login
            places = self._places(base_url, chosen)
        if chosen == "local":
            with self._lock:
                self.mode = mode or self.mode
                return self._login_local(data_dir, ephemeral)
        if data_dir is not None:
            raise ValueError("data_dir is for mode='local': the online backend keeps the data itself.")
        if ephemeral:
            raise ValueError("ephemeral is for mode='local': the online backend keeps the data itself.")
        if chosen == "offline":
            self.mode = mode or self.mode
            return {"email": "", "username": "", "session_id": ""}
        answer = self._login_online(api_key, relogin, places)
        self.mode = mode or self.mode
        return answer

    def chosen_mode(self, mode: str | None) -> str:
        """This mode; None: as in the last login, else the program's, else the environment's.

        Raises:
            ValueError: there is no such mode.
        """
        chosen = mode or self.mode or self._mode_of_program() or os.environ.get(MODE_VARIABLE) or "online"
        if chosen not in _MODES:
            raise ValueError(f"The mode must be 'online', 'local', 'offline' or 'auto', not {chosen!r}.")
        return chosen

    def _places(self, base_url: str, mode: str) -> Places:
        """The addresses of this server, which are those of this session from the first login on."""
        from ..addresses import of_one_server

        if mode == "local":
            raise ValueError("base_url is the address of a server that runs: with mode='local' one is started.")
        http, ws = ((address.url, None) for address in of_one_server(base_url))
        with self._lock:
            if self.client is None:
                # Also if this login comes to nothing: what is kept for a server that is away is for this one.
                self._move_locked((http, ws))
        return http, ws

    def _move_locked(self, places: Places) -> None:
        assert is_held(self._lock)
        self.http, self.ws = places

    def _login_online(self, api_key: str | None, relogin: bool, places: Places | None) -> dict[str, str]:
        from ..addresses import http_address
        from ..studio.auth import ask_for_key, find_api_key, remember
        from ..studio.interactive import can_ask

        with self._lock:
            http, ws = places or (self.http, self.ws)
        server = http_address(*http).url
        # Without the lock: a keyring may take its time.
        try:
            found, source = find_api_key(api_key, relogin, server)
        except InvalidAPIKeyError:
            raise
        except ValueError:
            if not can_ask():
                raise
            found, source = find_api_key(ask_for_key(server), relogin, server)
        key = Secret(found)
        del found
        with self._lock:
            self._backend, previous = None, self._backend
            try:
                answer = self._connect(key, http, ws, relogin)
            except BaseException:
                self._backend = previous  # the login before this one still holds
                raise
            self._move_locked((http, ws))
        remember(key, answer["username"], source, server)
        return answer

    def _login_local(self, data_dir: str | os.PathLike[str] | None, ephemeral: bool) -> dict[str, str]:
        from ..local import backend_of_this_user, default_local_backend

        is_first = self.client is None and self._pending is None and _has_own_threads()
        options: dict[str, Any] = {"namespaces": ["local", "*"], "meanwhile": _load, "waits": not is_first}
        if data_dir is not None:
            if ephemeral:
                raise ValueError(
                    "data_dir says where runs are kept, ephemeral=True that they are not: give one of them."
                )
            backend = default_local_backend(data_dir=data_dir, **options)
        else:
            backend = backend_of_this_user(ephemeral=ephemeral, **options)
        self._backend = backend
        http = (backend.http_base_url, backend.http_port)
        ws = (backend.ws_base_url, backend.ws_port)
        if is_first and not backend.is_serving:
            return self._connect_later(backend, http, ws)
        backend.wait_until_serving()
        return self._connect(Secret(backend.api_key), http, ws, relogin=False)

    def _connect_later(self, backend: LocalBackend, http: Address, ws: Address) -> dict[str, str]:
        from ..studio.auth import Account
        from ..studio.rest import StudioRest

        assert is_held(self._lock)
        key = Secret(backend.api_key)
        self._rest = StudioRest(*http, api_key=key, until_serving=backend.wait_until_serving, **self._rest_options)
        self._account = Account(backend.email, backend.username)
        session_id = str(uuid4())
        self._pending = _Pending(backend, ws, session_id)
        return {"email": backend.email, "username": backend.username, "session_id": session_id}

    def _connect_pending(self) -> None:
        """Make the connection that is pending. Blocks; raises as a login."""
        assert is_held(self._lock)
        pending = self._pending
        assert pending is not None
        pending.backend.wait_until_serving()
        if self._pending is not pending:
            return  # a signal handler has made a call here, and so the connection
        pending.backend.check_is_running()  # else it would be dialled again and again
        client = self._make_client(pending.ws)
        if pending.session_id is not None:
            client.propose_session(pending.session_id)
        try:
            greeting = client.connect(Secret(pending.backend.api_key))
            if self._pending is not pending:
                client.close()  # as above
                return
        except BaseException:
            client.close()
            raise
        self._pending, self.client = None, client
        self._on_login(client, greeting["session_id"])

    def _connect(self, key: Secret, http: Address, ws: Address, relogin: bool) -> dict[str, str]:
        from ..studio.auth import verify
        from ..studio.rest import StudioRest

        rest = StudioRest(*http, api_key=key, **self._rest_options)
        client = self._make_client(ws)
        if self.client is not None:
            client.go_on_with(self.client)
        try:
            account = verify(rest, relogin)
            greeting = client.connect(key)
        except BaseException:
            client.close()
            rest.close()
            raise
        self._replace_locked(client, rest, account)
        self._on_login(client, greeting["session_id"])
        return {"email": account.email, "username": account.username, **greeting}

    def _replace_locked(self, client: TellurioWebSocketClient, rest: StudioRest, account: Account) -> None:
        assert is_held(self._lock)
        previous, previous_rest = self.client, self._rest
        # The client last: a thread that sees it finds the others.
        self._rest, self._account = rest, account
        self._pending, self.client = None, client
        if previous is not None:
            previous.close()
        if previous_rest is not None:
            previous_rest.close()

    @property
    def rest_if_any(self) -> StudioRest:
        """The REST API; before a login one without a key, which nothing is sent with."""
        from ..studio.rest import StudioRest

        return self._rest or StudioRest(*self.http, **self._rest_options)

    @property
    def username(self) -> str | None:
        """Of the account; None before a login."""
        return None if self._account is None else self._account.username

    def ensure(self) -> TellurioWebSocketClient:
        """The client; logs in and connects first, if necessary. Then blocks, and raises as ``Session.login``."""
        client = self.client
        if client is None:
            with self._lock:
                if self.client is None and self._pending is None:
                    self.log_in()
                if self.client is None and self._pending is not None:
                    self._connect_pending()
                client = self.client
            assert client is not None
        return client

    def close(self) -> None:
        """See ``Session.close``. Blocks at most about 1 s."""
        with self._lock:
            pending, self._pending = self._pending, None
            if pending is not None:
                self.client = self._make_client(pending.ws)  # as if it had been connected, and is closed now
            client, rest = self.client, self._rest
        if client is not None:
            client.close()
        if rest is not None:
            rest.close()

    @property
    def is_done(self) -> bool:
        """Whether a login has succeeded; the connection may be pending."""
        return self.client is not None or self._pending is not None

    @property
    def is_pending(self) -> bool:
        """Whether the first call has yet to make the connection."""
        return self._pending is not None

    def while_pending(self, do: Callable[[], T]) -> T | None:
        """What this returns, which is done before the connection is made; None: it is made already."""
        with self._lock:
            return do() if self._pending is not None else None

    def _ensure_done(self) -> None:
        if self._pending is None:
            self.ensure()

    @property
    def rest(self) -> StudioRest:
        """The REST client. Logs in first, if necessary."""
        self._ensure_done()
        assert self._rest is not None
        return self._rest

    @property
    def account(self) -> Account:
        """The user that the key belongs to. Logs in first, if necessary."""
        self._ensure_done()
        assert self._account is not None
        return self._account

    @property
    def backend(self) -> LocalBackend | None:
        """The local backend; None online."""
        return self._backend


def _has_own_threads() -> bool:
    """False: a library replaces threads, perhaps; whether that may be is told by connecting."""
    return not {"gevent", "eventlet"} & sys.modules.keys()


def _load() -> None:
    """Load what logging in and the first run need, on the thread of the caller: while the backend's process starts."""
    for module in ("multiprocessing.process", "tellurio_sync.studio.http_session", "tellurio_sync.studio.runs"):
        import_module(module)
