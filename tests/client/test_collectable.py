"""A client that is closed and dropped is gone at once: no circle of references waits for the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tellurio_sync as te

from ..faults.scripted import ScriptedServer, ServerConnection
from ..transport.conftest import Tls, tls

__all__ = ["tls"]


def serve(far: ServerConnection) -> None:
    for request in far.requests():
        if "id" in request:
            far.reply(request, request["params"])


@pytest.fixture(params=["tcp", "tls"])
def server(request: pytest.FixtureRequest, tls: Tls) -> Iterator[Callable[[], te.TellurioWebSocketClient]]:
    """Makes clients of one server."""
    is_tls = request.param == "tls"
    with ScriptedServer(serve, tls=tls.server if is_tls else None) as server:

        def make() -> te.TellurioWebSocketClient:
            return te.TellurioWebSocketClient(server.base_url, server.port, ssl_context=tls.client if is_tls else None)

        yield make


def parts(client: te.TellurioWebSocketClient) -> dict[str, Any]:
    assert client._peer is not None
    lifecycle = client._peer.lifecycle
    assert lifecycle.connection is not None
    connection = lifecycle.connection
    transport = connection.transport
    return {
        "client": client,
        "peer": client._peer,
        "lifecycle": lifecycle,
        "workers": lifecycle.pool,
        "connection": connection,
        "transport": transport,
        "dispatcher": connection._dispatcher,
        "calls": connection.pending,
        "TLS": getattr(transport, "_tls", None),
    }


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def use(client: te.TellurioWebSocketClient) -> dict[str, weakref.ref[Any]]:
    client.connect("k", retries=1)
    assert client.call("m", {"run_uuid": "r"})["result"] == {"run_uuid": "r"}
    assert client.call_many([("m", {"run_uuid": "r"})] * 2)
    assert client.submit("m", {"run_uuid": "r"}).result(30)
    client.notify("n", {"run_uuid": "r"})
    return {name: weakref.ref(part) for name, part in parts(client).items() if part is not None}


def found_by_the_collector(*packages: str) -> list[str]:
    """The classes of these packages among what only the collector can free now."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        kinds = [type(one) for one in gc.garbage]
        return [kind.__qualname__ for kind in kinds if kind.__module__.partition(".")[0] in packages]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_of_a_closed_client_nothing_is_left(
    server: Callable[[], te.TellurioWebSocketClient], no_collector: None
) -> None:
    client = server()
    left = use(client)
    client.close()
    del client
    assert [name for name, part in left.items() if part() is not None] == []
    assert found_by_the_collector("tellurio_sync", "websocket") == []


def test_of_its_former_connection_nothing_is_left(
    server: Callable[[], te.TellurioWebSocketClient], no_collector: None
) -> None:
    client = server()
    left = use(client)
    use(client)
    client.close()
    assert [name for name, part in left.items() if part() is not None] == ["client"]


def test_of_one_that_could_not_connect_nothing_is_left(no_collector: None) -> None:
    with ScriptedServer(status=403) as server:
        client = te.TellurioWebSocketClient(server.base_url, server.port)
        try:
            client.connect("k", retries=1)
            pytest.fail("it connected")
        except te.InvalidAPIKeyError:
            pass
        assert client._peer is not None
        left = [weakref.ref(client), weakref.ref(client._peer), weakref.ref(client._peer.lifecycle)]
        client.close()
        del client
        assert [part() for part in left] == [None] * 3
