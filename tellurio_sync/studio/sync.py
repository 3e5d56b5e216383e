"""Sends runs that were left on this machine: offline runs, and those whose server or process was gone too early."""

from __future__ import annotations

import logging
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import HttpStatusError, TellurioError, UsageError
from ..journal.folder import RunFolder, kept_runs
from .delivery import Busy, Delivery, Refusal, is_passing
from .rest import StudioRest

_log = logging.getLogger(__name__)

# How often in succession a run is tried without any progress, and the longest pause in seconds before the second try;
# it doubles with each. What was sent already is not sent again, so repeating it does no harm.
_TRIES, _FIRST_PAUSE = 4, 0.2

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

    A server that fails, or loses an answer, is tried again: up to four times in succession without any progress, within
    about 2 s and what it takes to answer. Once it has failed so often, each of the other runs is tried once.

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
    base = None if path is None else Path(path)
    if base is not None and not base.is_dir():
        raise UsageError(f"There is no folder {base} with journals.")
    results = []
    tries = _TRIES
    for folder in kept_runs() if base is None else RunFolder.all(base):
        if folder.about():
            results.append(_sync_one(folder, rest, dry_run, anyway, namespace, username, tries))
            if results[-1].outcome == "failed":
                tries = 1
    return results


def _sync_one(
    folder: RunFolder,
    rest: StudioRest,
    dry_run: bool,
    anyway: bool,
    namespace: str | None,
    username: str | None,
    tries: int,
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
        _deliver(Delivery(folder, rest, refusals.append), tries)
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


def _deliver(delivery: Delivery, tries: int) -> None:
    """Send all of it, with so many tries in succession that bring no progress; raises as ``Delivery.run``."""
    left, progress = tries, delivery.acknowledged
    while True:
        try:
            delivery.run()
            return
        except TellurioError as exc:
            if delivery.acknowledged != progress:
                left, progress = tries, delivery.acknowledged
            left -= 1
            is_final = isinstance(exc, Busy) or (isinstance(exc, HttpStatusError) and exc.status in (401, 403))
            if left < 1 or is_final or not is_passing(exc):
                raise
            _log.debug("= once more, because: %s", exc)
        pause = _FIRST_PAUSE * 2 ** (tries - 1 - left)
        time.sleep(random.uniform(pause / 2, pause))


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
