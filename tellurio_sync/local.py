"""A local backend in its own process: no account, no network.

The end of its standard input tells the process that it is no longer needed.  Only this process holds the write end of
that pipe, so the operating system closes it however this process ends, even by ``kill -9``.  But if other programs
have joined the backend meanwhile (``leash``), it goes on until the last of them has let go.

State and threads:

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_children`` | threads that start or end a child | any thread | single operations on a set | – |
| ``_Child.last_lines`` | its reader thread | any thread | single operations on a deque | – |
| ``_Child._goes_on``, ``_serves`` | its reader thread | any thread | an event; one store | – |
| ``_Child._never_served`` | a thread that waits for it | the same | one store: each of two would do | – |
| ``_Child._is_parents`` | a forked child, before other code runs there | that child | – | – |
| ``_Child._is_held_back`` | the end of the program | any thread | one store | – |
| ``_default...`` | ``default_local_backend``, any thread | the same | ``_default_lock``, held while one starts | – |
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import exit_order, forked, workers
from .addresses import hub_url
from .deadlines import MONOTONIC, Deadline, check_timeout
from .errors import BackendError, TellurioError, UsageError, WouldDeadlock
from .leash import GOES_ON, IN_USE_EXIT_CODE, SERVES, DataDirectoryInUse, Leash, find_backend
from .ownership import is_held
from .surroundings import SYSTEM_TRUST_VARIABLE

_log = logging.getLogger(__name__)

DATA_VARIABLE = "TELLURIO_DATA_DIR"
_NEEDED = ("aiohttp", "jinja2", "platformdirs")  # the extra `local`
_POLL_INTERVAL = 0.02
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 2.0
# Seconds between two looks at a data directory whose backend starts or ends, until a start is tried again, and until
# it is taken for one that cannot be joined.
_JOIN_INTERVAL, _JOIN_PATIENCE, _JOIN_TIMEOUT = 0.05, 2.0, 10.0
_LAST_LINES = 20
_CHUNK_BYTES = 65536


def _do_nothing() -> None:
    pass


def check_installed() -> None:
    """Return if the packages that the local backend needs are installed. Imports none of them.

    Raises:
        BackendError: they are not.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise BackendError(
            f"The local backend needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            'installed. Install the extra: pip install "tellurio_sync[local]"'
        )


