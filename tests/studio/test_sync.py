"""``sync``: which runs it sends where, how often it tries, and what it leaves on this machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.journal.folder import RunFolder
from tellurio_sync.studio import StudioRest, start_run
from tellurio_sync.studio import sync as sync_module
from tellurio_sync.studio.runs import offline_run
from tellurio_sync.studio.sync import sync

from ..backend.conftest import KEY, RunningBackend, a_backend
from ..conftest import FAILSAFE
from .flaky import FlakyServer


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[RunningBackend]:
    yield from a_backend(data_dir=tmp_path / "data", namespaces=("local", "team"))


@pytest.fixture
def rest(backend: RunningBackend) -> Iterator[StudioRest]:
    client = StudioRest("http://127.0.0.1", backend.port, KEY, timeout=FAILSAFE)
    yield client
    client.close()


NOWHERE = ("http://127.0.0.1", 9)


def left_folder(path: Path, **about: Any) -> RunFolder:
    """The folder of a run whose process has ended without a word, with one value."""
    folder = RunFolder(path)
    folder.create(
        {
            **{"uuid": str(uuid4()), "remote_uuid": None, "namespace": None, "project": "P", "name": "left"},
            **{"description": None, "config": None, "server": None, "username": None, **about},
        }
    )
    writer = folder.new_writer()
    writer.number("loss", 0.5, 0)
    writer.close()
    return folder


def the_run(rest: StudioRest, namespace: str = "local") -> dict[str, Any]:
    (found,) = rest.list_runs(namespace, "p")
    return {**found, "values": rest.list_metrics(namespace, "p", found["uuid"])}


# --- which, and where ---------------------------------------------------------------------------------


def test_a_run_of_another_server_is_sent_only_anyway_and_whole(tmp_path: Path) -> None:
    backends = [RunningBackend(BackendOptions(api_key=KEY, data_dir=tmp_path / name)) for name in ("one", "two")]
    one, two = (StudioRest("http://127.0.0.1", backend.port, KEY, timeout=FAILSAFE) for backend in backends)
    try:
        run = start_run(one, "local", "P")
        for step in range(3):
            run.log("loss", float(step), step)
        assert run.flush(FAILSAFE)
        backends[0].stop()  # it has all but the end
        (left,) = sync(two, run.journal)
        assert (left.outcome, left.server) == ("elsewhere", one.url)
        assert f"it belongs to {one.url}" in left.why
        (sent,) = sync(two, run.journal, anyway=True, username="local")
        assert sent.outcome == "sent", sent.why
        (found,) = two.list_runs("local", "p")
        values = two.list_metrics("local", "p", found["uuid"])
        assert [value["step"] for value in values] == [0, 1, 2], "also what the other server had"
    finally:
        one.close()
        two.close()
        for backend in backends:
            backend.stop()


def test_a_run_that_another_server_knows_under_another_id_becomes_a_run_here(rest: StudioRest, tmp_path: Path) -> None:
    """A server that gives its own ids, as the platform may do: that id means nothing here."""
    about = {"remote_uuid": str(uuid4()), "slug": "p", "server": "http://elsewhere", "namespace": "local"}
    folder = left_folder(tmp_path / "run", **about)
    (sent,) = sync(rest, folder.path, anyway=True)
    assert sent.outcome == "sent", sent.why
    assert the_run(rest)["values"] == [{"name": "loss", "value": 0.5, "step": 0}]


@pytest.mark.parametrize(
    ("own", "given", "expected"),
    [(None, None, "local"), (None, "team", "team"), ("team", None, "team"), ("team", "local", "team")],
)
def test_the_namespace_of_an_offline_run(own: str | None, given: str | None, expected: str, rest: StudioRest) -> None:
    """Its own, else the one that is given, else that of the account."""
    run = offline_run(StudioRest(*NOWHERE), own, "P")
    run.log("loss", 1.0)
    run.finish()
    (sent,) = sync(rest, namespace=given, username="local")
    assert sent.outcome == "sent", sent.why
    assert len(the_run(rest, expected)["values"]) == 1


# --- how often ------------------------------------------------------------------------------------------


@pytest.fixture
def flaky(backend: RunningBackend, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyServer]:
    """A server of the protocol alone, so that each value is a request; ``sync`` makes no pauses to speak of."""
    monkeypatch.setattr(sync_module, "_FIRST_PAUSE", 0.001)
    server = FlakyServer(backend.port)
    server.is_plain = True
    yield server
    server.close()


def fail_each(times: int) -> Any:
    """Let each value be refused so often before it is taken."""
    tried: Counter[str] = Counter()

    def fail(method: str, path: str) -> str:
        if method == "POST" and path.endswith("/metrics/"):
            tried["again"] += 1
            return "ok" if tried["again"] % (times + 1) == 0 else "500"
        return "ok"

    return fail


@pytest.mark.parametrize(("failures", "outcome", "taken"), [(3, "sent", 3), (4, "failed", 0)])
def test_whatever_brings_progress_gives_four_new_tries(
    failures: int, outcome: str, taken: int, flaky: FlakyServer, rest: StudioRest
) -> None:
    run = offline_run(StudioRest(*NOWHERE), None, "P")
    for step in range(3):
        run.log("loss", 1.0, step)
    run.finish()
    flaky.fail = fail_each(failures)
    through = StudioRest("http://127.0.0.1", flaky.port, KEY, timeout=FAILSAFE)
    (result,) = sync(through, username="local")
    through.close()
    assert result.outcome == outcome, result.why
    assert [value["step"] for value in the_run(rest)["values"]] == list(range(taken))


@pytest.mark.skipif("sys.platform == 'win32'", reason="there is no lock between two that send")
def test_what_another_process_is_sending_is_left_to_it(
    rest: StudioRest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = SimpleNamespace(sleep=lambda seconds: pytest.fail("it was tried again"))
    monkeypatch.setattr(sync_module, "time", again)  # only there: other threads may sleep
    folder = left_folder(tmp_path / "run")
    (writer,) = folder.writers()
    with folder.sending(writer) as is_ours:
        assert is_ours
        (result,) = sync(rest, folder.path, username="local")
    assert result.outcome == "busy"
    assert writer in result.why
    assert [one.outcome for one in sync(rest, folder.path)] == ["sent"]


# --- what stays -----------------------------------------------------------------------------------------


def test_the_folder_of_a_run_without_an_end_stays_until_it_has_one(rest: StudioRest, tmp_path: Path) -> None:
    """A run of this server that may go on: its process may still add to the folder, or another one end it."""
    folder = left_folder(tmp_path / "run", server=rest.url, namespace="local")
    (sent,) = sync(rest, folder.path)
    assert (sent.outcome, folder.unsent_bytes) == ("sent", 0)
    assert the_run(rest)["status"] == "RUNNING"
    assert folder.path.is_dir()
    folder.set_end("COMPLETED", None)
    assert [one.outcome for one in sync(rest, folder.path)] == ["sent"]
    assert the_run(rest)["status"] == "COMPLETED"
    assert not folder.path.exists()


def test_an_offline_run_whose_process_vanished_gets_an_end(rest: StudioRest, tmp_path: Path) -> None:
    folder = left_folder(tmp_path / "run")
    assert [one.outcome for one in sync(rest, folder.path, username="local")] == ["sent"]
    run = the_run(rest)
    assert (run["status"], run["reason"]) == ("CRASHED", "Its process ended without ending the run.")
    assert not folder.path.exists()


@pytest.mark.skipif("sys.platform == 'win32'", reason="there is no lock that tells whether a process writes")
def test_an_offline_run_that_is_still_written_gets_no_end_before_it_ends(rest: StudioRest) -> None:
    run = offline_run(StudioRest(*NOWHERE), None, "P")
    run.log("loss", 1.0, 0)
    assert [one.outcome for one in sync(rest, run.journal, username="local")] == ["sent"]
    assert the_run(rest)["status"] == "RUNNING"
    run.log("loss", 2.0, 1)
    journal = run.journal
    assert journal is not None
    run.finish()
    assert [one.outcome for one in sync(rest, journal)] == ["sent"]
    sent = the_run(rest)
    assert (sent["status"], [value["step"] for value in sent["values"]]) == ("COMPLETED", [0, 1])
    assert not journal.exists()


def test_what_was_refused_is_said_each_time_and_stays(rest: StudioRest, tmp_path: Path) -> None:
    folder = left_folder(tmp_path / "run")
    writer = folder.new_writer()
    writer.number("x" * 201, 2.0, 7)
    writer.close()
    folder.set_end("COMPLETED", None)
    (first,) = sync(rest, folder.path, username="local")
    assert first.outcome == "refused"
    assert "over 200 characters" in first.why
    (second,) = sync(rest, folder.path)
    assert (second.outcome, second.why) == ("refused", "see refused.jsonl in its folder")
    (kept,) = (folder.path / "refused.jsonl").read_text().splitlines()
    assert json.loads(kept)["step"] == 7
    run = the_run(rest)
    assert (run["status"], [value["name"] for value in run["values"]]) == ("COMPLETED", ["loss"])
