"""What is logged arrives once and in order, whatever the server, the disk and the processes do."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import math
import multiprocessing
import os
import pickle
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.journal import writer as writer_module
from tellurio_sync.journal.folder import RunFolder
from tellurio_sync.journal.format import Decoder
from tellurio_sync.studio import Run, StudioRest, start_run
from tellurio_sync.studio.run_log import RunLog
from tellurio_sync.studio.runs import offline_run
from tellurio_sync.studio.shipping import Shipper
from tellurio_sync.studio.sync import sync

from ..backend.conftest import KEY, RunningBackend, a_backend
from ..conftest import FAILSAFE, wait_until
from .flaky import FlakyServer, first


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[RunningBackend]:
    yield from a_backend(data_dir=tmp_path / "data")


@pytest.fixture
def flaky(backend: RunningBackend) -> Iterator[FlakyServer]:
    server = FlakyServer(backend.port)
    yield server
    server.close()


@pytest.fixture
def direct(backend: RunningBackend) -> Iterator[StudioRest]:
    """To look at what the backend has."""
    client = StudioRest("http://127.0.0.1", backend.port, KEY, timeout=FAILSAFE)
    yield client
    client.close()


@pytest.fixture
def rest(flaky: FlakyServer) -> Iterator[StudioRest]:
    client = StudioRest("http://127.0.0.1", flaky.port, KEY, timeout=FAILSAFE)
    yield client
    flaky.fail = lambda method, path: "ok"
    flaky.release.set()
    client.close()


def stored(direct: StudioRest, run: Run) -> list[tuple[str, Any, int]]:
    found = direct.list_metrics("local", run.project.slug, run.uuid)
    return [(one["name"], one["value"], one["step"]) for one in found]


def status(direct: StudioRest, run: Run) -> str:
    return next(one["status"] for one in direct.list_runs("local", run.project.slug) if one["uuid"] == run.uuid)


FAULTS = {
    "answers 500": "500",
    "closes the connection": "refuse",
    "loses answers": "lose",
    "hangs": "hang",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("is_plain", [False, True], ids=["our backend", "a server of the protocol alone"])
def test_each_value_arrives_once_and_in_order(
    flaky: FlakyServer, rest: StudioRest, direct: StudioRest, caplog: Any, fault: str, is_plain: bool
) -> None:
    flaky.is_plain = is_plain
    run = start_run(rest, "local", "P")
    if FAULTS[fault] == "hang":
        rest.timeout = 1.0
    flaky.fail = first(3, FAULTS[fault], "metrics/" if is_plain else "journal/")
    expected = []
    for step in range(20):
        run.log("loss", step / 7, step)
        run.log({"a": step, "b": "text"}, step=step)
        expected += [("loss", step / 7, step), ("a", step, step), ("b", "text", step)]
    if FAULTS[fault] == "hang":
        wait_until(lambda: any(record.levelno == logging.WARNING for record in caplog.records), "no warning came")
        rest.timeout = FAILSAFE
        flaky.release.set()
    run.log("same", 1.0)
    run.log("same", 1.0)
    assert run.flush(FAILSAFE)
    assert stored(direct, run) == [*expected, ("same", 1.0, 0), ("same", 1.0, 1)]
    run.finish()
    assert status(direct, run) == "COMPLETED"
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition(".")[0] for text in said] == [
        "The server takes no metrics at present",
        "The server takes metrics again, and has all that were kept",
    ]
    assert run.journal is not None
    assert not run.journal.exists(), "the server has all of it"


def test_a_loop_goes_on_and_ends_while_the_server_is_away(
    flaky: FlakyServer, rest: StudioRest, direct: StudioRest, caplog: Any
) -> None:
    with start_run(rest, "local", "P") as run:
        flaky.fail = lambda method, path: "refuse"
        for step in range(1000):
            run.log("loss", step, step)
    assert (run.is_finished, run.status) == (True, "COMPLETED")
    assert "`tellurio-sync sync` sends them" in caplog.text
    flaky.fail = lambda method, path: "ok"
    # As a user would, later.
    (left,) = sync(rest, dry_run=True)
    assert (left.outcome, left.run, left.unsent_bytes > 1000) == ("to send", run.name, True)
    assert stored(direct, run) == []
    assert [one.outcome for one in sync(rest)] == ["sent"]
    assert stored(direct, run) == [("loss", step, step) for step in range(1000)]
    assert status(direct, run) == "COMPLETED"
    assert sync(rest) == []


def test_a_lost_answer_to_the_start_of_a_run_makes_no_second_one(
    flaky: FlakyServer, rest: StudioRest, direct: StudioRest
) -> None:
    run = offline_run(rest, "local", "P", "first", config={"lr": 0.1})
    run.log("loss", 1.0)
    run.finish()
    flaky.fail = first(2, "lose", "/runs/")
    assert [one.outcome for one in sync(rest)] == ["sent"]
    (made,) = direct.list_runs("local", "p")
    assert (made["uuid"], made["name"], made["config"], made["status"]) == (run.uuid, "first", {"lr": 0.1}, "COMPLETED")


# --- offline, other machines --------------------------------------------------------------------


def test_an_offline_run_is_complete_and_is_sent_from_another_machine(
    rest: StudioRest, direct: StudioRest, tmp_path: Path
) -> None:
    nowhere = StudioRest("http://127.0.0.1", 9)
    run = offline_run(nowhere, None, "My project", "a name", config={"lr": 1})
    for step in range(3):
        run.log("loss", 1 / (step + 1))
    run.log("loss", math.nan)
    assert [row["step"] for row in run.metrics("loss")] == [0, 1, 2, 3]
    with pytest.raises(KeyError), run:
        raise KeyError("x")
    assert (run.is_offline, run.status) == (True, "CRASHED")
    assert run.journal is not None
    there = tmp_path / "another machine"
    run.journal.rename(there)
    (result,) = sync(rest, there, username="local")
    assert (result.outcome, result.run, result.server) == ("sent", "a name", None)
    (made,) = direct.list_runs("local", "my-project")
    assert (made["status"], made["reason"], made["config"]) == ("CRASHED", "KeyError: 'x'", {"lr": 1})
    assert [value for _, value, _ in stored(direct, start_copy(run, made))] == [1, 1 / 2, 1 / 3, None]


def offline_runs(count: int) -> None:
    for number in range(count):
        run = offline_run(StudioRest("http://127.0.0.1", 9), None, "P", f"run {number}")
        for step in range(3):
            run.log("loss", 1.0, step)
        run.finish()


# A server of the protocol alone cannot know a repeated request to make a run.
@pytest.mark.parametrize(
    ("fault", "only", "is_plain"),
    [
        *((fault, only, False) for fault in ("500", "refuse", "lose") for only in ("journal/", "runs/", "projects/")),
        *((fault, only, True) for fault in ("500", "refuse") for only in ("metrics/", "runs/")),
        ("lose", "metrics/", True),
    ],
)
def test_one_sync_goes_on_after_answers_that_were_lost(
    fault: str, only: str, is_plain: bool, flaky: FlakyServer, rest: StudioRest, direct: StudioRest
) -> None:
    offline_runs(2)
    flaky.is_plain = is_plain
    flaky.fail = first(2, fault, only)
    results = sync(rest, username="local")
    assert [(one.outcome, one.why) for one in results] == [("sent", "")] * 2
    made = direct.list_runs("local", "p")
    assert [one["status"] for one in made] == ["COMPLETED"] * 2
    for one in made:
        assert [value["step"] for value in direct.list_metrics("local", "p", one["uuid"])] == [0, 1, 2]


def test_a_sync_with_a_server_that_only_fails_ends_soon(flaky: FlakyServer, rest: StudioRest) -> None:
    offline_runs(3)
    asked: list[str] = []
    flaky.fail = lambda method, path: asked.append(path) or "500"  # type: ignore[func-returns-value]
    assert [one.outcome for one in sync(rest, username="local")] == ["failed"] * 3
    assert len(asked) == 4 + 1 + 1


def test_a_sync_whose_key_is_refused_is_not_tried_again(flaky: FlakyServer) -> None:
    offline_runs(2)
    asked: list[str] = []
    flaky.fail = lambda method, path: asked.append(path) or "ok"  # type: ignore[func-returns-value]
    other = StudioRest("http://127.0.0.1", flaky.port, "te-another-key", timeout=FAILSAFE)
    results = sync(other, username="local")
    other.close()
    assert [one.outcome for one in results] == ["failed"] * 2
    assert all("401" in one.why for one in results)
    assert len(asked) == len(set(asked)) * 2, "each request once for each run"


def start_copy(run: Run, made: dict[str, Any]) -> Any:
    copy = pickle.loads(pickle.dumps(run))
    copy.uuid = made["uuid"]
    return copy


def test_what_belongs_to_another_server_stays_unless_told(rest: StudioRest, direct: StudioRest) -> None:
    away = StudioRest("http://127.0.0.1", 9, KEY, timeout=0.2)
    run = offline_run(away, "local", "P")
    folder = RunFolder(run.journal or Path())
    folder.change(server="http://127.0.0.1:9")
    run.log("loss", 1.0)
    run.finish()
    assert [one.outcome for one in sync(rest)] == ["elsewhere"]
    assert [one.outcome for one in sync(rest, anyway=True)] == ["sent"]
    assert stored(direct, run) == [("loss", 1.0, 0)]
    away.close()


# --- disk ---------------------------------------------------------------------------------------


class FullDisk:
    """Stands in for ``os.write``: takes only so many bytes of what is written to a journal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: float = math.inf
        self._write = os.write
        monkeypatch.setattr(writer_module.os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".journal"):
            if self.room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            data = data[: int(min(self.room, len(data)))]
            self.room -= len(data)
        return self._write(fd, data)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks /proc which file is written")
