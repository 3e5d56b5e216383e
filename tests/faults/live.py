"""A connection under ``fuzz``, with its receive loop on a thread."""

from __future__ import annotations

import threading
from typing import Any

from tellurio_sync import jsonrpc
from tellurio_sync.deadlines import MONOTONIC
from tellurio_sync.peer.connection import Connection, Opening
from tellurio_sync.peer.dispatch import Dispatcher, Method
from tellurio_sync.peer.keepalive import Keepalive
from tellurio_sync.peer.pending import PendingCall
from tellurio_sync.peer.workers import WorkerPool
from tellurio_sync.transport.base import Ending, Transport, TransportEnded

FAILSAFE = 30.0


def _raise(error: BaseException) -> Any:
    raise error


METHODS = {
    "good": Method(lambda params: params.get("n")),
    "bad": Method(lambda params: _raise(KeyError("n"))),
    "worst": Method(lambda params: _raise(SystemExit(1))),
    "slow": Method(lambda params: params.get("n"), on_worker=True),
    "heartbeat": Method(lambda params: None),
}


class Live:
    """A connection with its receive loop on a thread, and one call that waits with the id ``"pending"``.

    With ``opening`` there is no such call: the first message is the greeting.
    """

    def __init__(self, transport: Transport, opening: Opening | None = None) -> None:
        self.pool = WorkerPool(max_workers=2)
        self.greetings: list[Any] = []
        self.connection = Connection(
            transport,
            Dispatcher(METHODS, self.pool, self._send),
            opening=opening,
            opening_timeout=FAILSAFE,
            keepalive=Keepalive(None, FAILSAFE, MONOTONIC.now()),
            write_timeout=FAILSAFE,
            clock=MONOTONIC,
            on_open=self.greetings.append,
        )
        self._thread = threading.Thread(target=self.connection.run, name="receive", daemon=True)
        self._thread.start()
        if opening is None:
            self.waiting = self.start("pending")

    def _send(self, text: str) -> None:
        try:
            self.connection.transport.send([text])
        except TransportEnded:
            pass  # as a peer does

    def start(self, id_: str) -> PendingCall:
        call = PendingCall(id_, "m", FAILSAFE, MONOTONIC.now())
        self.connection.start(call, [jsonrpc.encode(jsonrpc.request(id_, "m", {}))])
        return call

    def join(self) -> Ending:
        self._thread.join(FAILSAFE)
        assert not self._thread.is_alive(), "the receive thread does not end"
        self.pool.close(FAILSAFE)
        assert self.connection.pending.snapshot() == {}, "a call is left in the table"
        assert self.connection.ending is not None
        return self.connection.ending
