"""Sends runs that were left on this machine: offline runs, and those whose server or process was gone too early."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TellurioError, UsageError
from ..journal.folder import RunFolder, default_base
from .delivery import Busy, Delivery, Refusal
from .rest import StudioRest

_log = logging.getLogger(__name__)

_VANISHED = "Its process ended without ending the run."


@dataclass(frozen=True)
class SyncResult:
    """The result for one run.

    Attributes:
        folder: where it was found.
        run: its name.
        project: the name of its project.
        server: the address of the server for which it was made; None: it was made offline, for any server.
        unsent_bytes: bytes of its journals that had not been sent.
        outcome: ``"sent"``: the server has all of it; ``"to send"``: it would be sent (``dry_run``);
            ``"elsewhere"``: it belongs to another server; ``"refused"``: the server does not take a part of it, which
            is kept; ``"busy"``: another process is sending it; ``"failed"``: it could not be sent now, see ``why``.
        why: more about that.
    """

    folder: Path
    run: str
    project: str
    server: str | None
    unsent_bytes: int
    outcome: str
    why: str = ""


def sync(
    rest: StudioRest,
    path: str | os.PathLike[str] | None = None,
    *,
    dry_run: bool = False,
    anyway: bool = False,
    namespace: str | None = None,
    username: str | None = None,
) -> list[SyncResult]:
    """Send what was left. Blocks as long as it takes; repeating it does no harm, and nothing is stored twice.

    Args:
        rest: where to send it, with a key.
        path: a folder with journals, perhaps copied from another machine, or the folder of one run; None: the folder of
            this user.
        dry_run: send nothing, and say what there is.
        anyway: send also runs that belong to another server; they become new runs here.
        namespace: for runs that were made without one; None: ``username``.
        username: the name of this account.

    Raises:
        UsageError: there is no such folder.
    """
    base = Path(path) if path is not None else default_base()
    if path is not None and not base.is_dir():
        raise UsageError(f"There is no folder {base} with journals.")
    return [
        _sync_one(folder, rest, dry_run, anyway, namespace, username)
        for folder in RunFolder.all(base)
        if folder.about()
    ]


def _sync_one(
    folder: RunFolder,
    rest: StudioRest,
    dry_run: bool,
    anyway: bool,
    namespace: str | None,
    username: str | None,
) -> SyncResult:
    about = folder.about()
    name = str(about.get("name") or about.get("shown_name") or about.get("uuid"))
    server = about.get("server")
    unsent = folder.unsent_bytes

    def result(outcome: str, why: str = "") -> SyncResult:
        return SyncResult(folder.path, name, str(about.get("project")), server, unsent, outcome, why)

    if server is not None and server != rest.url and not anyway:
        return result("elsewhere", f"it belongs to {server}, and you are logged in to {rest.url}")
    if dry_run:
        return result("to send")
    refusals: list[Refusal] = []
    try:
        _make_ready(folder, about, rest, namespace, username)
        Delivery(folder, rest, refusals.append).run()
    except Busy as exc:
        return result("busy", str(exc))
    except (TellurioError, OSError, KeyError, ValueError) as exc:
        return result("failed", str(exc))
    if refusals or folder.has_refused:
        first = f"{refusals[0].name}: {refusals[0].why}" if refusals else "see refused.jsonl in its folder"
        return result("refused", first)
    if folder.end().get("is_sent"):
        folder.remove()
    return result("sent")


def _make_ready(
    folder: RunFolder, about: dict[str, Any], rest: StudioRest, namespace: str | None, username: str | None
) -> None:
    if about.get("server") != rest.url:
        # Nothing that another server had of it counts here.
        changes: dict[str, Any] = {"server": rest.url, "remote_uuid": None, "username": username}
        if not about.get("namespace"):
            changes["namespace"] = namespace or username
        folder.change(**changes)
        for writer in folder.writers():
            folder.forget_sent(writer)
        end = folder.end()
        if end:
            folder.set_end(end["status"], end.get("reason"))
        elif not folder.is_written:
            folder.set_end("CRASHED", _VANISHED)
