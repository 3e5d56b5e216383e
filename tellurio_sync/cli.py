"""The command ``tellurio-sync``.

Only ``argparse`` is imported at the start; each command imports what it needs.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ._version import __version__
from .errors import HttpUnreachable, InvalidAPIKeyError, TellurioError

if TYPE_CHECKING:
    from .session import Session
    from .studio import KeySource

PROGRAM = "tellurio-sync"

_LEVELS = ("debug", "info", "warning", "error", "critical")
_INTERRUPTED = 130  # what shells report for a process that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 if it did what it should, 1 if not, 130 after Ctrl-C.

    Args:
        argv: the arguments; None: those of the process.

    Raises:
        SystemExit: the arguments are wrong (2), or asked for help or the version (0).
    """
    parser = _parser()
    args, remaining = parser.parse_known_args(argv)
    if remaining and args.command != "demo":
        parser.error(f"unrecognized arguments: {' '.join(remaining)}")
    logging.basicConfig(format=f"[{PROGRAM}] %(levelname)s %(name)s: %(message)s")
    # For the backend its log is the output; for the other commands it is what the command itself prints.
    level = args.verbosity or ("info" if args.command == "backend" else "warning")
    logging.getLogger("tellurio_sync").setLevel(level.upper())
    commands: dict[str, Callable[[argparse.Namespace], int]] = {
        "backend": _backend,
        "logout": _logout,
        "report": _report,
        "runs": _runs,
        "sync": _sync,
        "whoami": _whoami,
    }
    try:
        if args.command == "login":
            return _login(args.api_key, args.relogin)
        if args.command == "demo":
            return _demo(remaining)
        return commands[args.command](args)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # the terminal shows ^C, without a line end
        return _INTERRUPTED
    except (TellurioError, OSError, ValueError) as exc:
        _complain(str(exc))
        return 1


def _parser() -> argparse.ArgumentParser:
    from .backend.options import add_arguments

    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Optimise prompts with Tellurio Studio from plain, synchronous Python."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument(
        "-v",
        "--verbosity",
        type=str.lower,
        choices=_LEVELS,
        metavar="LEVEL",
        help=f"how much to log: {', '.join(_LEVELS)} (default: warning; of the backend: info)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    login = commands.add_parser("login", help="check an API key and keep it in the local keyring")
    login.add_argument(
        "--api-key",
        metavar="KEY",
        help="the key; better left out, for it shows up in the list of processes: it is asked for, or read from a pipe",
    )
    login.add_argument("--relogin", action="store_true", help="do not use the key in the keyring")

    commands.add_parser("logout", help="forget the key in the local keyring")
    commands.add_parser("whoami", help="show the account that is logged in, and where")

    sync = commands.add_parser("sync", help="send the runs that were kept on this machine, or made offline")
    sync.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="their journals (default: this user's)")
    sync.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    sync.add_argument("--anyway", action="store_true", help="also runs that were begun at another server")
    _add_server(sync)

    runs = commands.add_parser("runs", help="list the runs of a project")
    runs.add_argument("project", nargs="?", default="Default", metavar="PROJECT", help="its name (%(default)s)")
    runs.add_argument("--namespace", metavar="NAME", help="where the project is (default: your own)")
    _add_server(runs)

    backend = commands.add_parser(
        "backend",
        help="run a local backend until it is interrupted",
        description="Run a local backend until it is interrupted. @FILE reads arguments from a file, one per line.",
        fromfile_prefix_chars="@",
    )
    add_arguments(backend)

    report = commands.add_parser("report", help="write a run of a local backend into one HTML file, to send round")
    report.add_argument("run", metavar="RUN", help="its name, its id or the beginning of that, or: latest")
    report.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the file, such as report.html"
    )
    report.add_argument(
        "--data-dir", type=Path, default=Path(), metavar="DIR", help="where the backend keeps its data (default: here)"
    )

    # The demo reads its own options, also --help.
    commands.add_parser("demo", help="watch a prompt being optimised", add_help=False)
    return parser


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="a local backend on this folder, started for this command (default: the server of the environment)",
    )


def _logged_in(args: argparse.Namespace) -> Session:
    from .session import Session

    session = Session()
    if args.data_dir is not None:
        session.login(mode="local", data_dir=args.data_dir)
    else:
        session.login()
    return session


