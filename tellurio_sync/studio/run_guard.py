"""Makes sure that each run of this process ends, with the status that fits the way the program ends (protocol §J.1).

| Ending | Status | How it is seen |
|---|---|---|
| end of the program | COMPLETED | ``atexit`` |
| unhandled exception, Ctrl-C | CRASHED | the interpreter puts it into ``sys.last_value`` before ``sys.excepthook`` |
| ``sys.exit(1)``, ``sys.exit("text")`` | CRASHED | its exception notices when the interpreter itself reads its code |
| SIGTERM, SIGHUP | CRASHED | a handler; then the earlier one runs, or the process ends by the signal |
| unhandled exception in the thread that started the run | CRASHED | ``threading.excepthook`` |
| end of a notebook's kernel | CRASHED if the last cell failed, else COMPLETED | IPython's event ``post_run_cell`` |
| ``kill -9``, ``os._exit``, power cut | none | the backend misses its signs of life |

``raise SystemExit(1)`` without ``sys.exit`` is not seen outside of the run's block, and counts as an orderly end.

The hooks are installed only while a run is watched.  Each calls the hook that was there before.  A hook that another
library has installed later stays.  Only the process that started a run ends it, not a fork.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| ``_watching`` | ``watch``, the end of a run | any thread | ``lock`` of the hooks, never held while a run ends | – |
| the hooks: ``_sys_exit``, ``_excepthook``, ``_shell``, ``_signals`` | the same | the same | the same | asserts |
| ``signal_reason``, ``exit_reason``, ``cell_reason`` | hooks, on their thread | any thread | one attribute store | – |
| of a guard: ``_run``, ``_thread``, ``_seen_exception`` | as ``_watching`` | any thread | the same | – |
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from types import BuiltinFunctionType, FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from .. import exit_order, forked
from ..console import ipython
from ..errors import TellurioError
from ..ownership import is_held
from .interactive import at_prompt
from .run_log import PATIENCE

if TYPE_CHECKING:
    from .runs import Run

_log = logging.getLogger("tellurio_sync.studio.runs")

# If several runs end with the program, they wait for a server that does not answer only once, all together.
_LEAST_PATIENCE = 0.1
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class RunGuard:
    """Watches the runs of one session, one at a time. Thread-safe."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._thread = 0
        self._seen_exception: BaseException | None = None
        forked.renew(self)

    def renew_after_fork(self) -> None:
        """In a forked child: the run belongs to the parent."""
        self._run = None

    def watch(self, run: Run) -> None:
        """Take care of this run from now on.

        Blocks while an earlier one is marked FAILED; errors of that are only logged.
        """
        with _hooks.lock:
            earlier, self._run = self._run, run
            self._thread = threading.get_ident()
            # What was raised before (a test runner's last failure, say) is not why this run ends.
            self._seen_exception = _last_exception()
        _hooks.add(self)
        if earlier is not None and earlier is not run and not earlier.is_finished:
            try:
                earlier.finish("FAILED")
            except TellurioError as exc:
                _log.warning("The earlier run %r could not be marked as FAILED: %s", earlier.name, exc)

    def let_go(self, run: Run) -> None:
        """This run has ended."""
        with _hooks.lock:
            if self._run is run:
                self._run = None
                _hooks.discard(self)

    @property
    def is_watching(self) -> bool:
        """Whether a run of this process is unfinished."""
        run = self._run
        return run is not None and not run.is_finished

    def finish_at_exit(self, patience: float = PATIENCE) -> None:
        """End the watched run if it is unfinished. Errors are only logged.

        Args:
            patience: seconds to wait for a server that does not answer.
        """
        if not self.is_watching:
            return
        run = self._run
        assert run is not None
        reason = self._reason()
        self.end("COMPLETED" if reason is None else "CRASHED", reason, patience)

    def end(self, status: str, reason: str | None, patience: float) -> None:
        """End the watched run, whatever the server does. ``patience``: seconds to wait for it."""
        with _hooks.lock:
            run, self._run = self._run, None
        if run is None or run.is_finished:
            return
        try:
            run.end(status, reason, is_exit=True, patience=patience)
        except TellurioError as exc:
            # Not a warning: an exit writes nothing to stderr, and a server that is away was complained about before.
            _log.info("The run %r could not be marked as %s: %s", run.name, status, exc)
        finally:
            _hooks.discard(self)

    def note(self, reason: str, thread: int) -> None:
        """Something has happened on this thread that makes the run CRASHED, unless it is ended in another way."""
        if self._run is not None and thread == self._thread:
            self._run.noted = reason

    def _reason(self) -> str | None:
        """Why the run has CRASHED; None: it has not."""
        run = self._run
        assert run is not None
        if _hooks.signal_reason or _hooks.exit_reason or run.noted:
            return _hooks.signal_reason or _hooks.exit_reason or run.noted
        if at_prompt():
            return _hooks.cell_reason
        last = _last_exception()
        return describe(last) if last is not None and last is not self._seen_exception else None


def describe(exc: BaseException) -> str:
    """An exception as one line."""
    with contextlib.suppress(Exception):
        text = " ".join(str(exc).split())
        return f"{type(exc).__name__}: {text}"[:1000] if text else type(exc).__name__
    return type(exc).__name__


def _last_exception() -> BaseException | None:
    return getattr(sys, "last_value", None)


class _Exit(SystemExit):
    """Notices that the interpreter ends because of it: then no Python frame is below the one that reads its code."""

    @property
    def code(self) -> Any:  # type: ignore[override]
        try:
            sys._getframe(1)
        except ValueError:
            _hooks.exits(self.args[0] if self.args else None)
        return self.args[0] if self.args else None