class LocalBackend:
    """A running local backend; made by :func:`start_local_backend` or :func:`default_local_backend`. Thread-safe.

    It ends with :meth:`stop`, with the ``with`` block, at the exit of the interpreter, or by itself when this process
    is killed; if other programs have joined it, with the last of them. In a forked child the addresses stay usable, but
    ``stop`` does nothing: the backend is the parent's.

    Attributes:
        http_base_url, ws_base_url: scheme and host, without port.
        http_port, ws_port: 1 to 65535.
        api_key: what clients must send.
        username, email: the user of the backend.
        namespace: the namespace of this user's projects.
        page_url: the page with projects, runs, plots and prompts; it opens without asking for the key. On a JupyterHub
            with jupyter-server-proxy it is the one that the user's browser reaches, maybe only its path.
        data_dir: where it keeps projects, runs and metrics, an absolute path; a temporary folder unless one was named.
        pid: the id of its process.
    """

    def __init__(self, ready: dict[str, Any], child: _Child | Leash, until: Deadline | None = None) -> None:
        self.http_base_url: str = str(ready["http_base_url"])
        self.http_port: int = int(ready["http_port"])
        self.ws_base_url: str = str(ready["ws_base_url"])
        self.ws_port: int = int(ready["ws_port"])
        self.api_key: str = str(ready["api_key"])
        self.username: str = str(ready["username"])
        self.email: str = str(ready.get("email", ""))
        self.namespace: str = str(ready["namespace"])
        self.page_url: str = _for_browsers(str(ready.get("page_url", "")), self.http_port)
        self.data_dir: str = str(ready.get("data_dir", ""))
        self.pid: int = child.pid
        self._child = child
        # Of one that may still start: until when it must serve.
        self._starting = (child, until) if isinstance(child, _Child) and until is not None else None

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped"
        return f"LocalBackend({self.http_base_url}:{self.http_port}, pid {self.pid}, {state})"

    def __enter__(self) -> LocalBackend:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether its process is alive, and was not stopped here; in a forked child: whether it was at the fork."""
        return self._child.is_alive

    @property
    def is_serving(self) -> bool:
        """Whether it answers, or has done so; else it still starts, and what it is sent waits."""
        return self._starting is None or self._starting[0].is_serving

    def wait_until_serving(self) -> None:
        """Return once it serves. Blocks while it starts.

        Raises:
            BackendError: it ended, or did not serve in time; with its last lines of output.
        """
        if self._starting is not None:
            child, until = self._starting
            child.wait_until_serving(until)

    def check_is_running(self) -> None:
        """Raise ``BackendError``, with its last lines of output, if it has ended, or was stopped here."""
        if not self.is_running:
            last = "\n  ".join(["", *self.last_lines[-3:]]) if self.last_lines else ""
            raise BackendError(
                "The local backend has ended. te.login(mode='local') starts it again, with the Variables and models "
                f"that you hold; te.init(resume=run.uuid) goes on with a run that was kept.{last}"
            )

    @property
    def last_lines(self) -> list[str]:
        """The last 20 lines of its standard error output: they show why it ended. Of a joined one: none."""
        return list(self._child.last_lines)

    def stop(self) -> None:
        """End the backend in good order, or by force after 2 s. Idempotent. Blocks until it has ended.

        While other programs use it, it goes on for them; with the last of them it ends.
        """
        if self is _default:
            workers.withdraw()
        self._child.end()
        _children.discard(self._child)


def _for_browsers(page_url: str, port: int) -> str:
    through_hub = hub_url(port)
    return f"{through_hub}/?{page_url.partition('?')[2]}" if page_url and through_hub else page_url


def start_local_backend(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    timeout: float = _START_TIMEOUT,
    command: Sequence[str] | None = None,
    inherits_lm: bool = True,
    meanwhile: Callable[[], None] = _do_nothing,
    waits: bool = True,
    **options: Any,
) -> LocalBackend:
    """Start a local backend. Blocks until it serves. Thread-safe.

    It inherits the environment (``OPENAI_API_KEY``, proxies, certificates, ...) except for the ``TELLURIO_...``
    variables that belong to the backend of this process. Ctrl-C in this terminal does not reach it.

    Args:
        data_dir: where projects, runs and metrics are kept, ``~`` is the home directory; None: a temporary directory,
            removed at its end.
        timeout: seconds, > 0, until it must serve.
        command: the program to run instead of ``tellurio-sync backend``; it must take the same arguments.
        inherits_lm: whether ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY`` of this process become the address and the key
            for language models that bring none.
        meanwhile: called while the process starts, for what else has to be loaded. What it raises ends the process.
        waits: False: return as soon as its data and its port are open, which is what a start can fail at; what it is
            sent waits until it serves (``LocalBackend.wait_until_serving``). Only without ``command``.
        options: of the backend, by the names of ``BackendOptions``: ``port``, ``api_key``, ``username``, ``email``,
            ``namespaces`` (a list), ``lm_base_url``, ``lm_api_key``, ``heartbeat_interval``; None: the default.

    Raises:
        BackendError: the extra ``local`` is not installed, or the process did not start, ended (another backend uses
            the data directory, say), or was not ready in time; with its last lines of output.
        ValueError: not a timeout, or an option that holds a line end.
    """
    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    deadline = Deadline(check_timeout(timeout), MONOTONIC.now())
    waits = waits or command is not None
    if command is None:
        check_installed()
        if not sys.executable:
            raise BackendError("The local backend needs a Python interpreter, and sys.executable names none.")
        command = (sys.executable, "-I", "-c", _PROGRAM, json.dumps(_import_path()))
    # Both files hold keys: the directory is for this user only (mode 0700), and gone when the backend serves.
    with _private_folder() as private:
        ready_file = Path(private, "ready.json")
        # In a file, because the list of processes shows command lines to every user of the machine.
        arguments_file = Path(private, "arguments")
        when = "ready_file" if waits else "opened_file"
        arguments = _arguments({**options, "data_dir": data_dir, when: ready_file})
        with _told_as_backend_error():
            arguments_file.write_bytes(os.fsencode(arguments))
        child = _Child([*command, f"@{arguments_file}"], _environment(inherits_lm))
        try:
            meanwhile()
            child.wait_for_file(ready_file, deadline)
            try:
                ready = json.loads(ready_file.read_text(encoding="utf-8"))
                return LocalBackend(ready, child, None if waits else deadline)
            except (KeyError, TypeError, ValueError) as exc:
                raise child.failure(f"did not say where it serves ({type(exc).__name__}: {exc})") from exc
        except BaseException:
            child.end()
            raise


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    with _told_as_backend_error():
        return tempfile.TemporaryDirectory(prefix="tellurio-sync-")


@contextlib.contextmanager
def _told_as_backend_error() -> Iterator[None]:
    """Where a disk is full, a folder cannot be written or the process has too many files open."""
    try:
        yield
    except OSError as exc:
        raise BackendError(
            f"The local backend could not be started, for a temporary file that it needs cannot be written: {exc}. "
            "TMPDIR names another folder for such files."
        ) from exc


def _environment(inherits_lm: bool) -> dict[str, str]:
    left_out = () if inherits_lm else ("OPENAI_BASE_URL", "OPENAI_API_KEY")
    return {
        name: value
        for name, value in os.environ.items()
        if name == SYSTEM_TRUST_VARIABLE or not (name.startswith("TELLURIO_") or name in left_out)
    }


# The backend finds what this process finds, but for a folder in which the user's files lie: there, a file `email.py`
# would stand in the place of a module that the backend needs.  The package is there without having run: what its
# `__init__` imports is the client, which the backend does not need, and which takes a third of the start.
_PROGRAM = """
import json, sys
from importlib.util import find_spec, module_from_spec
sys.path[:] = json.loads(sys.argv.pop(1))
spec = find_spec("tellurio_sync")
if spec is not None:
    sys.modules["tellurio_sync"] = module_from_spec(spec)
