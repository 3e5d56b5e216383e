"""A server and a network that misbehave at random: the far side of ``soak``, in processes of its own.

``python -m tests.faults.mischief network``: a fault proxy before a server process, which it kills and starts again.
``python -m tests.faults.mischief server``: answers by the dice, see ``Conversation``.

What both did is counted in a ``Tally``, a file mapped into memory: the counts survive SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import mmap
import os
import random
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsproto.utilities import LocalProtocolError

from .proxy import Proxy
from .scripted import Disconnected, ScriptedServer, ServerConnection

ROOT = Path(__file__).parents[2]

NETWORK_FAULTS = (
    "connections reset",
    "connections ended",
    "resets in the middle of a message",
    "stalls",
    "silences until the client gives up",
    "spells of one byte at a time",
    "server kills",
)
SERVER_FAULTS = (
    "half frames",
    "streams ended",
    "close frames",
    "protocol violations",
    "slow replies",
    "late replies",
    "missing replies",
    "duplicate replies",
    "unknown replies",
    "malformed replies",
    "error replies",
    "malformed messages",
    "fragmented replies",
    "byte-by-byte replies",
    "heartbeats",
    "foreign heartbeats",
    "pings",
    "callables asked",
    "floods of pushes",
)
DONE = ("connections served", "requests read", "notifications read", "pushes sent", "callables answered")
_CALM = "calm"
_SLOTS = (*NETWORK_FAULTS, *SERVER_FAULTS, *DONE, _CALM)
MOST_CALLS = 16_000_000

_GARBAGE = (
    "",
    "not json",
    "7",
    "null",
    "[]",
    "[1,[]]",
    '{"jsonrpc":"1.0","method":"push","id":1}',
    '{"jsonrpc":"2.0","id":[]}',
    '{"jsonrpc":"2.0","method":5,"id":1}',
    '{"jsonrpc":"2.0","method":"no such method","params":{}}',
    "[" * 5000,
    b"\x00\xff",
)


class Tally:
    """Counts, and how often each call reached the server. One writer per count; readable from any process."""

    def __init__(self, path: str) -> None:
        self._path = path
        size = 8 * len(_SLOTS) + MOST_CALLS
        with open(path, "a+b") as file:
            if os.fstat(file.fileno()).st_size < size:
                file.truncate(size)  # sparse
            self._map = mmap.mmap(file.fileno(), size)
        self._lock = threading.Lock()

    def add(self, name: str, count: int = 1) -> None:
        offset = 8 * _SLOTS.index(name)
        with self._lock:
            (value,) = struct.unpack_from("<q", self._map, offset)
            struct.pack_into("<q", self._map, offset, value + count)

    def get(self, name: str) -> int:
        value: int = struct.unpack_from("<q", self._map, 8 * _SLOTS.index(name))[0]
        return value

    def note_arrival(self, number: int) -> None:
        """The server has read the request with this number."""
        offset = 8 * len(_SLOTS) + number
        with self._lock:
            self._map[offset] = min(255, self._map[offset] + 1)

    def arrivals(self, number: int) -> int:
        return self._map[8 * len(_SLOTS) + number]

    def problem(self, text: str) -> None:
        with open(f"{self._path}.problems", "a") as file:
            file.write(f"{text}\n")

    def problems(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return Path(f"{self._path}.problems").read_text().splitlines()
        return []

    def close(self) -> None:
        self._map.close()


def server_frame(opcode: int, payload: bytes, *, is_final: bool = True) -> bytes:
    """One unmasked frame, of any opcode and in any order: what wsproto would refuse to make."""
    size = len(payload)
    head = bytes(((0x80 if is_final else 0) | opcode,))
    if size < 126:
        head += bytes((size,))
    elif size < 1 << 16:
        head += b"\x7e" + size.to_bytes(2, "big")
    else:
        head += b"\x7f" + size.to_bytes(8, "big")
    return head + payload


# --- the server -----------------------------------------------------------------------------------


class Later:
    """Does things after a while, on one thread of its own; what is left at the end is dropped."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="later", daemon=True)
        self._thread.start()

    def do(self, seconds: float, action: Callable[[], None]) -> None:
        with self._condition:
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._numbers), action))
            self._condition.notify()

    def stop(self) -> None:
        with self._condition:
            self._is_over = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                wait = self._heap[0][0] - time.monotonic() if self._heap else None
                if self._is_over:
                    return
                if wait is None or wait > 0:
                    self._condition.wait(wait)
                    continue
                _, _, action = heapq.heappop(self._heap)
            with contextlib.suppress(OSError, Disconnected, LocalProtocolError):
                action()