@pytest.mark.parametrize("room", [0, 1, 5, 10, 11, 17])
def test_on_a_full_disk_the_loop_goes_on_and_the_loss_is_counted(
    rest: StudioRest, direct: StudioRest, caplog: Any, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    disk = FullDisk(monkeypatch)
    run = start_run(rest, "local", "P")
    for step in range(5):
        run.log("loss", float(step), step)
    disk.room = room
    for step in range(5, 25):
        run.log("loss", float(step), step)
        run.log({"new": 1, "names": 2.0}, step=step)
    disk.room = math.inf
    for step in range(25, 30):
        run.log("loss", float(step), step)
    assert run.flush(FAILSAFE)
    found = stored(direct, run)
    steps = [step for name, _, step in found if name == "loss"]
    kept = len(steps) - 10
    assert steps == [*range(5), *range(5, 5 + kept), *range(25, 30)]
    assert kept == (1 if room >= 11 else 0)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "cannot be kept and are lost" in warnings[0]
    assert warnings[1] == f"Values of metrics are kept again; {60 - kept} were lost."
    run.finish()


def test_a_folder_that_cannot_be_made_is_said_and_the_loop_goes_on(
    rest: StudioRest, direct: StudioRest, caplog: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "file" / "below"))
    run = start_run(rest, "local", "P")
    for step in range(100):
        run.log("loss", step)
    run.finish()
    first, last = [record.getMessage() for record in caplog.records]
    assert "TELLURIO_JOURNAL_DIR" in first
    assert re.match(r"100 values of metrics of this run could not be kept and are lost: \[Errno 20\]", last)
    assert status(direct, run) == "COMPLETED", "the server is there: it is told the end all the same"


