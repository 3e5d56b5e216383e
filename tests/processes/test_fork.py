"""Other processes: forked ones, spawned ones, and what a pickle carries there."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import pickletools
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import tellurio_sync as te
from tellurio_sync import run_context
from tellurio_sync.errors import NotConnected
from tests.backend_process import KEY, BackendProcess
from tests.conftest import FAILSAFE, ActiveRun, in_thread
from tests.faults.scripted import ScriptedServer, ServerConnection

pytestmark = pytest.mark.slow

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def echo(connection: ServerConnection) -> None:
    for message in connection.requests():
        connection.reply(message, message["params"])


def forked(function: Callable[[], Any]) -> Any:
    """What ``function`` returns in a forked child; its exception fails the test."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def run() -> None:
        try:
            sender.send((True, function()))
        except BaseException as exc:  # noqa: BLE001 - shown in the parent
            sender.send((False, f"{type(exc).__name__}: {exc}"))

    process = context.Process(target=run)
    with warnings.catch_warnings():
        # Python 3.12 and later: forking a process with threads may deadlock in the child. That it does not is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    sender.close()
    try:
        assert receiver.poll(FAILSAFE), "the child hangs"
        is_result, value = receiver.recv()
        process.join(FAILSAFE)
    finally:
        process.kill()
        process.join(FAILSAFE)
        receiver.close()
    assert is_result, value
    return value


@pytest.fixture
def client(active_run: Any) -> Iterator[te.TellurioWebSocketClient]:
    with ScriptedServer(echo) as server:
        client = te.TellurioWebSocketClient(server.base_url, server.port)
        client.connect("key-1")
        client.server = server  # type: ignore[attr-defined]
        yield client
        client.close()


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendProcess]:
    with BackendProcess(tmp_path) as process:
        yield process


@pytest.fixture
def session(backend: BackendProcess) -> Iterator[te.Session]:
    addresses = {"http_base_url": "http://127.0.0.1", "http_port": backend.port}
    with te.Session(**addresses, ws_base_url="ws://127.0.0.1", ws_port=backend.port) as session:  # type: ignore[arg-type]
        session.login(KEY)
        with session.init(None, "Fork"):
            yield session


@needs_fork
class TestAForkedChild:
    def test_has_its_own_connection(self, client: te.TellurioWebSocketClient) -> None:
        connection = client.connection
        assert forked(lambda: client.call("m", {"n": 1})["result"]["n"]) == 1
        assert client.connection is connection
        assert client.call("m", {"n": 2})["result"]["n"] == 2
        assert len(client.server.connections) == 2  # type: ignore[attr-defined]

    def test_has_a_session_of_its_own_on_the_server(self, session: te.Session) -> None:
        """Else it would use its parent's backward model, on its parent's bill, and change it for both."""
        te.set_backward_model_client(te.CallableModel(lambda messages, **arguments: "x"))
        own = session.client.greeting

        def child() -> Any:
            te.Variable("made in the child")
            return session.client.greeting

        assert own is not None
        theirs = forked(child)
        assert theirs.extensions == own.extensions
        assert theirs.session_id != own.session_id
        assert session.client.greeting == own

    def test_need_not_use_it(self, client: te.TellurioWebSocketClient) -> None:
        assert forked(lambda: 5) == 5
        assert client.call("m", {"n": 2})["result"]["n"] == 2
        assert len(client.server.connections) == 1  # type: ignore[attr-defined]

    def test_many_of_them_as_a_data_loader_has(self, client: te.TellurioWebSocketClient) -> None:
        def work(worker: int) -> list[int]:
            return [client.call("m", {"n": worker * 100 + n})["result"]["n"] for n in range(20)]

        for worker in range(4):
            assert forked(lambda worker=worker: work(worker)) == [worker * 100 + n for n in range(20)]
            assert client.call("m", {"n": worker})["result"]["n"] == worker

    def test_does_not_care_who_held_a_lock_at_the_fork(self, session: te.Session) -> None:
        """Another thread may be anywhere; in the child it does not exist, and its locks stay taken."""
        variable = te.Variable("a")
        held, done = threading.Event(), threading.Event()
        locks = [
            session.registries.lock,
            session.client._lock,
            session._login._lock,
            session._gate._restore_lock,
            session._gate._lock,
            te.session.default._default_lock,
        ]

        def hold() -> None:
            for lock in locks:
                lock.acquire()
            held.set()
            assert done.wait(FAILSAFE)
            for lock in reversed(locks):
                lock.release()

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(FAILSAFE)
        try:

            def use() -> Any:
                variable.data = "b"
                te.default_session()
                return variable.data

            assert forked(use) == "b"
        finally:
            done.set()
            thread.join(FAILSAFE)

    def test_has_copies_of_all_objects_on_the_server_too(self, session: te.Session) -> None:
        """As of all its memory: what the child changes is its own."""
        parameter = te.Parameter("parent's", "prompt")
        parameter.append_grad(te.Variable("better"))
        optimizer = te.TGD([parameter], te.CallableModel(lambda messages: "<IMPROVED>child's</IMPROVED>"))

        def step() -> Any:
            optimizer.step()
            grads = [gradient.data for gradient in parameter.grad]
            optimizer.clear_grad()
            return parameter.data, grads, parameter.variable_id

        data, grads, variable_id = forked(step)
        assert (data, grads) == ("child's", ["better"])
        assert variable_id != parameter.variable_id
        there = session.request("get_variable", {"variable_id": parameter.variable_id})
        assert (there["data"], len(there["grad"])) == ("parent's", 1)
        assert session.client.state == "open"

    def test_of_a_child(self, client: te.TellurioWebSocketClient) -> None:
        def in_child() -> Any:
            assert client.call("m", {"n": 1})["result"]["n"] == 1
            return forked(lambda: client.call("m", {"n": 2})["result"]["n"])

        assert forked(in_child) == 2


