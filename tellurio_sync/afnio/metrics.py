"""Metrics of afnio's runs, through the logging of this package, which never waits for the server.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_logs``, by a run's id | threads that log, ``finish``, ``undo`` | the same | ``_lock``; look: one C call | – |
"""

from __future__ import annotations

import atexit
import importlib
import logging
import threading
from typing import Any

from ..studio.rest import StudioRest
from ..studio.run_log import PATIENCE, RunLog
from .patches import Patches

log: logging.Logger = logging.getLogger("tellurio_sync.afnio")

Address = tuple[Any, Any, Any]
"""Base URL, port and key."""


class Metrics:
    """Takes what afnio's runs log, once ``install`` was called, until ``undo``. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[str, tuple[Any, Address, RunLog]] = {}  # the client that made each, None: afnio's default
        self._manager: Any = importlib.import_module("afnio.tellurio._client_manager")

    def install(self, patches: Patches) -> None:
        """Replace how afnio's runs log and finish."""
        run_class = importlib.import_module("afnio.tellurio.run").Run
        original_log, original_finish = run_class.log, run_class.finish

        def log(run: Any, name: str, value: Any, step: int | None = None, client: Any = None) -> None:
            """As afnio's, without waiting. A client of the program's own says where to; afnio's way, if it does not."""
            run_log = self._log_of(run, client)
            if run_log is None:
                original_log(run, name=name, value=value, step=step, client=client)
            else:
                run_log.log(name, value, step)

        def finish(run: Any, *args: Any, **kwargs: Any) -> Any:
            """As afnio's; what was logged is sent before."""
            self.send(run.uuid)
            return original_finish(run, *args, **kwargs)

        patches.set(run_class, "log", log)
        patches.set(run_class, "finish", finish)

    def send(self, run_uuid: str) -> None:
        """Wait until the server has what the run has logged, as long as that goes on. Then it is closed."""
        with self._lock:
            found = self._logs.pop(run_uuid, None)
        if found is None:
            return
        run_log = found[-1]
        if not run_log.flush(float("inf"), patience=PATIENCE):
            log.warning(
                "What is missing at the server of the metrics of a run is kept in %s. `%s` sends it. (%s)",
                *(run_log.folder, run_log.send_command, run_log.last_error or "no answer yet"),
            )
        run_log.close()

    def undo(self) -> None:
        """Send what there is; runs that log from now on do it in afnio's way again, once its names are put back."""
        for run_uuid in list(self._logs):
            self.send(run_uuid)

    def _log_of(self, run: Any, client: Any) -> RunLog | None:
        """What takes the values of this run; None: the client sends to another address than that, or says none."""
        of_client, _, run_log = self._logs.get(run.uuid, (None, None, None))
        if run_log is not None and client is of_client:
            return run_log
        # Without the lock: afnio may have to log in for this, and other runs go on meanwhile.
        wanted = _address_of(self._manager.get_default_clients()[0] if client is None else client)
        with self._lock:
            _, address, run_log = self._logs.get(run.uuid, (None, None, None))
            if run_log is None and wanted is not None:
                run_log, address = _made(run, wanted), wanted
                self._logs[run.uuid] = client, address, run_log
                # Registered after the run was made: so it is called before what afnio does for it at the exit.
                atexit.register(self.send, run.uuid)
            return run_log if wanted == address else None


def _made(run: Any, address: Address) -> RunLog:
    base_url, port, api_key = address
    rest = StudioRest(base_url, port, api_key=api_key)
    about = {
        "uuid": run.uuid,
        "remote_uuid": run.uuid,
        "namespace": run.organization.slug,
        "slug": run.project.slug,
        "project": run.project.display_name,
        "name": run.name,
        "description": run.description,
        "server": rest.url,
    }
    return RunLog(about, rest)


def _address_of(client: Any) -> Address | None:
    """Where a client of afnio's sends to, and its key; None: it does not say, as a stand-in of the program's may."""
    address = tuple(getattr(client, name, None) for name in ("base_url", "port", "api_key"))
    return None if None in address else address  # type: ignore[return-value]
