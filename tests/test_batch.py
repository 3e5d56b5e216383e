"""Batches against the real backend: over a line that is cut, in forked children, in hooks, and large ones."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tellurio_sync as te
from tellurio_sync.client import TellurioWebSocketClient
from tellurio_sync.errors import BatchFailed, ConnectionLost, NotConnected
from tellurio_sync.model.batch.block import open_queue
from tellurio_sync.model.call import Call
from tellurio_sync.model.variable_state import known_id, set_local, wait_for_id
from tellurio_sync.session.restore import Restored

from .backend_process import KEY, BackendProcess, Cable, now_and_then
from .conftest import FAILSAFE, wait_until
from .processes.test_fork import forked, needs_fork

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lasting_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackendProcess]:
    with BackendProcess(tmp_path_factory.mktemp("backend")) as process:
        yield process


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendProcess]:
    """For tests that kill it."""
    with BackendProcess(tmp_path) as process:
        yield process


def session_to(http_port: int, ws_port: int, **options: Any) -> te.Session:
    return te.Session(
        http_base_url="http://127.0.0.1", http_port=http_port, ws_base_url="ws://127.0.0.1", ws_port=ws_port, **options
    )


@pytest.fixture
def session(lasting_backend: BackendProcess) -> Iterator[te.Session]:
    with session_to(lasting_backend.port, lasting_backend.port) as session:
        session.login(KEY)
        with session.init(None, "Batches"):
            yield session


def there(session: te.Session, variable: te.Variable) -> dict[str, Any]:
    """The Variable as the server has it."""
    wait_for_id(variable)
    with Call(session) as call:  # inside, a restore does not change the id
        answer: dict[str, Any] = call.request("get_variable", {"variable_id": variable.variable_id})
    return answer


def check_is_the_same_there(session: te.Session, variables: list[te.Variable]) -> None:
    for variable in variables:
        copied = there(session, variable)
        here = (variable.data, variable.role, variable.requires_grad, variable.is_leaf)
        assert (copied["data"], copied["role"], copied["requires_grad"], copied["is_leaf"]) == here
        assert session.registries.variables.lookup(variable.variable_id) is variable


def test_what_is_made_and_changed_in_a_batch_is_so_there(session: te.Session) -> None:
    old = te.Variable("old")
    with te.batch():
        new = te.variables([f"text {n}" for n in range(50)], [f"role {n}" for n in range(50)])
        old.data = "new"
        new[3].data = ["a", None]
        new[4].requires_grad_()
        new[5].is_leaf = False
        old.grad = new[:2]
    check_is_the_same_there(session, [old, *new])
    assert [reference["variable_id"] for reference in there(session, old)["grad"]] == [v.variable_id for v in new[:2]]


def test_the_servers_refusal_names_the_variable(session: te.Session) -> None:
    variable, gone = te.Variable("a"), te.Variable("b", "the role of the gone one")
    set_local(gone, "variable_id", "not there")
    with pytest.raises(BatchFailed, match=r"data of variable\(b.*the role of the gone one.*not there"), te.batch():
        gone.data, variable.data = "c", "d"
    assert (gone.data, variable.data) == ("b", "d")
    check_is_the_same_there(session, [variable])


def test_without_a_run_nothing_is_lost(lasting_backend: BackendProcess) -> None:
    with session_to(lasting_backend.port, lasting_backend.port) as session:
        session.login(KEY)
        with pytest.raises(ValueError, match="No active run"), te.batch():
            variable = te.Variable("a")
        with session.init(None, "Batches"):
            check_is_the_same_there(session, [variable])


def test_a_large_data_set(session: te.Session) -> None:
    """More than the queue takes, by number and by size."""
    made = te.variables([f"{n}" * 100 for n in range(10_000)])
    assert len({variable.variable_id for variable in made}) == 10_000
    check_is_the_same_there(session, random.Random(0).sample(made, 20))


def test_many_threads_use_what_others_have_queued(session: te.Session) -> None:
    shared: list[te.Variable] = []
    errors: list[BaseException] = []
    start = threading.Barrier(4, timeout=FAILSAFE)

    def work(number: int) -> None:
        try:
            with session.use():
                start.wait()
                for n in range(20):
                    with te.batch():
                        mine = te.Variable(f"{number} {n}", requires_grad=True)
                        shared.append(mine)
                        other = shared[(number * 7 + n * 3) % len(shared)]
                        other.role = f"{number} {n}"
                        assert te.functional.add(other, mine).data == other.data + mine.data
        except BaseException as exc:  # noqa: BLE001 - shown by the test's thread
            errors.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(FAILSAFE)
    assert errors == []
    assert len(shared) == 80
    assert len({variable.variable_id for variable in shared}) == 80


# --- the end of the run inside a block ----------------------------------------------------------------------


@pytest.fixture
def runs_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What each request of a burst says or changes, and the run that it is made for."""
    seen: list[tuple[str, str]] = []
    plain = TellurioWebSocketClient._with_runs

    def watch(client: TellurioWebSocketClient, calls: Any) -> Iterator[Any]:
        for method, params, is_long in plain(client, calls):
            seen.append((params.get("data", params.get("value")), params["run_uuid"]))
            yield method, params, is_long

    monkeypatch.setattr(TellurioWebSocketClient, "_with_runs", watch)
    return seen


