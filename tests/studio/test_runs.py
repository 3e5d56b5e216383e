from __future__ import annotations

import json
import logging
import math
import os
import pickle
import re
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest
import responses

from tellurio_sync.active_run import get_active_run, set_active_run
from tellurio_sync.errors import HttpError, HttpStatusError, UsageError
from tellurio_sync.studio import Project, Run, RunGuard, RunStatus, StudioRest, run_guard, runs, start_run

PROJECT = "http://127.0.0.1:8000/api/v0/acme/projects/my-project/"
PROJECT_ANSWER = {"uuid": "p1", "display_name": "My Project", "slug": "my-project"}


def run_answer(uuid: str = "r1", **changes: object) -> dict[str, object]:
    return {
        "uuid": uuid,
        "name": "Brave Pasta",
        "description": None,
        "status": "RUNNING",
        "date_created": "2025-01-02T03:04:05Z",
        "date_updated": "2025-01-02T03:04:05Z",
        "project": PROJECT_ANSWER,
        "user": {"uuid": "u1", "username": "me", "slug": "me"},
        **changes,
    }


@pytest.fixture(autouse=True)
def no_active_run():
    yield
    set_active_run(None)


@pytest.fixture
def studio(rest):
    """A scripted server with the project and any number of runs; the calls to it are ``studio.calls``."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.add("GET", PROJECT, json=PROJECT_ANSWER)
        for uuid in ("r1", "r2", "r3"):
            mock.add("PATCH", f"{PROJECT}runs/{uuid}/", json={})
            mock.add("POST", f"{PROJECT}runs/{uuid}/metrics/", json={}, status=201)
        yield mock


def statuses(mock: responses.RequestsMock) -> list[tuple[str, str]]:
    """(run, status) of each change sent."""
    return [
        (call.request.url.split("/")[-2], json.loads(call.request.body)["status"])
        for call in mock.calls
        if call.request.method == "PATCH"
    ]


def started(rest: StudioRest, studio: responses.RequestsMock, uuid: str = "r1", **changes: object) -> Run:
    studio.upsert("POST", f"{PROJECT}runs/", json=run_answer(uuid, **changes), status=201)
    run = start_run(rest, "acme", "My Project")
    set_active_run(run)
    return run


# --- starting -----------------------------------------------------------------------------------


def test_a_run_starts(rest, studio):
    studio.add("POST", f"{PROJECT}runs/", json=run_answer(), status=201)
    run = start_run(rest, "acme", "My Project", "Brave Pasta", "why")
    assert (run.uuid, run.name, run.description, run.status) == ("r1", "Brave Pasta", None, "RUNNING")
    assert (run.project, run.user) == (Project("p1", "My Project", "my-project", "acme"), runs.User("u1", "me", "me"))
    assert run.url == "http://127.0.0.1:8000/acme/projects/my-project/runs/brave-pasta/"
    assert json.loads(studio.calls[-1].request.body) == {
        "name": "Brave Pasta",
        "description": "why",
        "status": "RUNNING",
    }
    assert repr(run) == f"Run('Brave Pasta', RUNNING, {run.url})"


def test_the_platforms_address_needs_no_port(studio):
    rest = StudioRest("https://platform.tellurio.ai", 443)
    run = Run.from_answer(run_answer(), Project("p1", "P", "p", "acme"), rest)
    assert run.url == "https://platform.tellurio.ai/acme/projects/p/runs/brave-pasta/"


def test_a_status_that_is_none(rest):
    with pytest.raises(ValueError, match="DONE"):
        start_run(rest, "acme", "My Project", status="DONE")


@pytest.mark.parametrize("changes", [{"status": "ODD"}, {"user": {"uuid": "u"}}, {"date_created": "soon"}])
def test_an_answer_that_is_no_run(rest, studio, changes):
    with pytest.raises(HttpError, match="The server described a run"):
        started(rest, studio, **changes)


def test_statuses_are_texts():
    assert RunStatus.CRASHED == "CRASHED"
    assert f"{RunStatus.CRASHED} {RunStatus.CRASHED!s}" == "CRASHED CRASHED"
    assert json.dumps(RunStatus.CRASHED) == '"CRASHED"'


# --- metrics ------------------------------------------------------------------------------------


class Scalar:
    """Like a number of NumPy or PyTorch."""

    def tolist(self) -> float:
        return 0.25


def values_sent(mock: responses.RequestsMock) -> list[dict[str, object]]:
    return [json.loads(call.request.body) for call in mock.calls if call.request.url.endswith("/metrics/")]


@pytest.mark.parametrize(
    ("value", "sent"),
    [(1, 1), (0.5, 0.5), ("x", "x"), (None, None), (True, True), ({"a": [1]}, {"a": [1]}), (Scalar(), 0.25)],
)
def test_any_json_value_is_logged(rest, studio, value, sent):
    run = started(rest, studio)
    run.log("accuracy", value)
    run.log("accuracy", value, step=3)
    run.log({"accuracy": value, "other": 1}, step=4)
    assert run.flush()
    assert values_sent(studio) == [
        {"name": "accuracy", "value": sent},
        {"name": "accuracy", "value": sent, "step": 3},
        {"name": "accuracy", "value": sent, "step": 4},
        {"name": "other", "value": 1, "step": 4},
    ]


def test_nan_and_infinities_are_logged(rest, studio):
    run = started(rest, studio)
    for value in (math.nan, -math.inf, [math.nan, 1]):
        run.log("loss", value)
    run.flush()
    assert [one["value"] for one in values_sent(studio)] == [None, None, [None, 1]]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("accuracy", object()), r"Not logged: accuracy at step 3 \(.*test_runs.py:\d+\).*object"),
        (("accuracy", b"x"), "accuracy at step 3.*bytes"),
        (("", 1), "must be a text that is not empty"),
        ((5, 1), "must be a text that is not empty, not 5"),
    ],
)
def test_what_cannot_be_logged_costs_one_warning(rest, studio, caplog, arguments, text):
    run = started(rest, studio)
    for _ in range(3):
        run.log(*arguments, step=3)
    run.log({"fine": 1, arguments[0]: arguments[1]}, step=4)
    run.flush()
    assert len(caplog.records) == 1
    assert re.search(text, caplog.text)
    assert [one["name"] for one in values_sent(studio)] == ["fine"]
    with pytest.raises((TypeError, ValueError)):
        run.log(*arguments, strict=True)


@pytest.mark.parametrize("step", [0.5, -1, 2**63, "1", object()])
def test_a_step_is_a_whole_number(rest, studio, caplog, step):
    run = started(rest, studio)
    run.log("accuracy", 1.0, step)
    run.log("accuracy", 2.0, 3.0)
    run.flush()
    assert "step" in caplog.text
    assert [(one["value"], one["step"]) for one in values_sent(studio)] == [(2.0, 3)]
    with pytest.raises((TypeError, ValueError)):
        run.log("accuracy", 1, step, strict=True)


def test_a_name_needs_a_value(rest, studio):
    run = started(rest, studio)
    with pytest.raises(TypeError, match="a name and a value, or a dict"):
        run.log("accuracy")
    with pytest.raises(TypeError, match="takes no value"):
        run.log({"accuracy": 1}, 3)


def test_a_value_that_the_server_refuses_is_said_once_and_the_rest_goes_on(rest, studio, caplog):
    def answer(request):
        return (400, {}, '{"detail": "too odd"}') if "odd" in request.body.decode() else (201, {}, "{}")

    run = started(rest, studio)
    studio.remove("POST", f"{PROJECT}runs/r1/metrics/")
    studio.add_callback("POST", f"{PROJECT}runs/r1/metrics/", answer)
    for step in range(3):
        run.log("odd", step, step)
        run.log("fine", step, step)
    assert run.flush()
    refused = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(refused) == 1
    assert "'odd' at step 0" in refused[0]
    assert "too odd" in refused[0]
    assert [one["value"] for one in values_sent(studio) if one["name"] == "fine"] == [0, 1, 2]
    run.finish()
    kept = [json.loads(line) for line in (run.journal / "refused.jsonl").read_text().splitlines()]
    assert [(one["name"], one["step"]) for one in kept] == [("odd", 0), ("odd", 1), ("odd", 2)]


# --- finishing ----------------------------------------------------------------------------------


def test_finish_tells_the_server_once_and_makes_the_run_inactive(rest, studio):
    run = started(rest, studio)
    assert get_active_run() is run
    run.finish()
    run.finish()
    assert (run.status, run.is_finished) == ("COMPLETED", True)
    assert statuses(studio) == [("r1", "COMPLETED")]
    with pytest.raises(ValueError, match="No active run is set"):
        get_active_run()


def test_another_status_corrects_the_first(rest, studio):
    run = started(rest, studio)
    run.finish()
    run.finish("FAILED")
    assert statuses(studio) == [("r1", "COMPLETED"), ("r1", "FAILED")]


def test_finish_leaves_another_active_run_alone(rest, studio):
    first = started(rest, studio, "r1")
    second = started(rest, studio, "r2")
    first.finish()
    assert get_active_run() is second


@pytest.mark.parametrize("status", ["RUNNING", "DONE", None])
def test_a_run_ends_as_something(rest, studio, status):
    run = started(rest, studio)
    with pytest.raises(ValueError, match="COMPLETED, CRASHED, FAILED"):
        run.finish(status)
    assert get_active_run() is run


def test_a_server_that_is_away_is_told_later_and_the_run_has_ended_here(rest, studio, caplog):
    run = started(rest, studio)
    run.log("loss", 0.5)
    run.flush()
    studio.remove("PATCH", f"{PROJECT}runs/r1/")
    run.finish()
    assert run.is_finished
    assert "`tellurio-sync sync` sends them" in caplog.text
    assert str(run.journal) in caplog.text
    assert json.loads((run.journal / "end.json").read_text())["status"] == "COMPLETED"


def test_a_server_that_refuses_the_end_says_why(rest, studio):
    run = started(rest, studio)
    studio.upsert("PATCH", f"{PROJECT}runs/r1/", json={"detail": "not yours"}, status=400)
    with pytest.raises(HttpStatusError, match="not yours"):
        run.finish()


def test_the_status_itself_is_logged(rest, studio, caplog):
    caplog.set_level(logging.INFO)
    started(rest, studio).finish("FAILED")
    assert "'Brave Pasta': FAILED" in caplog.text


@pytest.mark.parametrize(
    ("leaving", "status"),
    [
        (None, "COMPLETED"),
        (RuntimeError("x"), "CRASHED"),
        (KeyboardInterrupt(), "CRASHED"),
        (SystemExit(1), "CRASHED"),
        (SystemExit(0), "COMPLETED"),
        (SystemExit(), "COMPLETED"),
    ],
)
def test_a_block_ends_its_run(rest, studio, leaving, status):
    def block() -> None:
        with started(rest, studio):
            if leaving is not None:
                raise leaving

    if leaving is None:
        block()
    else:
        with pytest.raises(type(leaving)):
            block()
    assert statuses(studio) == [("r1", status)]
    with pytest.raises(ValueError, match="No active run"):
        get_active_run()


def test_what_was_finished_inside_the_block_stays(rest, studio):
    with started(rest, studio) as run:
        run.finish("FAILED")
    assert statuses(studio) == [("r1", "FAILED")]


def test_the_exception_of_the_block_is_not_hidden_by_a_server_that_is_away(rest, studio, caplog):
    studio.remove("PATCH", f"{PROJECT}runs/r1/")
    with pytest.raises(ZeroDivisionError), started(rest, studio) as run:
        1 / 0  # noqa: B018
    assert "`tellurio-sync sync` sends them" in caplog.text
    assert (run.status, run.reason) == ("CRASHED", "ZeroDivisionError: division by zero")
    with pytest.raises(ValueError, match="No active run"):
        get_active_run()


def test_whoever_started_the_run_hears_of_its_end_also_when_the_server_does_not(rest, studio):
    ended = []
    run = started(rest, studio)
    run.on_finish = ended.append
    studio.remove("PATCH", f"{PROJECT}runs/r1/")
    with run:
        pass
    assert ended[0] is run


@pytest.mark.parametrize("failure", [None, UsageError("no")])
def test_what_is_still_to_be_done_in_a_run_is_done_before_the_server_hears_of_its_end(rest, studio, failure):
    known = []
    run = started(rest, studio)

    def finish_up(ending):
        assert ending is run
        known.append(statuses(studio))
        if failure is not None:
            raise failure

    run.before_finish = finish_up
    with pytest.raises(UsageError) if failure else nullcontext():
        run.finish()
    assert known == [[]]
    assert statuses(studio) == [("r1", "COMPLETED")], "also where that failed"
    assert run.is_finished


def test_a_run_is_pickled_without_the_key(rest, studio):
    run = started(rest, studio)
    run.before_finish = run.on_finish = lambda ended: None  # as of a session, which does not travel
    copy = pickle.loads(pickle.dumps(run))
    assert (copy.uuid, copy.project, copy.rest.has_api_key) == (run.uuid, run.project, False)
    copy.log("loss", 0.5)
    run.flush()
    assert values_sent(studio) == [{"name": "loss", "value": 0.5}], "sent by the process that has the key"


# --- the guard ----------------------------------------------------------------------------------


@pytest.fixture
def guard():
    return RunGuard()


def test_a_new_run_ends_an_unfinished_one_as_failed(rest, studio, guard):
    for uuid in ("r1", "r2", "r3"):
        run = started(rest, studio, uuid)
        guard.watch(run)
        guard.watch(run)
        if uuid == "r2":
            run.finish()
    assert statuses(studio) == [("r1", "FAILED"), ("r2", "COMPLETED")]
    assert get_active_run().uuid == "r3"


def test_that_the_earlier_one_cannot_be_ended_is_only_logged(rest, studio, guard, caplog):
    guard.watch(started(rest, studio, "r1"))
    studio.remove("PATCH", f"{PROJECT}runs/r1/")
    guard.watch(started(rest, studio, "r2"))
    assert "`tellurio-sync sync` sends them" in caplog.text


@pytest.mark.parametrize(
    ("before", "at_exit", "prompt", "status"),
    [
        (None, None, False, "COMPLETED"),
        (None, ValueError(), False, "CRASHED"),
        (None, KeyboardInterrupt(), False, "CRASHED"),
        (None, ValueError(), True, "COMPLETED"),
        (ValueError(), "the same", False, "COMPLETED"),
        (ValueError(), ValueError(), False, "CRASHED"),
    ],
)
def test_how_a_run_ends_at_exit(before, at_exit, prompt, status, rest, studio, guard, monkeypatch):
    monkeypatch.setattr(sys, "last_value", before, raising=False)
    monkeypatch.setattr(run_guard, "at_prompt", lambda: prompt)
    guard.watch(started(rest, studio))
    if at_exit != "the same":
        monkeypatch.setattr(sys, "last_value", at_exit)
    guard.finish_at_exit()
    guard.finish_at_exit()
    assert statuses(studio) == [("r1", status)]


def test_a_finished_run_is_left_alone_at_exit(rest, studio, guard):
    guard.watch(run := started(rest, studio))
    run.finish("FAILED")
    guard.finish_at_exit()
    RunGuard().finish_at_exit()
    assert statuses(studio) == [("r1", "FAILED")]


def test_a_server_that_is_away_does_not_disturb_the_exit(rest, studio, guard, caplog):
    guard.watch(started(rest, studio))
    studio.remove("PATCH", f"{PROJECT}runs/r1/")
    guard.finish_at_exit()
    assert "`tellurio-sync sync` sends them" in caplog.text


# --- in a process of its own --------------------------------------------------------------------

SCRIPT = """
import os, sys, threading
from tellurio_sync.studio import Project, Run, RunGuard, StudioRest
rest = StudioRest("http://127.0.0.1", {port}, "k")
answer = {{"uuid": "r1", "name": "n", "description": None, "status": "RUNNING"}}
run = Run.from_answer(answer, Project("p", "P", "p", "acme"), rest)
guard = RunGuard()
guard.watch(run)
"""

ENDINGS = {
    "falls off its end": ("", ["COMPLETED"], 0),
    "raises": ("raise ValueError('x')", ["CRASHED"], 1),
    "is interrupted": ("raise KeyboardInterrupt", ["CRASHED"], None),
    "exits": ("sys.exit(3)", ["CRASHED"], 3),
    "exits with a text": ("sys.exit('no')", ["CRASHED"], 1),
    "exits in order": ("sys.exit()", ["COMPLETED"], 0),
    "exits with zero": ("sys.exit(0)", ["COMPLETED"], 0),
    "catches an exit": ("try: sys.exit(2)\nexcept SystemExit as e: assert e.code == 2", ["COMPLETED"], 0),
    "exits inside functions": (
        "def main(): sys.exit(4)\ndef outer():\n  try: main()\n  finally: pass\nouter()",
        ["CRASHED"],
        4,
    ),
    "exits in a thread": ("t = threading.Thread(target=sys.exit, args=(5,)); t.start(); t.join()", ["COMPLETED"], 0),
    "a thread raises": ("t = threading.Thread(target=lambda: 1/0); t.start(); t.join()", ["COMPLETED"], 0),
    "is terminated": ("os.kill(os.getpid(), 15); threading.Event().wait(30)", ["CRASHED"], -15),
    "is hung up on": ("os.kill(os.getpid(), 1); threading.Event().wait(30)", ["CRASHED"], -1),
    "is terminated in a child": (
        "if os.fork() == 0: os.kill(os.getpid(), 15); threading.Event().wait(30)\nos.wait()",
        ["COMPLETED"],
        0,
    ),
    "catches": ("try: 1/0\nexcept ZeroDivisionError: pass", ["COMPLETED"], 0),
    "has a hook of its own": ("sys.excepthook = lambda *a: None\nraise ValueError", ["CRASHED"], 1),
    "finishes": ("run.finish('FAILED')", ["FAILED"], 0),
    "forks": ("if os.fork() == 0: sys.exit(0)\nos.wait()", ["COMPLETED"], 0),
    "forks while a lock is held": (
        "run._log._lock.acquire()\nif os.fork(): os.wait(); os._exit(0)\nrun.log('x', 1)",
        [],
        0,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_how_a_process_ends_its_run(ending, server):
    code, expected, exit_code = ENDINGS[ending]
    if "fork" in code and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT.format(port=server.port) + code]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert [json.loads(body)["status"] for verb, _, _, body in server.requests if verb == "PATCH"] == expected
    if exit_code is not None:
        assert done.returncode == exit_code
    if exit_code not in (1, None) and ending != "a thread raises":
        assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a process cannot send itself such a signal")
@pytest.mark.parametrize("number", [15, 1], ids=["SIGTERM", "SIGHUP"])
def test_a_handler_of_the_program_itself_still_runs_and_chooses_the_exit_code(number, server):
    handler = f"import signal, sys\nsignal.signal({number}, lambda *_: (print('mine', flush=True), sys.exit(7)))\n"
    end = f"os.kill(os.getpid(), {number}); threading.Event().wait(30)"
    command = [sys.executable, "-W", "ignore", "-c", handler + SCRIPT.format(port=server.port) + end]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "mine\n")
    assert [json.loads(body)["status"] for verb, _, _, body in server.requests if verb == "PATCH"] == ["CRASHED"]


@pytest.mark.slow
def test_an_exit_does_not_hang_on_a_server_that_does_not_answer(server, monkeypatch):
    monkeypatch.delenv("TELLURIO_FINISH_TIMEOUT")
    answer = threading.Event()
    server.before_answer = lambda: answer.wait(60)
    command = [sys.executable, "-c", SCRIPT.format(port=server.port)]
    try:
        done = subprocess.run(command, timeout=30, capture_output=True, text=True)
    finally:
        answer.set()
    assert done.returncode == 0
    assert "`tellurio-sync sync` sends them" in done.stderr
