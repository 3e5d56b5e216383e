"""Messages that are longer than the server takes: that call fails alone, with size and limit."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

import tellurio_sync as te
from tellurio_sync.errors import ConnectionLost, LocalProtocolError
from tellurio_sync.peer.dispatch import Method

from ..conftest import FAILSAFE, in_thread
from ..faults.scripted import ScriptedServer, ServerConnection
from .rig import Rig, pending

LIMIT = 1000


class Greeted(NamedTuple):
    """What the server says of itself."""

    max_message_size: int | None = None


def greeted(envelope: dict[str, Any]) -> Greeted:
    return Greeted(LIMIT)


def echo(params: dict[str, Any]) -> Any:
    return params["x"]


@pytest.fixture
def rig() -> Any:
    with Rig(opening=greeted, methods={"echo": Method(echo)}) as made:
        yield made.open()


@pytest.mark.parametrize("letter", ["x", "ü", "€", "😀"])
def test_a_request_over_the_limit_fails_alone_before_it_is_sent(rig: Rig, letter: str) -> None:
    size = len(letter.encode())
    fitting = letter * ((LIMIT - 200) // size)
    waiting = rig.peer.submit("first", {}, FAILSAFE)
    with pytest.raises(LocalProtocolError, match=rf"'big' is too big: it has \d+ bytes.* at most {LIMIT} ") as caught:
        rig.peer.request("big", {"x": letter * (LIMIT // size)}, FAILSAFE)
    assert caught.value.was_sent is False
    assert list(pending(rig).values()) == ["first"]
    rig.peer.submit("fits", {"x": fitting}, FAILSAFE)
    assert [rig.server_receive()["method"], rig.server_receive()["method"]] == ["first", "fits"]
    assert not waiting.done()


def test_a_submitted_one_and_a_notification_too(rig: Rig) -> None:
    with pytest.raises(LocalProtocolError, match="too big"):
        rig.peer.submit("m", {"x": "x" * LIMIT}, FAILSAFE)
    with pytest.raises(LocalProtocolError, match="too big"):
        rig.peer.notify("m", {"x": "x" * LIMIT}, FAILSAFE)
    with pytest.raises(LocalProtocolError, match="too big"):
        rig.peer.request_many([("a", {}, False), ("m", {"x": "x" * LIMIT}, False)], FAILSAFE)
    assert pending(rig) == {}


def refuse_for_size(connection: ServerConnection) -> None:
    """Read three requests, then refuse."""
    for _ in range(3):
        connection.receive()
    connection.close(1009, "message too big")


def test_where_the_server_does_not_say_its_limit_the_call_that_it_refused_is_told() -> None:
    with ScriptedServer(refuse_for_size) as server:
        client = te.TellurioWebSocketClient("ws://127.0.0.1", server.port, reconnect=False)
        client.connect("k", retries=1)
        small = client.submit("small", {"run_uuid": "r"})
        large = client.submit("large", {"run_uuid": "r", "x": "x" * 2_000_000})
        larger = client.submit("larger", {"run_uuid": "r", "x": "x" * 3_000_000})
        with pytest.raises(LocalProtocolError, match=r"'larger' has 3\d{6} bytes, and is too big") as caught:
            larger.result(FAILSAFE)
        assert caught.value.was_sent is True
        for other in (small, large):
            with pytest.raises(ConnectionLost, match="refused a message of this side as too big") as lost:
                other.result(FAILSAFE)
            assert lost.value.code == 1009
        in_thread(client.close)


@pytest.mark.parametrize(("length", "is_told"), [(100, False), (LIMIT, True)])
def test_a_result_over_the_limit_becomes_an_error(rig: Rig, length: int, is_told: bool) -> None:
    rig.server_send({"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"x": "x" * length}})
    reply = rig.server_receive()
    assert ("error" in reply) == is_told
    if is_told:
        assert "the result is too big" in str(reply)