def by_init(session: te.Session, run: Any) -> None:
    session.init(None, "Another")


def by_finish(session: te.Session, run: Any) -> None:
    session.finish()


def by_its_own_block(session: te.Session, run: Any) -> None:
    with run:
        pass


@pytest.mark.parametrize("end", [by_init, by_finish, by_its_own_block])
def test_what_was_queued_in_a_run_belongs_to_it(
    session: te.Session, runs_of: list[tuple[str, str]], end: Callable[[te.Session, Any], None]
) -> None:
    run = session.init(None, "Batches")
    old = te.Variable("old")
    with te.batch():
        new = te.Variable("new")
        old.data = "changed"
        end(session, run)
        assert known_id(new) is not None
    assert runs_of == [("new", run.uuid), ("changed", run.uuid)]


def test_what_is_refused_is_told_where_another_run_begins(session: te.Session) -> None:
    gone = te.Variable("gone")
    set_local(gone, "variable_id", "not there")
    with te.batch():
        gone.data = "changed"
        with pytest.raises(BatchFailed, match="not there"):
            session.init(None, "Another")


def test_an_error_that_ends_a_run_is_not_masked_by_what_was_queued(
    session: te.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*_: Any) -> None:
        raise ConnectionLost("cable cut")

    run = session.init(None, "Batches")
    with pytest.raises(KeyError, match="mine"), te.batch(), run:  # noqa: PT012
        te.Variable("new")
        monkeypatch.setattr(TellurioWebSocketClient, "call_many_on", lose)
        raise KeyError("mine")


# --- a line that is cut -------------------------------------------------------------------------------------


def pauses(seed: int) -> Iterator[float]:
    """Random ones, which become longer: on a machine that is busy, too, a batch comes through at last."""
    rng = random.Random(seed)
    mean = 0.03
    while True:
        yield 0.02 + rng.expovariate(1 / mean)
        mean *= 1.05


class Loop:
    """Makes and changes Variables in batches, each tried again until it was not cut off."""

    def __init__(self, http_port: int, ws_port: int) -> None:
        self.reports: list[Restored] = []
        self.retries = 0
        self.session = session_to(http_port, ws_port, on_restored=self.reports.append)

    def run(self, batches: int, disturbance: Any, is_disturbed: Callable[[], bool]) -> None:
        with self.session as session:
            session.login(KEY)
            with session.init(None, "Cut"):
                kept = te.variables([f"kept {n}" for n in range(5)])
                with disturbance:
                    number = 0
                    while number < batches or not is_disturbed():
                        self._try_until_done(kept, number)
                        number += 1
                if not self._check(kept):  # the loss of the connection that was cut last may show only here, once
                    check_is_the_same_there(session, kept)

    def _try_until_done(self, kept: list[te.Variable], number: int) -> None:
        while True:
            before = [(variable.data, variable.role) for variable in kept]
            try:
                with te.batch():
                    made = [te.Variable(f"{number} {n}") for n in range(200)]
                    for variable in kept:
                        variable.data = f"{number} {variable.data}"[:40]
                        variable.role = f"role {number}"
                    made[0].grad = made[1:3]
            except ConnectionLost:
                self.retries += 1
                # Each change has happened or has not. Nothing is half-way, and what was left is made when it is used.
                for variable, (data, role) in zip(kept, before):
                    assert variable.data in (data, f"{number} {data}"[:40])
                    assert variable.role in (role, f"role {number}")
                if not self._check(made[::20]):
                    continue
            else:
                if self._check([*made[::20], *kept]):
                    return

    def _check(self, variables: list[te.Variable]) -> bool:
        try:
            check_is_the_same_there(self.session, variables)
        except ConnectionLost:
            return False
        return True


