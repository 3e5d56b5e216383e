"""The folder of one run: what the run is, how it ended, the journals of its writers, and what the server has of them.

    <base>/<run id>/run.json          what the run is; replaced as a whole
                    end.json          how it ended: status and reason; absent while it runs
                    <writer>.journal  see ``format``; one per process that logs
                    <writer>.sent     how much of it the server has: three numbers, overwritten in place
                    refused.jsonl     values that the server did not take

A folder may be moved to another machine and sent from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .writer import JournalWriter

if os.name == "posix":
    import fcntl
else:
    fcntl = None  # type: ignore[assignment]

VARIABLE = "TELLURIO_JOURNAL_DIR"


def default_base() -> Path:
    """Where journals are kept: ``TELLURIO_JOURNAL_DIR``, else the user's folder for the state of programs."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return _shared_base()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "tellurio" / "journals"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "tellurio" / "journals"
    state = os.environ.get("XDG_STATE_HOME")
    # XDG base directories: a relative path is to be ignored.
    return (Path(state) if state and os.path.isabs(state) else home / ".local" / "state") / "tellurio" / "journals"


def _shared_base() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"tellurio-{user}" / "journals"


def _check_own(folder: Path) -> None:
    """That only this user can put something there. Raises OSError. Anybody may make a folder of this name before us."""
    status = os.lstat(folder)
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022 or not folder.is_dir()):
        raise PermissionError(f"{folder} is not of this user alone")


def usable_base() -> Path:
    """The default base, which is made if it is missing; else one in the directory for temporary files.

    Raises:
        OSError: neither can be made or written.
    """
    base, shared = default_base(), _shared_base()
    for candidate in (base,) if os.environ.get(VARIABLE) or base == shared else (base, shared):
        try:
            if candidate == shared:
                candidate.parent.mkdir(mode=0o700, exist_ok=True)
                _check_own(candidate.parent)
            candidate.mkdir(mode=0o700, parents=True, exist_ok=True)
            if hasattr(os, "getuid") and candidate.stat().st_uid != os.getuid():
                raise PermissionError(f"{candidate} belongs to another user")
            if os.access(candidate, os.W_OK | os.X_OK):
                return candidate
            raise PermissionError(f"{candidate} cannot be written")
        except OSError as exc:
            problem = exc
    raise problem


def kept_runs() -> list[RunFolder]:
    """The runs of this user on this machine, oldest first; also those of when the default base could not be written."""
    shared = _shared_base()
    bases = {default_base(), *(() if os.environ.get(VARIABLE) else (shared,))}
    if shared in bases:
        try:
            _check_own(shared.parent)  # else what somebody else has put there would be sent with this user's key
        except OSError:
            bases.discard(shared)
    return sorted((folder for base in bases for folder in RunFolder.all(base)), key=RunFolder.age)


class Sent(NamedTuple):
    """What the server has of one journal.

    Attributes:
        position: the server has the bytes before it.
        values: so many values of the record that begins there; the server has them, too.
        is_in_doubt: the next value was sent, and no answer came.
    """

    position: int = 0
    values: int = 0
    is_in_doubt: bool = False


