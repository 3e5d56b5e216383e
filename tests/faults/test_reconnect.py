"""Calls made when the connection is lost, or has just been: they wait for the next one."""

from __future__ import annotations

import json
import ssl
import threading
from typing import Any

import pytest

from tellurio_sync.errors import CallTimeout, ConnectionLost
from tellurio_sync.peer.lifecycle import OPEN, Lifecycle
from tellurio_sync.peer.peer import Peer
from tellurio_sync.transport.base import Ending
from tellurio_sync.transport.handshake import Dialer

from ..conftest import FAILSAFE
from ..peer.rig import Background, Rig, read_greeting
from .ctrl_c import echo
from .mischief import FaultyProxy
from .scripted import ScriptedServer, ServerConnection
from .test_network import peer_on

LOST = Ending("connection reset", "network")


def test_a_call_made_before_the_loss_is_dealt_with_waits_for_the_next_connection() -> None:
    """The receive thread may be busy with the last messages: a caller that tries again must not spin meanwhile."""
    entered, release = threading.Event(), threading.Event()

    def busy(params: dict[str, Any]) -> None:
        entered.set()
        assert release.wait(FAILSAFE)

    with Rig(methods={"busy": busy}) as rig:
        rig.open()
        first = rig.transport
        rig.server_send({"jsonrpc": "2.0", "method": "busy"})
        assert entered.wait(FAILSAFE)
        first.server_end(LOST)
        call = Background(rig.peer.request, "m", {}, 10.0)
        submitted = Background(rig.peer.submit, "m", {}, 10.0)
        rig.clock.wait_for_waiting(2)
        release.set()
        rig.clock.wait_for_waiting(3)  # the receive thread, too: it pauses before it connects
        rig.clock.advance(1.0)
        rig.dialers.wait_for_transport(1)
        for _ in range(2):
            rig.reply(rig.server_receive(), "done")
        assert call.result()["result"] == "done"
        assert submitted.result().result(FAILSAFE)["result"] == "done"
        assert not first.server_has_message()


def test_without_reconnect_a_call_made_before_the_loss_is_dealt_with_is_told_of_it() -> None:
    entered, release = threading.Event(), threading.Event()

    def busy(params: dict[str, Any]) -> None:
        entered.set()
        assert release.wait(FAILSAFE)

    with Rig(methods={"busy": busy}, reconnect=False) as rig:
        rig.open()
        rig.server_send({"jsonrpc": "2.0", "method": "busy"})
        assert entered.wait(FAILSAFE)
        rig.transport.server_end(LOST)
        call = Background(rig.peer.request, "m", {}, 10.0)
        assert isinstance(call.error(), ConnectionLost)
        release.set()


def test_a_submit_on_the_receive_thread_after_the_loss_is_told_of_it() -> None:
    entered, release = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def submit(params: dict[str, Any]) -> None:
        entered.set()
        assert release.wait(FAILSAFE)
        with pytest.raises(ConnectionLost) as caught:
            rig.peer.submit("m", {}, 10.0)
        errors.append(caught.value)

    with Rig(methods={"submit": submit}) as rig:
        rig.open()
        rig.server_send({"jsonrpc": "2.0", "method": "submit"})
        assert entered.wait(FAILSAFE)
        rig.transport.server_end(LOST)
        release.set()
        rig.clock.wait_for_waiting()
    assert [getattr(error, "was_sent", None) for error in errors] == [False]


@pytest.mark.slow
def test_a_server_that_was_away_serves_the_calls_made_meanwhile() -> None:
    """Away for good at its old address; calls with little time end, calls with enough of it are served."""
    lost = threading.Event()
    with ScriptedServer(echo) as second:
        first = ScriptedServer(echo)
        with first, FaultyProxy(first.port) as proxy:
            peer = peer_on(proxy.port, on_lost=lambda _: lost.set())
            assert peer.request("echo", {"n": 0}, FAILSAFE)["result"] == {"n": 0}
            first.stop()
            assert lost.wait(FAILSAFE)
            calls = [Background(peer.request, "echo", {"n": number}, FAILSAFE) for number in range(8)]
            error = Background(peer.request, "echo", {}, 0.2).error()
            assert isinstance(error, CallTimeout)
            assert error.was_sent is False
            proxy.lead_to(second.port)
            assert [call.result()["result"]["n"] for call in calls] == list(range(8))
            assert peer.lifecycle.state == OPEN
            peer.lifecycle.close()


@pytest.mark.slow
def test_time_outs_of_many_threads_over_tls_are_no_losses() -> None:
    """Every other request is never answered; the connection must stay the same one throughout."""
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    def answer_every_other(connection: ServerConnection) -> None:
        for message in connection.requests():
            if message["params"]["n"] % 2 == 0:
                connection.send_text(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": message["params"]}))

    lost: list[ConnectionLost] = []
    with ScriptedServer(answer_every_other, tls=server_context) as server:
        url = f"{server.base_url}:{server.port}/"
        peer = Peer(
            Lifecycle(
                lambda: Dialer(url, [], timeout=FAILSAFE, ssl_context=client_context),
                {},
                opening=read_greeting,
                ping_interval=0.05,
                on_lost=lost.append,
            )
        )
        peer.lifecycle.open(1, 0)

        def work(worker: int) -> None:
            for number in range(40):
                params = {"n": number, "worker": worker, "x": "x" * (number * 500)}
                if number % 2 == 0:
                    assert peer.request("echo", params, FAILSAFE)["result"] == params
                else:
                    with pytest.raises(CallTimeout):
                        peer.request("echo", params, 0.005)

        for worker in [Background(work, worker) for worker in range(12)]:
            worker.result()
        assert lost == []
        assert server.accepted == 1
        peer.lifecycle.close()
