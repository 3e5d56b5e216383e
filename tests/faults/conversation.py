"""A server that misbehaves at random: see ``Conversation``. ``mischief`` runs it."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from wsproto.utilities import LocalProtocolError

from .scripted import Disconnected, ScriptedServer, ServerConnection
from .tally import CALM, Tally

DEEPEST = 4
"""How deep callables are asked within callables."""

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
        if self._tally.get(CALM):
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
        if self._depth(request) and self._dice.random() < 0.5:
            self._tally.add("callables asked within callables")
            self._ask_first(request)
            return
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
        params = {"callable_id": "c", "n": request["params"]["n"], "depth": self._depth(request) + 1}
        self._connection.send({"jsonrpc": "2.0", "method": "run_callable", "params": params, "id": id_})

    @staticmethod
    def _depth(request: dict[str, Any]) -> int:
        """In how many callables the call was made; 0 beyond the deepest, so that it is asked for no other."""
        depth = request["params"].get("depth", 0)
        return depth if depth < DEEPEST else 0

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
