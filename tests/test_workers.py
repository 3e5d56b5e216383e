"""What a program tells its worker processes of its local backend, and what they do not believe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.process import current_process
from pathlib import Path

import pytest

import tellurio_sync as te
from tellurio_sync import local, workers
from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.errors import UsageError
from tellurio_sync.local import backend_of_this_user
from tellurio_sync.session import default

from .backend.conftest import KEY, RunningBackend, a_backend

FAILSAFE = 30


@pytest.fixture(autouse=True)
def nothing_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(workers, "_told", None)
    monkeypatch.setattr(local, "_default", None)
    monkeypatch.setenv("TELLURIO_DATA_DIR", str(tmp_path / "default"))
    before = set(local._children)
    yield
    if local._default is not None:
        local._default.stop()
    assert local._children == before


@pytest.fixture
def as_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """From its call on, this process is a worker of a program that has told this."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as program:

        def become(data: Path, *, is_kept: bool = True, mode: str | None = None, pid: int = program.pid) -> None:
            file = workers._file()
            file.parent.mkdir(mode=0o700, exist_ok=True)
            file.write_text(json.dumps({"pid": pid, "data_dir": str(data), "is_kept": is_kept, "mode": mode}))
            monkeypatch.setattr(current_process(), "_name", "SpawnProcess-1")

        yield become
        program.kill()
        program.communicate(timeout=FAILSAFE)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[RunningBackend]:
    """The program's."""
    yield from a_backend(data_dir=tmp_path / "data")


AsWorker = Callable[..., None]


def test_who_tells_is_not_told_and_what_is_told_is_this_users(tmp_path: Path) -> None:
    assert workers.told() is None
    workers.tell(tmp_path, is_kept=True)
    assert workers.told() is None
    file = workers._file()
    assert json.loads(file.read_text()) == {
        "pid": os.getpid(),
        "data_dir": str(tmp_path),
        "is_kept": True,
        "mode": None,
    }
    if sys.platform != "win32":
        assert [path.stat().st_mode & 0o777 for path in (file, file.parent)] == [0o600, 0o700]
    assert current_process().authkey.hex() not in file.name
    workers.tell_mode("local")
    assert json.loads(file.read_text())["mode"] == "local"
    workers.tell(tmp_path / "other", is_kept=False)
    assert json.loads(file.read_text())["mode"] == "local"
    workers.withdraw()
    workers.withdraw()
    workers.tell_mode(None)
    assert list(file.parent.iterdir()) == []


def test_a_worker_joins_the_backend_of_its_program(as_worker: AsWorker, backend: RunningBackend) -> None:
    as_worker(Path(backend._backend.address()["data_dir"]))
    told = workers._file().read_text()
    found = backend_of_this_user(namespaces=["local", "*"])
    assert found.http_port == backend.port
    assert backend_of_this_user() is found
    with pytest.raises(UsageError, match="keeps runs in"):
        backend_of_this_user(ephemeral=True)
    assert workers._file().read_text() == told, "only the program tells"
    found.stop()
    assert workers._file().read_text() == told