class Conversation:
    """One connection: each request is answered by the dice."""

    def __init__(self, connection: ServerConnection, tally: Tally, dice: random.Random, epoch: str) -> None:
        self._connection = connection
        self._tally = tally
        self._dice = dice
        self._epoch = epoch  # names this connection in its pushes
        self._later = Later()
        self._push_lock = threading.Lock()
        self._pushed = 0
        self._pushes_answered = 0
        self._asked: dict[str, dict[str, Any]] = {}  # callables, by the id of our request: the call that waits for it

    def run(self) -> None:
        self._tally.add("connections served")
        try:
            for message in self._connection.requests():
                if not isinstance(message, dict):
                    continue  # the answer to a malformed batch
                if "method" not in message:
                    self._on_answer(message)
                elif "id" in message:
                    self._tally.add("requests read")
                    self._tally.note_arrival(message["params"]["n"])
                    self._on_request(message)
                else:
                    self._tally.add("notifications read")
                    self._tally.note_arrival(message["params"]["n"])
        finally:
            self._later.stop()

    # --- what the client asks -----------------------------------------------------------------------

    def _on_request(self, request: dict[str, Any]) -> None:
        if self._tally.get(_CALM):
            self._reply(request)
            return
        if request["method"] == "run_function":
            self._work_long(request)
            return
        for chance, fault in (
            (0.001, self._break_connection),
            (0.002, self._flood),
            (0.02, self._say_garbage),
            (0.02, self._foreign_heartbeat),
            (0.02, self._ping),
            (0.02, self._unknown_reply),
            (0.1, self._push_some),
        ):
            if self._dice.random() < chance:
                fault()
        point = self._dice.random()
        for chance, answer in (
            (0.08, self._reply_slowly),
            (0.01, self._reply_late),
            (0.01, self._reply_never),
            (0.03, self._reply_twice),
            (0.01, self._reply_malformed),
            (0.03, self._reply_error),
            (0.02, self._reply_in_fragments),
            (0.01, self._reply_byte_by_byte),
            (0.06, self._ask_first),
            (1.0, self._reply),
        ):
            if point < chance:
                answer(request)
                return
            point -= chance

    def _reply(self, request: dict[str, Any]) -> None:
        self._connection.send(self._envelope(request))

    def _envelope(self, request: dict[str, Any]) -> dict[str, Any]:
        params = request["params"]
        with self._push_lock:
            result = {"n": params["n"], "x": params["x"], "epoch": self._epoch, "pushed": self._pushed}
        return {"jsonrpc": "2.0", "id": request["id"], "result": result}

    def _reply_slowly(self, request: dict[str, Any]) -> None:
        self._tally.add("slow replies")
        self._later.do(self._dice.random() * 0.05, lambda: self._reply(request))

    def _reply_late(self, request: dict[str, Any]) -> None:
        self._tally.add("late replies")
        self._later.do(request["params"]["timeout"] + 0.05, lambda: self._reply(request))

    def _reply_never(self, request: dict[str, Any]) -> None:
        self._tally.add("missing replies")

    def _reply_twice(self, request: dict[str, Any]) -> None:
        self._tally.add("duplicate replies")
        self._reply(request)
        self._reply(request)

    def _reply_malformed(self, request: dict[str, Any]) -> None:
        self._tally.add("malformed replies")
        self._connection.send({**self._envelope(request), "error": 1})

    def _reply_error(self, request: dict[str, Any]) -> None:
        self._tally.add("error replies")
        error = {"code": -32603, "message": "Internal error", "data": {"n": request["params"]["n"]}}
        self._connection.send({"jsonrpc": "2.0", "id": request["id"], "error": error})

    def _reply_in_fragments(self, request: dict[str, Any]) -> None:
        self._tally.add("fragmented replies")
        payload = json.dumps(self._envelope(request)).encode()
        middle = self._dice.randrange(len(payload))
        ping = server_frame(0x9, b"between")  # RFC 6455 §5.4: control frames may come between fragments
        frames = server_frame(0x1, payload[:middle], is_final=False), ping, server_frame(0x0, payload[middle:])
        self._connection.send_raw(b"".join(frames))

    def _reply_byte_by_byte(self, request: dict[str, Any]) -> None:
        self._tally.add("byte-by-byte replies")
        data = self._connection.frame(json.dumps(self._envelope(request)))
        with self._connection._write_lock:
            for start in range(min(len(data), 300)):
                self._connection.sock.sendall(data[start : start + 1])
            self._connection.sock.sendall(data[300:])

    def _ask_first(self, request: dict[str, Any]) -> None:
        """Reply when the client's callable, which calls this server itself, has answered."""
        self._tally.add("callables asked")
        id_ = f"c{request['params']['n']}"
        self._asked[id_] = request
        params = {"callable_id": "c", "n": request["params"]["n"]}
        self._connection.send({"jsonrpc": "2.0", "method": "run_callable", "params": params, "id": id_})

    def _work_long(self, request: dict[str, Any]) -> None:
        """Longer than the call's time-out, with heartbeats."""
        timeout = request["params"]["timeout"]
        beat = {"jsonrpc": "2.0", "method": "heartbeat", "params": {"id": request["id"]}}
        for number in range(1, 5):
            self._later.do(number * timeout * 0.4, lambda: self._beat(beat))
        self._later.do(timeout * 1.8, lambda: self._reply(request))

    def _beat(self, beat: dict[str, Any]) -> None:
        self._tally.add("heartbeats")
        self._connection.send(beat)

    # --- what comes unasked ---------------------------------------------------------------------------

    def _push_some(self) -> None:
        self._push(self._dice.randint(1, 5))

    def _flood(self) -> None:
        self._tally.add("floods of pushes")
        self._push(2000)

    def _push(self, count: int) -> None:
        with self._push_lock:
            numbers = range(self._pushed + 1, self._pushed + 1 + count)
            params = [{"epoch": self._epoch, "n": number} for number in numbers]
            messages = [{"jsonrpc": "2.0", "method": "push", "params": each, "id": f"p{each['n']}"} for each in params]
            self._connection.send_raw(b"".join(self._connection.frame(json.dumps(message)) for message in messages))
            self._pushed += count
        self._tally.add("pushes sent", count)

    def _say_garbage(self) -> None:
        self._tally.add("malformed messages")
        self._connection.send_raw(self._connection.frame(self._dice.choice(_GARBAGE)))

    def _foreign_heartbeat(self) -> None:
        self._tally.add("foreign heartbeats")
        id_ = self._dice.choice((None, 7, "unknown", [1], {}))
        self._connection.send({"jsonrpc": "2.0", "method": "heartbeat", "params": {"id": id_}})

    def _ping(self) -> None:
        self._tally.add("pings")
        self._connection.send_ping(b"p")

    def _unknown_reply(self) -> None:
        self._tally.add("unknown replies")
        id_ = self._dice.choice(("unknown", 7, None, 1.5))
        self._connection.send({"jsonrpc": "2.0", "id": id_, "result": "nobody asked"})

    def _break_connection(self) -> None:
        kind = self._dice.choice(("half frames", "streams ended", "close frames", "protocol violations"))
        self._tally.add(kind)
        if kind == "half frames":
            self._connection.send_raw(server_frame(0x1, b"x" * 1000)[: self._dice.randrange(1, 1000)])
            self._connection.reset()
        elif kind == "streams ended":
            self._connection.sock.close()
        elif kind == "close frames":
            self._connection.close(self._dice.choice((1000, 1001, 1011)))
        else:
            broken = (b"\xff\xff", b"\x83\x00", b"\x81\x02\xff\xff", b"\x80\x01x", b"\x88\x01x")
            self._connection.send_raw(self._dice.choice(broken))
            self._connection.wait_for_end()
        raise Disconnected

    # --- what the client answers ------------------------------------------------------------------------

    def _on_answer(self, answer: dict[str, Any]) -> None:
        id_ = answer.get("id")
        if not isinstance(id_, str):
            return  # to a malformed message
        if id_.startswith("p"):
            self._pushes_answered += 1
            if id_ != f"p{self._pushes_answered}" or answer.get("result") != {"message": "Ok"}:
                self._tally.problem(f"the {self._pushes_answered}th push was answered by {answer}")
        elif (request := self._asked.pop(id_, None)) is not None:
            self._tally.add("callables answered")
            if "error" not in answer and answer.get("result") != {"message": "Ok", "data": request["params"]["n"]}:
                self._tally.problem(f"the callable {id_} was answered by {answer}")
            self._reply(request)
        else:
            self._tally.problem(f"an answer to nothing, or a second one: {answer}")