from tellurio_sync.backend.command import main
sys.exit(main(sys.argv[1:]))
"""


def _import_path() -> list[str]:
    """Where the backend is to look for modules: as here, with the folders of the user's files behind all others."""
    own = {"", *_absolute(os.curdir)}
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if main is not None:
        own.update(map(os.path.dirname, _absolute(main)))
    folders = list(dict.fromkeys(itertools.chain.from_iterable(map(_absolute, sys.path))))
    first = [folder for folder in folders if folder not in own]
    return [*first, *(folder for folder in folders if folder in own)]


def _absolute(path: str) -> list[str]:
    """This path; nothing if it is relative to a working directory that was deleted."""
    try:
        return [os.path.abspath(path)]
    except OSError:
        return []


def default_local_backend(
    *, meanwhile: Callable[[], None] = _do_nothing, waits: bool = True, **options: Any
) -> LocalBackend:
    """The backend that the sessions of this process share: the running one, or else a new one. Thread-safe.

    Where another program's backend uses ``data_dir``, it is that one, with the options, the proxies and the
    certificates of the program that started it; addresses and keys of language models are those of the session that
    asks. It ends with the last program that uses it. Other options than ``data_dir``, ``namespaces`` and ``timeout``
    ask for a backend of this process's own.

    Blocks while one starts. In a forked child it is the backend of the parent, if that had one. The other worker
    processes of this program are told of it (``workers``).

    Args:
        meanwhile: called while one starts; perhaps not at all.
        waits: False: the one that is returned may still start, see :func:`start_local_backend`.
        options: for a new one, as :func:`start_local_backend`. An option that is None may differ in the running one.

    Raises:
        BackendError, ValueError: as :func:`start_local_backend`; also: the backend that uses ``data_dir`` cannot be
            joined, because it runs on another machine, or may be another user's.
        UsageError: one runs already, with other options.
        WouldDeadlock: this is a signal handler or a finaliser, within a call of this by the same thread.
    """
    global _default, _default_options
    if options.get("data_dir") is not None:
        options["data_dir"] = os.path.expanduser(options["data_dir"])
    # Compared as texts, because they are passed on as texts: so a path is equal to its name.
    wanted = {name: str(value) for name, value in options.items() if value is not None}
    _check_not_within()
    with _default_lock:
        if _default is None or not _default.is_running:
            _default = _join_or_start({**options, "meanwhile": meanwhile, "waits": waits})
            _default_options = wanted
            if _default.data_dir:
                workers.tell(_default.data_dir, is_kept="data_dir" in wanted)
        other = [name for name, value in wanted.items() if _default_options.get(name) != value]
        if other:
            raise UsageError(
                f"The local backend of this process runs already, with another {' and '.join(other)}. "
                "Use it as it is, or end it first: tellurio_sync.local.default_local_backend().stop()"
            )
        found = _default
    if waits:
        found.wait_until_serving()
    return found