def test_one_with_other_options_is_not_joined(
    as_worker: AsWorker, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_worker(Path(backend._backend.address()["data_dir"]))

    def start(**options: object) -> local.LocalBackend:
        raise te.BackendError("not in this test")

    monkeypatch.setattr(local, "start_local_backend", start)
    with pytest.raises(te.BackendError, match="not in this test"):
        backend_of_this_user(lm_base_url="http://127.0.0.1:1/v1")


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_program_tells_of_its_backend_until_it_is_stopped(
    is_kept: bool, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(backend._backend.address()["data_dir"])
    monkeypatch.setattr(local, "start_local_backend", lambda **options: local._join(data, FAILSAFE)[0])
    found = backend_of_this_user(ephemeral=not is_kept) if not is_kept else local.default_local_backend(data_dir=data)
    told = json.loads(workers._file().read_text())
    assert (told["data_dir"], told["is_kept"]) == (str(data), is_kept)
    another, _ = local._join(data, FAILSAFE)
    assert another is not None
    another.stop()
    assert workers._file().exists(), "the one that is shared goes on"
    found.stop()
    assert not workers._file().exists()


def test_a_worker_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current_process(), "_name", "SpawnProcess-1")
    workers.tell(tmp_path, is_kept=True)
    assert not workers._file().exists()


def test_ephemeral_in_a_worker_is_what_its_program_has(as_worker: AsWorker, backend: RunningBackend) -> None:
    as_worker(Path(backend._backend.address()["data_dir"]), is_kept=False)
    assert backend_of_this_user(ephemeral=True).http_port == backend.port


def test_a_backend_without_a_folder_of_the_users_can_be_joined() -> None:
    running = RunningBackend(BackendOptions(api_key=KEY))
    try:
        address = running._backend.address()
        joined, refusal = local._join(Path(address["data_dir"]), FAILSAFE)
        assert refusal is None
        assert joined is not None
        assert joined.data_dir == address["data_dir"]
        joined.stop()
    finally:
        running.stop()
    assert not Path(address["data_dir"]).exists()


def test_the_default_session_of_a_worker_is_logged_in_as_that_of_its_program(
    as_worker: AsWorker, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_worker(Path(backend._backend.address()["data_dir"]), mode="local")
    monkeypatch.setattr(default, "_default", None)
    monkeypatch.setenv("TELLURIO_API_KEY", "te-of-the-platform")
    with te.default_session() as session:
        assert session.rest.url.endswith(f":{backend.port}")
    assert te.Session()._login.chosen_mode(None) == "online", "other sessions log in by themselves"
    assert te.default_session()._login.chosen_mode("offline") == "offline"


def test_a_login_elsewhere_takes_the_place_of_the_local_one(as_worker: AsWorker, backend: RunningBackend) -> None:
    as_worker(Path(backend._backend.address()["data_dir"]))
    ports = {"http_port": backend.port, "ws_port": backend.port}
    with te.Session(http_base_url="http://127.0.0.1", ws_base_url="ws://127.0.0.1", **ports) as session:  # type: ignore[arg-type]
        session.login(mode="local")
        assert session.namespace == "local"
        with pytest.raises(te.InvalidAPIKeyError):
            session.login("wrong", mode="online")
        assert session.namespace == "local", "it goes on as it was"
        session.login(KEY, mode="online")
        assert session.namespace is None
        assert session.page_url is None


def test_who_logs_in_as_default_tells_the_mode(
    as_worker: AsWorker, backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_worker(Path(backend._backend.address()["data_dir"]))
    modes: list[str | None] = []
    monkeypatch.setattr(workers, "tell_mode", modes.append)
    monkeypatch.setattr(default, "_default", None)
    with te.Session() as another:
        another.login(mode="local")
        assert modes == []
    with te.default_session() as session:
        session.login(mode="local")
        assert modes == ["local"]


def _of_another_program(told: AsWorker, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(data)
    key = type(current_process().authkey)(os.urandom(32))
    monkeypatch.setitem(current_process()._config, "authkey", key)  # type: ignore[attr-defined]


def _with_the_users_key(told: AsWorker, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(data)
    file = workers._file()
    key = type(current_process().authkey)(b"secret")
    monkeypatch.setitem(current_process()._config, "authkey", key)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="of the user's own"):
        workers._file()
    assert file.exists()


def _of_a_killed_program(told: AsWorker, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait(FAILSAFE)
    told(data, pid=ended.pid)


def _in_an_open_folder(told: AsWorker, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(data)
    workers._file().parent.chmod(0o750)


def _in_another_users_folder(told: AsWorker, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(data)
    mine = os.geteuid()
    folder = workers._folder()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    monkeypatch.setattr(workers, "_folder", lambda: folder)


def _by_a_link(told: AsWorker, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(data)
    folder = workers._folder()
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def _without_a_backend(told: AsWorker, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(data.with_name("empty"))


def _garbage(told: AsWorker, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(data)
    workers._file().write_text('{"pid": 1}')


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there, the rights of the folder decide")
@pytest.mark.parametrize(
    "which",
    [
        *(_of_another_program, _with_the_users_key, _of_a_killed_program, _in_an_open_folder),
        *(_in_another_users_folder, _by_a_link, _without_a_backend, _garbage),
    ],
)
def test_what_is_not_its_programs_is_not_believed(
    which: Callable[..., None],
    as_worker: AsWorker,
    backend: RunningBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    which(as_worker, Path(backend._backend.address()["data_dir"]), monkeypatch)
    assert which is _without_a_backend or workers.told() is None
    started: list[object] = []

    def start(**options: object) -> local.LocalBackend:
        started.append(options["data_dir"])
        raise te.BackendError("not in this test")

    monkeypatch.setattr(local, "start_local_backend", start)
    with pytest.raises(te.BackendError, match="not in this test"):
        backend_of_this_user()
    assert [str(folder) for folder in started] == [str(tmp_path / "default")]


def test_what_killed_programs_have_left_is_removed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait(FAILSAFE)
    folder = workers._file().parent
    folder.mkdir(mode=0o700)
    for name, pid in (("left", ended.pid), ("alive", os.getppid())):
        (folder / name).write_text(json.dumps({"pid": pid, "data_dir": "/", "is_kept": True, "mode": None}))
    workers.tell(tmp_path, is_kept=True)
    assert {file.name for file in folder.iterdir()} == {"alive", workers._file().name}


@pytest.mark.parametrize("trouble", ["a file", "no rights"])
def test_a_folder_that_cannot_be_used_costs_only_the_workers(trouble: str, tmp_path: Path) -> None:
    folder = workers._folder()
    if trouble == "a file":
        folder.touch()
    else:
        folder.mkdir(mode=0o755)
    workers.tell(tmp_path, is_kept=True)
    workers.tell_mode("local")
    assert workers.told() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_neither_withdraws_nor_changes_what_its_parent_tells(tmp_path: Path) -> None:
    workers.tell(tmp_path, is_kept=True)
    child = os.fork()
    if child == 0:
        workers.withdraw()
        workers.tell(tmp_path / "of the child", is_kept=False)
        workers.withdraw()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert json.loads(workers._file().read_text())["data_dir"] == str(tmp_path)
