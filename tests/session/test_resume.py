"""Going on with a run, however it ended: the same run, its next step, RUNNING again, nothing lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.errors import UsageError

from ..backend.conftest import RunningBackend
from ..conftest import FAILSAFE
from ..studio.flaky import FlakyServer
from .conftest import KEY, MakeSession

PROGRAM = """
import os, signal, sys, threading
import tellurio_sync as te
http_port, port, end = int(sys.argv[4]), int(sys.argv[1]), sys.argv[2]
session = te.Session(http_base_url="http://127.0.0.1", http_port=http_port, ws_base_url="ws://127.0.0.1", ws_port=port)
session.login(sys.argv[3])
run = session.init(None, "P", name="training", config={"lr": 0.1, "seed": 7})
print(run.uuid, flush=True)
for step in range(1000):
    run.log({"loss": 1 / (step + 1), "accuracy": step}, step=step)
exec(end)
"""
STEPS = 1000

ENDINGS = {
    "falls off its end": ("pass", "COMPLETED"),
    "is finished": ("run.finish()", "COMPLETED"),
    "has failed": ("run.finish('FAILED')", "FAILED"),
    "exits with 1": ("sys.exit(1)", "CRASHED"),
    "raises": ("raise ValueError('x')", "CRASHED"),
    "is interrupted": ("os.kill(os.getpid(), signal.SIGINT); threading.Event().wait(30)", "CRASHED"),
    "is terminated": ("os.kill(os.getpid(), signal.SIGTERM); threading.Event().wait(30)", "CRASHED"),
    "is hung up on": ("os.kill(os.getpid(), signal.SIGHUP); threading.Event().wait(30)", "CRASHED"),
    "is killed": ("os.kill(os.getpid(), signal.SIGKILL)", None),
    "vanishes": ("os._exit(0)", None),
}


def train(backend: RunningBackend, end: str, http_port: int | None = None) -> str:
    """Runs a training that ends so; the id of its run."""
    command = [sys.executable, "-c", PROGRAM, str(backend.port), end, KEY, str(http_port or backend.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * FAILSAFE)
    assert done.stdout, done.stderr
    return done.stdout.strip()


def status(session: te.Session, uuid: str) -> str:
    (found,) = [run for run in session.runs(None, "P") if run.uuid == uuid]
    return found.status


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_goes_on_after_each_ending(ending: str, backend: RunningBackend, make_session: MakeSession) -> None:
    end, expected = ENDINGS[ending]
    uuid = train(backend, end)
    session = make_session()
    session.login(KEY)
    if expected is not None:
        assert status(session, uuid) == expected
    run = session.init(None, "P", resume=uuid, config={"host": "b"})
    assert (run.uuid, run.name, run.next_step) == (uuid, "training", STEPS)
    assert status(session, uuid) == "RUNNING"
    assert run.config == {"lr": 0.1, "seed": 7, "host": "b"}
    assert run.reason is None
    run.log({"loss": 0.0, "accuracy": run.next_step}, step=run.next_step)
    for name in ("loss", "accuracy"):
        assert [row["step"] for row in run.metrics(name)] == list(range(STEPS + 1)), "the same curve goes on"
    run.finish()
    assert status(session, uuid) == "COMPLETED"
    assert len(session.runs(None, "P")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("fault", ["500", "lose"])
def test_what_the_server_did_not_get_before_the_end_comes_first(
    fault: str, end: signal.Signals, backend: RunningBackend, make_session: MakeSession
) -> None:
    """It is in the journal of the process that is gone."""
    flaky = FlakyServer(backend.port)
    try:
        flaky.fail = lambda method, path: fault if "journal/" in path else "ok"
        uuid = train(backend, f"os.kill(os.getpid(), {int(end)}); threading.Event().wait(30)", flaky.port)
        flaky.fail = lambda method, path: "ok"
        session = make_session(http_port=flaky.port)
        session.login(KEY)
        run = session.init(None, "P", resume=uuid)
        assert run.next_step == STEPS
        run.log("loss", 0.0)
        assert [row["step"] for row in run.metrics("loss")] == list(range(STEPS + 1))
        run.finish()
        assert status(session, uuid) == "COMPLETED"
    finally:
        flaky.close()


class TestWhich:
    @pytest.fixture
    def session(self, make_session: MakeSession) -> te.Session:
        session = make_session()
        session.login(KEY)
        return session

    def make(self, session: te.Session, *names: str) -> list[str]:
        made = []
        for name in names:
            with session.init(None, "P", name=name) as run:
                run.log("loss", 1.0)
            made.append(run.uuid)
        return made

    @pytest.mark.parametrize("resume", ["must", "allow"])
    def test_the_latest_of_the_name(self, resume: str, session: te.Session) -> None:
        _, second, third = self.make(session, "a", "a", "b")
        # The backend gives a second run of one name another one, so that they can be told apart.
        name = next(run.name for run in session.runs(None, "P") if run.uuid == second)
        assert session.init(None, "P", name=name, resume=resume).uuid == second
        assert session.init(None, "P", resume=resume).uuid == third

    def test_by_its_id_also_an_older_one(self, session: te.Session) -> None:
        first, _ = self.make(session, "a", "b")
        assert session.init(None, "P", resume=first).uuid == first

    @pytest.mark.parametrize(
        ("project", "name", "resume", "says"),
        [
            ("P", "c", "must", "There is no run named 'c' in the project 'P'"),
            ("Q", None, "must", "There is no run in the project 'Q'"),
            ("P", None, "no-such-id", "There is no run with the id 'no-such-id'"),
            ("Q", None, "no-such-id", "There is no run with the id 'no-such-id'"),
        ],
    )
    def test_there_is_none(self, project: str, name: Any, resume: str, says: str, session: te.Session) -> None:
        self.make(session, "a")
        with pytest.raises(UsageError, match=says):
            session.init(None, project, name=name, resume=resume)
        assert len(session.runs(None, "P")) == 1

    @pytest.mark.parametrize(("project", "name"), [("P", "c"), ("Q", None)])
    def test_there_is_none_and_that_is_allowed(self, project: str, name: Any, session: te.Session) -> None:
        made = self.make(session, "a")
        run = session.init(None, project, name=name, resume="allow", config={"lr": 1})
        assert run.uuid not in made
        assert (run.next_step, run.config) == (0, {"lr": 1})

    def test_a_run_that_is_going_on_elsewhere_is_the_same_run(
        self, session: te.Session, make_session: MakeSession
    ) -> None:
        run = session.init(None, "P")
        run.log("loss", 1.0, 0)
        run.flush(FAILSAFE)
        other = make_session()
        other.login(KEY)
        again = other.init(None, "P", resume=run.uuid)
        assert again.next_step == 1
        again.log("loss", 2.0)
        again.flush(FAILSAFE)
        assert [row["value"] for row in run.metrics("loss")] == [1.0, 2.0]


def test_offline_too(make_session: MakeSession) -> None:
    session = make_session()
    with session.init(None, "P", name="a", mode="offline", config={"lr": 1}) as run:
        run.log("loss", 1.0)
        run.log("loss", 2.0)
    for resume, name in ((run.uuid, None), ("must", "a"), ("allow", None)):
        with session.init(None, "P", name=name, mode="offline", resume=resume, config={"n": 2}) as again:
            assert again.uuid == run.uuid
            again.log("loss", 3.0, again.next_step)
    with pytest.raises(UsageError, match="no run on this machine"):
        session.init(None, "P", mode="offline", resume="no-such-id")
    session.login(KEY)
    assert [result.outcome for result in session.sync()] == ["sent"]
    (sent,) = session.runs(None, "P")
    assert (sent.uuid, sent.status, sent.config) == (run.uuid, "COMPLETED", {"lr": 1, "n": 2})
    assert [(row["step"], row["value"]) for row in sent.metrics("loss")] == [(0, 1), (1, 2), (2, 3), (3, 3), (4, 3)]
