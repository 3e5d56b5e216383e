"""Programs that keep their data in the same directory use one backend: the last one out ends it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tellurio_sync import exit_order, leash, local
from tellurio_sync.backend import server
from tellurio_sync.backend.leashes import Leashes
from tellurio_sync.errors import BackendError
from tellurio_sync.leash import FILE_NAME, GOES_ON, LOCK_NAME, Leash, find_backend

from .backend.conftest import RunningBackend, a_backend

FAILSAFE = 60

PROGRAM = """
import os, sys
import tellurio_sync as te
te.login(mode="local", data_dir={data!r})
backend = te.local.default_local_backend()
print(backend.pid, backend.http_port, flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Program:
    """A notebook, say: a process that is logged in, and does what it is told line by line."""

    def __init__(self, data: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *options, "-c", textwrap.dedent(PROGRAM).format(data=str(data))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def backend(self) -> tuple[int, int]:
        """Pid and port of its backend, once it is logged in."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        pid, port = map(int, line.split())
        return pid, port

    def does(self, code: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(code + "\n")
        line = self.process.stdout.readline()
        assert line == "done\n", self.process.communicate()[1]

    def ends(self, how: str) -> str:
        """Its standard error, once it has ended."""
        if how == "kill":
            self.process.kill()
        _, errors = self.process.communicate(timeout=FAILSAFE)
        assert self.process.returncode == (-9 if how == "kill" else 0), errors
        return errors


class Life:
    """A connection to a backend: its end is the backend's."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), FAILSAFE)

    def wait_for_end(self) -> None:
        with self._socket:
            try:
                assert self._socket.recv(1) == b""
            except ConnectionResetError:
                pass


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    programs: list[Program] = []

    def start_one(data: Path, *options: str) -> Program:
        programs.append(Program(data, *options))
        return programs[-1]

    yield start_one
    for program in programs:
        program.process.kill()
        program.process.communicate(timeout=FAILSAFE)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def change(data: Path, **members: object) -> None:
    """Change what is written of the backend."""
    file = data / FILE_NAME
    file.write_text(json.dumps({**json.loads(file.read_text()), **members}))


LOG = "with te.init(project_display_name='Ours') as run: run.log('loss', 1.0, step=0)"


@pytest.mark.slow
class TestTwoPrograms:
    def test_both_use_the_first_ones_backend(self, start: Start, data: Path) -> None:
        one = start(data)
        backend = one.backend()
        two = start(data)
        assert two.backend() == backend
        for program in (one, two):
            program.does(LOG)
        two.does("assert len(te.runs(None, 'Ours')) == 2, te.runs(None, 'Ours')")

    @pytest.mark.parametrize("how", ["exit", "kill"])
    def test_it_goes_on_without_the_one_that_started_it_and_ends_with_the_last(
        self, how: str, start: Start, data: Path
    ) -> None:
        one = start(data, "-X", "dev")
        pid, port = one.backend()
        two = start(data, "-X", "dev")
        two.backend()
        assert "ResourceWarning" not in one.ends(how)
        two.does(LOG)
        third = start(data)
        assert third.backend() == (pid, port)
        life = Life(port)
        assert "Warning" not in two.ends(how)
        third.does(LOG)
        third.ends(how)
        life.wait_for_end()
        fourth = start(data)
        assert fourth.backend()[0] != pid
        fourth.does("assert len(te.runs(None, 'Ours')) == 2")

    def test_it_does_not_end_with_one_that_joined(self, start: Start, data: Path) -> None:
        one = start(data)
        backend = one.backend()
        two = start(data)
        two.backend()
        two.ends("exit")
        one.does(LOG)
        life = Life(backend[1])
        one.ends("exit")
        life.wait_for_end()

    def test_who_stopped_it_joins_it_again(self, start: Start, data: Path) -> None:
        one = start(data)
        pid, _ = one.backend()
        two = start(data)
        two.backend()
        for program in (one, two):
            program.does("backend.stop(); backend.stop(); assert not backend.is_running")
            program.does(f"te.login(mode='local', data_dir={str(data)!r})")
            program.does(f"assert te.local.default_local_backend().pid == {pid}")
            program.does(LOG)

    def test_all_at_the_same_moment(self, start: Start, data: Path) -> None:
        programs = [start(data) for _ in range(3)]
        assert len({program.backend() for program in programs}) == 1
        for program in programs:
            program.does(LOG)

    def test_it_is_killed_and_the_next_one_starts_anew(self, start: Start, data: Path) -> None:
        one, two = start(data), start(data)
        pid, port = one.backend()
        two.backend()
        life = Life(port)
        os.kill(pid, signal.SIGKILL)
        life.wait_for_end()
        third = start(data)
        assert third.backend()[0] != pid
        two.does("assert not backend.is_running; backend.stop()")
        two.does(f"te.login(mode='local', data_dir={str(data)!r})")
        two.does(LOG)
        third.does("assert len(te.runs(None, 'Ours')) == 1")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child_does_not_hold_it(self, start: Start, data: Path) -> None:
        one = start(data)
        _, port = one.backend()
        two = start(data)
        two.backend()
        two.does("r, w = os.pipe(); child = os.fork(); child or (os.close(w), os.read(r, 1), os._exit(0)); os.close(r)")
        life = Life(port)
        one.ends("exit")
        two.does("te.local.default_local_backend().stop()")
        life.wait_for_end()
        two.does("os.close(w); os.waitpid(child, 0)")


class TestTellingTheStarter:
    """It kills a backend that neither ends nor says within two seconds that others use it."""

    @pytest.fixture
    def stdin(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
        """Ends the standard input of this process for those that read the descriptor itself."""
        reading, writing = os.pipe()
        real = os.read
        monkeypatch.setattr(os, "read", lambda number, size: real(reading if number == 0 else number, size))
        yield lambda: os.close(writing)
        os.close(reading)

    @pytest.mark.parametrize("others", [True, False])
    def test_it_is_told_while_the_event_loop_is_at_work(
        self, others: bool, stdin: Callable[[], None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        unused: list[bool] = []
        leashes = Leashes(lambda: unused.append(True))
        if others:
            leashes._held.add(asyncio.Transport())

        async def work() -> None:
            watching = server._watch_stdin(leashes)
            stdin()
            watching.join(FAILSAFE)  # the loop does nothing else
            assert capsys.readouterr().err == (GOES_ON + "\n" if others else "")
            assert not unused
            await asyncio.sleep(0)
            assert bool(unused) is not others
            assert capsys.readouterr().err == ""

        asyncio.run(work())


class TestJoining:
    """One backend, which this process has not started."""

    @pytest.fixture
    def backend(self, data: Path) -> Iterator[RunningBackend]:
        yield from a_backend(data_dir=data, api_key="te-its-key", namespaces=("theirs",))

    @pytest.fixture(autouse=True)
    def nothing_left(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr(local, "_default", None)
        before = set(local._children)
        yield
        assert local._children == before

    def test_its_address_lies_beside_its_data_for_this_user_only(self, backend: RunningBackend, data: Path) -> None:
        address = find_backend(data)
        assert address is not None
        assert (address["http_port"], address["api_key"]) == (backend.port, "te-its-key")
        if sys.platform != "win32":
            assert (data / FILE_NAME).stat().st_mode & 0o777 == 0o600
        backend.stop()
        assert not (data / FILE_NAME).exists()
        assert find_backend(data) is None

    def test_it_is_joined_and_its_end_is_seen(self, backend: RunningBackend, data: Path) -> None:
        joined = local.default_local_backend(data_dir=data)
        assert (joined.http_port, joined.namespace, joined.pid) == (backend.port, "theirs", os.getpid())
        assert joined.is_running
        assert joined.last_lines == []
        assert "te-its-key" not in repr(joined)
        assert local.default_local_backend(data_dir=str(data)) is joined
        backend.stop()
        assert not joined.is_running
        joined.stop()

    def test_at_the_end_of_the_program_it_counts_as_left_before_it_is(
        self, backend: RunningBackend, data: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exit_order, "_in_use", set())
        joined = local.default_local_backend(data_dir=data)
        assert exit_order._in_use == {exit_order.BACKENDS}
        local._hold_all_back()
        assert not joined.is_running
        assert find_backend(data) is not None
        joined.stop()

    def test_one_that_is_to_have_other_options_is_not_joined(self, backend: RunningBackend, data: Path) -> None:
        with pytest.raises(BackendError, match="Another backend uses the data directory") as caught:
            local.default_local_backend(data_dir=data, api_key="te-mine")
        assert "te.login(mode='local', data_dir=...) joins it" in str(caught.value)

    @pytest.mark.skipif(sys.platform == "win32", reason="there, the rights of the directory decide")
    @pytest.mark.parametrize("mode", [0o640, 0o602, 0o666])
    def test_an_address_that_others_could_have_written_is_not_used(
        self, mode: int, backend: RunningBackend, data: Path
    ) -> None:
        (data / FILE_NAME).chmod(mode)
        with pytest.raises(BackendError, match="Choose a data directory that is yours alone"):
            local.default_local_backend(data_dir=data)

    @pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
    def test_an_address_that_another_user_wrote_is_not_used(
        self, monkeypatch: pytest.MonkeyPatch, backend: RunningBackend, data: Path
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: (data / FILE_NAME).stat().st_uid + 1)
        with pytest.raises(BackendError, match=r"belongs to another user \(id \d+\)"):
            local.default_local_backend(data_dir=data)

    @pytest.mark.parametrize(
        ("member", "value", "says"),
        [
            ("machine", "node-7", "on the machine 'node-7'"),
            (
                "http_base_url",
                "https://127.0.0.1",
                r"Log in to it by its address \(https://127.0.0.1:\d+\) and its key",
            ),
        ],
    )
    def test_one_that_cannot_be_joined_says_why_at_once(
        self, member: str, value: str, says: str, backend: RunningBackend, data: Path
    ) -> None:
        """Its data directory is held: another one cannot be started either."""
        change(data, **{member: value})
        with pytest.raises(BackendError, match=says) as caught:
            local.default_local_backend(data_dir=data)
        assert "te-its-key" not in str(caught.value)

    @pytest.mark.slow
    @pytest.mark.parametrize("left", ["other machine", "readable by all", "FIFO", "link"])
    def test_what_lies_there_without_a_backend_does_not_keep_one_from_starting(self, left: str, tmp_path: Path) -> None:
        """A copied folder, a disk without rights, a prank."""
        file = tmp_path / FILE_NAME
        if left == "FIFO":
            os.mkfifo(file)
        elif left == "link":
            file.symlink_to(tmp_path / "elsewhere")
        else:
            file.write_text(json.dumps({**dict.fromkeys(leash._NAMES, "1"), "machine": "node-7"}))
            file.chmod(0o644 if left == "readable by all" else 0o600)
        backend = local.default_local_backend(data_dir=tmp_path)
        try:
            found = find_backend(tmp_path)
            assert found is not None
            assert found["pid"] == backend.pid
        finally:
            backend.stop()

    @pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"pid": "x"}', "null", "\udcff"])
    def test_a_file_that_says_nothing_leads_nowhere(self, content: str, tmp_path: Path) -> None:
        file = tmp_path / FILE_NAME
        file.write_bytes(content.encode(errors="surrogateescape"))
        file.chmod(0o600)
        assert find_backend(tmp_path) is None

    def test_the_address_of_a_backend_that_was_killed_leads_nowhere(self, backend: RunningBackend, data: Path) -> None:
        """Its port may be another program's now, which is not to get the key."""
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            ended.wait(FAILSAFE)
        assert find_backend(data) is not None
        change(data, pid=ended.pid)
        assert find_backend(data) is None

    def test_nor_if_its_process_id_is_another_programs_now(self, backend: RunningBackend, data: Path) -> None:
        file = data / FILE_NAME
        left = file.read_bytes()
        backend.stop()
        file.write_bytes(left)
        file.chmod(0o600)
        assert json.loads(left)["pid"] == os.getpid()
        assert find_backend(data) is None
        (data / LOCK_NAME).unlink()
        assert find_backend(data) is None

    @pytest.mark.parametrize("wrong", [{"api_key": "te-another"}, {"http_port": 1}])
    def test_what_does_not_answer_as_it_should_is_no_backend(
        self, wrong: dict[str, object], backend: RunningBackend, data: Path
    ) -> None:
        address = find_backend(data)
        assert address is not None
        with pytest.raises(OSError):
            Leash({**address, **wrong}, FAILSAFE)