def serve(tally: Tally, seed: str) -> None:
    """Until standard input ends."""
    numbers = itertools.count()

    def script(connection: ServerConnection) -> None:
        number = next(numbers)
        epoch = f"{os.getpid()}-{time.monotonic_ns()}-{number}"
        try:
            Conversation(connection, tally, random.Random(f"{seed}-{number}"), epoch).run()
        except (OSError, Disconnected, LocalProtocolError):
            pass
        except BaseException as exc:  # noqa: BLE001 - reported
            tally.problem(f"the server failed: {exc!r}")

    with ScriptedServer(script) as server:
        print(server.port, flush=True)
        sys.stdin.read()


# --- the network ------------------------------------------------------------------------------------


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

    def __init__(self, path: str, seed: str) -> None:
        self._path = path
        self._tally = Tally(path)
        self._seed = seed
        self._dice = random.Random(f"{seed}-network")
        self._is_calm = threading.Event()
        self._starts = 0
        port = self._start_server()
        self._proxy = FaultyProxy(port)

    def run(self) -> None:
        """Until standard input ends; ``calm`` on it ends the faults."""
        with self._proxy:
            print(self._proxy.port, flush=True)
            faults = threading.Thread(target=self._run_faults, name="faults")
            faults.start()
            sys.stdin.readline()
            self._tally.add(_CALM)
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
        self._proxy.lead_to(self._start_server())

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
    options = parser.parse_args()
    if options.part == "server":
        serve(Tally(options.tally), options.seed)
    else:
        Network(options.tally, options.seed).run()


if __name__ == "__main__":
    main()
