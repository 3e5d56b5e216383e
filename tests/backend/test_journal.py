"""Journals, repeated requests, signs of life, and what the database cannot do, over REST."""

from __future__ import annotations

import math
import sqlite3
import sys
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import requests

from tellurio_sync.backend import store as store_module
from tellurio_sync.backend.store import JournalGap, Logged, Store
from tellurio_sync.errors import BackendError
from tellurio_sync.journal.format import MAGIC, Encoder

from ..benchmarks.counting import instructions
from ..conftest import not_under_coverage
from .conftest import KEY, RunningBackend
from .rpc_client import FAILSAFE, RpcClient, RpcError

INSTRUCTIONS_PER_STORED_VALUE = 80
"""Of Python's bytecode, from the journal's bytes to the database."""


class Client:
    def __init__(self, backend: RunningBackend) -> None:
        self._url = f"{backend.http_url}/api/v0/local/projects/"
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"Api-Key {KEY}"

    def __call__(self, verb: str, path: str = "", body: Any = None, **options: Any) -> requests.Response:
        return self._http.request(verb, self._url + path, json=body, timeout=FAILSAFE, **options)

    def run(self, **body: Any) -> str:
        self("POST", body={"display_name": "P"})
        uuid: str = self("POST", "p/runs/", body).json()["uuid"]
        return uuid

    def journal(self, run: str, position: int, data: bytes, writer: str = "w") -> requests.Response:
        return self("POST", f"p/runs/{run}/journal/{writer}/", params={"position": position}, data=data)

    def metrics(self, run: str) -> list[Any]:
        return [(m["name"], m["value"], m["step"]) for m in self("GET", f"p/runs/{run}/metrics/").json()]

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def client(backend: RunningBackend) -> Iterator[Client]:
    made = Client(backend)
    yield made
    made.close()


def records(*values: float, name: str = "loss") -> list[bytes]:
    encoder, made = Encoder(), []
    for step, value in enumerate(values):
        made.append(encoder.number(name, value, step))
        encoder.written()
    return made


def test_the_backend_says_what_it_knows(client: Client) -> None:
    assert client("GET", "none/").headers["Tellurio-Extensions"] == "idempotency, journal, questions, run-details"


def test_a_journal_is_taken_once_however_often_and_in_whatever_pieces_it_comes(client: Client) -> None:
    run = client.run()
    data = MAGIC + b"".join(records(0.5, 0.25, 0.125))
    assert client.journal(run, 0, data[:45]).json()["position"] < 45
    for begin, end in ((0, 45), (0, len(data)), (20, len(data)), (0, 30), (len(data), len(data))):
        answer = client.journal(run, begin, data[begin:end])
        assert (answer.status_code, answer.json()["refused"], answer.json()["malformed"]) == (200, [], None)
    assert client.journal(run, len(data), b"").json()["position"] == len(data)
    assert client.metrics(run) == [("loss", 0.5, 0), ("loss", 0.25, 1), ("loss", 0.125, 2)]
    # Another writer is another journal.
    client.journal(run, 0, data, writer="other")
    assert len(client.metrics(run)) == 6


def test_a_gap_is_refused_with_the_place_to_send_from(client: Client) -> None:
    run = client.run()
    data = MAGIC + b"".join(records(0.5, 0.25))
    answer = client.journal(run, 19, data[19:])
    assert (answer.status_code, answer.json()["position"]) == (409, 0)
    assert client.metrics(run) == []


def test_what_is_no_record_ends_the_journal_and_keeps_what_was_before(client: Client) -> None:
    run = client.run()
    answer = client.journal(run, 0, MAGIC + b"".join(records(0.5)) + b"\xff" * 20).json()
    assert "cannot be read from byte" in answer["malformed"]
    assert client.metrics(run) == [("loss", 0.5, 0)]


def test_a_value_that_cannot_be_kept_is_named_and_the_others_are_kept(client: Client) -> None:
    run = client.run()
    encoder = Encoder()
    data = MAGIC + b"".join([encoder.numbers({"x" * 201: 1.0, "fine": 2.0}, 4), encoder.number(" ", 1.0, None)])
    refused = client.journal(run, 0, data).json()["refused"]
    assert [(one["step"], one["detail"]) for one in refused] == [
        (4, "The name is over 200 characters."),
        (None, "The name is empty."),
    ]
    assert client.metrics(run) == [("fine", 2.0, 4)]


