"""``backend``, ``demo`` and ``call``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..errors import RemoteError
from .sources import logged_in, server_options
from .terminal import FAILED, complain, show_json

_OWN_OPTIONS: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}


class _Backend(click.Command):
    """Its options are those of the backend's process, which reads them without click: that starts faster."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Its options."""
        from ..backend.options import flags

        return [CompletionItem(flag, help=text) for flag, text in flags() if flag.startswith(incomplete)]


@click.command(cls=_Backend, context_settings=_OWN_OPTIONS, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def backend(level: str, arguments: tuple[str, ...]) -> int:
    """Run a local backend until it is interrupted. (`backend --help`: its options)"""
    from ..backend.command import main
    from ..local import check_installed

    check_installed()
    return main(arguments, level)


@click.command(context_settings=_OWN_OPTIONS, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> int:
    """Watch a prompt being optimised. (`demo --help`: its options)"""
    from ..examples.facility_support import main

    return main(list(arguments))


@click.command()
@click.argument("method")
@click.argument("params", default="{}", metavar="[JSON]")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Seconds to wait.")
@server_options
def call(method: str, params: str, timeout: float | None, data_dir: Path | None) -> int:
    """Call a METHOD of the server with an object of parameters, and print the result.

    JSON `-` is read from standard input. The result, or the server's error, is printed as JSON.
    """
    text = sys.stdin.read() if params == "-" else params
    try:
        given = json.loads(text)
    except ValueError as exc:
        raise click.BadParameter(f"not JSON: {exc}", param_hint="JSON") from None
    if not isinstance(given, dict):
        raise click.BadParameter("the parameters must be a JSON object, such as '{}'.", param_hint="JSON")
    given.setdefault("run_uuid", "")  # it is for no run
    with logged_in(data_dir) as session:
        reply = session.client.call(method, given, timeout=timeout)
    if "error" in reply:
        complain(f"{method}: {RemoteError.from_reply(reply['error'], method=method)}")
        show_json({"error": reply["error"]})
        return FAILED
    show_json(reply.get("result"))
    return 0


COMMANDS = (backend, demo, call)
