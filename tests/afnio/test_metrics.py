"""``install(metrics=True)``: what runs log is kept here at once, and put back is what was there."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace

import pytest

from tellurio_sync.afnio import __main__ as command
from tellurio_sync.afnio import install, metrics, uninstall
from tellurio_sync.journal.folder import RunFolder
from tellurio_sync.studio import rows

from ..conftest import FAILSAFE, in_thread
from .test_install import fake, registered

__all__ = ["fake", "registered"]


@pytest.fixture
def run(fake, monkeypatch, tmp_path):
    """A run, at a server that is away."""
    monkeypatch.setenv("TELLURIO_JOURNAL_DIR", str(tmp_path))
    monkeypatch.setattr(metrics, "PATIENCE", 0.01)
    at_exit = []
    # Only what this module registers: libraries that are used for the first time register, too, on any thread.
    monkeypatch.setattr(metrics, "atexit", SimpleNamespace(register=lambda *arguments: at_exit.append(arguments)))
    made = fake["afnio.tellurio.run"].Run()
    made.at_exit = at_exit
    return made


def kept(tmp_path):
    return [(row["name"], row["step"], row["value"]) for row in rows.rows_of_folder(tmp_path / "run-1")]


def test_values_are_kept_here_and_the_server_is_not_waited_for(run, tmp_path, caplog):
    with install(metrics=True):
        run.log("a", 0.5)
        run.log(name="a", value=1, step=7, client=None)
        run.log("bad", threading.Lock())
        assert run.told == []
        assert kept(tmp_path) == [("a", 0, 0.5), ("a", 7, 1)]
        assert RunFolder(tmp_path / "run-1").about()["namespace"] == "alice"
        assert "Not logged" in caplog.text
        ((send, run_uuid),) = run.at_exit
        assert run.finish(status="FAILED") == "finished"
        assert run.told == [("finish", None, "FAILED")]
        assert "What is missing at the server" in caplog.text
        send(run_uuid)
    assert kept(tmp_path) == [("a", 0, 0.5), ("a", 7, 1)]


def own_client(**changes):
    return SimpleNamespace(**{"base_url": "http://127.0.0.1", "port": 9, "api_key": "own", **changes})


def test_a_client_of_the_program_is_not_waited_for_either(run, tmp_path):
    client = own_client()
    with install(metrics=True):
        run.log("a", 1, client=client)
        run.log("a", 2, client=client)
        run.log("a", 3, client=own_client())
    assert run.told == []
    assert [value for _, _, value in kept(tmp_path)] == [1, 2, 3]
    assert RunFolder(tmp_path / "run-1").about()["server"] == "http://127.0.0.1:9"


@pytest.mark.parametrize("first", ["afnio's default", "one of its own"])
def test_what_goes_elsewhere_goes_in_the_way_of_afnio(run, tmp_path, first):
    """A run is kept for one address. A client that has another one, or none that can be seen, is used as before."""
    others = [
        own_client(port=10),
        own_client(api_key="another"),
        object(),
        *([None] if first == "one of its own" else []),
    ]
    with install(metrics=True):
        run.log("a", 1, client=own_client() if first == "one of its own" else None)
        for other in others:
            run.log("a", 2, client=other)
    assert run.told == [("a", 2, None, other) for other in others]
    assert [value for _, _, value in kept(tmp_path)] == [1]


def test_a_client_that_tells_no_address_is_used_as_before(run, tmp_path):
    client = object()
    with install(metrics=True):
        run.log("a", 1, client=client)
    assert run.told == [("a", 1, None, client)]
    assert not (tmp_path / "run-1").exists()


def test_uninstalling_sends_and_puts_it_back(run, tmp_path, caplog):
    install()
    run.log("before", 1)
    install(metrics=True)
    install(metrics=True)
    run.log("between", 2)
    uninstall()
    assert "What is missing at the server" in caplog.text
    run.log("after", 3)
    run.finish()
    assert run.told == [("before", 1, None, None), ("after", 3, None, None), ("finish", None, "COMPLETED")]
    assert kept(tmp_path) == [("between", 0, 2)]


def test_each_run_has_its_own(fake, run, tmp_path):
    other = fake["afnio.tellurio.run"].Run("run-2")
    with install(metrics=True):
        run.log("a", 1)
        other.log("b", 2)
        run.log("a", 3)
    assert [value for _, _, value in kept(tmp_path)] == [1, 3]
    assert len(run.at_exit) == 2


def test_a_run_logs_on_while_afnio_logs_in_for_another(fake, run, tmp_path, monkeypatch):
    other = fake["afnio.tellurio.run"].Run("run-2")
    manager = fake["afnio.tellurio._client_manager"]
    clients, begun, may_go_on = manager.get_default_clients, threading.Event(), threading.Event()

    def log_in():
        begun.set()
        assert may_go_on.wait(FAILSAFE)
        return clients()

    with monkeypatch.context() as patch, install(metrics=True):
        run.log("a", 1)
        patch.setattr(manager, "get_default_clients", log_in)
        waiting = threading.Thread(target=other.log, args=("b", 2))
        waiting.start()
        try:
            assert begun.wait(FAILSAFE)
            in_thread(run.log, "a", 3)
        finally:
            may_go_on.set()
            waiting.join(FAILSAFE)
    assert [value for _, _, value in kept(tmp_path)] == [1, 3]
    assert (tmp_path / "run-2").exists()


@pytest.mark.parametrize("flags", [[], ["--metrics"]])
def test_the_command_takes_it(run, tmp_path, flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    program = tmp_path / "program.py"
    program.write_text("import sys\nfrom afnio.tellurio.run import Run\nRun('run-1').log(sys.argv[1], 1)\n")
    assert command.main([*flags, str(program), "a"]) == 0
    assert (tmp_path / "run-1").exists() is bool(flags)
