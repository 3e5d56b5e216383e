"""The flight recorder: the last envelopes of a connection, without what they hold.

Off unless asked for, and then the transport is wrapped: so a connection that is not recorded pays nothing.  Of an
envelope the shape is kept: the names of its members, numbers, ids, and of each text only its length.  So no key, no
prompt and no answer is ever in it, wherever it stands.  What is kept is bounded in number and in characters: each line
has its share of these, so that one step of C keeps a line, and there is no lock that a signal handler could find held.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| the lines of a ``Recorder`` | any thread | any thread | one C call on a deque each | – |
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from .. import jsonrpc
from ..deadlines import Clock
from ..speedups import Semaphore
from ..transport.base import Ending, Receipt, Transport
from .tally import copied

MOST_LINES = 200
MOST_CHARACTERS = 64 * 1024

_LONGEST_READ = 64 * 1024  # characters: of a longer message only the length is kept
_MOST_ITEMS = 12
_DEEPEST = 4

# The id of a request of ours, a UUID, and a name as those of members: nothing that could be a key.
_ID = re.compile(r"[0-9a-f]{8}(-\d+|(-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_NAME = re.compile(r"_{0,2}[a-z]+(_[a-z]+)*_?")
_LONGEST_NAME = 32


class Recorder:
    """The last envelopes, as lines. Thread-safe, never blocks, raises nothing.

    Args:
        clock: for the times.
        most_lines, most_characters: > 0: older lines give way, and each has its share of the characters.
    """

    def __init__(self, clock: Clock, most_lines: int = MOST_LINES, most_characters: int = MOST_CHARACTERS) -> None:
        self.now: Callable[[], float] = clock.now
        self._longest = most_characters // most_lines
        self._lines: deque[tuple[float, str]] = deque(maxlen=most_lines)

    def note(self, when: float, sign: str, message: str | bytes) -> None:
        """Keep the shape of a message; ``sign`` is ``">"`` if it was sent, ``"<"`` if it came."""
        self._lines.append((when, f"{sign} {shape_of(message)}"[: self._longest]))

    def lines(self) -> list[tuple[float, str]]:
        """When, and what, oldest first."""
        return sorted(copied(self._lines))


def shape_of(message: str | bytes) -> str:
    """What may be shown of a message."""
    if isinstance(message, bytes):
        return f"a binary message of {len(message)} bytes"
    if len(message) > _LONGEST_READ:
        return f"a message of {len(message)} characters"
    try:
        value = jsonrpc.decode(message)
    except jsonrpc.MalformedText:
        return f"{len(message)} characters that are not JSON"
    return _shape(value, _DEEPEST)


def _shape(value: Any, depth: int, name: str = "") -> str:
    if value is None or isinstance(value, (bool, int, float)):
        # A number of many digits could be a key, as a text could.
        return str(value) if not isinstance(value, int) or abs(value) < 10**6 else "<number>"
    if isinstance(value, str):
        is_plain = name in ("method", "field") and len(value) <= _LONGEST_NAME and _NAME.fullmatch(value)
        if is_plain or (name == "jsonrpc" and value == "2.0") or _ID.fullmatch(value):
            return value
        return f"<text of {len(value)}>"
    if depth == 0 or len(value) > _MOST_ITEMS:
        return f"<{'object' if isinstance(value, dict) else 'array'} of {len(value)}>"
    if isinstance(value, list):
        return f"[{', '.join(_shape(item, depth - 1) for item in value)}]"
    members = (f"{_name(key)}: {_shape(item, depth - 1, key)}" for key, item in value.items() if key != "jsonrpc")
    return f"{{{', '.join(members)}}}"


def _name(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME and _NAME.fullmatch(name) else f"<name of {len(name)}>"


class RecordedTransport(Transport):
    """A transport whose messages are recorded on their way. Threads: as the one it wraps.

    Args:
        transport: which does all the work.
        recorder: keeps what passes.
    """

    def __init__(self, transport: Transport, recorder: Recorder) -> None:
        self._transport = transport
        self._recorder = recorder
        self.can_nest: bool = transport.can_nest
        self.locks: tuple[threading.RLock, ...] = transport.locks
        self.wakeups: list[Semaphore] = transport.wakeups

    @property
    def bytes_received(self) -> int:  # type: ignore[override]
        return self._transport.bytes_received

    @property
    def bytes_sent(self) -> int:
        return self._transport.bytes_sent

    @property
    def stalled_since(self) -> float | None:  # type: ignore[override]
        return self._transport.stalled_since

    def send(self, texts: list[str], receipts: Sequence[Receipt] | None = None, timeout: float | None = None) -> None:
        when = self._recorder.now()  # the reply may come before this goes on
        self._transport.send(texts, receipts, timeout)
        for text in texts:
            self._recorder.note(when, ">", text)

    def receive(self, timeout: float | None) -> list[str | bytes]:
        messages = self._transport.receive(timeout)
        for message in messages:
            self._recorder.note(self._recorder.now(), "<", message)
        return messages

    @property
    def is_held_up(self) -> bool:
        return self._transport.is_held_up

    @property
    def is_over(self) -> bool:  # type: ignore[override]
        return self._transport.is_over

    def was_sent(self, receipt: Receipt) -> bool:
        return self._transport.was_sent(receipt)

    def ping(self) -> None:
        self._transport.ping()

    def wake(self) -> None:
        self._transport.wake()

    def close(self, code: int, reason: str) -> None:
        self._transport.close(code, reason)

    def abort(self, ending: Ending) -> None:
        self._transport.abort(ending)

    def dispose(self) -> None:
        self._transport.dispose()

    def forget_after_fork(self) -> None:
        self._transport.forget_after_fork()
