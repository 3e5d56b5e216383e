"""The default session, and the functions of the package that use the current one.

The functions ``login``, ``init``, ``log``, ``finish`` and every Variable made without a session use the current one:
the one whose ``with`` block the thread is in, else the default.

| State | Written by | Guarded by |
|---|---|---|
| the default session | first use | ``_default_lock``, held for the constructor only |
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import forked
from ..model.session_link import current_link, set_default_link
from ..secret import hidden
from .session import _NO_VALUE, Session

if TYPE_CHECKING:
    from ..studio.runs import Run
    from ..studio.sync import SyncResult

_default: Session | None = None
_default_lock = threading.Lock()


def default_session() -> Session:
    """The default session of this process, made at its first use. Thread-safe; starts nothing."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                session = Session()
                session.sets_active_run = True
                _default = session
    return _default


def current_session() -> Session:
    """The session whose ``with`` block this thread is in, else the default one."""
    link = current_link()
    assert isinstance(link, Session)
    return link


def login(
    api_key: str | None = None,
    relogin: bool = False,
    *,
    mode: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> dict[str, str]:
    """Log in and connect: see :meth:`Session.login`."""
    api_key = hidden(api_key)  # from here on, no frame of ours shows it
    return current_session().login(api_key, relogin, mode=mode, data_dir=data_dir)


def init(
    namespace_slug: str | None = None,
    project_display_name: str = "Default",
    name: str | None = None,
    description: str | None = None,
    status: str = "RUNNING",
    *,
    config: Any = None,
    resume: str | None = None,
    mode: str | None = None,
    strict: bool = False,
) -> Run:
    """Start a run: see :meth:`Session.init`."""
    return current_session().init(
        *(namespace_slug, project_display_name, name, description, status),
        config=config,
        resume=resume,
        mode=mode,
        strict=strict,
    )


def log(
    name: str | Mapping[str, Any], value: Any = _NO_VALUE, step: int | None = None, *, strict: bool | None = None
) -> None:
    """Add one value to a metric of the active run, or several from a dict: see :meth:`Run.log`."""
    current_session().log(name, value, step, strict=strict)


def finish(status: str = "COMPLETED") -> None:
    """End the active run: see :meth:`Session.finish`."""
    current_session().finish(status)


def runs(namespace_slug: str | None = None, project_display_name: str = "Default") -> list[Run]:
    """The runs of a project: see :meth:`Session.runs`."""
    return current_session().runs(namespace_slug, project_display_name)


def sync(
    path: str | os.PathLike[str] | None = None, *, dry_run: bool = False, anyway: bool = False
) -> list[SyncResult]:
    """Send the runs that were left on this machine: see :meth:`Session.sync`."""
    return current_session().sync(path, dry_run=dry_run, anyway=anyway)


def whoami() -> dict[str, str]:
    """The account that is logged in, and where: see :meth:`Session.whoami`."""
    return current_session().whoami()


def close() -> None:
    """Disconnect: see :meth:`Session.close`."""
    current_session().close()


set_default_link(default_session)


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.Lock()


forked.renew_by(_after_fork_in_child)
