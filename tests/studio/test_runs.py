from __future__ import annotations

import atexit
import json
import logging
import math
import os
import pickle
import subprocess
import sys
import threading
from contextlib import nullcontext

import pytest
import responses

from tellurio_sync.active_run import get_active_run, set_active_run
from tellurio_sync.errors import HttpError, HttpStatusError, HttpUnreachable, UsageError
from tellurio_sync.studio import Project, Run, RunGuard, RunStatus, StudioRest, runs, start_run

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


@pytest.mark.parametrize(
    ("value", "sent"), [(1, 1), (0.5, 0.5), ("x", "x"), (None, None), ({"a": [1]}, {"a": [1]}), (Scalar(), 0.25)]
)
def test_any_json_value_is_logged(rest, studio, value, sent):
    run = started(rest, studio)
    run.log("accuracy", value)
    run.log("accuracy", value, step=3)
    assert [json.loads(call.request.body) for call in list(studio.calls)[-2:]] == [
        {"name": "accuracy", "value": sent},
        {"name": "accuracy", "value": sent, "step": 3},
    ]


@pytest.mark.parametrize("value", [math.nan, -math.inf, [math.nan], object(), b"x"])
def test_what_has_no_json_form_is_a_value_error_that_names_the_metric(rest, studio, value):
    run = started(rest, studio)
    sent = len(studio.calls)
    with pytest.raises(ValueError, match="'accuracy'"):
        run.log("accuracy", value)
    assert len(studio.calls) == sent


def test_a_step_is_a_whole_number(rest, studio):
    with pytest.raises(TypeError):
        started(rest, studio).log("accuracy", 1, step=0.5)


def test_a_server_that_refuses_a_metric(rest, studio):
    run = started(rest, studio)
    studio.replace("POST", f"{PROJECT}runs/r1/metrics/", json={"detail": "full"}, status=507)
    with pytest.raises(HttpStatusError, match="full"):
        run.log("accuracy", 1)


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


def test_a_server_that_is_away_leaves_the_run_as_it_was(rest, studio):
    run = started(rest, studio)
    studio.remove("PATCH", f"{PROJECT}runs/r1/")
    with pytest.raises(HttpUnreachable):
        run.finish()
    assert not run.is_finished
    assert get_active_run() is run


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
    with pytest.raises(ZeroDivisionError), started(rest, studio):
        1 / 0  # noqa: B018
    assert "could not be marked as CRASHED" in caplog.text
    with pytest.raises(ValueError, match="No active run"):
        get_active_run()


def test_whoever_started_the_run_hears_of_its_end_also_when_the_server_does_not(rest, studio):
    ended = []
    run = started(rest, studio)
    run.on_finish = ended.append
    studio.remove("PATCH", f"{PROJECT}runs/r1/")
    with pytest.raises(HttpUnreachable), run:
        pass
    assert ended == [run]


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


def test_a_block_without_exception_reports_a_server_that_is_away(rest, studio):
    studio.remove("PATCH", f"{PROJECT}runs/r1/")
    with pytest.raises(HttpUnreachable), started(rest, studio):
        pass


def test_a_run_is_pickled_without_the_key(rest, studio):
    run = started(rest, studio)
    run.before_finish = run.on_finish = lambda ended: None  # as of a session, which does not travel
    copy = pickle.loads(pickle.dumps(run))
    assert (copy.uuid, copy.project, copy.rest.has_api_key) == (run.uuid, run.project, False)


# --- the guard ----------------------------------------------------------------------------------


@pytest.fixture
def guard():
    made = RunGuard()
    yield made
    atexit.unregister(made.finish_at_exit)


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
    assert "could not be marked as FAILED" in caplog.text


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
    monkeypatch.setattr(runs, "at_prompt", lambda: prompt)
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
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


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
    "exits": ("sys.exit(3)", ["COMPLETED"], 3),
    "catches": ("try: 1/0\nexcept ZeroDivisionError: pass", ["COMPLETED"], 0),
    "has a hook of its own": ("sys.excepthook = lambda *a: None\nraise ValueError", ["CRASHED"], 1),
    "finishes": ("run.finish('FAILED')", ["FAILED"], 0),
    "forks": ("if os.fork() == 0: sys.exit(0)\nos.wait()", ["COMPLETED"], 0),
    "forks while the lock is held": ("guard._lock.acquire()\nif os.fork(): os.wait(); os._exit(0)", [], 0),
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
    if exit_code != 1 and exit_code is not None:
        assert done.stderr == ""


@pytest.mark.slow
def test_an_exit_does_not_hang_on_a_server_that_does_not_answer(server):
    answer = threading.Event()
    server.before_answer = lambda: answer.wait(60)
    command = [sys.executable, "-c", SCRIPT.format(port=server.port)]
    try:
        done = subprocess.run(command, timeout=30, capture_output=True, text=True)
    finally:
        answer.set()
    assert (done.returncode, done.stderr) == (0, "")
