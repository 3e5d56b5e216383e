"""A server and a network that misbehave at random: the far side of ``soak``, in processes of its own.

``python -m tests.faults.mischief network``: a fault proxy before a server process, which it kills and starts again;
with ``--certificate`` before TLS, so that the faults befall its records.
``python -m tests.faults.mischief server``: answers by the dice, see ``conversation``.

What both did is counted in a ``Tally``, a file mapped into memory: the counts survive SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from .conversation import serve
from .proxy import Proxy
from .tally import CALM, Tally
from .tls_front import TlsFront

ROOT = Path(__file__).parents[2]


class FaultyProxy(Proxy):
    """One that can also deliver byte by byte for a while, and lead to another server."""

    def lead_to(self, port: int) -> None:
        self._target_port = port

    def deliver_byte_by_byte(self, wanted: bool) -> None:
        self._byte_by_byte = wanted

    def _pieces(self, data: bytes) -> list[bytes]:
        return [*super()._pieces(data[:2000]), data[2000:]]


class Network:
    """The proxy, the server process behind it, and what befalls them."""

    def __init__(self, path: str, seed: str, certificate: str | None) -> None:
        self._path = path
        self._tally = Tally(path)
        self._seed = seed
        self._dice = random.Random(f"{seed}-network")
        self._is_calm = threading.Event()
        self._starts = 0
        self._port = self._start_server()
        self._front: TlsFront | None = None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._front = TlsFront(context, self._port)

    def run(self) -> None:
        """Until standard input ends; ``calm`` on it ends the faults."""
        with contextlib.ExitStack() as stack:
            if self._front is not None:
                stack.enter_context(self._front)
            self._proxy = stack.enter_context(FaultyProxy(self._port if self._front is None else self._front.port))
            print(self._proxy.port, flush=True)
            faults = threading.Thread(target=self._run_faults, name="faults")
            faults.start()
            sys.stdin.readline()
            self._tally.add(CALM)
            self._is_calm.set()
            faults.join()
            print("calm", flush=True)
            sys.stdin.read()
            self._stop_server()

    def _run_faults(self) -> None:
        kinds: tuple[tuple[int, Callable[[], None]], ...] = (
            (4, self._reset),
            (3, self._end),
            (4, self._reset_soon),
            (4, self._stall),
            (1, self._silence),
            (3, self._byte_by_byte),
            (1, self._kill_server),
        )
        weights = [weight for weight, _ in kinds]
        while not self._is_calm.wait(self._dice.random() * 0.6):
            (_, fault) = self._dice.choices(kinds, weights)[0]
            fault()

    def _reset(self) -> None:
        self._tally.add("connections reset")
        self._proxy.reset()

    def _end(self) -> None:
        self._tally.add("connections ended")
        self._proxy.end()

    def _reset_soon(self) -> None:
        before = self._proxy.cuts
        self._proxy.reset_after(self._dice.randrange(1, 50_000))
        self._is_calm.wait(self._dice.random())
        self._tally.add("resets in the middle of a message", self._proxy.cuts - before)

    def _stall(self) -> None:
        self._tally.add("stalls")
        self._stall_for(self._dice.random() * 0.4)

    def _silence(self) -> None:
        self._tally.add("silences until the client gives up")
        self._stall_for(2.5)
        self._proxy.reset()  # what the client gave up is over for the server, too

    def _stall_for(self, seconds: float) -> None:
        self._proxy.stall()
        self._is_calm.wait(seconds)
        self._proxy.go_on()

    def _byte_by_byte(self) -> None:
        self._tally.add("spells of one byte at a time")
        self._proxy.deliver_byte_by_byte(True)
        self._is_calm.wait(0.2)
        self._proxy.deliver_byte_by_byte(False)

    def _kill_server(self) -> None:
        self._tally.add("server kills")
        self._stop_server()
        self._is_calm.wait(self._dice.random() * 1.5)
        port = self._start_server()
        if self._front is None:
            self._proxy.lead_to(port)
        else:
            self._front.target_port = port

    def _start_server(self) -> int:
        self._starts += 1
        command = [sys.executable, "-m", "tests.faults.mischief", "server", self._path, f"{self._seed}-{self._starts}"]
        self._server = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())

    def _stop_server(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.kill()
        self._server.wait()
        self._server.stdin.close()
        self._server.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=("server", "network"))
    parser.add_argument("tally")
    parser.add_argument("seed")
    parser.add_argument("--certificate", help="a file with the chain and its key: over TLS")
    options = parser.parse_args()
    if options.part == "server":
        serve(Tally(options.tally), options.seed)
    else:
        Network(options.tally, options.seed, options.certificate).run()


if __name__ == "__main__":
    main()
