"""A local backend for tests: a separate process, with a scripted language model, behind a proxy that makes faults."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from ..deadlines import check_timeout
from ..local import LocalBackend, start_local_backend
from ..session import Session
from .fault_proxy import FaultProxy
from .language_model import ScriptedModel

_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class ScriptedBackend:
    """A running local backend behind a proxy that can fail. Thread-safe, except for ``restart`` and ``stop``.

    Clients see one address for its whole life, also across :meth:`restart`. As a context manager it stops at the end.

    Attributes:
        lm: the language model of every ``OpenAI`` that names no ``base_url``; ``lm.answers(...)`` writes its script.
        http_base_url, ws_base_url: scheme and host, without port.
        port: the port of both.
        data_dir: the directory of projects, runs and metrics.
        api_key, username, namespace: for ``login`` and ``init``.
        direct_port: the port of the backend itself, behind the proxy; ``restart`` changes it.

    Args:
        data_dir: where projects, runs and metrics are kept; None: a temporary directory, removed at its end.
        options: of the backend, as for ``start_local_backend``.

    Raises:
        BackendError: the extra ``local`` is not installed, or the backend did not start.
    """

    http_base_url = "http://127.0.0.1"
    ws_base_url = "ws://127.0.0.1"

    def __init__(self, data_dir: str | os.PathLike[str] | None = None, **options: Any) -> None:
        self._is_own_dir = data_dir is None
        self.data_dir: Path = Path(tempfile.mkdtemp(prefix="tellurio-sync-") if data_dir is None else data_dir)
        self.lm: ScriptedModel = ScriptedModel()
        self._options = {
            "api_key": secrets.token_urlsafe(24),
            "lm_base_url": self.lm.base_url,
            "lm_api_key": "scripted",
            **options,
            "data_dir": self.data_dir,
        }
        try:
            self._process = self._start()
        except BaseException:
            self._clean_up()
            raise
        self._proxy = FaultProxy(self._process.http_port)
        self.port: int = self._proxy.port
        self.api_key: str = self._process.api_key
        self.username: str = self._process.username
        self.namespace: str = self._process.namespace

    def _start(self) -> LocalBackend:
        return start_local_backend(**self._options)

    def __enter__(self) -> ScriptedBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"ScriptedBackend(port {self.port}, {self._process!r})"

    @property
    def direct_port(self) -> int:
        return self._process.http_port

    @property
    def pid(self) -> int:
        """The id of the backend's process."""
        return self._process.pid

    def session(self, **options: Any) -> Session:
        """A session at this backend's address that is not logged in; ``options`` as for ``Session``."""
        return Session(
            http_base_url=self.http_base_url,
            http_port=self.port,
            ws_base_url=self.ws_base_url,
            ws_port=self.port,
            **options,
        )

    def environment(self) -> dict[str, str]:
        """The environment variables by which a program finds this backend and its language model, with their keys."""
        return {
            "TELLURIO_BACKEND_HTTP_BASE_URL": self.http_base_url,
            "TELLURIO_BACKEND_HTTP_PORT": str(self.port),
            "TELLURIO_BACKEND_WS_BASE_URL": self.ws_base_url,
            "TELLURIO_BACKEND_WS_PORT": str(self.port),
            "TELLURIO_API_KEY": self.api_key,
            # These are for code that asks OpenAI directly: it must not reach a server outside.
            "OPENAI_BASE_URL": self.lm.base_url,
            "OPENAI_API_KEY": "scripted",
            "ALLOW_API_KEY_SHARING": "true",
        }

    # --- faults -----------------------------------------------------------------------------------

    def drop_connections(self) -> int:
        """Reset every connection at once; return how many there were. New connections are accepted."""
        return self._proxy.drop_connections()

    def delay(self, seconds: float) -> Delay:
        """Delay everything, in each direction, by ``seconds`` >= 0 from now on; 0 ends the delay.

        As ``with backend.delay(0.5):`` the delay ends with the block.
        """
        if seconds:
            check_timeout(seconds, "seconds")
        self._proxy.set_delay(seconds)
        return Delay(self._proxy)

    def restart(self) -> None:
        """Kill the backend's process without warning and start another one on the same data. Blocks.

        Projects, runs and metrics are kept, as is the address; the objects of sessions are lost.

        Raises:
            BackendError: it did not start.
        """
        os.kill(self._process.pid, _KILL)
        self._process.stop()
        self._proxy.drop_connections()
        self._process = self._start()
        self._proxy.set_target(self._process.http_port)

    def stop(self) -> None:
        """Stop the backend, its proxy and its language model. Idempotent. Blocks for a few seconds at most."""
        self._process.stop()
        self._proxy.close()
        self._clean_up()

    def _clean_up(self) -> None:
        self.lm.close()
        if self._is_own_dir:
            shutil.rmtree(self.data_dir, ignore_errors=True)


class Delay:
    """A delay that is in force; as a context manager it ends with the block."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        self._proxy.set_delay(0)
