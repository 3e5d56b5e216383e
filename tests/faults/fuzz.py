"""Random and mutated input against all that reads it: ``python -m tests.faults.fuzz [--frames 1000000] [--seed N]``.

Targets:
    decoder      streams of frames into ``FrameDecoder``, whole and in pieces: the same events or the same error
    jsonrpc      texts into ``jsonrpc.decode``, ``classify`` and ``Dispatcher``: valid answers, and only where due
    memory       messages into a live ``Connection``: it serves calls before and after, whatever came
    socketpair   streams of frames into a live ``Connection``: it goes on, or ends with the right close code
    answers      answers of language models into all their readers: what is right is read, nothing else is adopted

Every case is drawn from the seed, its target and its number alone; a failing one is printed as a command that runs
only this one.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import random
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

from tellurio_sync import jsonrpc
from tellurio_sync.deadlines import MONOTONIC
from tellurio_sync.errors import ConnectionLost, RemoteProtocolError
from tellurio_sync.peer.connection import Connection
from tellurio_sync.peer.dispatch import Dispatcher, Method
from tellurio_sync.peer.keepalive import Keepalive
from tellurio_sync.peer.pending import PendingCall
from tellurio_sync.peer.workers import WorkerPool
from tellurio_sync.transport.base import Ending, Transport, TransportEnded
from tellurio_sync.transport.frames import Close, Event, FrameDecoder, FrameError, encode_frame
from tellurio_sync.transport.memory import MemoryTransport
from tellurio_sync.transport.websocket import WebSocketTransport

from .answers import fuzz_answers
from .conversation import server_frame
from .soak import resident_bytes, wait_until

FAILSAFE = 30.0
MAX_MESSAGE_SIZE = 4000
"""Bytes: small, so that the limit is met often."""
MOST_GROWTH = 32 << 20
"""Bytes of resident memory that all may grow after the first tenth."""
_IDS = (0, 1, -1, 1.5, "", "a", "pending", None, True, [], {}, "\ud800", 10**30, "x" * 300)
_METHODS = ("good", "bad", "worst", "slow", "unknown", "", None, 7, [], "\ud800", "heartbeat")
_SCALARS = (None, True, False, 0, -1, 1.5, 1e308, "", "text", "é", "\ud800", "\0", 2**64, float("nan"), float("inf"))
_RARE_TEXTS: tuple[Callable[[], str], ...] = (
    lambda: "[" * 100_000,
    lambda: '{"a":' * 50_000,
    lambda: "[" * 900 + "]" * 900,
    lambda: "9" * 5000,
    lambda: '{"jsonrpc":"2.0","method":"good","id":' + "9" * 5000 + "}",
    lambda: '{"jsonrpc":"2.0","id":"pending","result":' + "[" * 950 + "]" * 950 + "}",
)


# --- what is drawn ------------------------------------------------------------------------------------


def draw_value(dice: random.Random, depth: int = 0) -> Any:
    if depth > 3 or dice.random() < 0.6:
        return dice.choice(_SCALARS)
    size = dice.randrange(4)
    if dice.random() < 0.5:
        return [draw_value(dice, depth + 1) for _ in range(size)]
    return {dice.choice(("n", "id", "error", "", "é")): draw_value(dice, depth + 1) for _ in range(size)}


def draw_envelope(dice: random.Random) -> Any:
    """Something like a JSON-RPC message, more or less."""
    point = dice.random()
    if point < 0.05:
        return draw_value(dice)
    if point < 0.12:
        return [draw_envelope(dice) for _ in range(dice.randrange(5))]
    envelope: dict[str, Any] = {}
    if dice.random() < 0.9:
        envelope["jsonrpc"] = "2.0" if dice.random() < 0.9 else draw_value(dice)
    if dice.random() < 0.6:
        envelope["method"] = dice.choice(_METHODS)
    if dice.random() < 0.6:
        envelope["params"] = {"n": draw_value(dice)} if dice.random() < 0.7 else draw_value(dice)
    if dice.random() < 0.7:
        envelope["id"] = dice.choice(_IDS)
    if dice.random() < 0.25:
        envelope["result"] = draw_value(dice)
    if dice.random() < 0.25:
        is_good = dice.random() < 0.5
        envelope["error"] = {"code": dice.choice(_IDS), "message": "m"} if is_good else draw_value(dice)
    return envelope


def draw_text(dice: random.Random) -> str:
    """A message, sometimes broken."""
    if dice.random() < 0.002:
        return dice.choice(_RARE_TEXTS)()
    text = json.dumps(draw_envelope(dice), ensure_ascii=dice.random() < 0.5)
    text = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    while dice.random() < 0.3:
        at = dice.randrange(len(text) + 1)
        text = (
            text[:at]
            + dice.choice(("", '"', "{", "]", ",", "\\u", "NaN", "1e999", "\0", "é"))
            + text[at + dice.randrange(3) :]
        )
    return text


def draw_message(dice: random.Random) -> str | bytes:
    if dice.random() < 0.02:
        return dice.randbytes(dice.randrange(20))
    return draw_text(dice)


def draw_frames(dice: random.Random, count: int) -> bytes:
    """A stream of frames; a third holds none that are wrong, in half some bytes are changed."""
    is_right = dice.random() < 0.33
    stream = b"".join(_draw_right_frame(dice) if is_right else _draw_frame(dice) for _ in range(count))
    if dice.random() < 0.5:
        stream = _mutate(dice, stream)
    return stream


def _draw_right_frame(dice: random.Random) -> bytes:
    point = dice.random()
    if point < 0.75:
        payload = draw_text(dice).encode()
        if len(payload) > MAX_MESSAGE_SIZE:
            payload = b"{}"
        if point < 0.65:
            return server_frame(0x1, payload)
        middle = dice.randrange(len(payload) + 1)
        return server_frame(0x1, payload[:middle], is_final=False) + server_frame(0x0, payload[middle:])
    if point < 0.95:
        return server_frame(dice.choice((0x9, 0xA)), dice.randbytes(dice.randrange(126)))
    return server_frame(0x2, dice.randbytes(dice.choice((0, 1, 125, 126, 127, MAX_MESSAGE_SIZE))))


_CLOSES = (b"", b"\x03", b"\x03\xe8bye", b"\x03\xee", b"\x0f\xa0", b"\x03\xe8\xff")


def _draw_frame(dice: random.Random) -> bytes:
    point = dice.random()
    if point < 0.9:
        return _draw_right_frame(dice)
    if point < 0.92:
        return server_frame(0x8, dice.choice(_CLOSES))
    if point < 0.95:
        return server_frame(dice.randrange(16), dice.randbytes(dice.randrange(200)), is_final=dice.random() < 0.5)
    if point < 0.96:
        return encode_frame(0x1, b"masked")
    if point < 0.98:
        return server_frame(0x1, draw_text(dice).encode() + b"\xff")
    return server_frame(0x1, b"x" * (MAX_MESSAGE_SIZE + dice.randrange(-1, 2)))


def _mutate(dice: random.Random, stream: bytes) -> bytes:
    data = bytearray(stream)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(4)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at:at] = dice.randbytes(dice.randrange(1, 5))
        elif kind == 2:
            del data[at : at + dice.randrange(1, 20)]
        else:
            data[at:at] = data[: dice.randrange(1, 50)]
    return bytes(data)


def draw_pieces(dice: random.Random, stream: bytes) -> list[bytes]:
    longest = dice.choice((1, 3, 50, 5000))
    pieces = []
    while stream:
        size = dice.randint(1, longest)
        pieces.append(stream[:size])
        stream = stream[size:]
    return pieces


# --- the targets: one case each, returning how many frames or messages it used -----------------------


def decode(pieces: list[bytes]) -> tuple[list[Event], int | None]:
    """The events of a stream, and the close code it asks for, None if it is not broken."""
    decoder = FrameDecoder(MAX_MESSAGE_SIZE)
    events: list[Event] = []
    for piece in pieces:
        try:
            decoder.feed(piece, events)
        except FrameError as exc:
            return events, exc.code
        held = len(decoder._message) + len(decoder._payload or b"") + len(decoder._rest)
        assert held <= MAX_MESSAGE_SIZE + len(piece) + 14, f"{held} bytes held"
    return events, None


def fuzz_decoder(dice: random.Random, outcomes: Counter[str]) -> int:
    count = dice.randint(1, 12)
    stream = draw_frames(dice, count)
    whole = decode([stream])
    assert whole[1] in (None, 1002, 1007, 1009), f"close code {whole[1]}"
    assert decode(draw_pieces(dice, stream)) == whole, "in pieces it is read otherwise"
    outcomes["streams read to the end" if whole[1] is None else f"streams refused with {whole[1]}"] += 1
    return count


class InlinePool(WorkerPool):
    """Runs tasks at once."""

    def submit(
        self, task: Callable[[], None], *, must_run: bool = False, refuse: Callable[[], None] | None = None
    ) -> bool:
        task()
        return True


def _raise(error: BaseException) -> Any:
    raise error


METHODS = {
    "good": Method(lambda params: params.get("n")),
    "bad": Method(lambda params: _raise(KeyError("n"))),
    "worst": Method(lambda params: _raise(SystemExit(1))),
    "slow": Method(lambda params: params.get("n"), on_worker=True),
    "heartbeat": Method(lambda params: None),
}


def fuzz_jsonrpc(dice: random.Random, outcomes: Counter[str]) -> int:
    try:
        value = jsonrpc.decode(draw_text(dice))
    except jsonrpc.MalformedText:
        outcomes["texts that are not JSON"] += 1
        return 1
    message = jsonrpc.classify(value)
    kind = type(message).__name__
    outcomes[f"messages that are a {kind}"] += 1
    if isinstance(message, jsonrpc.Reply):
        return 1
    answers: list[str] = []
    Dispatcher(METHODS, InlinePool(), answers.append).handle(message)
    if isinstance(message, jsonrpc.Batch):
        due = sum(_is_answered(member) for member in message.messages)
        assert len(answers) == (due > 0), f"a batch had {len(answers)} answers"
        replies = json.loads(answers[0]) if answers else []
        assert len(replies) == due, f"{due} answers were due in the array, {len(replies)} came"
    else:
        replies = [json.loads(answer) for answer in answers]
        assert len(replies) == _is_answered(message), f"{len(replies)} answers to {message!r:.300}"
    for reply in replies:
        answer = jsonrpc.classify(reply)
        assert isinstance(answer, jsonrpc.Reply), f"no reply: {reply!r:.300}"
        assert answer.problem is None, answer.problem
        assert answer.id is not None or reply["error"]["code"] in (-32700, -32600), f"no id: {reply!r:.300}"
    return 1


def _is_answered(message: Any) -> bool:
    return isinstance(message, jsonrpc.Request) or (isinstance(message, jsonrpc.Invalid) and message.is_answered)


class Live:
    """A connection with its receive loop on a thread, and one call that waits with the id ``"pending"``."""

    def __init__(self, transport: Transport) -> None:
        self.pool = WorkerPool(max_workers=2)
        self.connection = Connection(
            transport,
            Dispatcher(METHODS, self.pool, self._send),
            opening=None,
            opening_timeout=FAILSAFE,
            keepalive=Keepalive(None, FAILSAFE, MONOTONIC.now()),
            write_timeout=FAILSAFE,
            clock=MONOTONIC,
            on_open=lambda _: None,
        )
        self._thread = threading.Thread(target=self.connection.run, name="receive", daemon=True)
        self._thread.start()
        self.waiting = self.start("pending")

    def _send(self, text: str) -> None:
        try:
            self.connection.transport.send([text])
        except TransportEnded:
            pass  # as a peer does

    def start(self, id_: str) -> PendingCall:
        call = PendingCall(id_, "m", FAILSAFE, MONOTONIC.now())
        self.connection.start([call], [jsonrpc.encode(jsonrpc.request(id_, "m", {}))])
        return call

    def join(self) -> Ending:
        self._thread.join(FAILSAFE)
        assert not self._thread.is_alive(), "the receive thread does not end"
        self.pool.close(FAILSAFE)
        assert self.connection.pending.snapshot() == {}, "a call is left in the table"
        assert self.connection.ending is not None
        return self.connection.ending


def _reply(id_: str) -> str:
    return jsonrpc.encode(jsonrpc.result_reply(id_, "reply"))


def fuzz_memory(dice: random.Random, outcomes: Counter[str]) -> int:
    count = 200
    transport = MemoryTransport()
    live = Live(transport)
    for start in range(0, count, 20):
        transport.server_send(*(draw_message(dice) for _ in range(20)))
        call = live.start(f"after {start}")
        transport.server_send(_reply(f"after {start}"))
        assert live.connection.wait(call)["result"] == "reply"
    transport.server_send(_reply("pending"))
    try:
        live.connection.wait(live.waiting)
        outcomes["calls answered by a reply, drawn or right"] += 1
    except RemoteProtocolError:
        outcomes["calls failed by a malformed reply of their id"] += 1
    assert live.connection.ending is None, f"ended by a message: {live.connection.ending}"
    live.connection.close()
    live.join()
    return count


def fuzz_socketpair(dice: random.Random, outcomes: Counter[str]) -> int:
    count = dice.randint(1, 30)
    stream = draw_frames(dice, count)
    events, code = decode([stream])
    closes = [event for event in events if isinstance(event, Close)]
    if closes:
        # RFC 6455 §7.1.5: the first close frame ends it, unless something broken stood before it.
        code = 1000 if closes[0].code == 1005 else closes[0].code
    ours, theirs = socket.socketpair()
    theirs.settimeout(FAILSAFE)
    live = Live(WebSocketTransport(ours, max_message_size=MAX_MESSAGE_SIZE))
    received = bytearray()
    reader = threading.Thread(target=_read_all, args=(theirs, received), name="reader", daemon=True)
    reader.start()
    try:
        for piece in draw_pieces(dice, stream) if len(stream) < 2000 else [stream]:
            theirs.sendall(piece)
        theirs.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it has ended the connection already
    live_ending = live.join()
    try:
        live.connection.wait(live.waiting)
        outcomes["calls answered by a drawn reply"] += 1
    except RemoteProtocolError:
        outcomes["calls failed by a malformed reply of their id"] += 1
    except ConnectionLost:
        outcomes["calls that ended with the connection"] += 1
    reader.join(FAILSAFE)
    assert not reader.is_alive(), "the socket was not closed"
    theirs.close()
    sent = _close_code_sent(bytes(received))
    assert sent == code, f"the close frame should have said {code}, but said {sent}: {live_ending}"
    outcomes[f"connections ended with {code}"] += 1
    return count


def _read_all(sock: socket.socket, received: bytearray) -> None:
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionResetError:
        pass  # closed with our bytes unread


def _close_code_sent(data: bytes) -> int | None:
    """The code of the close frame that ends a client's stream; None if there is none."""
    at = 0
    while at + 2 <= len(data):
        opcode, size, at = data[at] & 15, data[at + 1] & 127, at + 2
        if size > 125:
            length = 2 if size == 126 else 8
            size, at = int.from_bytes(data[at : at + length], "big"), at + length
        mask, payload, at = data[at : at + 4], data[at + 4 : at + 4 + size], at + 4 + size
        if opcode == 0x8:
            assert at == len(data), "something follows the close frame"
            return (payload[0] ^ mask[0]) << 8 | payload[1] ^ mask[1]
    return None


