"""The backend as a process: ready file, ends, locks."""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tellurio_sync.backend.options import BackendOptions, add_arguments
from tellurio_sync.backend.store import Store
from tellurio_sync.errors import BackendError

from .conftest import KEY, RunningBackend
from .rpc_client import FAILSAFE, RpcClient

MAIN = """
import argparse, sys
from tellurio_sync.backend.options import BackendOptions, add_arguments
from tellurio_sync.backend.server import serve
parser = argparse.ArgumentParser()
add_arguments(parser)
sys.exit(serve(BackendOptions.from_args(parser.parse_args())))
"""


class Process:
    """A backend process; `line` is what it printed first."""

    def __init__(self, *options: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-c", MAIN, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stdout is not None
        self.line = self.popen.stdout.readline()

    def end(self) -> tuple[int, str]:
        """Its exit code and standard error, once it has ended by itself."""
        _, errors = self.popen.communicate(timeout=FAILSAFE)
        return self.popen.returncode, errors


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []

    def start(*options: str, is_refused: bool = False) -> Process:
        process = Process(*options)
        processes.append(process)
        assert is_refused or process.line, process.end()
        return process

    yield start
    for process in processes:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.communicate(timeout=FAILSAFE)


def verify(address: dict[str, Any]) -> int:
    url = f"{address['http_base_url']}:{address['http_port']}/api/v0/verify-api-key/"
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, headers={"Authorization": f"Api-Key {address['api_key']}"}, timeout=30).status_code


