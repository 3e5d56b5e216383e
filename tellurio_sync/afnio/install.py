"""Installs the client of this package under afnio, and removes it again.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_installation`` | ``install``, ``uninstall`` | the same | ``_lock`` | – |
"""

from __future__ import annotations

import importlib
import logging
import threading
from types import TracebackType
from typing import Any

from ..errors import UsageError
from .bridge import PushClient, make_bridge_class
from .metrics import Metrics
from .patches import Patches
from .pushes import Pushes
from .suppression import is_variable_notify_suppressed, suppress_variable_notifications
from .trampoline import drive

log: logging.Logger = logging.getLogger("tellurio_sync.afnio")

KNOWN = ("0.3.",)
"""Beginnings of the versions of afnio that this is known to work with."""

_PACKAGE = "afnio"

_lock = threading.Lock()
_installation: _Installation | None = None


class AfnioVersionError(UsageError):
    """afnio is not installed, or a version that this package does not know."""


class Installed:
    """What ``install`` gives: a context manager that uninstalls at its end, if it is used as one."""

    def __enter__(self) -> Installed:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        uninstall()


def install(*, metrics: bool = False, **options: Any) -> Installed:
    """Replace afnio's default WebSocket client by the one of this package. Imports afnio.

    Idempotent. Blocks only if afnio is connected already: then a connection of this package is opened with the same
    key, and afnio's own is closed. If it cannot be opened, afnio keeps its own.

    Args:
        metrics: let ``run.log`` and ``log`` of afnio keep a value on this machine and return; a thread sends it on. So
            logging never waits for the network, nor fails because of it; ``run.finish`` waits for what is missing. A
            value that has no JSON form costs a warning instead of an error. Where afnio is installed under already,
            this is added.
        options: further arguments of ``TellurioWebSocketClient``, such as ``hard_timeout`` or ``ping_interval``.

    Returns:
        A context manager, which uninstalls at the end of its block. Without a block it stays installed.

    Raises:
        AfnioVersionError: afnio is not installed, or this version of it is not known.
        TypeError, ValueError: options that the client does not take, when it is made.
        As ``TellurioWebSocketClient.connect``, if afnio was connected.
    """
    global _installation
    with _lock:
        if _installation is None:
            check_version()
            _installation = _Installation(options)
        if metrics:
            _installation.take_metrics()
    return Installed()


def uninstall() -> None:
    """Put everything back as it was, and close the connection of this package. Idempotent.

    With ``metrics`` it sends what was logged before, as long as that goes on.

    If it was open, afnio's own client is connected with the same key, for which this blocks. If that fails, there is a
    warning in the log, and afnio connects at its next ``login``.
    """
    global _installation
    with _lock:
        installation, _installation = _installation, None
    if installation is not None:
        installation.undo()


def is_installed() -> bool:
    """Whether afnio runs over this package now."""
    return _installation is not None


def check_version() -> str:
    """The version of afnio.

    Raises:
        AfnioVersionError: it is not installed, or not one of those that are known to work.
    """
    from importlib import metadata

    try:
        version = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise AfnioVersionError("afnio is not installed: pip install 'tellurio_sync[afnio]'.") from None
    if not version.startswith(KNOWN):
        known = ", ".join(f"{start}x" for start in KNOWN)
        raise AfnioVersionError(
            f"afnio {version} is not known to work over tellurio_sync, which knows {known}: install one of these, or "
            "a newer tellurio_sync."
        )
    return version