def _logout(args: argparse.Namespace) -> int:
    from .session import Session

    if Session().logout():
        _say("The key in the local keyring is forgotten. A key in the environment stays.")
        return 0
    _complain("The keyring could not delete the key.")
    return 1


def _whoami(args: argparse.Namespace) -> int:
    from .session import Session

    with Session() as session:
        session.login()
        for name, value in session.whoami().items():
            print(f"{name:<10} {value}")
    return 0


_UNSENT = ("failed", "refused", "busy")


def _sync(args: argparse.Namespace) -> int:
    with _logged_in(args) as session:
        results = session.sync(args.folder, dry_run=args.dry_run, anyway=args.anyway)
    for result in results:
        why = f": {result.why}" if result.why else ""
        print(f"{result.outcome:<9} {result.run} of {result.project}, {result.unsent_bytes:,} bytes{why}")
    if not results:
        _say("Nothing is left to send.")
    return 1 if any(result.outcome in _UNSENT for result in results) else 0


def _runs(args: argparse.Namespace) -> int:
    with _logged_in(args) as session:
        for run in session.runs(args.namespace, args.project):
            print(f"{run.uuid}  {run.status.value:<9}  {run.name}")
    return 0


def _backend(args: argparse.Namespace) -> int:
    from .backend.options import BackendOptions
    from .local import check_installed

    check_installed()
    from .backend.server import serve

    return serve(BackendOptions.from_args(args))


def _report(args: argparse.Namespace) -> int:
    from .local import check_installed

    check_installed()
    from .backend.page.report import write_report

    name = write_report(args.data_dir, args.run, args.output)
    _say(f"Wrote the run {name!r} to {args.output}.")
    return 0


def _demo(arguments: list[str]) -> int:
    from .examples.facility_support import main as demo

    return demo(arguments)


# --- login --------------------------------------------------------------------------------------


def _login(api_key: str | None, relogin: bool) -> int:
    # Protocol §J.3; a failure is also one for the shell: its exit code is 1.
    try:
        return _log_in(api_key, relogin)
    except InvalidAPIKeyError as exc:
        _complain(f"Login failed: Invalid API key. Please try again.\n{exc}")
    except HttpUnreachable as exc:
        _complain(f"Login failed: {exc}")
    except TellurioError as exc:
        _complain(f"Login failed: Failed to connect to the backend.\n{exc}")
    except ValueError as exc:
        _complain(f"Login failed: {exc}")
    return 1


def _log_in(api_key: str | None, relogin: bool) -> int:
    from .addresses import http_address
    from .studio import KeySource, StudioRest, remember, verify

    server = http_address().url
    try:
        key, source = _find_or_ask(api_key, relogin, server)
    except ValueError:
        _complain("Login failed: Missing API key. Please provide a valid API key.")
        return 1
    rest = StudioRest(api_key=key)
    try:
        account = verify(rest, relogin)
    finally:
        rest.close()
    stored = remember(key, account.username, source, rest.url)
    if stored.is_stored:
        _say("API key provided and stored securely in local keyring.")
    elif source is not KeySource.KEYRING:
        _say(f"The API key is valid but was not stored: {stored.reason}. Set TELLURIO_API_KEY to use it.")
    _say(
        f"Currently logged in as {account.username!r} to {rest.address.base_url!r}. "
        f"Use `{PROGRAM} login --relogin` to force relogin."
    )
    return 0


def _find_or_ask(api_key: str | None, relogin: bool, server: str) -> tuple[str, KeySource]:
    from .studio import KeySource, find_api_key

    try:
        key, source = find_api_key(api_key, relogin, server)
    except ValueError:
        return find_api_key(_ask_for_key(), relogin, server)
    if source is KeySource.KEYRING:
        _say("Using stored API key from local keyring.")
    return key, source


def _ask_for_key() -> str:
    """The key from the terminal, not shown while it is typed, or from a pipe on standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline()
    from getpass import getpass

    try:
        return getpass(f"[{PROGRAM}] Please enter your Tellurio API key and hit enter, or press ctrl+c to quit: ")
    except EOFError:
        return ""


def _say(text: str) -> None:
    print(f"[{PROGRAM}] {text}")


def _complain(text: str) -> None:
    print(f"[{PROGRAM}] {text}", file=sys.stderr)
