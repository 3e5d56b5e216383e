"""A backend in a thread of this process, and a synchronous client that follows the wire by hand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tellurio_sync.backend.options import BackendOptions
from tellurio_sync.backend.server import Backend

from .rpc_client import FAILSAFE, RpcClient
from .scripted import model_answer

KEY = "test-key-of-the-backend"


class RunningBackend:
    """A backend that serves until :meth:`stop`; its address and key."""

    def __init__(self, options: BackendOptions) -> None:
        self._backend = Backend(options)
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="backend under test")
        self._thread.start()
        assert self._started.wait(FAILSAFE), "the backend did not start"
        if self._error is not None:
            self._thread.join(FAILSAFE)
            raise self._error
        self.port = self._backend.port
        self.http_url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}/ws/v0/rpc/"

    def _main(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            await self._backend.start()
        except Exception as exc:  # noqa: BLE001 - raised where the backend was asked for
            self._error = exc
            self._started.set()
            return
        self._started.set()
        await self._stopping.wait()
        await self._backend.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(FAILSAFE)
        assert not self._thread.is_alive(), "the backend did not stop"


def a_backend(**options: Any) -> Iterator[RunningBackend]:
    """For a fixture ``yield from a_backend(...)``: one with these options, as long as the test runs."""
    running = RunningBackend(BackendOptions(**{"api_key": KEY, **options}))
    yield running
    running.stop()


@pytest.fixture
def start_backend(tmp_path: Path) -> Iterator[Callable[..., RunningBackend]]:
    """A function that starts a backend with the given options."""
    running: list[RunningBackend] = []

    def start(**options: Any) -> RunningBackend:
        backend = RunningBackend(BackendOptions(**{"api_key": KEY, "data_dir": tmp_path / "data", **options}))
        running.append(backend)
        return backend

    yield start
    for backend in running:
        backend.stop()


@pytest.fixture
def backend(start_backend: Callable[..., RunningBackend]) -> RunningBackend:
    return start_backend()


@pytest.fixture
def connect() -> Iterator[Callable[..., RpcClient]]:
    """A function that connects a client to a backend."""
    clients: list[RpcClient] = []

    def connect(backend: RunningBackend, key: str = KEY, **headers: str) -> RpcClient:
        client = RpcClient(backend.ws_url, key, headers)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def rpc(backend: RunningBackend, connect: Callable[..., RpcClient]) -> RpcClient:
    return connect(backend)


@pytest.fixture
def model(rpc: RpcClient) -> dict[str, Any]:
    """A function of the client as language model, and as model for backward passes."""
    found = rpc.model(model_answer)
    rpc.set_backward_model(found)
    return found