def test_an_end_that_can_be_neither_noted_nor_told_is_said(
    rest: StudioRest, flaky: FlakyServer, caplog: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path / "file" / "below"))
    run = start_run(rest, "local", "P")
    flaky.fail = lambda method, path: "500"
    run.finish()
    (said,) = [record.getMessage() for record in caplog.records]
    assert re.match(r"The end of the run could neither be noted \(.*\) nor told to the server \(.*\)\.$", said)


# --- processes ------------------------------------------------------------------------------------

TRAINING = f"""
import os, random, signal, sys, threading
from tellurio_sync.studio import StudioRest, start_run
rest = StudioRest("http://127.0.0.1", int(sys.argv[1]), {KEY!r})
run = start_run(rest, "local", "P")
print(run.uuid, flush=True)
done = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
step = 0
while True:
    run.log("loss", step / 3, step=step)
    run.log({{"a": step, "b": step / 7}}, step=step)
    os.pwrite(done, b"%012d" % step, 0)  # acknowledged
    step += 1
    if step == int(sys.argv[3]):
        if sys.argv[4] == "exit": os._exit(3)
        os.kill(os.getpid(), int(sys.argv[4]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["9", "15", "exit"])
def test_a_killed_training_loses_no_value_and_doubles_none(
    end: str, flaky: FlakyServer, rest: StudioRest, direct: StudioRest, tmp_path: Path
) -> None:
    chance = random.Random(end)
    runs = []
    for number in range(4):
        done = tmp_path / f"done-{number}"
        steps = chance.choice([1, 7, 400, 5000])
        command = [sys.executable, "-c", TRAINING, str(flaky.port), str(done), str(steps), end]
        killed = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert killed.returncode in (-9, -15, 3), killed.stderr
        runs.append((killed.stdout.strip(), steps))
    for result in sync(rest):
        assert result.outcome == "sent", result.why
    for uuid, steps in runs:
        found = direct.list_metrics("local", "p", uuid)
        by_name = {name: [one["step"] for one in found if one["name"] == name] for name in ("loss", "a", "b")}
        assert by_name == {name: list(range(steps)) for name in ("loss", "a", "b")}


@pytest.mark.slow
def test_a_training_killed_from_outside_at_any_time_loses_nothing_that_was_acknowledged(
    flaky: FlakyServer, rest: StudioRest, direct: StudioRest, tmp_path: Path
) -> None:
    chance = random.Random(7)
    for number in range(8):
        done = tmp_path / f"done-{number}"
        command = [sys.executable, "-c", TRAINING, str(flaky.port), str(done), "-1", "9"]
        training = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert training.stdout is not None
        uuid = training.stdout.readline().strip()
        flaky.fail = first(chance.randrange(3), "lose", "journal/")
        wait_until(lambda done=done: done.exists() and done.read_bytes(), "the training does not log")
        threading.Event().wait(chance.random() * 0.4)  # any time
        training.kill()
        training.wait(FAILSAFE)
        training.stdout.close()
        acknowledged = int(done.read_bytes() or b"-1") + 1
        assert {one.outcome for one in sync(rest)} == {"sent"}
        found = direct.list_metrics("local", "p", uuid)
        by_name = {name: [one["step"] for one in found if one["name"] == name] for name in ("loss", "a", "b")}
        for steps in by_name.values():
            assert steps == list(range(len(steps)))
            assert acknowledged <= len(steps) <= acknowledged + 1
        assert len(by_name["a"]) == len(by_name["b"]), "one record, all or nothing"


def log_in_child(run: Run, number: int) -> None:
    for step in range(50):
        run.log(f"child {number}", float(step), step)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_processes_of_one_run_lose_nothing(method: str, rest: StudioRest, direct: StudioRest) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    context = multiprocessing.get_context(method)
    with start_run(rest, "local", "P") as run:
        run.log("parent", 0.0, 0)
        children = [context.Process(target=log_in_child, args=(run, number)) for number in range(3)]
        for child in children:
            child.start()
        for step in range(1, 50):
            run.log("parent", float(step), step)
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        found = run.metrics()
        for name in ("parent", "child 0", "child 1", "child 2"):
            assert [row["step"] for row in found if row["name"] == name] == list(range(50))
    assert status(direct, run) == "COMPLETED"


def test_threads_log_into_one_journal(rest: StudioRest, direct: StudioRest) -> None:
    run = start_run(rest, "local", "P")

    def work(number: int) -> None:
        for step in range(300):
            run.log(f"m{number}", step / 3, step)
            if step % 10 == 0:
                run.log({f"new {number} {step}": step, "all": 1}, step=step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAILSAFE)
    found = run.metrics()
    for number in range(6):
        assert [row["step"] for row in found if row["name"] == f"m{number}"] == list(range(300))
    assert len([row for row in found if row["name"] == "all"]) == 180
    run.finish()


def test_a_signal_handler_may_log_in_the_middle_of_a_record(rest: StudioRest) -> None:
    run = start_run(rest, "local", "P")
    run.log("loss", 0.0, 0)
    journal = run._log._writer
    assert journal is not None
    real, nested = journal._encoder.number, []

    def interrupted(name: str, value: float, step: int | None) -> bytes:
        record = real(name, value, step)
        if not nested:
            nested.append(True)
            run.log("loss", 100.0, 100)
            run.log({"first time here": 1}, step=101)
        return record

    journal._encoder.number = interrupted  # type: ignore[method-assign]
    for step in (1, 2, 3):
        run.log("loss", float(step), step)
    folder = RunFolder(run.journal or Path())
    (name,) = folder.writers()
    records = Decoder().feed(folder.read(name, 0, folder.size(name)))
    assert [(record.step, record.values[0][1]) for record in records] == [
        *((0, 0.0), (100, 100.0), (101, 1), (1, 1.0), (2, 2.0), (3, 3.0))
    ]
    run.finish()


@pytest.mark.parametrize("ctrl_c", range(1, 12))
def test_ctrl_c_at_any_point_tears_no_record(
    rest: StudioRest, direct: StudioRest, monkeypatch: pytest.MonkeyPatch, ctrl_c: int
) -> None:
    run = start_run(rest, "local", "P")
    run.log("loss", 0.0, 0)
    calls = [0]

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename == writer_module.__file__:
            calls[0] += event == "line"
            if calls[0] == ctrl_c and event == "line":
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        run.log("loss", 1.0, 1)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    run.log("loss", 2.0, 2)
    run.log("new", 3.0, 3)
    found = [(row["name"], row["value"], row["step"]) for row in run.metrics()]
    assert [row for row in found if row[2] != 1] == [("loss", 0.0, 0), ("loss", 2.0, 2), ("new", 3.0, 3)]
    assert [row for row in found if row[2] == 1] in ([], [("loss", 1.0, 1)])
    run.finish()


# --- how long it takes ------------------------------------------------------------------------------


def test_logging_never_sends_in_the_callers_thread(rest: StudioRest, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_run(rest, "local", "P")
    senders = set()
    real = StudioRest._send

    def send(*args: Any) -> Any:
        senders.add(threading.current_thread().name)
        return real(*args)

    monkeypatch.setattr(StudioRest, "_send", send)
    for step in range(100):
        run.log("loss", 0.5, step)
    run.flush(FAILSAFE)
    assert senders == {"tellurio-sync metrics"}
    run.finish()


def test_many_values_travel_together(rest: StudioRest, flaky: FlakyServer) -> None:
    run = start_run(rest, "local", "P")
    for step in range(20_000):
        run.log("loss", 0.5, step)
    assert run.flush(FAILSAFE)
    run.finish()
    assert len([path for _, path in flaky.requests if "/journal/" in path]) < 100


def test_what_is_logged_during_a_request_travels_together_after_a_pause(
    rest: StudioRest, direct: StudioRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that logs without a pause has a request every now and then, not one after another."""
    run = start_run(rest, "local", "P")
    assert run.flush(FAILSAFE)
    happened: list[str] = []
    logged = [0]
    send, pause = StudioRest.send_journal, Shipper._wait

    def send_while_it_logs(rest: StudioRest, namespace: str, project: str, uuid: str, writer: str, *args: Any) -> Any:
        if writer != "-":  # that one is a sign of life
            happened.append("request")
            if len(logged) < 6:
                run.log("loss", 0.5, len(logged))
                logged.append(len(logged))
        return send(rest, namespace, project, uuid, writer, *args)

    def noted_pause(shipper: Shipper, *args: Any) -> None:
        happened.append("pause")
        pause(shipper, *args)

    monkeypatch.setattr(StudioRest, "send_journal", send_while_it_logs)
    monkeypatch.setattr(Shipper, "_wait", noted_pause)
    run.log("loss", 0.5, 0)
    wait_until(lambda: happened.count("request") > 5, "not everything was sent")
    assert ("request", "request") not in itertools.pairwise(happened)
    run.finish()
    assert sorted(step for _, _, step in stored(direct, run)) == logged  # two threads have logged


