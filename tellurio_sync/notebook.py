"""The extension for notebooks and IPython: ``%load_ext tellurio_sync``.

It adds the magic ``%tellurio`` and shortens tracebacks: the frames of this package are left out of them, so that the
last line shown is one of yours. ``%tellurio traceback`` shows the last one in full. Rich display of Variables, models
and runs needs no extension.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any

from ._version import __version__
from .errors import UsageError
from .session.default import current_session

_PACKAGE = str(Path(__file__).parent) + os.sep
_STDLIB = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = ("site-packages", "dist-packages")
_LONGEST_CHAIN = 100

_HELP = """\
%tellurio status      the connection, the run, calls that wait, what the language models cost
%tellurio open        the run in a browser
%tellurio traceback   the last error in full, with the frames of tellurio_sync
%tellurio quiet       say nothing more: no link of a run, no progress
%tellurio loud        say it again"""


def load(shell: Any) -> None:
    """Add the magic to this shell of IPython, and let it fold tracebacks. For ``load_ipython_extension``."""
    shell.register_magic_function(magic, "line", "tellurio")
    if not shell.custom_exceptions:  # a handler that somebody else has set stays
        shell.set_custom_exc((Exception, KeyboardInterrupt), _show)


def unload(shell: Any) -> None:
    """Take both back. For ``unload_ipython_extension``."""
    shell.magics_manager.magics["line"].pop("tellurio", None)
    if shell.custom_exceptions == (Exception, KeyboardInterrupt):
        shell.set_custom_exc((), None)


def magic(line: str) -> None:
    """``%tellurio status``, ``%tellurio open``, ``%tellurio traceback``, ``%tellurio quiet``, ``%tellurio loud``.

    Raises:
        UsageError: there is no such command; for ``open``: no run, or no browser.
    """
    from .console import set_quiet

    command = line.strip() or "status"
    if command == "status":
        print(status())
    elif command == "open":
        _open()
    elif command == "traceback":
        _print_last()
    elif command in ("quiet", "loud"):
        set_quiet(command == "quiet")
    elif command == "help":
        print(_HELP)
    else:
        raise UsageError(f"There is no %tellurio {command}. There are:\n{_HELP}")


def status() -> str:
    """The current session in a few lines. Asks no server, does not block."""
    from .active_run import get_active_run

    session = current_session()
    lines = [f"tellurio_sync {__version__}"]
    if not session.is_logged_in:
        return "\n".join([*lines, 'not logged in: te.login(), or te.login(mode="local") without an account'])
    if session.is_connection_pending:
        lines.append("server       the local backend, which no call was made to yet")
        waiting = []
    else:
        client = session.client
        lines.append(f"server       {client.ws_url}, {client.state}")
        waiting = list(client.pending.values())
    if session.page_url:
        # Without its token: a notebook is kept and published.
        lines.append(f"page         {session.page_url.partition('?')[0]} (%tellurio open opens it)")
    try:
        run: Any = get_active_run()
    except ValueError:
        lines.append("run          none: te.init(...) starts one")
    else:
        shown = getattr(run, "url", "")
        lines.append(f"run          {getattr(run, 'name', run.uuid)}, {getattr(run, 'status', '')} {shown}".rstrip())
    lines.append(f"waiting      {len(waiting)} calls" + (f": {', '.join(sorted(set(waiting)))}" if waiting else ""))
    for model in session.registries.models.snapshot().values():
        usage = model.get_usage()
        amount = usage["cost"]["amount"]
        cost = "cost unknown" if amount is None else f"${amount:.4f}"
        lines.append(f"model        {type(model).__name__}: {usage['total_tokens']:,} tokens, {cost}")
    return "\n".join(lines)


def _open() -> None:
    from .active_run import get_active_run
    from .studio.runs import Run

    run = get_active_run()
    if not isinstance(run, Run):
        raise UsageError("The active run is not one of te.init(), so there is no page of it.")
    run.open()


# --- tracebacks -----------------------------------------------------------------------------------


def folded(frames: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of this package, and of the standard library that it calls.

    If nothing would be left it is returned as it is.
    """
    kept = []
    is_within = False
    frame = frames
    while frame is not None:
        file = frame.tb_frame.f_code.co_filename
        is_within = file.startswith(_PACKAGE) or (is_within and _is_stdlib(file))
        if not is_within:
            kept.append(frame)
        frame = frame.tb_next
    if not kept:
        return frames
    result = None
    for one in reversed(kept):
        result = TracebackType(result, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return result


def _is_stdlib(file: str) -> bool:
    return file.startswith(_STDLIB) and not any(name in file for name in _INSTALLED)


def _show(
    shell: Any, kind: type[BaseException], error: BaseException, frames: Any, tb_offset: int | None = None
) -> None:
    """Show an exception as IPython does, with folded tracebacks, also of what it was raised from."""
    whole = [(one, one.__traceback__) for one in _chain(error)]
    for one, traceback_of_it in whole:
        one.__traceback__ = folded(traceback_of_it)
    try:
        shell.showtraceback((kind, error, folded(frames)), tb_offset=tb_offset)
    finally:
        for one, traceback_of_it in whole:
            one.__traceback__ = traceback_of_it
        sys.last_traceback = frames  # for %debug and %tellurio traceback


def _chain(error: BaseException) -> list[BaseException]:
    """The exception, and those that are shown with it."""
    found: list[BaseException] = []
    ready: list[BaseException | None] = [error]
    while ready and len(found) < _LONGEST_CHAIN:
        one = ready.pop()
        if one is not None and one not in found:
            found.append(one)
            ready += [one.__cause__, one.__context__]
    return found


def _print_last() -> None:
    error = getattr(sys, "last_value", None)
    if error is None:
        print("There was no error.")
    else:
        print("".join(traceback.format_exception(type(error), error, getattr(sys, "last_traceback", None))), end="")
