"""Ctrl-C at random points of thousands of calls, as a program of its own: ``python -m tests.faults.ctrl_c``.

The main thread calls an echo server while signals strike it; other threads call at the same time.  Prints one
JSON object: what was done, and what was found wrong (nothing, one hopes).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import ssl
import threading
from typing import Any

import trustme

from tellurio_sync.peer.lifecycle import OPEN, Lifecycle
from tellurio_sync.peer.peer import Peer
from tellurio_sync.transport.handshake import Dialer

from .scripted import ScriptedServer, ServerConnection

TIMEOUT = 20.0


def echo(connection: ServerConnection) -> None:
    for message in connection.requests():
        if "id" in message:
            connection.reply(message, message["params"])


class Signals:
    """Strikes the main thread with SIGINT at random points; a strike counts only while armed.

    Attributes:
        left: how many strikes still count. Set to 0 to disarm: a plain store, in which none can come.
    """

    def __init__(self, seed: int, per_call: int) -> None:
        self._random = random.Random(seed)
        self._per_call = per_call
        self.left = 0
        self._is_over = threading.Event()
        self.raised = 0
        signal.signal(signal.SIGINT, self._on_signal)
        self._thread = threading.Thread(target=self._strike)
        self._thread.start()

    def arm(self) -> None:
        self.left = self._per_call

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _on_signal(self, *_: object) -> None:
        if self.left > 0:
            self.left -= 1
            self.raised += 1
            raise KeyboardInterrupt

    def _strike(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        while not self._is_over.wait(self._random.random() * 0.0008):
            signal.pthread_kill(main, signal.SIGINT)


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def one_call(peer: Peer, number: int, draw: random.Random, kind: int | None) -> None:
    params = {"n": number, "x": "x" * draw.choice((0, 10, 1000, 100_000))}
    if kind is None:
        kind = draw.randrange(10)
    if kind < 6:
        assert peer.request("echo", params, TIMEOUT)["result"] == params
    elif kind < 8:
        outcomes = peer.request_many([("echo", params, False)] * 3, TIMEOUT)
        assert all(isinstance(outcome, dict) and outcome["result"] == params for outcome in outcomes)
    elif kind == 8:
        assert peer.submit("echo", params, TIMEOUT).result(TIMEOUT)["result"] == params
    else:
        peer.notify("note", params, TIMEOUT)


def run(calls: int, seed: int, per_call: int, is_tls: bool, kind: int | None) -> dict[str, Any]:
    problems: list[str] = []
    draw = random.Random(seed)
    server_context = client_context = None
    if is_tls:
        authority = trustme.CA()
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(server_context)
        client_context = ssl.create_default_context()
        authority.configure_trust(client_context)
    lost: list[str] = []
    with ScriptedServer(echo, tls=server_context) as server:
        peer = Peer(
            Lifecycle(
                lambda: Dialer(f"{server.base_url}:{server.port}/", [], timeout=TIMEOUT, ssl_context=client_context),
                {},
                opening=lambda envelope: envelope["result"]["session_id"],
                reconnect=False,
                on_lost=lambda error: lost.append(error.reason),
            )
        )
        peer.lifecycle.open(1, 0)
        descriptors = count_descriptors()
        is_over = threading.Event()

        def call_too(name: int) -> None:
            number = 0
            while not is_over.is_set():
                number += 1
                try:
                    reply = peer.request("echo", {"name": name, "n": number, "x": "y" * (number % 7 * 500)}, TIMEOUT)
                    if reply["result"]["n"] != number:
                        problems.append(f"thread {name} got the reply to another call")
                except Exception as exc:  # noqa: BLE001 - reported
                    problems.append(f"thread {name}: {exc!r}")

        others = [threading.Thread(target=call_too, args=(name,)) for name in range(3)]
        for thread in others:
            thread.start()
        signals = Signals(seed, per_call)
        for number in range(calls):
            try:
                signals.arm()
                one_call(peer, number, draw, kind)
                signals.left = 0
            except KeyboardInterrupt:
                signals.left = 0
            except Exception as exc:  # noqa: BLE001 - reported
                signals.left = 0
                problems.append(f"main thread: {exc!r}")
        signals.stop()
        is_over.set()
        for thread in others:
            thread.join(2 * TIMEOUT)
            if thread.is_alive():
                problems.append("another thread hangs")
        reply = peer.request("echo", {"last": True}, TIMEOUT)
        if reply["result"] != {"last": True}:
            problems.append("the client is not usable any more")
        if peer.lifecycle.state != OPEN:
            problems.append(f"the peer is {peer.lifecycle.state}")
        if lost:
            problems.append(f"the connection was lost: {lost}")
        connection = peer.lifecycle.connection
        # A future that was submitted as Ctrl-C came has no owner: it ends at its deadline, by itself.
        waiting = {} if connection is None else connection.pending.snapshot()
        if len(waiting) > calls // 10:
            problems.append(f"{len(waiting)} calls are left in the table")
        if count_descriptors() > descriptors + 4:
            problems.append(f"{count_descriptors() - descriptors} descriptors leaked")
        peer.lifecycle.close()
    return {"calls": calls, "interrupts": signals.raised, "lost": len(lost), "left": len(waiting), "problems": problems}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-call", type=int, default=1)
    parser.add_argument("--kind", type=int, help="0 to 9: only calls of this kind")
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    print(json.dumps(run(options.calls, options.seed, options.per_call, options.tls, options.kind)))


if __name__ == "__main__":
    main()