def data_dir_of_this_user() -> Path:
    """Where local backends keep what they get: ``TELLURIO_DATA_DIR``, else the folder for data of this user's programs.

    Raises:
        RuntimeError: this user has no home directory.
    """
    given = os.environ.get(DATA_VARIABLE)
    if given:
        return Path(given).expanduser()
    from platformdirs import user_data_path

    return user_data_path("tellurio", appauthor=False)


def backend_of_this_user(
    *,
    ephemeral: bool = False,
    meanwhile: Callable[[], None] = _do_nothing,
    waits: bool = True,
    **options: Any,
) -> LocalBackend:
    """As :func:`default_local_backend`, in :func:`data_dir_of_this_user`. A running one is used wherever its data are.

    In a worker process (``multiprocessing``'s, however it was started, loky's, Dask's) the running one is that of the
    program, if it has one.

    If nothing can be kept there, a warning says so, and what is logged is gone at the end of this process.

    Args:
        ephemeral: keep nothing.
        meanwhile, waits, options: as for :func:`default_local_backend`.

    Raises:
        UsageError: ``ephemeral``, and the running one keeps what it gets.
        As :func:`default_local_backend`.
    """
    _join_program(options)
    running = _default
    if running is not None and running.is_running:
        kept = _default_options.get("data_dir")
        if ephemeral and kept is not None:
            raise UsageError(
                f"The local backend of this process runs already, and keeps runs in {kept}. For runs that are not "
                "kept, end it first: tellurio_sync.local.default_local_backend().stop()"
            )
        return default_local_backend(waits=waits, **options)
    check_installed()
    how: dict[str, Any] = {"meanwhile": meanwhile, "waits": waits}
    if ephemeral:
        return default_local_backend(**how, **options)
    try:
        directory = data_dir_of_this_user()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(f"{directory} cannot be written")
        return default_local_backend(data_dir=directory, **how, **options)
    except (DataDirectoryInUse, OSError, RuntimeError) as exc:
        if isinstance(exc, TellurioError) and not isinstance(exc, DataDirectoryInUse):
            raise
        _log.warning("Runs are not kept: %s  (login(data_dir=...) or %s names another folder.)", exc, DATA_VARIABLE)
        return default_local_backend(**how, **options)


def _check_not_within() -> None:
    """Raise ``WouldDeadlock`` within the start of the shared backend by this same thread."""
    if is_held(_default_lock):
        raise WouldDeadlock(
            "This code runs in the middle of a login of this same thread, which starts or joins the local backend (it "
            "is a signal handler or a finaliser), and that cannot go on before this is over. Do it on another thread, "
            "or when the login is done."
        )


def _join_program(options: dict[str, Any]) -> None:
    """In a worker: use the backend of its program from now on, if that runs."""
    global _default, _default_options
    _check_not_within()
    with _default_lock:
        if _default is not None and _default.is_running:
            return
        told = workers.told()
        if told is None or not options.keys() <= _OF_ANY_BACKEND:
            return
        joined, refusal = _join(Path(told.data_dir), check_timeout(options.get("timeout", _START_TIMEOUT)))
        if joined is None:
            _log.debug("= the backend of this worker's program cannot be joined: %s", refusal or "it has ended")
            return
        _default = joined
        wanted = {name: str(value) for name, value in options.items() if value is not None}
        _default_options = {**wanted, "data_dir": told.data_dir} if told.is_kept else wanted


# With another option, the backend of another program may not be what is asked for.
_OF_ANY_BACKEND = {"data_dir", "namespaces", "timeout", "command", "meanwhile", "waits"}


