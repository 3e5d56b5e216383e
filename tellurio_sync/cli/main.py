"""The commands together: what they raise, their exit codes, and completion in shells."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import click

from .._version import __version__
from ..errors import (
    CallTimeout,
    ConnectFailed,
    ConnectionLost,
    HttpStatusError,
    HttpUnreachable,
    InvalidAPIKeyError,
    TellurioError,
)
from ..leash import IN_USE_EXIT_CODE, DataDirectoryInUse
from . import account, doctor, records, server
from .terminal import FAILED, INTERRUPTED, NO_KEY, PROGRAM, UNREACHABLE, complain

# The levels of `logging`, as users write them.
_LEVELS = ("debug", "info", "warning", "error", "critical")

_COMPLETE_VARIABLE = "_TELLURIO_SYNC_COMPLETE"
_ENDINGS = f"""\b
Exit codes: 0 done; 1 it failed, or not all of it was done; 2 wrong arguments;
{IN_USE_EXIT_CODE} another backend uses the data directory; {NO_KEY} no key, or the server refuses it;
{UNREACHABLE} the server cannot be reached, or does not answer; {INTERRUPTED} interrupted.
"""


@click.group(
    epilog=_ENDINGS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.option(
    "-v",
    "--verbosity",
    type=click.Choice(_LEVELS, case_sensitive=False),
    metavar="LEVEL",
    help=f"How much to log: {', '.join(_LEVELS)} (default: warning; of the backend: info).",
)
@click.pass_context
def commands(context: click.Context, verbosity: str | None) -> None:
    """Optimise prompts with Tellurio Studio from plain, synchronous Python."""
    # For the backend its log is the output; for the other commands it is what the command itself prints.
    level = verbosity or ("info" if context.invoked_subcommand == "backend" else "warning")
    logging.basicConfig(format=f"[{PROGRAM}] %(levelname)s %(name)s: %(message)s")
    logging.getLogger("tellurio_sync").setLevel(level.upper())
    context.obj = level


@commands.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes the shell complete commands and options.

    \b
    bash: eval "$(tellurio-sync completion bash)"      in ~/.bashrc
    zsh:  eval "$(tellurio-sync completion zsh)"       in ~/.zshrc
    fish: tellurio-sync completion fish | source       in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(commands, {}, PROGRAM, _COMPLETE_VARIABLE).source())
    return 0


for _command in (*account.COMMANDS, *records.COMMANDS, *server.COMMANDS, doctor.doctor):
    commands.add_command(_command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: see ``tellurio-sync --help``.

    Args:
        argv: the arguments; None: those of the process.
    """
    arguments = None if argv is None else list(argv)
    try:
        code = commands.main(arguments, prog_name=PROGRAM, complete_var=_COMPLETE_VARIABLE, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except click.Abort:
        return INTERRUPTED
    except (TellurioError, OSError, ValueError, ModuleNotFoundError) as exc:
        complain(str(exc))
        return exit_code(exc)


def exit_code(exc: BaseException) -> int:
    """What the shell is told of this error."""
    if isinstance(exc, DataDirectoryInUse):
        return IN_USE_EXIT_CODE
    from ..studio.auth import MissingAPIKey

    if isinstance(exc, (InvalidAPIKeyError, MissingAPIKey)):
        return NO_KEY
    if isinstance(exc, HttpStatusError) and exc.status in (401, 403):
        return NO_KEY
    if isinstance(exc, ConnectFailed) and exc.stage == "url":
        return FAILED  # nothing was tried
    if isinstance(exc, (HttpUnreachable, ConnectFailed, ConnectionLost, CallTimeout)):
        return UNREACHABLE
    return FAILED