# --- pickles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps], ids=["pickle", "cloudpickle"])
class TestPickle:
    def test_a_client_carries_its_configuration_and_no_key(
        self, client: te.TellurioWebSocketClient, dumps: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pickled = dumps(client_without_server(client))
        assert "key-1" not in _texts(pickled)
        copy = pickle.loads(pickled)
        assert copy.ws_url == client.ws_url
        assert copy.state == "new"
        with pytest.raises(NotConnected, match="TELLURIO_API_KEY"):
            copy.call("m")
        monkeypatch.setenv("TELLURIO_API_KEY", "key-2")
        try:
            assert copy.call("m", {"n": 1})["result"]["n"] == 1
            assert client.call("m", {"n": 2})["result"]["n"] == 2
        finally:
            copy.close()

    def test_a_session_carries_its_configuration_and_no_key(
        self, session: te.Session, dumps: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        te.Variable("object of the former")
        pickled = dumps(session)
        assert KEY not in _texts(pickled)
        copy = pickle.loads(pickled)
        assert not copy.is_logged_in
        assert len(copy.registries.variables) == 0
        with copy.use():
            with pytest.raises(ValueError, match="API key is required"):
                te.Variable("a")
            monkeypatch.setenv("TELLURIO_API_KEY", KEY)
            with copy.init(None, "Pickled"):
                assert te.Variable("a").data == "a"
        copy.close()


def client_without_server(client: te.TellurioWebSocketClient) -> te.TellurioWebSocketClient:
    del client.server  # type: ignore[attr-defined]  # a helper of this test
    return client


def _texts(pickled: bytes) -> str:
    return " ".join(str(argument) for _, argument, _ in pickletools.genops(pickled))


# --- spawn ----------------------------------------------------------------------------------------------


def use_client(client: te.TellurioWebSocketClient) -> Any:
    run_context.set_active_run(ActiveRun())
    with client:
        return client.call("m", {"n": 7})["result"]["n"]


def test_a_spawned_child_connects_by_itself(
    client: te.TellurioWebSocketClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLURIO_API_KEY", "key-1")
    server = client.server  # type: ignore[attr-defined]
    context = multiprocessing.get_context("spawn")

    def call() -> Any:
        with context.Pool(1) as pool:
            result = pool.apply_async(use_client, (client_without_server(client),)).get(FAILSAFE)
            pool.close()
            pool.join()
            return result

    assert in_thread(call) == 7
    assert client.call("m", {"n": 1})["result"]["n"] == 1
    assert len(server.connections) == 2