class RunFolder:
    """One run's folder. Safe for use by several processes at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def all(base: Path) -> list[RunFolder]:
        """The folders of runs below this one, oldest first; the folder itself, if it is the folder of a run."""
        if (base / "run.json").is_file():
            return [RunFolder(base)]
        try:
            found = [path for path in base.iterdir() if (path / "run.json").is_file()]
        except OSError:
            return []
        return sorted(map(RunFolder, found), key=RunFolder.age)

    def age(self) -> tuple[float, str]:
        """Sorts folders: when it was changed last, and its name."""
        try:
            return self.path.stat().st_mtime, self.path.name
        except FileNotFoundError:  # another process has just sent it
            return 0.0, self.path.name

    # --- what it is, and how it ended -------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """What the run is; empty if that cannot be read."""
        return self._read("run.json")

    def create(self, about: dict[str, Any]) -> None:
        """Make the folder, unless it is there. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.path / "run.json").exists():
            try:
                self._write("run.json", about)
            except OSError:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
                raise

    def change(self, **changes: Any) -> None:
        """Note something more about the run. Raises OSError."""
        self._write("run.json", {**self.about(), **changes})

    def end(self) -> dict[str, Any]:
        """``status``, ``reason``, and ``is_sent`` once the server has been told; empty while the run goes on."""
        return self._read("end.json")

    def set_end(self, status: str, reason: str | None, *, is_sent: bool = False) -> None:
        """Note how it ended. Raises OSError."""
        self._write("end.json", {"status": status, "reason": reason, "is_sent": is_sent})

    def unset_end(self) -> None:
        """The run goes on: forget its end."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "end.json").unlink()

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, content: dict[str, Any]) -> None:
        temporary = self.path / f".{name}.{os.getpid()}.{secrets.token_hex(4)}"
        try:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            os.replace(temporary, self.path / name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    # --- writers -----------------------------------------------------------------------------------

    def new_writer(self) -> JournalWriter:
        """A journal for this process. Raises OSError."""
        # Names sort by time; the random part tells apart writers with the same time and process id.
        name = f"{time.time_ns():016x}-{os.getpid()}-{secrets.token_hex(4)}"
        return JournalWriter(self.path / f"{name}.journal")

    def writers(self) -> list[str]:
        """The names of all writers, in the order in which they began."""
        try:
            return sorted(name[: -len(".journal")] for name in os.listdir(self.path) if name.endswith(".journal"))
        except OSError:
            return []

    def read(self, writer: str, position: int, length: int) -> bytes:
        """A piece of a journal. Raises OSError."""
        with open(self.path / f"{writer}.journal", "rb") as file:
            file.seek(position)
            return file.read(length)

    def size(self, writer: str) -> int:
        """The bytes of a journal; 0 where there is none."""
        try:
            return (self.path / f"{writer}.journal").stat().st_size
        except OSError:
            return 0

    def sent(self, writer: str) -> Sent:
        """What the server has of a journal; nothing if that cannot be read: then everything is sent again."""
        try:
            text = (self.path / f"{writer}.sent").read_text(encoding="ascii")
            position, values, doubt = text.split()
            return Sent(int(position), int(values), doubt == "1")
        except (OSError, ValueError):
            return Sent()

    def set_sent(self, writer: str, sent: Sent) -> None:
        """Note what the server has. One small write in place: a kill leaves the old or the new. Raises OSError."""
        text = f"{sent.position:020d} {sent.values:010d} {int(sent.is_in_doubt)}\n".encode()
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        fd = os.open(self.path / f"{writer}.sent", flags, 0o600)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)

    def forget_sent(self, writer: str) -> None:
        """The server has nothing of a journal."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / f"{writer}.sent").unlink()

    @contextlib.contextmanager
    def sending(self, writer: str) -> Iterator[bool]:
        """Inside, no other process sends this journal; False: another one does at present."""
        if fcntl is None:
            yield True
            return
        fd = os.open(self.path / f"{writer}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(fd)

    def note_refused(self, refused: dict[str, Any]) -> None:
        """Keep a value that the server did not take."""
        with contextlib.suppress(OSError), open(self.path / "refused.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(refused) + "\n")

    @property
    def has_refused(self) -> bool:
        """Whether the server did not take a value."""
        return (self.path / "refused.jsonl").exists()

    # --- cleaning up -------------------------------------------------------------------------------

    @property
    def is_written(self) -> bool:
        """Whether a process has one of the journals open."""
        return any(self._is_open(writer) for writer in self.writers())

    def _is_open(self, writer: str) -> bool:
        if fcntl is None:
            return False
        try:
            fd = os.open(self.path / f"{writer}.journal", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(fd)

    @property
    def unsent_bytes(self) -> int:
        """How many bytes of the journals the server does not have."""
        return sum(max(0, self.size(writer) - self.sent(writer).position) for writer in self.writers())

    def remove(self) -> None:
        """Delete the folder, unless a process still writes to it. What cannot be deleted stays."""
        if not self.is_written:
            shutil.rmtree(self.path, ignore_errors=True)