def test_batches_over_a_line_that_is_cut_at_random_lose_nothing(lasting_backend: BackendProcess) -> None:
    with Cable(lasting_backend.port) as cable:
        loop = Loop(lasting_backend.port, cable.port)
        loop.run(20, now_and_then(cable.cut, pauses(1)), lambda: loop.retries > 3)
        wait_until(lambda: loop.reports, "no report of a restore came")


def test_batches_whose_backend_is_killed_and_started_again_lose_nothing(backend: BackendProcess) -> None:
    """All ids are lost each time."""
    loop = Loop(backend.port, backend.port)
    loop.run(20, now_and_then(backend.restart, [0.1, 0.2]), lambda: any(report.known == 0 for report in loop.reports))


def test_what_was_queued_when_the_connection_was_closed_is_made_after_the_next_login(session: te.Session) -> None:
    session.client.close()
    with pytest.raises(NotConnected), te.batch():
        variable = te.Variable("a")
    session.login(KEY)
    check_is_the_same_there(session, [variable])


def test_a_hook_on_the_receive_thread_may_make_variables(lasting_backend: BackendProcess) -> None:
    made: list[te.Variable] = []
    lost = threading.Event()

    def on_lost(error: ConnectionLost) -> None:
        try:
            with session.use(), te.batch():
                made.append(te.Variable("made in a hook"))
        except te.TellurioError:
            lost.set()  # here, one cannot wait: at the next use

    with Cable(lasting_backend.port) as cable:
        session = session_to(lasting_backend.port, cable.port, on_lost=on_lost)
        with session:
            session.login(KEY)
            with session.init(None, "Hook"):
                cable.cut()
                assert lost.wait(FAILSAFE)
                check_is_the_same_there(session, made)


# --- forked children -------------------------------------------------------------------------------------------


@needs_fork
def test_a_child_forked_inside_a_block_makes_its_own(session: te.Session) -> None:
    old = te.Variable("old")
    former = old.variable_id
    with te.batch():
        new = te.Variable("new")
        old.data = "changed"
        ids = forked(
            lambda: (new.variable_id, old.variable_id, there(session, old)["data"], there(session, new)["data"])
        )
        assert known_id(new) is None
    assert ids[0] not in (None, new.variable_id)
    assert ids[1] != former
    assert ids[2:] == ("changed", "new")
    assert old.variable_id == former
    check_is_the_same_there(session, [old, new])


@needs_fork
def test_a_child_does_not_wait_for_a_thread_that_was_sending(session: te.Session) -> None:
    entered, go_on = threading.Event(), threading.Event()
    made: list[te.Variable] = []

    def send() -> None:
        with session.use(), te.batch():
            made.append(te.Variable("a"))
            queue = open_queue(session)
            assert queue is not None
            # As if it were in the middle of sending.
            with queue._lock, queue._sending:
                queue._is_sending = True
                entered.set()
                assert go_on.wait(FAILSAFE)
                queue._is_sending = False

    thread = threading.Thread(target=send)
    thread.start()
    try:
        assert entered.wait(FAILSAFE)
        assert forked(lambda: there(session, made[0])["data"]) == "a"
    finally:
        go_on.set()
        thread.join(FAILSAFE)
    check_is_the_same_there(session, made)
