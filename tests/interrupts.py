"""Ctrl-C at every point of some code where the interpreter may raise ``KeyboardInterrupt``, one point after another.

Signals are handled between two instructions, but not between any two: on function entry, after a call, at a backward
jump, on Python 3.10 also at any conditional jump taken and where an exception is caught, and while a lock is waited
for. So what is written "together, without a call between" in the package is together here, too, and everything else
is taken apart.
"""

from __future__ import annotations

import dis
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import PurePath
from types import CodeType, FrameType, ModuleType
from typing import Any, NamedTuple

_IS_3_10 = sys.version_info < (3, 11)
_CONDITIONAL_JUMPS = ("POP_JUMP",) if _IS_3_10 else ("POP_JUMP_BACKWARD",)  # later ones have none of these
_BACKWARD_JUMPS = ("JUMP_ABSOLUTE", "JUMP_BACKWARD")  # the first is 3.10's only one that goes back always
_ENTERING_WITH = ("SETUP_WITH", "BEFORE_WITH")  # by its version's name: waits for the lock


class Strike:
    """One Ctrl-C: armed within ``with``, it is raised once, at its point, in the thread that armed it.

    Leaving the ``with`` fails the test if the code has swallowed it.

    Args:
        codes: where it may come.
        number: of its point, counted from 0 in the order in which they are passed.
        again: how many points later a second one comes; None: none does.
        act: what the signal handler does there; what it raises is raised there. None: as Ctrl-C, KeyboardInterrupt.
        expected: what it raises on purpose. Leaving the ``with`` hides that, and nothing else: a handler whose own call
            has failed fails the test.

    Attributes:
        where: its point, for humans; None while it has not come: there were fewer points.
    """

    def __init__(
        self,
        codes: frozenset[CodeType],
        number: int,
        again: int | None = None,
        act: Callable[[], object] | None = None,
        expected: type[BaseException] | None = None,
    ) -> None:
        self._act = act
        self._expected = expected
        self._raised: BaseException | None = None
        self.where: str | None = None
        self._again = again
        self._codes = codes
        self._left = number
        self._previous: dict[int, _Step | None] = {}  # by id of the frame, reset when one is entered
        self._disarm: Callable[[], None] = lambda: None

    def __enter__(self) -> Strike:
        self._disarm = _watch(self._codes, self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._disarm()
        if self._act is not None:
            raised = self._raised
            assert raised is None or kind is type(raised), f"{raised!r} was swallowed at {self.where}: {kind}"
            return self._expected is not None and isinstance(raised, self._expected)
        assert self.where is None or kind is KeyboardInterrupt, f"Ctrl-C was swallowed at {self.where}"
        return self.where is not None

    def __str__(self) -> str:
        return "no Ctrl-C" if self.where is None else f"Ctrl-C in {self.where}"

    def on_entry(self, frame: FrameType) -> None:
        self._previous[id(frame)] = None
        self._pass(frame, "on entry")

    def on_exception(self, frame: FrameType) -> None:
        self._previous[id(frame)] = _EXCEPTION

    def on_instruction(self, frame: FrameType, offset: int) -> None:
        """Called before each instruction."""
        now = _steps(frame.f_code).get(offset)
        before = self._previous.get(id(frame))
        if now is None or now is before:
            return  # room for the interpreter's notes, or the same again behind its prefix
        self._previous[id(frame)] = now
        if before is not None and _may_raise_between(frame.f_code, before, now):
            self._pass(frame, f"after {before.name} {before.argument}")
        elif now.name in _ENTERING_WITH:
            self._pass(frame, "waiting for a lock")

    def _pass(self, frame: FrameType, what: str) -> None:
        if self._left == 0:
            code = frame.f_code
            where = f"{PurePath(code.co_filename).name}, {code.co_name}, line {frame.f_lineno}, {what}"
            self.where = where if self.where is None else f"{self.where}, and in {where}"
            self._left, self._again = -1 if self._again is None else self._again, None
            if self._act is None:
                raise KeyboardInterrupt
            try:
                self._act()
            except BaseException as exc:
                self._raised = exc
                raise
            return
        self._left -= 1


def strikes(
    *owners: ModuleType | type | Callable[..., object],
    again: int | None = None,
    act: Callable[[], object] | None = None,
    expected: type[BaseException] | None = None,
) -> Iterator[Strike]:
    """A strike for each point of what these modules, classes and functions define that is passed, and one more.

    With ``again``, a second one comes so many points after the first, which is left out where there are none.

    The last one never comes. Each must have been in a ``with`` around the same work before the next is asked for.
    """
    codes = frozenset(itertools.chain.from_iterable(map(_codes_of, owners)))
    for number in itertools.count():
        strike = Strike(codes, number, again, act, expected)
        yield strike
        if strike.where is None:
            assert number > 10, f"only {number} points: this watches the wrong code"
            return


class _Step(NamedTuple):
    """One instruction, with what prefixes it has.

    Attributes:
        following: the offset behind it.
        target: the offset to which it jumps, if it is a jump.
    """

    name: str
    argument: str
    following: int
    target: Any


_EXCEPTION = _Step("an exception", "", -1, -1)


def _may_raise_between(code: CodeType, before: _Step, now: _Step) -> bool:
    steps = _steps(code)
    if before.name in ("an exception", "RAISE_VARARGS", "RERAISE"):
        return _IS_3_10  # where it is caught
    if before.name.startswith("CALL"):
        is_interpreters_own = before.name.startswith("CALL_INTRINSIC")
        is_where_it_is_caught = not _IS_3_10 and steps.get(before.following) is not now
        return not is_interpreters_own and not is_where_it_is_caught
    if before.name.startswith(_CONDITIONAL_JUMPS):
        return steps.get(before.target) is now
    return before.name in _BACKWARD_JUMPS


@cache
def _steps(code: CodeType) -> dict[int, _Step]:
    """By offset, also that of a prefix: a tool may be told of either."""
    steps: dict[int, _Step] = {}
    prefixes: list[int] = []
    instructions = list(dis.get_instructions(code))
    for instruction, following in itertools.zip_longest(instructions, instructions[1:]):
        prefixes.append(instruction.offset)
        if instruction.opname != "EXTENDED_ARG":
            offset = -1 if following is None else following.offset
            step = _Step(instruction.opname, instruction.argrepr, offset, instruction.argval)
            steps.update(dict.fromkeys(prefixes, step))
            prefixes = []
    return steps


def _codes_of(owner: Any) -> Iterator[CodeType]:
    if isinstance(owner, ModuleType):
        for member in vars(owner).values():
            if getattr(member, "__module__", None) == owner.__name__:
                yield from _codes_of(member)
    elif isinstance(owner, type):
        for member in vars(owner).values():
            if not isinstance(member, type):
                yield from _codes_of(member)
    elif isinstance(owner, CodeType):
        yield owner
        for constant in owner.co_consts:
            if isinstance(constant, CodeType):
                yield from _codes_of(constant)
    else:
        for name in ("__code__", "fget", "func", "__func__"):  # of functions; of those in properties and the like
            if hasattr(owner, name):
                yield from _codes_of(getattr(owner, name))


if sys.version_info >= (3, 12):
    # Tracing functions are not told of every instruction here; monitoring tools are.
    _TOOL = 3  # of those without a meaning
    _EVENTS = sys.monitoring.events

    def _watch(codes: frozenset[CodeType], strike: Strike) -> Callable[[], None]:
        """Tell it what this thread does, until what this returns is called. What it raises is raised there."""
        thread = threading.get_ident()

        def start(code: CodeType, offset: int) -> None:
            if threading.get_ident() == thread:
                strike.on_entry(sys._getframe(1))

        def instruction(code: CodeType, offset: int) -> None:
            if threading.get_ident() == thread:
                strike.on_instruction(sys._getframe(1), offset)

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

    def _watch(codes: frozenset[CodeType], strike: Strike) -> Callable[[], None]:
        """Tell it what this thread does, until what this returns is called. What it raises is raised there."""

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if frame.f_code not in codes:
                return None
            if event == "call":
                frame.f_trace_opcodes = True
                strike.on_entry(frame)
            elif event == "opcode":
                strike.on_instruction(frame, frame.f_lasti)
            elif event == "exception":
                strike.on_exception(frame)
            return trace

        previous = sys.gettrace()  # that of a tool for coverage
        sys.settrace(trace)
        return lambda: sys.settrace(previous)
