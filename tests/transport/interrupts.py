"""Ctrl-C at every point of a class where the interpreter may raise ``KeyboardInterrupt``, one point after another.

Signals are handled between two instructions, but not between any two: on function entry, after a call, at a backward
jump, on Python 3.10 at any jump taken, and while a lock is waited for. So what is written "together, without a call
between" in the class is together here, too, and everything else is taken apart.
"""

from __future__ import annotations

import dis
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from types import CodeType, FrameType
from typing import Any

_AT_ANY_JUMP = sys.version_info < (3, 11)
_BACKWARD_JUMPS = ("JUMP_ABSOLUTE", "JUMP_BACKWARD")  # the first is 3.10's only one that goes back always
_ENTERING_WITH = ("SETUP_WITH", "BEFORE_WITH")  # by its version's name: waits for the lock


class Strike:
    """One Ctrl-C: armed within ``with``, it is raised once, at its point, in the thread that armed it.

    Leaving the ``with`` fails the test if the code has swallowed it.

    Args:
        codes: where it may come.
        number: of its point, counted from 0 in the order in which they are passed.

    Attributes:
        where: its point, for humans; None while it has not come: there were fewer points.
    """

    def __init__(self, codes: frozenset[CodeType], number: int) -> None:
        self.where: str | None = None
        self._codes = codes
        self._left = number
        self._previous: dict[int, dis.Instruction | None] = {}  # by id of the frame, reset when one is entered
        self._disarm: Callable[[], None] = lambda: None

    def __enter__(self) -> Strike:
        self._disarm = _watch(self._codes, self._on_entry, self._on_instruction)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._disarm()
        assert self.where is None or kind is KeyboardInterrupt, f"Ctrl-C was swallowed at {self.where}"
        return self.where is not None

    def __str__(self) -> str:
        return "no Ctrl-C" if self.where is None else f"Ctrl-C in {self.where}"

    def _on_entry(self, frame: FrameType) -> None:
        self._previous[id(frame)] = None
        self._pass(frame, "on entry")

    def _on_instruction(self, frame: FrameType, offset: int) -> None:
        """Called before each instruction."""
        now = _instructions(frame.f_code).get(offset)
        if now is None:
            return  # room for the interpreter's notes
        before, self._previous[id(frame)] = self._previous.get(id(frame)), now
        if before is not None and _may_raise_between(before, now):
            self._pass(frame, f"after {before.opname} {before.argrepr}")
        elif now.opname in _ENTERING_WITH:
            self._pass(frame, "waiting for a lock")

    def _pass(self, frame: FrameType, what: str) -> None:
        if self.where is None and self._left == 0:
            self.where = f"{frame.f_code.co_name}, line {frame.f_lineno}, {what}"
            raise KeyboardInterrupt
        self._left -= 1


def strikes(cls: type) -> Iterator[Strike]:
    """A strike for each point of the methods of ``cls`` that is passed, and one more, which never comes.

    Each must have been in a ``with`` around the same work before the next one is asked for.
    """
    codes = frozenset(_codes_of(cls))
    for number in itertools.count():
        strike = Strike(codes, number)
        yield strike
        if strike.where is None:
            assert number > 10, f"only {number} points: this watches the wrong code"
            return


def _may_raise_between(before: dis.Instruction, now: dis.Instruction) -> bool:
    if before.opname.startswith("CALL"):
        return before.opname != "CALL_INTRINSIC_1"  # of the interpreter's own
    if _AT_ANY_JUMP and before.opname.startswith("POP_JUMP"):
        return bool(before.argval == now.offset)
    return before.opname in _BACKWARD_JUMPS


@cache
def _instructions(code: CodeType) -> dict[int, dis.Instruction]:
    return {instruction.offset: instruction for instruction in dis.get_instructions(code)}


def _codes_of(cls: type) -> Iterator[CodeType]:
    for member in vars(cls).values():
        code = getattr(getattr(member, "fget", member), "__code__", None)
        if code is not None:
            yield code


OnEntry = Callable[[FrameType], None]
OnInstruction = Callable[[FrameType, int], None]

if sys.version_info >= (3, 12):
    # Tracing functions are not told of every instruction here; monitoring tools are.
    _TOOL = 3  # of those without a meaning
    _EVENTS = sys.monitoring.events

    def _watch(codes: frozenset[CodeType], on_entry: OnEntry, on_instruction: OnInstruction) -> Callable[[], None]:
        """Call these in this thread, until what this returns is called. What they raise is raised there."""
        thread = threading.get_ident()

        def start(code: CodeType, offset: int) -> None:
            if threading.get_ident() == thread:
                on_entry(sys._getframe(1))

        def instruction(code: CodeType, offset: int) -> None:
            if threading.get_ident() == thread:
                on_instruction(sys._getframe(1), offset)

        def disarm() -> None:
            for code in codes:
                sys.monitoring.set_local_events(_TOOL, code, 0)
            sys.monitoring.register_callback(_TOOL, _EVENTS.PY_START, None)
            sys.monitoring.register_callback(_TOOL, _EVENTS.INSTRUCTION, None)
            sys.monitoring.free_tool_id(_TOOL)

        sys.monitoring.use_tool_id(_TOOL, "interrupts")
        sys.monitoring.register_callback(_TOOL, _EVENTS.PY_START, start)
        sys.monitoring.register_callback(_TOOL, _EVENTS.INSTRUCTION, instruction)
        for code in codes:
            sys.monitoring.set_local_events(_TOOL, code, _EVENTS.PY_START | _EVENTS.INSTRUCTION)
        return disarm

else:

    def _watch(codes: frozenset[CodeType], on_entry: OnEntry, on_instruction: OnInstruction) -> Callable[[], None]:
        """Call these in this thread, until what this returns is called. What they raise is raised there."""

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if frame.f_code not in codes:
                return None
            if event == "call":
                frame.f_trace_opcodes = True
                on_entry(frame)
            elif event == "opcode":
                on_instruction(frame, frame.f_lasti)
            return trace

        previous = sys.gettrace()  # that of a tool for coverage
        sys.settrace(trace)
        return lambda: sys.settrace(previous)
