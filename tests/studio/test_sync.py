"""``sync``: which runs it sends where, and what it leaves on this machine."""

from __future__ import annotations

from pathlib import Path

from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.studio import StudioRest, start_run
from tellurio_sync.studio.sync import sync

from ..backend.conftest import KEY, RunningBackend
from ..conftest import FAILSAFE


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