def _join_or_start(options: dict[str, Any]) -> LocalBackend:
    given = {name for name, value in options.items() if value is not None}
    if "data_dir" not in given or given - _OF_ANY_BACKEND:
        return _start_shared(options)
    directory = Path(options["data_dir"])
    timeout = check_timeout(options.get("timeout", _START_TIMEOUT))
    deadline = Deadline(min(timeout, _JOIN_TIMEOUT), MONOTONIC.now())
    while True:
        joined, refusal = _join(directory, timeout)
        if joined is not None:
            return joined
        try:
            return _start_shared(options)
        except DataDirectoryInUse:
            if refusal is not None:
                raise refusal from None
            if deadline.remaining(MONOTONIC.now()) <= 0:
                raise
        # Another one starts, and will serve soon, or ends, and will let go of the directory.
        again_at = MONOTONIC.now() + _JOIN_PATIENCE
        while not _is_known(directory) and MONOTONIC.now() < again_at:
            time.sleep(_JOIN_INTERVAL)


def _start_shared(options: dict[str, Any]) -> LocalBackend:
    # Other sessions and programs will use it, each with language models of its own: a key of theirs must not go to the
    # address in the environment of the program that happened to be the first.
    return start_local_backend(inherits_lm=False, **options)


def _is_known(directory: Path) -> bool:
    try:
        return find_backend(directory) is not None
    except DataDirectoryInUse:
        return True  # and why it cannot be joined


def _join(directory: Path, timeout: float) -> tuple[LocalBackend | None, DataDirectoryInUse | None]:
    """The backend of this directory, or why it cannot be joined, if there is one."""
    try:
        address = find_backend(directory)
    except DataDirectoryInUse as exc:
        return None, exc
    if address is None:
        return None, None
    try:
        leash = Leash(address, timeout)
    except (OSError, http.client.HTTPException, KeyError, TypeError, ValueError) as exc:
        _log.debug("= the backend that %s names cannot be joined: %s", directory, exc)
        return None, None
    _children.add(leash)
    exit_order.use(exit_order.BACKENDS)
    return LocalBackend(address, leash), None


def _arguments(options: dict[str, Any]) -> str:
    """One argument per line, as argparse reads them from a file."""
    lines = ["--exit-with-stdin"]
    for name, value in options.items():
        # The field of BackendOptions is `namespaces`; the argument is given once for each.
        flag = "--namespace" if name == "namespaces" else f"--{name.replace('_', '-')}"
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item is None:
                continue
            if "".join(str(item).splitlines()) != str(item):
                raise ValueError(f"The option {name} must be one line.")
            lines.append(f"{flag}={item}")
    return "\n".join(lines) + "\n"


# --- the process --------------------------------------------------------------------------------