Target = Callable[[random.Random, "Counter[str]"], int]
TARGETS: dict[str, tuple[float, Target]] = {
    "decoder": (0.5, fuzz_decoder),
    "jsonrpc": (0.25, fuzz_jsonrpc),
    "memory": (0.15, fuzz_memory),
    "socketpair": (0.1, fuzz_socketpair),
    "answers": (1.0, fuzz_answers),
}
"""By name: its share of the frames (or as many answers), and the function."""


def run_case(name: str, seed: int, case: int, outcomes: Counter[str]) -> int:
    """Frames used; 0 if it failed, which is printed."""
    _, target = TARGETS[name]
    try:
        return target(random.Random(f"{seed}-{name}-{case}"), outcomes)
    except Exception:  # noqa: BLE001 - reported
        traceback.print_exc()
        print(f"FAILED; to run it alone: python -m tests.faults.fuzz --seed {seed} --target {name} --case {case}")
        return 0


def fuzz(frames: int, seed: int) -> bool:
    """Whether everything held."""
    print(f"fuzz: {frames:,} frames, seed {seed}, Python {sys.version.split()[0]}", flush=True)
    is_good = True
    threads = threading.active_count()
    first_memory = 0
    for name, (share, _) in TARGETS.items():
        outcomes: Counter[str] = Counter()
        start = time.monotonic()
        used = case = 0
        while used < frames * share:
            # A case that hangs in C code, or a wait without an end, ends the run with everybody's stack.
            faulthandler.dump_traceback_later(4 * FAILSAFE, exit=True)
            done = run_case(name, seed, case, outcomes)
            is_good = is_good and done > 0
            used += max(done, 1)
            case += 1
            if not first_memory and used > frames * share / 10:
                first_memory = resident_bytes()
            if case % 20_000 == 0:
                print(f"    {name}: {used:,} frames", flush=True)
        print(f"{name}: {used:,} frames in {case:,} cases, {time.monotonic() - start:.1f} s")
        for outcome, number in sorted(outcomes.items()):
            print(f"    {number:>9,} {outcome}")
    faulthandler.cancel_dump_traceback_later()
    growth = resident_bytes() - first_memory
    print(f"memory: {growth / 2**20:+.1f} MiB after the first cases (allowed: {MOST_GROWTH >> 20})")
    if growth > MOST_GROWTH:
        is_good = False
    if not wait_until(lambda: threading.active_count() <= threads):
        print(f"threads left: {threading.enumerate()}")
        is_good = False
    print("every receive thread survived, or ended as it must; no call hung" if is_good else f"FAILED, seed {seed}")
    return is_good


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--target", choices=TARGETS, default=None)
    parser.add_argument("--case", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("tellurio_sync").setLevel(logging.CRITICAL)
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    if options.target is not None:
        is_good = run_case(options.target, seed, options.case, Counter()) > 0
    else:
        is_good = fuzz(options.frames, seed)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