class _Installation:
    """Everything that is replaced in afnio."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._patches = Patches()
        self._pushes = Pushes()
        self._metrics: Metrics | None = None
        self._manager: Any = importlib.import_module("afnio.tellurio._client_manager")
        try:
            self._replace(options)
        except BaseException:
            self.undo()
            raise

    def _replace(self, options: dict[str, Any]) -> None:
        patches, manager = self._patches, self._manager
        registry = importlib.import_module("afnio.tellurio._variable_registry")
        loop = importlib.import_module("afnio.tellurio._eventloop")._event_loop_thread
        for name, ours in (
            ("suppress_variable_notifications", suppress_variable_notifications),
            ("is_variable_notify_suppressed", is_variable_notify_suppressed),
        ):
            patches.replace_everywhere(_PACKAGE, getattr(registry, name), ours)
        self._replace_waits(registry)

        original = manager.TellurioWebSocketClient
        bridge = make_bridge_class(original, self._pushes, **options)
        codes = {bridge.connect.__code__, bridge.call.__code__, bridge.close.__code__}
        login = importlib.import_module("afnio.tellurio._auth")._login.__code__
        run_in_loop = loop.run

        def run(coroutine: Any) -> Any:
            """Run on the caller's thread what never suspends, and everything else in afnio's loop."""
            code = getattr(coroutine, "cr_code", None)
            is_ours = code in codes or (
                code is login and isinstance(coroutine.cr_frame.f_locals.get("ws_client"), bridge)
            )
            return drive(coroutine) if is_ours else run_in_loop(coroutine)

        former = manager._default_ws_client
        patches.set(manager, "TellurioWebSocketClient", bridge)
        if former is not None:
            ours = bridge(former.base_url, former.port, former.default_timeout)
            was_open = former.connection is not None
            # Ours first: if it cannot be opened, the program still has its own.
            if was_open:
                drive(ours.connect(former.api_key))
            patches.set(manager, "_default_ws_client", ours)
            if was_open:
                run_in_loop(former.close())
        patches.set(loop, "run", run)

    def _replace_waits(self, registry: Any) -> None:
        pushes = self._pushes
        variable_class = importlib.import_module("afnio._variable").Variable
        optimizer = importlib.import_module("afnio.optim.optimizer")

        def wait_for_pending(variable: Any, attr_name: str, timeout: float = 3, interval: float = 0.01) -> None:
            if not pushes.wait(lambda: not getattr(variable, attr_name), timeout):
                raise RuntimeError(
                    f"Timeout waiting for {attr_name} to be cleared for variable_id={variable.variable_id}"
                )

        def wait_for_variable(variable_id: str, timeout: float = 3, interval: float = 0.01) -> Any:
            if not pushes.wait(lambda: registry.get_variable(variable_id) is not None, timeout):
                raise RuntimeError(f"Timeout waiting for variable with variable_id={variable_id} to be registered.")
            return registry.get_variable(variable_id)

        self._patches.set(variable_class, "_wait_for_pending", wait_for_pending)
        self._patches.replace_everywhere(_PACKAGE, optimizer._wait_for_variable, wait_for_variable)

    def take_metrics(self) -> None:
        """Let what afnio's runs log go through the logging of this package. Idempotent."""
        if self._metrics is None:
            self._metrics = Metrics()
            self._metrics.install(self._patches)

    def undo(self) -> None:
        """Put everything back."""
        if self._metrics is not None:
            self._metrics.undo()
        current = self._manager._default_ws_client
        self._patches.undo()
        if isinstance(getattr(current, "client", None), PushClient):
            was_open = current.connection is not None
            current.client.close()
            # The next use makes one of afnio's own.
            if self._manager._default_ws_client is current:
                self._manager._default_ws_client = None
            if was_open:
                self._connect_own(current)

    def _connect_own(self, ours: Any) -> None:
        """Let afnio go on with a connection of its own, in the place of ours."""
        manager = self._manager
        own = manager._default_ws_client
        if own is None:
            own = manager.TellurioWebSocketClient(ours.base_url, ours.port, ours.default_timeout)
        run_in_loop = importlib.import_module("afnio.tellurio._eventloop")._event_loop_thread.run
        try:
            run_in_loop(own.connect(api_key=ours.api_key, retries=1))
        except Exception as exc:  # noqa: BLE001 - whatever afnio raises: everything else is put back
            log.warning("afnio could not connect again (%s); its next login does that.", type(exc).__name__)
        else:
            manager._default_ws_client = own