class _Child:
    """The backend's process, its standard input as the leash, and the thread that reads its stderr. Thread-safe."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                # Unbuffered: a buffer has a lock, which a fork may find taken.
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                # Ctrl-C goes to all processes of a group: it would end the backend when only a loop is interrupted.
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as exc:
            raise BackendError(f"The local backend could not be started: {exc}") from exc
        self.pid: int = self._process.pid
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._is_parents = self._is_held_back = False
        self._goes_on = threading.Event()
        self._serves = False
        self._never_served: str | None = None
        self._reader = threading.Thread(target=self._read_stderr, name="tellurio-sync-backend-stderr", daemon=True)
        try:
            self._reader.start()
        except RuntimeError as exc:  # too many threads, or an interpreter that allows no daemon threads
            self._process.kill()
            self._process.communicate()
            raise BackendError(f"The local backend could not be started: no thread for its output: {exc}") from exc
        _children.add(self)
        exit_order.use(exit_order.BACKENDS)

    @property
    def is_alive(self) -> bool:
        if self._is_parents or self._is_held_back:
            return self._is_parents
        return not self._goes_on.is_set() and self._process.poll() is None

    def wait_for_file(self, path: Path, deadline: Deadline) -> None:
        while not path.exists():
            if deadline.remaining(MONOTONIC.now()) <= 0:
                raise self.failure(f"did not become ready within {deadline.timeout:g} s")
            try:
                status = self._process.wait(_POLL_INTERVAL)
            except subprocess.TimeoutExpired:
                continue
            failure = self.failure(f"ended while it started (exit code {status})")
            raise DataDirectoryInUse(str(failure)) if status == IN_USE_EXIT_CODE else failure

    @property
    def is_serving(self) -> bool:
        # In a forked child nobody notes it; what is sent waits anyway.
        return self._is_parents or self._serves

    def wait_until_serving(self, deadline: Deadline) -> None:
        # No lock of ours: a signal handler or a finaliser may wait here, too, in the middle of this.
        while not self.is_serving:
            if self._is_held_back:
                raise BackendError("The local backend ends with the program.")
            status = self._process.poll()
            if self._never_served is None and status is not None and not self._serves:
                self._never_served = str(self.failure(f"ended while it started (exit code {status})"))
            elif self._never_served is None and deadline.remaining(MONOTONIC.now()) <= 0:
                self._never_served = str(self.failure(f"did not become ready within {deadline.timeout:g} s"))
            if self._never_served is not None:
                raise BackendError(self._never_served)  # to each that waits
            self._has_ended(_POLL_INTERVAL)

    def failure(self, what: str) -> BackendError:
        """End the process, and return the error that says what went wrong, with its last lines."""
        self.end()
        return BackendError("\n  ".join([f"The local backend {what}.", *self.last_lines]))

    def hold_back(self) -> None:
        """At the end of the program: no connection is made to it any more."""
        self._is_held_back = True

    def let_go(self) -> None:
        """Tell the process to end, which it normally does at once."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def end(self) -> None:
        """Make it end, after 2 s by force. Idempotent. If other programs use it, let go of it."""
        if self._is_parents:
            return
        self.let_go()
        deadline = Deadline(_STOP_TIMEOUT, MONOTONIC.now())
        while not self._goes_on.is_set() and not self._has_ended(_POLL_INTERVAL):
            if deadline.remaining(MONOTONIC.now()) <= 0:
                _log.info("The local backend (pid %s) did not end within %g s and is killed.", self.pid, _STOP_TIMEOUT)
                self._process.kill()
                self._process.wait()
        if self._goes_on.is_set():
            # Popen must not warn that it is still running. Its reader waits for its end.
            self._process.returncode = 0
        else:
            # Its stderr has ended now, unless a child of that process still holds it.
            self._reader.join(_STOP_TIMEOUT)
        _children.discard(self)

    def _has_ended(self, timeout: float) -> bool:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def on_fork_in_child(self) -> None:
        if self._process.returncode is None:
            self._is_parents = True
            # Popen must neither wait for a process that is not our child nor warn that it is still running.
            self._process.returncode = 0
        # Otherwise the backend would outlive the parent as long as this child lives.
        self.let_go()

    def _read_stderr(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with stream:
            rest = b""
            while chunk := stream.read(_CHUNK_BYTES):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._note(line)
            if rest:
                self._note(rest)
        if self._goes_on.is_set() and hasattr(os, "waitpid"):
            # It ended long after it was let go of: nobody else waits for it.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)

    def _note(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text.endswith(SERVES):
            self._serves = True
            return
        self.last_lines.append(text)
        if text == GOES_ON:
            self._goes_on.set()
        _log.debug("backend: %s", text)


# --- exit and fork ------------------------------------------------------------------------------

# Strong references: a backend must be ended even if nothing refers to it any more.
_children: set[_Child | Leash] = set()
_default: LocalBackend | None = None
_default_options: dict[str, str] = {}
_default_lock = threading.RLock()


def _hold_all_back() -> None:
    for child in list(_children):
        child.hold_back()


def _end_all() -> None:
    workers.withdraw()
    children = list(_children)
    for child in children:
        child.let_go()
    for child in children:
        child.end()


def _after_fork_in_child() -> None:
    global _default_lock
    # A thread that does not exist here may have held it.
    _default_lock = threading.RLock()
    for child in _children:
        child.on_fork_in_child()
    _children.clear()


exit_order.add(exit_order.NO_NEW_CONNECTIONS, _hold_all_back)
exit_order.add(exit_order.BACKENDS, _end_all)
forked.renew_by(_after_fork_in_child)
