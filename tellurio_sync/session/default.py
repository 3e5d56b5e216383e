"""The default session, and the functions of the package that use the current one.

The functions ``login``, ``init``, ``log``, ``finish`` and every Variable made without a session use the current one:
the one whose ``with`` block the thread is in, else the default.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the default session | the first use | any thread | ``_default_lock``; one store that keeps an earlier one | – |
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import forked
from ..errors import UsageError
from ..model.session_link import current_link, set_default_link
from ..secret import hidden
from .session import _NO_VALUE, Session, open_blocks

if TYPE_CHECKING:
    from ..studio.runs import Run
    from ..studio.sync import SyncResult
    from .login import Mode

_default: Session | None = None
_default_lock = threading.RLock()  # a signal handler may be the first to use it, within the first use


def default_session() -> Session:
    """The default session of this process, made at its first use. Thread-safe; starts nothing."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                session = Session()
                session.sets_active_run = True
                _default = _default or session
    return _default


def _session_outside_of_blocks() -> Session:
    """The session of a thread that is in no session's block.

    Threads do not inherit the block that they are started in. Where the default session is not in use and one block is
    open, a thread that was started meanwhile can only be meant for that one.

    Raises:
        UsageError: several are open.
    """
    is_in_use = _default is not None and _default.is_logged_in
    if not is_in_use and threading.current_thread() is not threading.main_thread():
        found = list(dict.fromkeys(open_blocks))
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"{len(found)} sessions have an open block, and this thread is in none of them: threads do not inherit "
                "a session. Say which one it is to use, in the thread: with session.use(): ..."
            )
    return default_session()


def current_session() -> Session:
    """The session whose ``with`` block this thread is in, else the default one.

    A thread that was started inside of a block is in none itself. It gets that session nevertheless, where the block is
    the only one that is open and the default session is not logged in; else use ``with session.use():`` in the thread.

    Raises:
        UsageError: several blocks are open, and the thread is in none of them.
    """
    link = current_link()
    assert isinstance(link, Session)
    return link


def login(
    api_key: str | None = None,
    relogin: bool = False,
    *,
    mode: Mode | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    ephemeral: bool = False,
    base_url: str | None = None,
) -> dict[str, str]:
    """Log in and connect: see :meth:`Session.login`."""
    api_key = hidden(api_key)  # from here on, no frame of ours shows it
    return current_session().login(
        api_key, relogin, mode=mode, data_dir=data_dir, ephemeral=ephemeral, base_url=base_url
    )


def init(
    namespace_slug: str | None = None,
    project_display_name: str = "Default",
    name: str | None = None,
    description: str | None = None,
    status: str = "RUNNING",
    *,
    config: Any = None,
    resume: str | None = None,
    mode: Mode | None = None,
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


def logout() -> bool:
    """Forget the stored key, and disconnect: see :meth:`Session.logout`."""
    return current_session().logout()


def close() -> None:
    """Disconnect: see :meth:`Session.close`."""
    current_session().close()


set_default_link(_session_outside_of_blocks)


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.RLock()


forked.renew_by(_after_fork_in_child)