def test_the_end_of_a_run_comes_after_what_was_logged_during_a_request(
    rest: StudioRest, flaky: FlakyServer, direct: StudioRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server need not take values of a run that is over."""
    run = start_run(rest, "local", "P")
    run.log("loss", 1.0, 0)
    assert run.flush(FAILSAFE)
    assert run.journal is not None
    folder = RunFolder(run.journal)
    send = StudioRest.send_journal

    def send_while_it_ends(rest: StudioRest, namespace: str, project: str, uuid: str, writer: str, *args: Any) -> Any:
        if writer != "-" and not folder.end():  # "-" is a sign of life
            run.log("loss", 0.25, 2)
            folder.set_end("COMPLETED", None)
        return send(rest, namespace, project, uuid, writer, *args)

    monkeypatch.setattr(StudioRest, "send_journal", send_while_it_ends)
    before = len(flaky.requests)
    run.log("loss", 0.5, 1)
    wait_until(lambda: folder.end().get("is_sent"), "the end was not sent")
    sent = [method for method, path in flaky.requests[before:] if method == "PATCH" or "/journal/-/" not in path]
    assert sent[: sent.index("PATCH")].count("POST") >= 2
    assert [step for _, _, step in stored(direct, run)] == [0, 1, 2]
    run.finish()


def test_reading_sees_what_was_logged_before(rest: StudioRest, direct: StudioRest) -> None:
    run = start_run(rest, "local", "P")
    for step in range(5):
        run.log("loss", step)
        assert len(run.metrics()) == step + 1
        assert len(rest.list_metrics("local", "p", run.uuid)) == step + 1
    assert run.next_step == 5
    run.finish()


def test_a_run_without_a_key_leaves_its_journal_for_others(rest: StudioRest, direct: StudioRest) -> None:
    run = start_run(rest, "local", "P")
    copy = pickle.loads(pickle.dumps(run))
    copy.log("loss", 0.5)
    assert not copy.flush(0.1)
    assert run.flush(FAILSAFE)
    assert stored(direct, run) == [("loss", 0.5, 0)]
    run.finish()


def test_the_server_forgot_what_it_had(
    backend: RunningBackend, flaky: FlakyServer, rest: StudioRest, direct: StudioRest
) -> None:
    run = start_run(rest, "local", "P")
    run.log("loss", 0.5)
    run.flush(FAILSAFE)
    folder = RunFolder(run.journal or Path())
    (name,) = folder.writers()
    folder.forget_sent(name)  # and the other way round: here it is not known what the server has
    run.log("loss", 0.25)
    assert run.flush(FAILSAFE)
    assert stored(direct, run) == [("loss", 0.5, 0), ("loss", 0.25, 1)]
    run.finish()


def test_what_is_no_journal_is_said_and_the_rest_is_sent(rest: StudioRest, direct: StudioRest, caplog: Any) -> None:
    run = start_run(rest, "local", "P")
    run.log("loss", 0.5)
    run.flush(FAILSAFE)
    folder = RunFolder(run.journal or Path())
    (folder.path / "0-broken.journal").write_bytes(b"something else entirely")
    run.log("loss", 0.25)
    assert run.flush(FAILSAFE)
    assert "cannot be read from byte 0" in caplog.text
    assert [value for _, value, _ in stored(direct, run)] == [0.5, 0.25]
    run.finish()
    assert (folder.path / "0-broken.journal").exists(), "kept for its owner to look at"
    refused = (folder.path / "refused.jsonl").read_text().splitlines()
    assert json.loads(refused[0])["name"] == "journal 0-broken"


def test_the_end_waits_no_longer_than_two_seconds_for_a_server_that_hangs(
    flaky: FlakyServer, rest: StudioRest, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TELLURIO_FINISH_TIMEOUT")
    rest.timeout = 30.0
    with start_run(rest, "local", "P") as run:
        run.log("loss", 0.5)
        flaky.fail = lambda method, path: "hang"
        run.log("loss", 0.25)
        begin = time.monotonic()
    assert time.monotonic() - begin < FAILSAFE  # it does not wait for the 30 s of the request
    assert "`tellurio-sync sync` sends them" in caplog.text
    flaky.release.set()


def test_two_threads_that_close_at_once_do_not_disturb_each_other(
    rest: StudioRest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(rest, "local", "P")
    run.log("x", 1)
    has_unsent = RunLog.has_unsent
    paused: list[bool] = []

    def other_first(log: RunLog) -> bool:
        if not paused:
            paused.append(True)
            rest.close()
        return bool(has_unsent.__get__(log))

    monkeypatch.setattr(RunLog, "has_unsent", property(other_first))
    rest.close()
    assert paused
    run.log("x", 2)
    run.finish()