@pytest.mark.parametrize(
    ("position", "writer"), [("x", "w"), ("-1", "w"), ("", "w"), ("9" * 30, "w"), ("0", "w" * 201)]
)
def test_bad_journals(client: Client, position: str, writer: str) -> None:
    run = client.run()
    answer = client("POST", f"p/runs/{run}/journal/{writer}/", params={"position": position}, data=b"")
    assert answer.status_code == 400


def test_nan_and_infinities_are_null_with_a_note(client: Client) -> None:
    run = client.run()
    client.journal(run, 0, MAGIC + b"".join(records(math.nan, math.inf, -math.inf)))
    client("POST", f"p/runs/{run}/metrics/", {"name": "loss", "value": None, "not_finite": "nan"})
    client("POST", f"p/runs/{run}/metrics/", {"name": "loss", "value": None})
    answer = client("GET", f"p/runs/{run}/metrics/").json()
    assert [(one["value"], one.get("not_finite")) for one in answer] == [
        *((None, "nan"), (None, "inf"), (None, "-inf"), (None, "nan"), (None, None))
    ]


def test_a_request_that_is_repeated_with_its_key_adds_nothing(client: Client) -> None:
    client("POST", body={"display_name": "P"})
    made = [client("POST", "p/runs/", {"name": "x"}, headers={"Idempotency-Key": "k1"}).json() for _ in range(2)]
    assert made[0] == made[1]
    assert client("POST", "p/runs/", {"name": "x"}).json()["name"] == "x_1"
    path = f"p/runs/{made[0]['uuid']}/metrics/"
    for key in ("a", "a", "b", None):
        headers = {"Idempotency-Key": key} if key else {}
        assert client("POST", path, {"name": "loss", "value": 1}, headers=headers).status_code == 201
    assert [step for _, _, step in client.metrics(made[0]["uuid"])] == [0, 1, 2]
    assert client("POST", path, {"name": "loss", "value": 1}, headers={"Idempotency-Key": "k" * 201}).status_code == 400


def test_a_run_can_be_given_its_id_and_has_a_configuration_and_a_reason(client: Client) -> None:
    uuid = str(uuid4())
    assert client.run(uuid=uuid.upper(), config={"lr": 0.1}) == uuid
    assert client("POST", "p/runs/", {"uuid": uuid}).status_code == 409
    assert client("POST", "p/runs/", {"uuid": "x"}).status_code == 400
    assert client("POST", "p/runs/", {"config": [1]}).status_code == 400
    changed = client("PATCH", f"p/runs/{uuid}/", {"status": "CRASHED", "reason": "KeyError: 'a'", "config": {"b": 2}})
    run = changed.json()
    assert (run["status"], run["reason"], run["config"]) == ("CRASHED", "KeyError: 'a'", {"lr": 0.1, "b": 2})
    assert client("PATCH", f"p/runs/{uuid}/", {"status": "RUNNING"}).json()["reason"] is None


def test_names_without_a_utf8_form_are_refused(client: Client) -> None:
    assert client("POST", data=b'{"display_name": "P\\ud800"}').status_code == 400
    headers = {"Content-Type": "application/json; charset=unheard-of"}
    assert client("POST", data=b"{}", headers=headers).status_code == 400
    assert client("POST", data=b'{"display_name": "\xff"}').status_code == 400


# --- signs of life ------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "data")
    yield made
    made.close()


def new_run(store: Store, status: str = "RUNNING") -> str:
    project = store.project("local", "p") or store.create_project("local", "p", "P", "TEAM")
    assert project is not None
    run = store.create_run(project["uuid"], None, None, status)
    assert run is not None
    uuid: str = run["uuid"]
    return uuid