@pytest.mark.slow
def test_the_ready_file_says_where_it_serves(start: Callable[..., Process], tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    process = start("--ready-file", str(ready), "--username", "ann", "--namespace", "org,other")
    address = json.loads(ready.read_text())
    assert stat.S_IMODE(ready.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["ready.json"]
    assert (address["username"], address["namespace"], address["pid"]) == ("ann", "org", process.popen.pid)
    assert (address["http_base_url"], address["ws_base_url"]) == ("http://127.0.0.1", "ws://127.0.0.1")
    assert verify(address) == 200
    assert f"http://127.0.0.1:{address['http_port']}" in process.line
    assert address["api_key"] not in process.line
    assert f"...{address['api_key'][-4:]}" in process.line
    rpc = RpcClient(f"{address['ws_base_url']}:{address['ws_port']}/ws/v0/rpc/", address["api_key"])
    assert rpc.variable("x")
    rpc.close()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stdin"])
def test_it_ends_in_order_with_a_client_connected(start: Callable[..., Process], tmp_path: Path, how: str) -> None:
    ready = tmp_path / "ready.json"
    process = start("--ready-file", str(ready), *(["--exit-with-stdin"] if how == "stdin" else []))
    address = json.loads(ready.read_text())
    rpc = RpcClient(f"{address['ws_base_url']}:{address['ws_port']}/ws/v0/rpc/", address["api_key"])
    if how == "stdin":
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        process.popen.stdin = None
    else:
        process.popen.send_signal(getattr(signal, how))
    assert rpc.ws.recv() == ""
    assert process.end() == (0, "")
    rpc.close()


@pytest.mark.slow
@pytest.mark.parametrize("turns", range(8))
def test_a_client_that_connects_while_the_backend_stops_leaves_nothing_open(
    backend: RunningBackend, turns: int
) -> None:
    """At each turn of the event loop: a connection that it has accepted may not be known to the server yet."""
    loop = backend._loop
    held, go_on = threading.Event(), threading.Event()

    def stop_after(turns: int) -> None:
        if turns:
            loop.call_soon(stop_after, turns - 1)
        else:
            backend._stopping.set()

    def hold() -> None:
        held.set()
        assert go_on.wait(FAILSAFE)

    with warnings.catch_warnings(record=True) as caught, socket.socket() as sock:
        warnings.simplefilter("always")
        # Both come while the loop is busy: it sees them in one turn.
        loop.call_soon_threadsafe(hold)
        assert held.wait(FAILSAFE)
        sock.connect(("127.0.0.1", backend.port))
        loop.call_soon_threadsafe(stop_after, turns)
        go_on.set()
        backend._thread.join(FAILSAFE)
        gc.collect()
    assert [str(one.message) for one in caught] == []


def test_a_new_key_is_shown_once_on_a_terminal(start: Callable[..., Process]) -> None:
    process = start("--port", "0")
    key = process.line.split("(key ")[1].split(",")[0]
    port = int(process.line.split("127.0.0.1:")[1].split()[0])
    assert verify({"http_base_url": "http://127.0.0.1", "http_port": port, "api_key": key}) == 200


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill(start: Callable[..., Process], tmp_path: Path) -> None:
    options = ["--data-dir", str(tmp_path / "data"), "--api-key", KEY, "--ready-file"]
    process = start(*options, str(tmp_path / "first.json"))
    url = f"http://127.0.0.1:{json.loads((tmp_path / 'first.json').read_text())['http_port']}/api/v0/local/projects/"
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Api-Key {KEY}"
        session.post(url, json={"display_name": "P"}, timeout=30)
        run = session.post(f"{url}p/runs/", json={}, timeout=30).json()["uuid"]
        for i in range(20):
            posted = session.post(f"{url}p/runs/{run}/metrics/", json={"name": "x", "value": i}, timeout=30)
            assert posted.status_code == 201
        process.popen.kill()
        process.popen.wait(FAILSAFE)
        start(*options, str(tmp_path / "second.json"))
        port = json.loads((tmp_path / "second.json").read_text())["http_port"]
        url = f"http://127.0.0.1:{port}/api/v0/local/projects/p/runs/{run}/metrics/"
        assert [metric["value"] for metric in session.get(url, timeout=30).json()] == list(range(20))


@pytest.mark.slow
def test_a_port_in_use_is_said(start: Callable[..., Process], backend: RunningBackend) -> None:
    code, errors = start("--port", str(backend.port), is_refused=True).end()
    assert code == 1
    assert f"Cannot listen on 127.0.0.1:{backend.port}" in errors
    assert "Traceback" not in errors


def test_a_second_backend_on_the_same_data_is_refused(start_backend: Callable[..., RunningBackend]) -> None:
    first = start_backend()
    with pytest.raises(BackendError) as caught:
        start_backend()
    assert "Another backend uses the data directory" in str(caught.value)
    first.stop()
    start_backend()


def test_a_data_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BackendError) as caught:
        Store(tmp_path / "file")
    assert "cannot be used" in str(caught.value)


def test_deleting_a_project_deletes_its_records(tmp_path: Path) -> None:
    store = Store(tmp_path)
    project = store.create_project("ns", "p", "P", "TEAM")
    assert project is not None
    run = store.create_run(project["uuid"], "r", None, "RUNNING")
    store.add_metric(run["uuid"], "x", 1, None)
    assert store.delete_project("ns", "p")
    assert (store.runs(project["uuid"]), store.metrics(run["uuid"]), store.projects()) == ([], [], [])
    store.close()


def test_temporary_data_is_removed(
    start_backend: Callable[..., RunningBackend], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    backend = start_backend(data_dir=None)
    assert len(os.listdir(tmp_path)) == 1
    backend.stop()
    assert os.listdir(tmp_path) == []


# --- options ------------------------------------------------------------------------------------


def parse(*arguments: str) -> BackendOptions:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    return BackendOptions.from_args(parser.parse_args(arguments))


def test_default_options() -> None:
    options = parse()
    assert options == BackendOptions()
    assert (options.host, options.username, options.email) == ("127.0.0.1", "local", "local@localhost")
    assert options.namespaces == ("local",)


def test_options_are_read() -> None:
    options = parse("--namespace", "a, b", "--namespace", "c", "--port", "80", "--heartbeat-interval", "0.5")
    assert (options.namespaces, options.port, options.heartbeat_interval) == (("a", "b", "c"), 80, 0.5)


def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(parse("--api-key", "secret-1", "--lm-api-key", "secret-2"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "65536"],
        ["--port", "x"],
        ["--api-key", ""],
        ["--heartbeat-interval", "0"],
        ["--heartbeat-interval", "nan"],
    ],
)
def test_wrong_options(arguments: list[str]) -> None:
    with pytest.raises(argparse.ArgumentError):
        parse(*arguments)
