"""Which session a thread uses, and what stays of a session that is closed."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

import tellurio_sync as te
from tellurio_sync.session import default
from tellurio_sync.testing import ScriptedBackend

from ..conftest import in_thread


@pytest.fixture(autouse=True)
def fresh_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default, "_default", None)


def test_threads_inside_a_block_use_its_session(tellurio_backend: ScriptedBackend) -> None:
    with tellurio_backend.session() as session:
        session.login(tellurio_backend.api_key)
        with session.init(project_display_name="threads") as run:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda n: te.log("n", n), range(4)))
                assert set(pool.map(lambda _: te.current_session(), range(4))) == {session}
            assert sorted(row["value"] for row in run.metrics()) == [0, 1, 2, 3]
    assert in_thread(te.current_session) is te.default_session()


def test_with_two_blocks_a_thread_is_told_how_to_choose() -> None:
    with te.Session() as first, te.Session() as second:
        with pytest.raises(te.TellurioError, match=r"2 sessions have an open block.*with session\.use\(\)"):
            in_thread(te.current_session)

        def chosen() -> te.Session:
            with first.use():
                return te.current_session()

        assert in_thread(chosen) is first
        assert te.current_session() is second


def test_the_default_session_stays_the_one_of_other_threads_where_it_is_in_use(
    tellurio_backend: ScriptedBackend,
) -> None:
    te.login(tellurio_backend.api_key)
    try:
        with te.Session():
            assert in_thread(te.current_session) is te.default_session()
    finally:
        te.close()


def test_a_closed_session_is_freed_also_after_runs(tellurio_backend: ScriptedBackend) -> None:
    session = tellurio_backend.session()
    session.login(tellurio_backend.api_key)
    run = session.init(project_display_name="freed")
    run.log("loss", 0.5)
    run.finish()
    session.close()
    alive = [weakref.ref(session), weakref.ref(run), weakref.ref(run.rest)]
    del session, run
    gc.collect()
    assert [one() for one in alive] == [None, None, None]
