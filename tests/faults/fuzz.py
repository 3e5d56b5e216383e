"""Random and mutated input against all that reads it: ``python -m tests.faults.fuzz [--frames 1000000] [--seed N]``.

Targets:
    decoder      streams of frames into ``FrameDecoder``, whole and in pieces: the same events or the same error
    jsonrpc      texts into ``jsonrpc.decode``, ``classify`` and ``Dispatcher``: valid answers, and only where due
    memory       messages into a live ``Connection``: it serves calls before and after, whatever came
    socketpair   streams of frames into a live ``Connection``: it goes on, or ends with the right close code
    greeting     first messages into a live ``Connection``: it opens with what they say, or fails with a text
    rest         HTTP answers into ``StudioRest``: a value of the promised form, or one of the package's errors
    tls          TLS with bytes changed on the way into a live ``Connection``: it ends, and no call hangs
    backend      requests of any form into a live backend: each is answered, and others are served
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
from tellurio_sync.errors import ConnectionLost, RemoteProtocolError
from tellurio_sync.peer.dispatch import Dispatcher
from tellurio_sync.peer.workers import WorkerPool
from tellurio_sync.transport.frames import Close, Event, FrameDecoder, FrameError
from tellurio_sync.transport.memory import MemoryTransport
from tellurio_sync.transport.websocket import WebSocketTransport

from .answers import fuzz_answers
from .drawn import MAX_MESSAGE_SIZE, draw_frames, draw_message, draw_pieces, draw_text
from .edges import fuzz_backend, fuzz_greeting, fuzz_rest, fuzz_tls
from .edges import stop as stop_edges
from .live import FAILSAFE, METHODS, Live
from .soak import resident_bytes, wait_until

MOST_GROWTH = 32 << 20
"""Bytes of resident memory that all may grow after the first tenth."""


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
    "greeting": (0.02, fuzz_greeting),
    "rest": (0.005, fuzz_rest),
    "tls": (0.01, fuzz_tls),
    "backend": (0.02, fuzz_backend),
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
    for name in TARGETS:  # what each needs for good is not counted as growth
        is_good = run_case(name, seed, 0, Counter()) > 0 and is_good
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
    stop_edges()
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
        stop_edges()
    else:
        is_good = fuzz(options.frames, seed)
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