def state(store: Store, uuid: str) -> tuple[str, str | None]:
    (row,) = store.read("SELECT status, reason FROM runs WHERE uuid = ?", uuid)
    return row["status"], row["reason"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    # Only the store's: other threads read the time, too.
    monkeypatch.setattr(store_module, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    return now


def test_a_run_without_a_sign_of_life_is_lost_until_one_comes_again(clock: list[float], tmp_path: Path) -> None:
    store = Store(tmp_path)
    silent, vanished = new_run(store), new_run(store)
    store.saw(vanished)
    clock[0] += 8
    store.saw(vanished)
    clock[0] += 8
    assert store.mark_lost() == []
    clock[0] += 2
    assert store.mark_lost() == [vanished]
    assert state(store, vanished) == ("CRASHED", store_module.LOST_REASON)
    assert state(store, silent) == ("RUNNING", None), "its client never gave one"
    store.saw(vanished)
    assert state(store, vanished) == ("RUNNING", None)
    store.close()


def test_a_run_that_has_ended_is_neither_lost_nor_taken_up(clock: list[float], tmp_path: Path) -> None:
    store = Store(tmp_path)
    ended = new_run(store)
    store.saw(ended)
    store.update_run(ended, "FAILED", reason="x")
    store.saw(ended)
    clock[0] += 100
    assert store.mark_lost() == []
    assert state(store, ended) == ("FAILED", "x")
    store.close()


def test_a_new_backend_waits_for_signs_of_life_of_the_runs_it_finds(clock: list[float], tmp_path: Path) -> None:
    store = Store(tmp_path)
    run, silent = new_run(store), new_run(store)
    store.saw(run)
    store.close()
    clock[0] += 1000
    store = Store(tmp_path)
    assert store.mark_lost() == []
    clock[0] += 10
    assert store.mark_lost() == [run]
    assert state(store, silent)[0] == "RUNNING"
    store.close()


def test_the_running_backend_looks_for_lost_runs(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LOST_AFTER", 0.5)
    for _ in range(2):
        run = client.run()
        client.journal(run, 0, b"")
        end = time.monotonic() + FAILSAFE
        while client("GET", "p/runs/").json()[-1]["status"] == "RUNNING":
            assert time.monotonic() < end


# --- how much had been logged --------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 2, 7, 40])
def test_those_that_wait_are_told_how_many_values_there_were(store: Store, pieces: int) -> None:
    """Whatever the pieces in which the journal comes, and whatever others log meanwhile."""
    run = new_run(store)
    made = records(*range(10))
    ends = list(accumulate(map(len, made), initial=len(MAGIC)))
    data = MAGIC + b"".join(made)
    told: list[tuple[int, int]] = []
    store.add_journal(run, "other", 0, MAGIC + b"".join(records(1, 2)))
    for count in (0, 3, 10):
        store.when_known(run, Logged("w", ends[count]), lambda found, count=count: told.append((count, found)))  # type: ignore[misc]
    store.when_known(run, Logged("nobody", 1), lambda found: told.append((-1, found)))
    size = -(-len(data) // pieces)
    known = 0
    for _ in range(pieces):
        known = store.add_journal(run, "w", known, data[known : known + max(size, 40)])["position"]
    while known < len(data):
        known = store.add_journal(run, "w", known, data[known:])["position"]
    assert sorted(told) == [(0, 2), (3, 5), (10, 12)]
    store.when_known(run, Logged("w", ends[3]), lambda found: told.append((99, found)))
    assert told[-1] == (99, 12), "it is known already"


def test_not_too_many_wait(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MOST_WAITING", 3)
    run = new_run(store)
    told: list[int] = []
    for position in range(20, 25):
        store.when_known(run, Logged("w", position), lambda _, position=position: told.append(position))  # type: ignore[misc]
    store.add_journal(run, "w", 0, MAGIC + b"".join(records(*range(5))))
    assert told == [22, 23, 24]


@pytest.mark.parametrize("logged", ["0001", ["0001"], ["0001", -1], ["0001", True], [1, 1], ["0001", 2**63], {}])
def test_what_does_not_tell_how_much_was_logged(rpc: RpcClient, logged: object) -> None:
    with pytest.raises(RpcError, match="`logged` must be a writer and a number of bytes"):
        rpc.call("run_step", optimizer_id="none", logged=logged)


# --- what it costs -----------------------------------------------------------------------------------


@not_under_coverage
@pytest.mark.skipif(sys.version_info < (3, 12), reason="instructions are counted by sys.monitoring, new in Python 3.12")
@pytest.mark.parametrize(("metrics", "gap"), [(1, 1), (1, 10), (5, 1), (20, 1)])
def test_a_value_takes_a_few_instructions_to_be_stored(metrics: int, gap: int, store: Store) -> None:
    """As a program logs them, one by one: what keeps a backend from being slower than its clients."""
    run, encoder, made = new_run(store), Encoder(), [MAGIC]
    for place in range(6_000):
        step = place // metrics * gap
        made.append(encoder.number(f"metric {place % metrics}", place / 3, step))
        encoder.written()
    data = b"".join(made)
    known = 0

    def store_it() -> None:
        nonlocal known
        known = store.add_journal(run, "w", 0, data)["position"]

    assert instructions(store_it) / 6_000 < INSTRUCTIONS_PER_STORED_VALUE
    assert (known, len(store.metrics(run))) == (len(data), 6_000)


# --- what the database cannot do -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        ("database or disk is full", 507, "disk of the backend's data directory is full"),
        ("attempt to write a readonly database", 507, "read-only"),
        ("database is locked", 503, "Another program has locked"),
        ("malformed", 507, "database failed"),
    ],
)
def test_what_the_database_cannot_do_is_said(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: str, status: int, text: str
) -> None:
    run = client.run()

    def fail(*args: Any, **options: Any) -> None:
        raise sqlite3.OperationalError(error)

    monkeypatch.setattr(Store, "add_metric", fail)
    answer = client("POST", f"p/runs/{run}/metrics/", {"name": "x", "value": 1})
    assert answer.status_code == status
    assert text in answer.json()["detail"]
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_a_journal_is_kept_whole_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(store)
    data = MAGIC + b"".join(records(*[0.5] * 100))
    (pages,) = store.read("PRAGMA page_count")
    store.read(f"PRAGMA max_page_count = {pages['page_count']}")
    big = MAGIC + b"".join(Encoder().any({"text": "x" * 100_000}, None) for _ in range(1))
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.add_journal(run, "w", 0, big)
    with pytest.raises(JournalGap):
        store.add_journal(run, "w", 1, b"")
    store.read("PRAGMA max_page_count = 100000")
    store.add_journal(run, "w", 0, data)
    assert len(store.metrics(run)) == 100


def test_a_full_disk_is_not_taken_for_another_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(sqlite3.Connection):
        def execute(self, *args: Any) -> Any:
            raise sqlite3.OperationalError("database or disk is full")

    real = sqlite3.connect
    monkeypatch.setattr(store_module.sqlite3, "connect", lambda *a, **k: real(*a, **{**k, "factory": Full}))
    with pytest.raises(BackendError, match="cannot be used: database or disk is full"):
        Store(tmp_path)


def test_the_data_are_for_their_owner_only(store: Store, tmp_path: Path) -> None:
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "tellurio.sqlite3").stat().st_mode & 0o777 == 0o600


def test_the_cookies_of_other_programs_do_no_harm(client: Client) -> None:
    cookies = "; ".join(f"username-127-0-0-1-88{number:02d}={'x' * 300}" for number in range(32))
    assert client("GET", "none/", headers={"Cookie": cookies}).status_code == 404


@not_under_coverage
@pytest.mark.skipif(sys.version_info < (3, 12), reason="instructions are counted by sys.monitoring, new in Python 3.12")
@pytest.mark.parametrize(("metrics", "most"), [(1, 430), (20, 150)])
def test_integers_and_mixed_records_do_not_take_many_more(metrics: int, most: int, store: Store) -> None:
    """524 and 196, if each was read in the way that knows all kinds of records."""
    run, encoder, made = new_run(store), Encoder(), [MAGIC]
    for step in range(6_000 // metrics):
        values = {f"metric {place}": step if place % 4 == 0 else step / 3 for place in range(metrics)}
        made.append(encoder.any(values, step))
        encoder.written()
    data = b"".join(made)
    assert instructions(lambda: store.add_journal(run, "w", 0, data)) / 6_000 < most
