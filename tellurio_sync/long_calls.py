"""Signs of life of long calls: a bar in a terminal and in a notebook, a line now and then elsewhere, a callback.

A call that takes less than a second shows nothing.  What is shown is the time, and what the server tells with its
heartbeats (protocol §K.4): how many questions are answered, tokens, cost, what it waits for.  One thread shows all
calls; it starts with the first long call, sleeps until a call has taken a second, and ends when there is none.  The
receive thread only stores what a heartbeat says.

Nothing here ever raises because of a display or a callback: a callback that fails is logged, and called no more.

| State | Written by | Read by | Guarded by | Enforced by |
|---|---|---|---|---|
| calls in progress: ``_watches`` | callers | any; receive thread without it | ``_changed`` | only this module has it |
| calls that have ended: ``_ended`` | callers, the thread that shows | the same | ``_changed`` | the same |
| ``_callbacks`` | any thread | the thread that shows; callers without it | ``_changed`` | the same |
| ``_thread`` | callers; at its end, the thread that shows | callers | ``_changed`` | asserts |
| ``Watch.told`` | receive thread | the thread that shows | one store | – |
| ``Watch._was_reported`` | the thread that shows | the call, at its end | ``_changed`` | asserts |
| ``Watch._shown`` | the thread that shows | the same | ownership | – |
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from importlib.util import find_spec
from secrets import token_hex
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from . import forked
from .console import is_quiet, where_to_show
from .ownership import is_held

_log = logging.getLogger(__name__)

T = TypeVar("T")

PARAMETER = "progress"
"""The parameter of a request, and the member of a heartbeat, that holds the token of a call; also the extension."""

_NAMES = {"run_function": "forward", "run_backward": "backward", "run_step": "step", "run_optimizer_tgd": "step"}

_FIRST = 1.0  # seconds after which a call counts as long
_TICK = 0.25  # seconds between two updates of a bar
_FIRST_LINE, _LONGEST_PAUSE = 10.0, 300.0  # seconds until the first line where there is no screen; then twice as long
_IDLE = 1.0  # seconds without a call after which the thread ends


@dataclass(frozen=True)
class CallProgress:
    """How far a long call is.

    Attributes:
        name: ``"forward"``, ``"backward"`` or ``"step"``.
        seconds: since it began.
        done, total: questions to language models that are answered, and that are known so far; None: the server does
            not say. The total can grow: an answer that cannot be used is asked for again.
        tokens: of the answers so far; None: not known.
        cost: of them, in US dollars; None: not known.
        note: what it waits for, such as the rate limit; "" for nothing.
        is_over: whether it has ended; each call that was reported is reported once more at its end.
    """

    name: str
    seconds: float
    done: int | None = None
    total: int | None = None
    tokens: int | None = None
    cost: float | None = None
    note: str = ""
    is_over: bool = False

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.seconds:.0f} s"]
        if self.done is not None and self.total is not None:
            parts.append(f"{self.done} of {self.total} answered")
        return ", ".join([*parts, *self._details()])

    def _details(self) -> list[str]:
        parts = []
        if self.tokens:
            parts.append(f"{self.tokens:,} tokens")
        if self.cost:
            parts.append(f"${self.cost:.4f}")
        return [*parts, self.note] if self.note else parts


class Watch:
    """One call in progress. As a context manager it lasts as long as the call.

    Attributes:
        token: what the server calls it in its heartbeats.
        told: the last heartbeat.
    """

    def __init__(self, method: str) -> None:
        self.token: str = token_hex(8)
        self.told: dict[str, Any] = {}
        self._name = _NAMES.get(method, method)
        self._started = time.monotonic()
        self._shown: Any = None
        self._was_reported = False
        self._line_at = _FIRST_LINE

    @property
    def due_at(self) -> float:
        """When it begins to count as long."""
        return self._started + _FIRST

    def progress(self, *, is_over: bool = False) -> CallProgress:
        """How far it is, with everything that makes no sense left out."""
        told = self.told
        numbers = {name: told.get(name) for name in ("done", "total", "tokens")}
        counts = {
            name: value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
            for name, value in numbers.items()
        }
        cost, note = told.get("cost"), told.get("note")
        return CallProgress(
            self._name,
            time.monotonic() - self._started,
            **counts,
            cost=float(cost) if isinstance(cost, (int, float)) and not isinstance(cost, bool) else None,
            note=" ".join(note.split())[:200] if isinstance(note, str) else "",
            is_over=is_over,
        )

    def __enter__(self) -> Watch:
        with _changed:
            _watches[self.token] = self
            _start_locked()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with _changed:
            _watches.pop(self.token, None)
            if self._was_reported:
                _ended.append(self)
                _changed.notify_all()

    # --- the thread that shows ------------------------------------------------------------------

    def will_be_shown(self) -> None:
        """From now on its end is shown, too."""
        assert is_held(_changed)
        self._was_reported = True

    def show(self, callbacks: list[Callable[[CallProgress], object]], *, is_over: bool = False) -> None:
        now = self.progress(is_over=is_over)
        for callback in callbacks:
            try:
                callback(now)
            except Exception:  # noqa: BLE001 - a display must not end a training
                _log.warning("A callback of on_progress failed, and is not called again.", exc_info=True)
                _remove(callback)
        with contextlib.suppress(Exception):  # whatever a screen does: the call goes on
            self._draw(now)

    def _draw(self, now: CallProgress) -> None:
        if now.is_over:
            if self._shown is not None:
                self._shown.close()
                self._shown = None
            return
        place = where_to_show()
        if self._shown is None and place != "nowhere":
            self._shown = _bar(total=now.total, desc=now.name, leave=False)
        if self._shown is not None:
            self._shown.total = now.total
            self._shown.n = now.done or 0
            self._shown.set_postfix_str(", ".join(now._details()), refresh=False)
            self._shown.refresh()
        elif now.seconds >= self._line_at and not is_quiet():
            self._line_at = now.seconds + min(self._line_at, _LONGEST_PAUSE)
            print(now, file=sys.stderr, flush=True)


# An RLock: a signal handler may call the server while this thread has it.
_changed = threading.Condition(threading.RLock())
# Weak: a call that Ctrl-C ended just as it began is not shown for ever.
_watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
_ended: list[Watch] = []
_callbacks: list[Callable[[CallProgress], object]] = []
_thread: threading.Thread | None = None


def watch(method: str) -> Watch | None:
    """Something to hold while this call is in progress; None: nobody wants to know of it."""
    if is_quiet() and not _callbacks:
        return None
    return Watch(method)


def note(params: dict[str, Any]) -> None:
    """Store what a heartbeat says. On the receive thread: does not block."""
    token = params.get(PARAMETER)
    found = _watches.get(token) if isinstance(token, str) else None
    if found is not None:
        found.told = params


def on_progress(callback: Callable[[CallProgress], object]) -> Callable[[], None]:
    """Call ``callback`` with a :class:`CallProgress` some four times a second while a call takes long.

    For programs that have their own bars: with ``te.set_quiet()`` nothing else is shown. It is called on a thread of
    this package, and once more when the call has ended. What it raises is logged, and ends the calling.

    Returns:
        A function that ends it.

    Raises:
        TypeError: not callable.
    """
    if not callable(callback):
        raise TypeError(f"on_progress takes a function, not {type(callback).__name__}")
    with _changed:
        _callbacks.append(callback)
    return lambda: _remove(callback)


def progress(iterable: Iterable[T], desc: str = "", *, unit: str = "batch") -> Iterator[T]:
    """The items of ``iterable``, with a bar while a loop goes over them: ``for batch in te.progress(loader):``.

    In a terminal and in a notebook, if ``tqdm`` is installed (extra ``progress``); elsewhere, and in quiet mode, just
    the items. Only the iterable itself can raise.

    Args:
        iterable: a loader, a list, ...
        desc: shown before the bar.
        unit: what an item is.
    """
    bar: Any = None
    with contextlib.suppress(Exception):
        if where_to_show() != "nowhere":
            total = len(iterable) if isinstance(iterable, Sized) else None
            bar = _bar(total=total, desc=desc or None, unit=unit, leave=True, bar_format=None)
    try:
        for item in iterable:
            yield item
            with contextlib.suppress(Exception):
                bar.update()
    finally:
        with contextlib.suppress(Exception):
            bar.close()


def _bar(
    *, bar_format: str | None = "{desc}: {n_fmt} of {total_fmt} answered |{bar}| {elapsed}{postfix}", **options: Any
) -> Any:
    """A bar of tqdm; None: tqdm is not installed."""
    if find_spec("tqdm") is None:
        return None
    if where_to_show() == "notebook" and find_spec("ipywidgets") is not None:
        from tqdm.auto import tqdm
    else:
        from tqdm.std import tqdm
    # Without a thread of tqdm's own, and without its lock: it keeps that if a screen fails, and then every bar of the
    # program would wait for ever. One thread uses this bar.
    kind = type("Bar", (tqdm,), {"monitor_interval": 0, "_lock": _NoLock()})
    if options["total"] is None and bar_format is not None:
        bar_format = "{desc}: {elapsed}{postfix}"
    return kind(bar_format=bar_format, dynamic_ncols=True, **options)


class _NoLock:
    """In the place of a lock."""

    def acquire(self, *args: object, **options: object) -> bool:
        return True

    def release(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass


def _remove(callback: Callable[[CallProgress], object]) -> None:
    with _changed, contextlib.suppress(ValueError):
        _callbacks.remove(callback)


def _start_locked() -> None:
    assert is_held(_changed)
    global _thread
    if _thread is None:
        thread = threading.Thread(target=_show_all, name="tellurio-sync progress", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the end of the interpreter: then nothing is shown
            return
        _thread = thread


def _show_all() -> None:
    global _thread
    while True:
        with _changed:
            pause = _pause_locked(time.monotonic())
            if pause > 0 and not _ended:
                was_woken = _changed.wait(pause)
                if not _watches and not _ended and not was_woken:
                    _thread = None
                    return
        _show_due()


def _show_due() -> None:
    # Its own function: while the thread waits, no variable of it may keep a call alive that Ctrl-C ended.
    with _changed:
        now = time.monotonic()
        due = [watch for watch in _watches.values() if watch.due_at <= now]
        for one in due:  # here: it may end before it is shown
            one.will_be_shown()
        ended, _ended[:] = list(_ended), []
        callbacks = list(_callbacks)
    for one in ended:
        one.show(callbacks, is_over=True)
    for one in due:
        one.show(callbacks)


def _pause_locked(now: float) -> float:
    """Seconds until there is something to show."""
    assert is_held(_changed)
    if not _watches:
        return _IDLE
    return max(_TICK, min(watch.due_at for watch in _watches.values()) - now)


def _after_fork_in_child() -> None:
    global _changed, _thread
    _changed = threading.Condition(threading.RLock())
    _thread = None
    _watches.clear()
    _ended.clear()


forked.renew_by(_after_fork_in_child)