_Exit.__name__ = _Exit.__qualname__ = "SystemExit"


class _Hooks:
    """The hooks of this process, there while any run is watched."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._watching: set[RunGuard] = set()
        self._signals: dict[int, Any] = {}
        self._sys_exit: Any = None
        self._excepthook: Any = None
        self._shell: Any = None
        self.signal_reason: str | None = None
        self.exit_reason: str | None = None
        self.cell_reason: str | None = None
        forked.renew(self)

    def renew_after_fork(self) -> None:
        """In a forked child: a thread of the parent may have held the lock. The guards let go of their runs."""
        self.lock = threading.RLock()

    def add(self, guard: RunGuard) -> None:
        with self.lock:
            self._watching.add(guard)
            self.signal_reason = self.exit_reason = self.cell_reason = None
            self._install_locked()
        # Again for each run: exit functions run in reverse order, and this one must run before those that were
        # registered before the run.
        atexit.unregister(self.at_exit)
        atexit.register(self.at_exit)

    def discard(self, guard: RunGuard) -> None:
        with self.lock:
            self._watching.discard(guard)
            if not any(one.is_watching for one in self._watching):
                self._watching.clear()
                self._uninstall_locked()

    def at_exit(self) -> None:
        end = time.monotonic() + PATIENCE
        for guard in list(self._watching):
            guard.finish_at_exit(max(_LEAST_PATIENCE, end - time.monotonic()))

    def forget_all(self) -> None:
        """Watch no run any more, and take the hooks back."""
        with self.lock:
            self._watching.clear()
            self._uninstall_locked()

    # --- installing --------------------------------------------------------------------------------

    def _install_locked(self) -> None:
        assert is_held(self.lock)
        if isinstance(sys.exit, BuiltinFunctionType):  # else another library has replaced it: that stays
            self._sys_exit, sys.exit = sys.exit, _exit
        if self._excepthook is None:
            self._excepthook, threading.excepthook = threading.excepthook, _in_thread
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                found = signal.getsignal(number)
                # One that is ignored stays ignored (nohup), and a handler not set from Python cannot be called.
                if found is not _on_signal and found is not None and found != signal.SIG_IGN:
                    self._signals[number] = found
                    signal.signal(number, _on_signal)
        shell = ipython()
        if self._shell is None and shell is not None and hasattr(shell, "events"):
            with contextlib.suppress(Exception):  # an IPython without this event
                shell.events.register("post_run_cell", _after_cell)
                self._shell = shell

    def _uninstall_locked(self) -> None:
        assert is_held(self.lock)
        if sys.exit is _exit:
            sys.exit = self._sys_exit
            self._sys_exit = None
        if threading.excepthook is _in_thread:
            threading.excepthook = self._excepthook
            self._excepthook = None
        if threading.current_thread() is threading.main_thread():
            for number, found in list(self._signals.items()):
                if signal.getsignal(number) is _on_signal:
                    signal.signal(number, found)
                    del self._signals[number]
        if self._shell is not None:
            with contextlib.suppress(Exception):
                self._shell.events.unregister("post_run_cell", _after_cell)
            self._shell = None

    # --- what they notice --------------------------------------------------------------------------

    def exits(self, code: Any) -> None:
        """The interpreter ends with this code."""
        if code not in (None, 0):
            self.exit_reason = f"sys.exit({code!r})"[:1000]

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        found = self._signals.get(number, signal.SIG_DFL)
        own = [guard for guard in self._watching if guard.is_watching]
        if callable(found):
            if own:
                self.signal_reason = name
            found(number, frame)
            return
        end = time.monotonic() + PATIENCE
        for guard in own:
            guard.end("CRASHED", name, max(_LEAST_PATIENCE, end - time.monotonic()))
        # As it would have been without us: the process ends by the signal, and its parent sees that.
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def in_thread(self, args: Any) -> None:
        if args.exc_value is not None and not isinstance(args.exc_value, SystemExit) and args.thread is not None:
            for guard in list(self._watching):
                guard.note(f"in thread {args.thread.name}: {describe(args.exc_value)}", args.thread.ident)
        found = self._excepthook or threading.__excepthook__
        found(args)


_hooks = _Hooks()
exit_order.add(exit_order.RUNS, _hooks.at_exit)


def forget_all_runs() -> None:
    """Do not end unfinished runs with the program: for tests."""
    _hooks.forget_all()


def _exit(status: Any = None, /) -> NoReturn:
    # In another thread it ends only that one, silently, if it is of this very class.
    raise (_Exit if threading.current_thread() is threading.main_thread() else SystemExit)(status)


_exit.__doc__ = sys.exit.__doc__


def _on_signal(number: int, frame: FrameType | None) -> None:
    _hooks.on_signal(number, frame)


def _in_thread(args: Any) -> None:
    _hooks.in_thread(args)


def _after_cell(result: Any) -> None:
    error = getattr(result, "error_before_exec", None) or getattr(result, "error_in_exec", None)
    _hooks.cell_reason = None if error is None else describe(error)


def leaving_reason(exc: BaseException | None, traceback: TracebackType | None) -> str | None:
    """Why a run whose block is left by this exception has CRASHED; None: it has not."""
    if exc is None:
        return None
    if isinstance(exc, SystemExit):
        if _hooks.signal_reason:
            return _hooks.signal_reason
        return None if exc.code in (None, 0) else f"sys.exit({exc.code!r})"[:1000]
    return _hooks.signal_reason if isinstance(exc, KeyboardInterrupt) and _hooks.signal_reason else describe(exc)
